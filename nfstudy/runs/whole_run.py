"""A whole run as it is exported and imported: tags, parameters, histories, and the digests of its files.

A run may come from anywhere, so these records refuse whatever nfstudy would not write: a value that reports could not
read, a name that is a path out of a run's folder, a history that no store could have held.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from nfstudy.core.fields import Record
from nfstudy.runs.frame import LARGEST
from nfstudy.runs.original import STORES_OWN
from nfstudy.runs.result import outcome_of
from nfstudy.runs.tags import IDENTITY, Tag

MAX_FILE_NAME, MAX_FOLDERS = 250, 8

POINT = np.dtype([("update", "<i8"), ("time", "<i8"), ("value", "<f8")])
"""One point of a history: at which update, when (milliseconds since 1970), and the number, which may be nan or ±inf."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in hex digits."""
Name = Annotated[str, Field(pattern=r"^[\w./ :-]+$", max_length=250)]
"""Of a tag, parameter or metric, as MLflow allows them."""
Text = Annotated[str, Field(max_length=8000)]
"""As long as MLflow's databases take it."""
Time = Annotated[int, Field(ge=0, lt=2**53)]
"""Milliseconds since 1970."""
Key = r"[0-9a-f]{16}"
TAGS = {
    Tag.STUDY: r"[a-z0-9][a-z0-9_-]{0,62}",
    Tag.CELL: Key,
    Tag.SETTINGS: Key,
    Tag.STAGE: r"repetition|search|rerun",
    Tag.INDEX: r"[0-9]{1,9}",
}
"""Tags that every run has, and the form of each."""
OPTIONAL_TAGS = {
    Tag.OUTCOME: r"finished|diverged|pruned|failed",
    Tag.UPDATE: r"[0-9]{1,15}",
    Tag.RERUN_OF: r"[0-9a-f]{32}",
    Tag.ATTEMPT: r"[0-9]{1,9}",
}
"""Tags that reports read as numbers or ids, and the form of each. Any other tag is carried as it is."""


class DatasetRecord(Record):
    """What a run says of its data; the files themselves are not part of an archive."""

    name: Annotated[str, Field(max_length=500)]
    digest: Annotated[str, Field(max_length=36)]
    source_type: Annotated[str, Field(max_length=36)]
    source: Text
    profile: Text
    tags: dict[Name, Annotated[str, Field(max_length=500)]]


class RunRecord(Record):
    """One run that has ended."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    name: Annotated[str, Field(max_length=250)]
    status: Literal["FINISHED", "FAILED", "KILLED"]
    started: Time
    ended: Time | None
    tags: dict[Name, Text]
    params: dict[Name, Text]
    datasets: tuple[DatasetRecord, ...]
    points: dict[Name, Annotated[int, Field(ge=1, lt=2**32)]]
    """Metric -> how many points its history has; in the order in which they stand among the archive's points."""
    files: dict[str, Digest]
    """Name relative to the run's folder -> the digest of its content."""

    @model_validator(mode="after")
    def _readable(self) -> RunRecord:
        for key, form in (TAGS | {tag: form for tag, form in OPTIONAL_TAGS.items() if tag in self.tags}).items():
            if not re.fullmatch(form, self.tags.get(key, ""), re.ASCII):
                raise ValueError(f"tag {key}: got {self.tags.get(key, '')[:80]!r}; expected: {form}")
        if own := sorted({*STORES_OWN} & self.tags.keys()):
            raise ValueError(f"tag {own[0]}: expected: only in a store, which adds it when it imports a run")
        if not _is_object(self.tags.get(Tag.POINT, "")):
            raise ValueError(f"tag {Tag.POINT}: expected: a JSON object, setting -> value")
        for name in self.files:
            if not is_inside(name):
                raise ValueError(f"file {name[:80]!r}: expected: plain names of files and folders inside the run's own")
        folders = {str(folder) for name in self.files for folder in PurePosixPath(name).parents}
        if clash := sorted(folders & self.files.keys()):
            raise ValueError(f"file {clash[0]!r}: is a folder too; expected: one of the two")
        return self

    @property
    def identity(self) -> tuple[str, ...]:
        """What is run exactly once: (cell, stage, index, settings), as texts."""
        return tuple(self.tags[name] for name in IDENTITY)

    @property
    def outcome(self) -> str:
        """Finished, diverged, pruned, failed or killed."""
        return outcome_of(self.status, self.tags.get(Tag.OUTCOME))


@dataclass(frozen=True)
class RunCopy:
    """A run with its histories."""

    record: RunRecord
    histories: Mapping[str, np.ndarray]
    """Metric -> its points (`POINT`), sorted by update, time and value, each once."""
    imported: str = ""
    """What it is tagged with when it is imported (`consistency.check_run`); empty of one that is not from outside."""

    def numbers(self, metric: str) -> list[tuple[int, float]]:
        """Return (update, value) of each point of a metric; none where it was not logged."""
        history = self.histories.get(metric, np.empty(0, POINT))
        return [*zip(history["update"].tolist(), history["value"].tolist(), strict=True)]

    def same_numbers(self, other: RunCopy) -> bool:
        """Say whether two runs ended alike with the same numbers bit for bit, whenever and however fast they ran."""
        metrics = {metric for run in (self, other) for metric in run.histories if not metric.startswith("time/")}
        return self.record.outcome == other.record.outcome and all(
            np.array_equal(np.array(self.numbers(metric)), np.array(other.numbers(metric)), equal_nan=True)
            for metric in metrics
        )


def is_inside(name: str) -> bool:
    """Say whether a file's name is one inside a run's folder, with nothing hidden and no odd characters."""
    parts = name.split("/")
    plain = all(part and part[0] != "." and part.isprintable() for part in parts)
    return plain and len(name) <= MAX_FILE_NAME and len(parts) <= MAX_FOLDERS and not set(name) & set('\\:*?"<>|')


def make_points(rows: list[tuple[int, int, float]]) -> np.ndarray:
    """Return a history from (update, time, value as MLflow keeps it: the largest number stands for infinity)."""
    points = np.array(rows, dtype=POINT)
    value = points["value"]
    points["value"] = np.where(np.abs(value) == LARGEST, np.copysign(np.inf, value), value)
    return points[np.lexsort((points["value"], points["time"], points["update"]))]


def is_history(points: np.ndarray) -> bool:
    """Say whether points are sorted by update, time and value (nan last), none twice and none before update 0."""
    if (points["update"] < 0).any() or (points["time"] < 0).any():
        return False
    odd = np.isnan(points["value"])
    columns = (points["update"], points["time"], odd.astype(float), np.where(odd, 0.0, points["value"]))
    risen, level = np.zeros(len(points) - 1, bool), np.ones(len(points) - 1, bool)
    for column in columns:
        risen |= level & (column[1:] > column[:-1])
        level &= column[1:] == column[:-1]
    return bool(risen.all())


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
