"""The runs of archives as reports read those of a store: a `nfstudy.runs.frame.LoggedRuns` without a store."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from nfstudy.runs.archive.reader import Archive
from nfstudy.runs.frame import make_frame, make_history, make_row
from nfstudy.runs.original import IMPORTED
from nfstudy.runs.whole_run import RunCopy


class ArchivedRuns:
    """The runs of archives, of one study; the same frames, points and files as of a store that has imported them."""

    def __init__(self, *archives: Archive) -> None:
        self.archives = archives
        self._frames: dict[frozenset[str] | None, pd.DataFrame] = {}
        """Metrics that were asked for -> the frame: an archive does not change, and a report asks a dozen times."""

    def frame(self, metrics: Collection[str] | None = None) -> pd.DataFrame:
        """Return one row a run; see `nfstudy.runs.frame.LoggedRuns`."""
        key = None if metrics is None else frozenset(metrics)
        if key not in self._frames:
            self._frames[key] = make_frame([_row(copy) for _, copy in self._copies.values()], metrics)
        return self._frames[key].copy()

    def history(self, run_ids: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
        """Return the logged points: columns run_id, metric, update, value; sorted by these."""
        return make_history(
            (run_id, metric, update, value)
            for run_id in run_ids
            if run_id in self._copies
            for metric in metrics
            for update, value in self._copies[run_id][1].numbers(metric)
        )

    def artifact(self, run_id: str, name: str) -> bytes | None:
        """Return a file of a run, or None where it has no such file."""
        if run_id not in self._copies:
            return None
        archive, copy = self._copies[run_id]
        return archive.content(copy.record.files.get(name, ""))

    def link(self, run_id: str) -> None:
        """Return None: an archive has no pages."""

    @cached_property
    def _copies(self) -> dict[str, tuple[Archive, RunCopy]]:
        return {copy.record.id: (archive, copy) for archive in self.archives for copy in archive.runs}


def _row(copy: RunCopy) -> dict[str, object]:
    record = copy.record
    latest = {metric: _latest(history) for metric, history in copy.histories.items()}
    tags = record.tags | {IMPORTED: copy.imported}
    data: dict[str, Mapping[str, Any]] = {"tags": tags, "params": record.params, "metrics": latest}
    return make_row(record.id, record.status, record.started, data)


def _latest(history: np.ndarray) -> float:
    """Return the value that MLflow takes for a metric's latest: of its last update and time the largest, nan as 0."""
    last = history[(history["update"] == history["update"][-1]) & (history["time"] == history["time"][-1])]
    values: list[float] = last["value"].tolist()
    return max(values, key=lambda value: 0.0 if math.isnan(value) else value)
