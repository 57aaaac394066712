"""Whole runs read through MLflow's API, from any store; for SQLite files `sql_export` is far faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.entities import DatasetInput
from mlflow.exceptions import MlflowException

from nfstudy.core.errors import StoreError, UserError
from nfstudy.runs.archive.manifest import DatasetRecord, RunCopy, RunRecord, make_points
from nfstudy.runs.tags import MlflowTag
from nfstudy.runs.tracking.store import Store, open_store


def read_copy(store: Store, run_id: str) -> RunCopy:
    """Return one run that has ended, without the names of its files.

    Raises:
        UserError: there is no such run, or it is not one that nfstudy has logged to its end.
    """
    try:
        run = store.client.get_run(run_id)
        points = {
            metric: make_points([(point.step, point.timestamp, point.value) for point in history])
            for metric in sorted(run.data.metrics)
            if (history := store.client.get_metric_history(run_id, metric))
        }
    except MlflowException as error:
        raise UserError(
            f"run {run_id}: {' '.join(str(error).split())[:300]}; allowed: the id of a run in {store.uri}"
        ) from None
    try:
        record = RunRecord(
            id=run.info.run_id,
            name=run.info.run_name,
            status=run.info.status,
            started=run.info.start_time,
            ended=run.info.end_time,
            tags=dict(sorted(run.data.tags.items())),
            params=dict(sorted(run.data.params.items())),
            datasets=tuple(sorted(map(_dataset, run.inputs.dataset_inputs), key=lambda data: (data.name, data.digest))),
            points={metric: len(history) for metric, history in points.items()},
            files={},
        )
    except ValueError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"run {run_id}: {reason}; allowed: a run of nfstudy that has ended") from None
    return RunCopy(record, points)


class ServedSource:
    """A store behind MLflow's API; what `nfstudy.runs.archive.transfer.Source` asks for."""

    def __init__(self, uri: str, study: str) -> None:
        """Open it; raises StoreError where that cannot be."""
        self._store, self._study = open_store(uri), study

    def description(self) -> str:
        """Return the note of the study's experiment."""
        with _as_store_error(self._store):
            found = self._store.client.get_experiment_by_name(self._study)
        return found.tags.get(MlflowTag.NOTE, "") if found else ""

    def copies(self) -> list[RunCopy]:
        """Return the runs that have ended, without their files, sorted by id."""
        frame = self._store.runs(self._study).frame(())
        return [read_copy(self._store, run_id) for run_id in sorted(frame.loc[frame["outcome"] != "running", "run_id"])]

    def names(self, run_id: str, folder: str | None = None) -> Iterator[str]:
        """Yield the names of the files in a folder of a run, relative to the run's own."""
        with _as_store_error(self._store):
            listed = self._store.client.list_artifacts(run_id, folder)
        for entry in listed:
            if entry.is_dir:
                yield from self.names(run_id, entry.path)
            else:
                yield entry.path

    def content(self, run_id: str, name: str) -> bytes:
        """Return a file's content; raises StoreError."""
        content = self._store.runs(self._study).artifact(run_id, name)
        if content is None:
            raise StoreError(f"tracking store {self._store.uri}: {name} of run {run_id} cannot be read")
        return content


@contextmanager
def _as_store_error(store: Store) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise StoreError(f"tracking store {store.uri}: {' '.join(str(error).split())[:500]}") from None


def _dataset(used: DatasetInput) -> DatasetRecord:
    data = used.dataset
    return DatasetRecord(
        name=data.name,
        digest=data.digest,
        source_type=data.source_type,
        source=data.source,
        profile=data.profile or "",
        tags={tag.key: tag.value for tag in sorted(used.tags, key=lambda tag: tag.key)},
    )
