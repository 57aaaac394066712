"""Whole runs read out of MLflow's own tables in a SQLite file and written into them, ids and times as they were.

MLflow's API gives a run an id of its own, and reports name runs by their ids; so this writes rows, in one transaction,
into the one schema that `sql_runs` knows. The tests hold what is written to what MLflow itself would write.
"""

from __future__ import annotations

import hashlib
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from pydantic import ValidationError
from sqlalchemy import Connection

from nfstudy.core.errors import StoreError, untold
from nfstudy.runs.frame import LARGEST
from nfstudy.runs.original import IMPORTED, IMPORTING, original_id, original_tags
from nfstudy.runs.tags import MlflowTag, Tag
from nfstudy.runs.tracking.sql_runs import IDS_A_QUERY, SqlStore, find_experiment
from nfstudy.runs.tracking.uris import ARTIFACTS, database_file
from nfstudy.runs.whole_run import DataRecord, RunCopy, RunRecord, make_points, why_no_record

BUSY_SECONDS = 20.0
"""How long another writer, such as a server, may hold the database."""

RUNS_AT_ONCE = 50
"""Points of so many are in memory as rows, which take ten times what arrays take."""

POINTS_AT_ONCE = 10_000
"""Of a history that is written."""

_RUNS = (
    "run_uuid",
    "name",
    "status",
    "start_time",
    "end_time",
    "lifecycle_stage",
    "experiment_id",
    "artifact_uri",
    "source_type",
    "source_name",
    "entry_point_name",
    "user_id",
    "source_version",
)
_METRICS = ("run_uuid", "key", "step", "timestamp", "value", "is_nan")
_PAIRS = ("run_uuid", "key", "value")
_DATASETS = (
    "dataset_uuid",
    "experiment_id",
    "name",
    "digest",
    "dataset_source_type",
    "dataset_source",
    "dataset_profile",
)
_INPUTS = ("input_uuid", "source_type", "source_id", "destination_type", "destination_id")
_INPUT_TAGS = ("input_uuid", "name", "value")
_ENDED = ("FINISHED", "FAILED", "KILLED")


def read_copies(store: SqlStore, study: str, tell: Callable[[str], None] = untold) -> list[RunCopy]:
    """Return a study's runs that have ended, without the names of their files, sorted by id.

    Arguments:
        store: the database.
        study: whose runs.
        tell: is told of each run that is left out, since it has what no archive may hold.

    Raises:
        StoreError: the database cannot be read.
    """

    def read(connection: Connection) -> list[RunCopy]:
        found = find_experiment(connection, store.uri, study)
        return list(_copies(connection, found.id, study, tell)) if found else []

    copies = store.read(read)
    return sorted(copies, key=lambda copy: copy.record.id)


def description_of(store: SqlStore, study: str) -> str:
    """Return the note of the study's experiment."""
    asked = f"SELECT value FROM experiment_tags WHERE experiment_id = ? AND key = '{MlflowTag.NOTE}'"

    def note(connection: Connection) -> str | None:
        found = find_experiment(connection, store.uri, study)
        return connection.exec_driver_sql(asked, (found.id,)).scalar() if found else None

    return store.read(note) or ""


def known_ids(store: SqlStore, run_ids: Sequence[str]) -> set[str]:
    """Return those of the ids that some run of the database has, of whatever experiment, deleted ones included."""
    return store.read(lambda connection: {run_id for (run_id,) in _of_ids(connection, "runs", ("run_uuid",), run_ids)})


def insert_copies(uri: str, experiment: str, study: str, copies: Sequence[RunCopy]) -> None:
    """Write runs into a SQLite store, all or none; their files must be in place already.

    Arguments:
        uri: the store's address.
        experiment: the id of the study's experiment.
        study: its name, by which artifact addresses begin.
        copies: runs whose ids are not in the store.

    Raises:
        StoreError: the database cannot be written.
    """
    path = database_file(uri)
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            for copy in copies:
                _insert(connection, int(experiment), study, copy)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: cannot be written: {error}") from None


def set_tags(uri: str, tags: Mapping[str, Mapping[str, str]]) -> None:
    """Put tags on many runs of a SQLite store, all or none: id -> tag -> text; raises StoreError."""
    path = database_file(uri)
    rows = [(run_id, name, text) for run_id, own in tags.items() for name, text in own.items()]
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO tags (run_uuid, key, value) VALUES (?, ?, ?)", rows)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: cannot be written: {error}") from None


def artifact_address(study: str, run_id: str) -> str:
    """Return the address of a run's files as MLflow makes it from the experiment's."""
    return f"{ARTIFACTS}{study}/{run_id}/artifacts"


def _copies(connection: Connection, experiment: int, study: str, tell: Callable[[str], None]) -> Iterator[RunCopy]:
    asked = (
        "SELECT run_uuid, runs.name, status, start_time, end_time FROM runs "
        "JOIN tags USING (run_uuid) WHERE experiment_id = ? AND status IN (?, ?, ?) "
        f"AND runs.lifecycle_stage = 'active' AND tags.key = '{Tag.STUDY}' AND tags.value = ? ORDER BY run_uuid"
    )
    rows = connection.exec_driver_sql(asked, (experiment, *_ENDED, study)).all()
    for first in range(0, len(rows), RUNS_AT_ONCE):
        some = rows[first : first + RUNS_AT_ONCE]
        ids = [row[0] for row in some]
        tags = _pairs(connection, "tags", ids)
        params = _pairs(connection, "params", ids)
        datasets = _datasets(connection, ids)
        histories = _histories(connection, ids)
        for run_id, name, status, started, ended in some:
            own, said = histories.get(run_id, {}), tags.get(run_id, {})
            if IMPORTING in said:
                continue
            try:
                record = RunRecord(
                    id=original_id(run_id, said),
                    name=name,
                    status=status,
                    started=started,
                    ended=ended,
                    tags=original_tags(said),
                    params=params.get(run_id, {}),
                    datasets=tuple(datasets.get(run_id, ())),
                    points={metric: len(history) for metric, history in own.items()},
                    files={},
                )
            except ValidationError as error:
                tell(f"run {run_id} ({name}): {why_no_record(error)}; left out")
                continue
            yield RunCopy(record, own)


