"""A whole run as it is exported and imported: tags, parameters, histories, and the digests of its files.

A run may come from anywhere, so these records refuse whatever nfstudy would not write: a value that reports could not
read, a name that is a path out of a run's folder, a history that no store could have held.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from nfstudy.core.fields import Record
from nfstudy.runs.evaluations import Evaluation, evaluation_texts
from nfstudy.runs.frame import LARGEST
from nfstudy.runs.metrics import CURVES, is_of_the_end
from nfstudy.runs.original import original_tags
from nfstudy.runs.readable import SHOWN, trouble
from nfstudy.runs.result import outcome_of
from nfstudy.runs.tags import IDENTITY, MlflowTag, Tag
from nfstudy.study.sections import ENERGY_EPOCH

MAX_FILE_NAME, MAX_FOLDERS = 250, 8

POINT = np.dtype([("update", "<i8"), ("time", "<i8"), ("value", "<f8")])
"""One point of a history: at which update, when (milliseconds since 1970), and the number, which may be nan or ±inf."""

MAX_METRICS = 1000
"""Of a run."""
MAX_HISTORY = 1_000_000
"""Points of one metric of a run, whatever its settings say: 24 MB."""
MAX_CURVE = 1000
"""Points of a curve that a run logs at its end, such as the KL divergence of each latent variable."""
UNSAID_HISTORY = 1000
"""Points of one metric of a run whose parameters do not say how long it was trained."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in hex digits."""
Name = Annotated[str, Field(pattern=r"^[\w./ :-]+$", max_length=250)]
"""Of a tag, parameter or metric, as MLflow allows them."""
Text = Annotated[str, Field(max_length=8000)]
"""As long as MLflow's databases take it."""
Time = Annotated[int, Field(ge=0, lt=2**53)]
"""Milliseconds since 1970."""


class DataRecord(Record):
    """What a run says of its data, as MLflow keeps it; the files themselves are not part of an archive."""

    name: Annotated[str, Field(max_length=500)]
    digest: Annotated[str, Field(max_length=36)]
    source_type: Annotated[str, Field(max_length=36)]
    source: Text
    profile: Text
    tags: dict[Name, Annotated[str, Field(max_length=500)]]

    @classmethod
    def of(cls, name: str, fingerprint: str, source: str, shapes: Mapping[str, tuple[int, ...]]) -> DataRecord:
        """Return the record of a data set.

        Arguments:
            name: such as `mnist-static`.
            fingerprint: SHA-256 of its numbers, in hexadecimal.
            source: one line for people on where they come from.
            shapes: split -> shape of its array.
        """
        return cls(
            name=name,
            digest=fingerprint[:32],
            source_type="nfstudy",
            source=json.dumps({"source": source, "sha256": fingerprint}),
            profile=json.dumps({split: list(shape) for split, shape in shapes.items()}),
            tags={MlflowTag.CONTEXT: "train, valid and test"},
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the numbers, of data that nfstudy recorded."""
        found: str = json.loads(self.source)["sha256"]
        return found


class RunRecord(Record):
    """One run that has ended."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    name: Annotated[str, Field(max_length=250)]
    status: Literal["FINISHED", "FAILED", "KILLED"]
    started: Time
    ended: Time | None
    tags: dict[Name, Text]
    params: dict[Name, Text]
    datasets: tuple[DataRecord, ...]
    points: dict[Name, Annotated[int, Field(ge=1, lt=2**32)]]
    """Metric -> how many points its history has; in the order in which they stand among the archive's points."""
    files: dict[str, Digest]
    """Name relative to the run's folder -> the digest of its content."""

    @model_validator(mode="after")
    def _readable(self) -> RunRecord:
        if reason := trouble(self.tags):
            raise ValueError(reason)
        for text in evaluation_texts(self.tags):
            Evaluation.model_validate_json(text)
        if own := sorted(self.tags.keys() - original_tags(self.tags).keys()):
            raise ValueError(f"tag {own[0]}: expected: only in a store, which adds it itself")
        for name in self.files:
            if not is_inside(name):
                raise ValueError(f"file {name[:80]!r}: expected: plain names of files and folders inside the run's own")
        epochs = most_points(self.params, self.datasets)
        if len(self.points) > MAX_METRICS:
            raise ValueError(f"points: {len(self.points):,} metrics; expected: at most {MAX_METRICS:,}")
        for metric, count in self.points.items():
            if count > (most := MAX_CURVE if metric in CURVES else epochs):
                raise ValueError(f"points: {metric}: {count:,} points; expected: at most {most:,}, by its settings")
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

    def compared(self, metric: str) -> list[tuple[int, float]]:
        """Return what two runs are compared by: `numbers`, with update 0 for what is logged once, at the end.

        At which step that stands has changed since the first runs, and says nothing.
        """
        return [(0 if is_of_the_end(metric) else update, value) for update, value in self.numbers(metric)]

    def same_numbers(self, other: RunCopy) -> bool:
        """Say whether two runs ended alike with the same numbers bit for bit, whenever and however fast they ran."""
        metrics = {metric for run in (self, other) for metric in run.histories if not metric.startswith("time/")}
        return self.record.outcome == other.record.outcome and all(
            np.array_equal(np.array(self.compared(metric)), np.array(other.compared(metric)), equal_nan=True)
            for metric in metrics
        )


def most_points(params: Mapping[str, str], datasets: Sequence[DataRecord]) -> int:
    """Return how many points the history of a metric can have: one an epoch, and one at the end.

    Arguments:
        params: the run's.
        datasets: what it says of its data, whose training images make the epochs.
    """
    updates = _whole(params.get("train.updates", ""))
    if not updates:
        return UNSAID_HISTORY
    images = _whole(params.get("data.train_images", "")) or min(map(_training_images, datasets), default=0)
    batch = _whole(params.get("train.batch", "")) or 1
    epoch = max(images // batch, 1) if datasets else ENERGY_EPOCH
    return min(-(-updates // epoch) + 1, MAX_HISTORY)


def _training_images(data: DataRecord) -> int:
    """Return how many training images a data set has, as a run says; 0 where that cannot be read."""
    try:
        return int(json.loads(data.profile)["train"][0])
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError):
        return 0


def _whole(text: str) -> int:
    """Return a whole number from 1 that a parameter says, else 0."""
    return int(text) if re.fullmatch("[1-9][0-9]{0,15}", text, re.ASCII) else 0


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


def why_no_record(error: ValidationError) -> str:
    """Return why what a store has of a run makes no record, in one line: which part, and what it should be."""
    details = error.errors(include_url=False)[0]
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    where = ".".join(map(str, details["loc"]))
    return f"{where}: got {repr(details['input'])[:SHOWN]}; expected: what nfstudy logs there"
