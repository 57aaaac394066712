"""Whole runs read through MLflow's API, from any store; for SQLite files `sql_export` is far faster."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from mlflow.entities import DatasetInput, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from pydantic import ValidationError

from nfstudy.core.errors import StoreError, UserError, untold
from nfstudy.runs.frame import notes
from nfstudy.runs.original import IMPORTING, ORIGINAL_RUN_ID, original_id, original_tags
from nfstudy.runs.tags import MlflowTag, Tag
from nfstudy.runs.tracking.mlflow_runs import StudyRuns, find_experiment
from nfstudy.runs.tracking.store import Store, open_store
from nfstudy.runs.whole_run import DataRecord, RunCopy, RunRecord, make_points, why_no_record

SHORTEST_ID = 4
"""Digits of an id that are taken for the beginning of one."""
MANY = 20
"""Runs that a message about an id lists."""


def read_copy(store: Store, run_id: str) -> RunCopy:
    """Return one run that has ended, without the names of its files.

    Arguments:
        store: where it is.
        run_id: its id in the store, or the one that it had where it was imported from; or the beginning of one, or of
            the key of a cell with one repetition, if it is no other's.

    Raises:
        UserError: there is no such run, or it is not one that nfstudy has logged to its end.
    """
    try:
        run = _find_run(store, run_id)
        points = {
            metric: make_points([(point.step, point.timestamp, point.value) for point in history])
            for metric in sorted(run.data.metrics)
            if (history := store.client.get_metric_history(run.info.run_id, metric))
        }
    except MlflowException as error:
        raise UserError(
            f"run {run_id}: {' '.join(str(error).split())[:300]}; "
            f"expected: the id of a run in {store.uri}, or its first digits"
        ) from None
    if IMPORTING in run.data.tags:
        raise UserError(f"run {run_id}: its import was interrupted; hint: import its archive again")
    try:
        return RunCopy(record_of(run, points), points)
    except ValidationError as error:
        reason = why_no_record(error)
        raise UserError(f"run {run_id}: {reason}; expected: a run of nfstudy that has ended") from None


def record_of(run: Run, points: Mapping[str, np.ndarray]) -> RunRecord:
    """Return the record of a run under its original id, without the names of its files; raises ValueError."""
    datasets = run.inputs.dataset_inputs if run.inputs else ()
    return RunRecord(
        id=original_id(run.info.run_id, run.data.tags),
        name=run.info.run_name,
        status=run.info.status,
        started=run.info.start_time,
        ended=run.info.end_time,
        tags=original_tags(run.data.tags),
        params=dict(sorted(run.data.params.items())),
        datasets=tuple(sorted(map(_dataset, datasets), key=lambda data: (data.name, data.digest))),
        points={metric: len(history) for metric, history in points.items()},
        files={},
    )


def file_names(store: Store, run_id: str, folder: str | None = None) -> Iterator[str]:
    """Yield the names of the files in a folder of a run, relative to the run's own; `run_id` is the store's.

    Raises:
        StoreError: the store cannot be read.
    """
    with store.asked():
        listed = store.client.list_artifacts(run_id, folder)
    for entry in listed:
        if entry.is_dir:
            yield from file_names(store, run_id, entry.path)
        else:
            yield entry.path


class ServedSource:
    """A store behind MLflow's API; implements `nfstudy.runs.archive.transfer.Source`."""

    def __init__(self, uri: str, study: str, tell: Callable[[str], None] = untold) -> None:
        """Open it; raises StoreError where that cannot be. `tell` is told of each run that is left out, and why."""
        self._tell = tell
        self._store = open_store(uri)
        self._runs: StudyRuns = self._store.runs(study)

    def description(self) -> str:
        """Return the note of the study's experiment."""
        with self._store.asked():
            found = find_experiment(self._store.client, self._store.uri, self._runs.study)
        return found.tags.get(MlflowTag.NOTE, "") if found else ""

    def copies(self) -> list[RunCopy]:
        """Return the runs that have ended, without their files, sorted by id."""
        frame = self._runs.frame(())
        for note in notes(frame):
            self._tell(note)
        found = []
        for run_id in sorted(frame.loc[frame["outcome"] != "running", "run_id"]):
            try:
                found.append(read_copy(self._store, self._runs.own_id(run_id)))
            except UserError as error:
                self._tell(f"{error}; left out")
        return found

    def names(self, run_id: str) -> Iterator[str]:
        """Yield the names of a run's files, relative to the run's folder."""
        return file_names(self._store, self._runs.own_id(run_id))

    def content(self, run_id: str, name: str) -> bytes:
        """Return a file's content; raises StoreError."""
        content = self._runs.artifact(run_id, name)
        if content is None:
            raise StoreError(f"tracking store {self._store.uri}: {name} of run {run_id} cannot be read")
        return content


def _find_run(store: Store, run_id: str) -> Run:
    """Return a run by its id in the store or its original one, or by what begins one run's id or one run's cell key.

    Raises:
        MlflowException: there is none.
        UserError: there are several.
    """
    try:
        return store.client.get_run(run_id)
    except MlflowException as error:
        missing = error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)
        if not missing or not re.fullmatch(f"[0-9a-f]{{{SHORTEST_ID},32}}", run_id):
            raise
        cell = f"tags.`{Tag.CELL}` LIKE '{run_id}%' and tags.`{Tag.STAGE}` = 'repetition'"
        for what, query in (
            ("id", f"tags.`{ORIGINAL_RUN_ID}` LIKE '{run_id}%'"),
            ("id", f"attributes.run_id LIKE '{run_id}%'"),
            ("cell key", cell),
        ):
            found = store.client.search_runs([*store.studies().values()], query, max_results=MANY)
            whole = [run for run in found if IMPORTING not in run.data.tags]
            if len(whole) > 1:
                shown = ", ".join(
                    f"{original_id(run.info.run_id, run.data.tags)} ({run.info.run_name})" for run in whole
                )
                raise UserError(
                    f"run {run_id}: begins the {what} of {len(whole)} runs; expected: one of {shown}"
                ) from None
            if whole:
                return whole[0]
        raise


def _dataset(used: DatasetInput) -> DataRecord:
    data = used.dataset
    return DataRecord(
        name=data.name,
        digest=data.digest,
        source_type=data.source_type,
        source=data.source,
        profile=data.profile or "",
        tags={tag.key: tag.value for tag in sorted(used.tags, key=lambda tag: tag.key)},
    )