def _of_ids(
    connection: Connection, name: str, columns: Sequence[str], run_ids: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """Yield these columns of a table's rows that belong to some runs."""
    for first in range(0, len(run_ids), IDS_A_QUERY):
        some = tuple(run_ids[first : first + IDS_A_QUERY])
        asked = f"SELECT {', '.join(columns)} FROM {name} WHERE run_uuid IN ({', '.join('?' * len(some))})"
        yield from map(tuple, connection.exec_driver_sql(asked, some))


def _pairs(connection: Connection, name: str, run_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for run_id, key, value in sorted(_of_ids(connection, name, _PAIRS, run_ids)):
        found.setdefault(run_id, {})[key] = value
    return found


def _histories(connection: Connection, run_ids: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, list[tuple[int, int, float]]]] = {}
    for run_id, key, step, time, value, is_nan in _of_ids(connection, "metrics", _METRICS, run_ids):
        points = found.setdefault(run_id, {}).setdefault(key, [])
        points.append((step, time, math.nan if is_nan else value))
    return {
        run_id: {metric: make_points(points) for metric, points in sorted(own.items())} for run_id, own in found.items()
    }


def _datasets(connection: Connection, run_ids: Sequence[str]) -> dict[str, list[DataRecord]]:
    found: dict[str, list[DataRecord]] = {}
    marks = ", ".join("?" * len(run_ids))
    rows = connection.exec_driver_sql(
        "SELECT destination_id, input_uuid, name, digest, dataset_source_type, dataset_source, dataset_profile "
        "FROM inputs JOIN datasets ON source_id = dataset_uuid "
        f"WHERE source_type = 'DATASET' AND destination_type = 'RUN' AND destination_id IN ({marks}) "
        "ORDER BY name, digest",
        tuple(run_ids),
    ).all()
    for run_id, input_id, name, digest, source_type, source, profile in rows:
        tags = connection.exec_driver_sql(
            "SELECT name, value FROM input_tags WHERE input_uuid = ? ORDER BY name", (input_id,)
        )
        record = DataRecord(
            name=name,
            digest=digest,
            source_type=source_type,
            source=source,
            profile=profile or "",
            tags=dict(map(tuple, tags)),
        )
        found.setdefault(run_id, []).append(record)
    return found


def _insert(connection: sqlite3.Connection, experiment: int, study: str, copy: RunCopy) -> None:
    record = copy.record
    address = artifact_address(study, record.id)
    state = (record.id, record.name, record.status, record.started, record.ended, "active", experiment, address)
    _rows(connection, "runs", _RUNS, [(*state, "UNKNOWN", "", "", "unknown", "")])
    _rows(
        connection, "tags", _PAIRS, [(record.id, *pair) for pair in (record.tags | {IMPORTED: copy.imported}).items()]
    )
    _rows(connection, "params", _PAIRS, [(record.id, *pair) for pair in record.params.items()])
    for metric, history in copy.histories.items():
        latest: list[tuple[Any, ...]] = []
        for first in range(0, len(history), POINTS_AT_ONCE):
            some = history[first : first + POINTS_AT_ONCE].tolist()
            points = [(record.id, metric, *_kept(*point)) for point in some]
            _rows(connection, "metrics", _METRICS, points)
            latest = [max(latest + points, key=lambda point: point[2:5])]
        _rows(connection, "latest_metrics", _METRICS, latest)
    for dataset in record.datasets:
        _insert_dataset(connection, experiment, record.id, dataset)


def _kept(update: int, time: int, value: float) -> tuple[int, int, float, bool]:
    """Return a point as MLflow's databases keep it: no nan, and the largest number for infinity."""
    if math.isnan(value):
        return update, time, 0.0, True
    return update, time, math.copysign(LARGEST, value) if math.isinf(value) else value, False


def _insert_dataset(connection: sqlite3.Connection, experiment: int, run_id: str, dataset: DataRecord) -> None:
    """Write what a run says of its data; runs on the same data share one row."""
    where = (experiment, dataset.name, dataset.digest)
    asked = "SELECT dataset_uuid FROM datasets WHERE experiment_id = ? AND name = ? AND digest = ?"
    found = connection.execute(asked, where).fetchone()
    dataset_id = found[0] if found else _made_id("dataset", *where)
    if not found:
        rest = (dataset.source_type, dataset.source, dataset.profile)
        _rows(connection, "datasets", _DATASETS, [(dataset_id, *where, *rest)])
    input_id = _made_id("input", run_id, dataset_id)
    _rows(connection, "inputs", _INPUTS, [(input_id, "DATASET", dataset_id, "RUN", run_id)])
    _rows(connection, "input_tags", _INPUT_TAGS, [(input_id, *pair) for pair in dataset.tags.items()])


def _rows(connection: sqlite3.Connection, name: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    marks = ", ".join("?" * len(columns))
    connection.executemany(f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({marks})", rows)


def _made_id(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
