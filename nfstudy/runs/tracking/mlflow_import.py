"""Whole runs written through MLflow's API: to tracking servers, and to databases other than SQLite.

The API gives each run an id of its own, so the original one is kept as a tag (`nfstudy.runs.original`). It has no
transactions either: a run is marked as being imported until all of it is there, and has been read back.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from mlflow.entities import Metric, Param, Run, ViewType

from nfstudy.core.errors import StoreError
from nfstudy.runs.original import IMPORTED, IMPORTING, ORIGINAL_RUN_ID, original_id
from nfstudy.runs.tags import MlflowTag, Tag
from nfstudy.runs.tracking.mlflow_export import file_names, read_copy, record_of
from nfstudy.runs.tracking.mlflow_runs import PAGE
from nfstudy.runs.tracking.store import Store, dataset_input
from nfstudy.runs.whole_run import RunCopy, RunRecord

POINTS_AT_ONCE = 10_000
"""Of a history, in memory as MLflow's objects."""
ENDED = ("FINISHED", "FAILED", "KILLED")


class ApiTarget:
    """A study in a store that is written through MLflow's API; implements `nfstudy.runs.archive.transfer.Target`."""

    def __init__(self, store: Store, experiment: str, study: str) -> None:
        self._store, self._experiment, self._study = store, experiment, study

    def records(self) -> list[RunRecord]:
        """Return the study's runs that have ended, without histories and files; raises StoreError, ValueError."""
        return [record_of(run, {}) for run in self._ended.values()]

    def copy(self, run_id: str) -> RunCopy:
        """Return one of these, by its original id, with its histories."""
        return read_copy(self._store, self._ended[run_id].info.run_id)

    def names(self, run_id: str) -> Iterator[str]:
        """Yield the names of the files of one of these, by its original id; raises StoreError."""
        return file_names(self._store, self._ended[run_id].info.run_id)

    def taken(self, run_ids: Sequence[str]) -> set[str]:
        """Return those of the ids that a run of the study has, deleted and running ones included."""
        whole = {original_id(run.info.run_id, run.data.tags) for run in self._all if IMPORTING not in run.data.tags}
        return whole & {*run_ids}

    def complete(self, copies: Sequence[RunCopy], files: Callable[[], Iterator[tuple[str, bytes]]]) -> None:
        """Add to runs that are there the tags and files of these copies of them; raises StoreError."""
        with self._store.asked(), _unpacked(files) as folder:
            for copy in copies:
                run_id = self._ended[copy.record.id].info.run_id
                self._upload(run_id, copy.record.files, folder)
                for name, text in copy.record.tags.items():
                    self._store.client.set_tag(run_id, name, text)

    def insert(self, copies: Sequence[RunCopy], files: Callable[[], Iterator[tuple[str, bytes]]]) -> None:
        """Create runs, one after the other; what an earlier import left half done is deleted first.

        Arguments:
            copies: runs that the store has not.
            files: yields (digest, content) of files, those of the runs among them.

        Raises:
            StoreError: the store cannot be written, or does not give back what was written.
        """
        with self._store.asked():
            for run in self._all:
                if IMPORTING in run.data.tags and run.info.lifecycle_stage == "active":
                    self._store.client.delete_run(run.info.run_id)
            if not copies:
                return
            with _unpacked(files) as folder:
                for copy in copies:
                    self._insert(copy, folder)

    def _insert(self, copy: RunCopy, contents: Path) -> None:
        client, record = self._store.client, copy.record
        marks = {ORIGINAL_RUN_ID: record.id, IMPORTING: "true", IMPORTED: copy.imported}
        run_id = client.create_run(
            self._experiment, start_time=record.started, tags=record.tags | marks, run_name=record.name
        ).info.run_id
        # The client sends at most 1,000 points and 100 parameters at once.
        client.log_batch(run_id, params=[Param(*pair) for pair in record.params.items()])
        for metric, history in copy.histories.items():
            for first in range(0, len(history), POINTS_AT_ONCE):
                some = history[first : first + POINTS_AT_ONCE].tolist()
                client.log_batch(run_id, metrics=[Metric(metric, value, time, update) for update, time, value in some])
        if record.datasets:
            client.log_inputs(run_id, datasets=[*map(dataset_input, record.datasets)])
        self._upload(run_id, record.files, contents)
        if record.ended is None:
            client.update_run(run_id, status=record.status)
        else:
            client.set_terminated(run_id, record.status, record.ended)
        self._check(run_id, record)
        client.delete_tag(run_id, IMPORTING)

    def _upload(self, run_id: str, files: Mapping[str, str], contents: Path) -> None:
        if not files:
            return
        with tempfile.TemporaryDirectory(dir=contents.parent) as folder:
            for name, digest in files.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(contents / digest, path)
            self._store.client.log_artifacts(run_id, folder)

    def _check(self, run_id: str, record: RunRecord) -> None:
        """Raise StoreError unless the store gives a run back as it was sent; of histories, only their names."""
        run = self._store.client.get_run(run_id)
        files = {*file_names(self._store, run_id)}
        # MLflow keeps the run's name as a tag as well.
        sent = dict(record) | {"tags": record.tags | {MlflowTag.RUN_NAME: record.name}, "points": {}, "files": {}}
        metrics = run.data.metrics.keys()
        if dict(record_of(run, {})) != sent or metrics != record.points.keys() or files != record.files.keys():
            raise StoreError(f"tracking store {self._store.uri}: run {record.id} was not stored as it was sent")

    @cached_property
    def _all(self) -> list[Run]:
        """The runs of the study's experiment, deleted ones included."""
        return [*self._search()]

    @cached_property
    def _ended(self) -> dict[str, Run]:
        """Original id -> run, of the study's own that have ended."""
        return {
            original_id(run.info.run_id, run.data.tags): run
            for run in self._all
            if run.info.lifecycle_stage == "active"
            and run.info.status in ENDED
            and run.data.tags.get(Tag.STUDY) == self._study
            and IMPORTING not in run.data.tags
        }

    def _search(self) -> Iterator[Run]:
        token: str | None = ""
        while token is not None:
            with self._store.asked():
                page = self._store.client.search_runs(
                    [self._experiment], run_view_type=ViewType.ALL, max_results=PAGE, page_token=token or None
                )
            yield from page
            token = page.token or None


@contextmanager
def _unpacked(files: Callable[[], Iterator[tuple[str, bytes]]]) -> Iterator[Path]:
    """Have files in a folder in this context, each called by its digest."""
    with tempfile.TemporaryDirectory() as folder:
        for digest, content in files():
            (Path(folder) / digest).write_bytes(content)
        yield Path(folder)
