"""Runs read by SQL from MLflow's own tables, many times as fast as by its API, which makes an object of every value.

The tables are MLflow's private matter, so this reads only a schema that it knows, and `open` takes the API for any
other; the tests hold both to the same frames. Nothing is ever written, not even the files beside a database.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import pandas as pd
from sqlalchemy import Connection, Engine, NullPool, Select, TableClause, column, create_engine, select, table
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from nfstudy.core.errors import StoreError, StudyDeletedError
from nfstudy.runs.frame import make_frame, make_history, make_row, with_notes
from nfstudy.runs.original import IMPORTING, ORIGINAL_RUN_ID
from nfstudy.runs.tags import Tag
from nfstudy.runs.tracking.renamed import renamed_note, require_one
from nfstudy.runs.tracking.uris import database_file, is_sqlite

REVISIONS = ("dc11669786a5",)
"""Alembic's names of the schemas that are known: that of MLflow 3.17."""
IDS_A_QUERY = 500
"""Databases limit how many values a query may list."""

Found = TypeVar("Found")


def _table(name: str, *columns: str) -> TableClause:
    return table(name, *(column(each) for each in columns))


_VERSION = _table("alembic_version", "version_num")
_EXPERIMENTS = _table("experiments", "experiment_id", "name", "workspace", "lifecycle_stage")
_EXPERIMENT_TAGS = _table("experiment_tags", "experiment_id", "key", "value")
_RUNS = _table("runs", "run_uuid", "experiment_id", "status", "start_time", "lifecycle_stage", "artifact_uri")
_TAGS = _table("tags", "run_uuid", "key", "value")
_PARAMS = _table("params", "run_uuid", "key", "value")
_LATEST = _table("latest_metrics", "run_uuid", "key", "value", "is_nan")
_METRICS = _table("metrics", "run_uuid", "key", "step", "timestamp", "value", "is_nan")


class SqlStore:
    """A tracking database, read only."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def is_known(self) -> bool:
        """Say whether the database can be read here and has the schema that is known."""
        try:
            return self.read(_is_known)
        except (StoreError, ArgumentError, ImportError):
            return False  # No database, or none that we have a driver for: MLflow will say what it makes of it.

    def frame(self, study: str, metrics: Collection[str] | None = None) -> pd.DataFrame:
        """Return one row a run of a study; see `nfstudy.runs.frame.LoggedRuns.frame`."""
        return self.read(lambda connection: _frame(connection, self.uri, study, metrics))

    def history(self, run_ids: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
        """Return the logged points: columns run_id, metric, update, value; sorted by these."""
        return self.read(lambda connection: make_history(_points(connection, run_ids, metrics)))

    def own_ids(self, study: str) -> dict[str, str]:
        """Return original id -> the store's own, of a study's runs that were imported through MLflow's API."""
        half = select(_TAGS.c.run_uuid).where(_TAGS.c.key == IMPORTING)

        def ids(connection: Connection) -> dict[str, str]:
            if (found := find_experiment(connection, self.uri, study)) is None:
                return {}
            own = _runs_of(found.id, study, _RUNS.c.run_uuid)
            asked = select(_TAGS.c.value, _TAGS.c.run_uuid).where(
                _TAGS.c.key == ORIGINAL_RUN_ID, _TAGS.c.run_uuid.in_(own), _TAGS.c.run_uuid.not_in(half)
            )
            return dict(map(tuple, connection.execute(asked)))

        return self.read(ids)

    def study_tag(self, study: str, name: str) -> str:
        """Return a tag of the study's experiment, empty where there is none."""

        def text(connection: Connection) -> str:
            if (found := find_experiment(connection, self.uri, study)) is None:
                return ""
            e = _EXPERIMENT_TAGS.c
            asked = select(e.value).where(e.experiment_id == found.id, e.key == name)
            return str(connection.execute(asked).scalar() or "")

        return self.read(text)

    def artifact_address(self, run_id: str) -> str | None:
        """Return where a run keeps its files, None where there is no such run."""
        asked = select(_RUNS.c.artifact_uri).where(_RUNS.c.run_uuid == run_id)
        return self.read(lambda connection: connection.execute(asked).scalar())

    def read(self, work: Callable[[Connection], Found]) -> Found:
        """Return what some work reads.

        Raises:
            StoreError: the database cannot be read.
        """
        try:
            if is_sqlite(self.uri):
                return _read_file(self.uri, work)
            return _read_with(create_engine(self.uri, poolclass=NullPool), work)
        except SQLAlchemyError as error:
            raise StoreError(f"tracking store {self.uri}: {' '.join(str(error).split())[:500]}") from error


def _read_with(engine: Engine, work: Callable[[Connection], Found]) -> Found:
    with engine.connect() as connection:
        return work(connection)


def _read_file(uri: str, work: Callable[[Connection], Found]) -> Found:
    """Read a SQLite file so that nothing appears beside it.

    A reader of a database in WAL mode makes the files `-wal` and `-shm` where there are none, and may not remove them.
    Where there are none nobody has the database open, so it is read as one that does not change; should it have
    changed meanwhile all the same, what was read is dropped. A writer at work has made these files himself.
    """
    path = database_file(uri)
    address = path.as_uri()
    if not any(path.with_name(path.name + ending).exists() for ending in ("-wal", "-journal")):
        before = path.stat() if path.exists() else None
        with suppress(SQLAlchemyError):
            found = _read_with(_engine(f"{address}?immutable=1"), work)
            after = path.stat()
            if before and (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
                return found
    return _read_with(_engine(f"{address}?mode=ro"), work)


def _engine(address: str) -> Engine:
    return create_engine("sqlite://", creator=lambda: sqlite3.connect(address, uri=True), poolclass=NullPool)


def _is_known(connection: Connection) -> bool:
    if connection.execute(select(_VERSION.c.version_num)).scalar() not in REVISIONS:
        return False
    for known in (_EXPERIMENTS, _EXPERIMENT_TAGS, _RUNS, _TAGS, _PARAMS, _LATEST, _METRICS):
        connection.execute(select(known).limit(0))
    return True


class Experiment(NamedTuple):
    """A study's experiment."""

    id: int
    name: str


def find_experiment(connection: Connection, uri: str, study: str) -> Experiment | None:
    """Return the experiment of a study, as `mlflow_runs.find_experiment` does, with its errors."""
    e, default = _EXPERIMENTS.c, _EXPERIMENTS.c.workspace == "default"
    ours = _TAGS.c.key == Tag.STUDY, _TAGS.c.value == study
    by_runs = select(_RUNS.c.experiment_id).where(
        _RUNS.c.lifecycle_stage == "active", _RUNS.c.run_uuid.in_(select(_TAGS.c.run_uuid).where(*ours))
    )
    by_tag = select(_EXPERIMENT_TAGS.c.experiment_id).where(
        _EXPERIMENT_TAGS.c.key == Tag.STUDY, _EXPERIMENT_TAGS.c.value == study
    )
    asked = select(e.experiment_id, e.name).where(default).order_by(e.experiment_id)
    for condition in (e.name == study, e.experiment_id.in_(by_tag), e.experiment_id.in_(by_runs)):
        if found := connection.execute(asked.where(e.lifecycle_stage == "active", condition)).all():
            require_one(uri, study, [name for _, name in found])
            return Experiment(*found[0])
    deleted = asked.where(e.lifecycle_stage == "deleted", (e.name == study) | e.experiment_id.in_(by_tag))
    for id, _ in connection.execute(deleted):
        raise StudyDeletedError.of(uri, study, str(id))
    return None


def _frame(connection: Connection, uri: str, study: str, metrics: Collection[str] | None) -> pd.DataFrame:
    if (found := find_experiment(connection, uri, study)) is None:
        return make_frame([], metrics)
    # Runs first: a run that is finished has all its numbers, whatever is written while the others are read.
    runs = connection.execute(_runs_of(found.id, study, _RUNS.c.run_uuid, _RUNS.c.status, _RUNS.c.start_time)).all()
    own = _runs_of(found.id, study, _RUNS.c.run_uuid)
    # All tags, though few are looked at: picking them by name is slower, as it takes a search for each run and name.
    tags = _by_run(connection, select(_TAGS).where(_TAGS.c.run_uuid.in_(own)))
    params = _by_run(connection, select(_PARAMS).where(_PARAMS.c.run_uuid.in_(own))) if metrics is None else {}
    latest = select(_LATEST).where(_LATEST.c.run_uuid.in_(own))
    numbers = _by_run(connection, latest if metrics is None else latest.where(_LATEST.c.key.in_(metrics)))
    rows = [
        make_row(
            run_id,
            status,
            started,
            {
                "tags": tags.get(run_id, {}),
                "params": params.get(run_id, {}),
                "metrics": numbers.get(run_id, {}),
            },
        )
        for run_id, status, started in runs
        if IMPORTING not in tags.get(run_id, {})
    ]
    return with_notes(make_frame(rows, metrics), renamed_note(study, found.name))


def _by_run(connection: Connection, asked: Select[*tuple[Any, ...]]) -> dict[str, dict[str, Any]]:
    """Return run id -> key -> value, from columns in the order run_uuid, key, value and, of numbers, is_nan."""
    found: dict[str, dict[str, Any]] = {}
    for run_id, key, value, *is_nan in connection.execute(asked):
        found.setdefault(run_id, {})[key] = math.nan if is_nan and is_nan[0] else value
    return found


def _runs_of(experiment: int, study: str, *columns: Any) -> Select[*tuple[Any, ...]]:
    """Ask for a study's active runs: those of its experiment that nfstudy has logged."""
    return (
        select(*columns)
        .where(_RUNS.c.experiment_id == experiment, _RUNS.c.lifecycle_stage == "active")
        .where(_RUNS.c.run_uuid.in_(select(_TAGS.c.run_uuid).where(_TAGS.c.key == Tag.STUDY, _TAGS.c.value == study)))
    )


def _points(
    connection: Connection, run_ids: Sequence[str], metrics: Sequence[str]
) -> Iterator[tuple[str, str, int, float]]:
    m = _METRICS.c
    asked = select(m.run_uuid, m.key, m.step, m.value, m.is_nan).order_by(
        m.run_uuid, m.key, m.step, m.timestamp, m.is_nan, m.value
    )
    for first in range(0, len(run_ids), IDS_A_QUERY):
        some = asked.where(m.run_uuid.in_(run_ids[first : first + IDS_A_QUERY]), m.key.in_(metrics))
        for run_id, key, step, value, is_nan in connection.execute(some):
            yield run_id, key, step, math.nan if is_nan else value
