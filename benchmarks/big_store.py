"""Make a store as large studies leave it: `python -m benchmarks.big_store FILE --runs 10000`.

One run a cell is logged by `nfstudy.runs.tracking.store` itself; the others are copies of their rows, inserted by SQL,
with their own repetition and numbers: schema, tags and parameters are real, and 30 million points take minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import sqlite3
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

from nfstudy.runs.metrics import METRICS
from nfstudy.runs.result import TrialResult
from nfstudy.runs.tags import Tag
from nfstudy.runs.tracking.store import Attempt, open_store
from nfstudy.runs.whole_run import DataRecord
from nfstudy.study.cells import Trial
from nfstudy.study.reader import parse_study
from nfstudy.study.spec import StudySpec

METRIC_COUNT = 30
POINTS = 100
"""Of every metric's history."""
STARTED = 1_700_000_000_000
"""When the first run starts, in milliseconds since 1970."""

STUDY = """\
study: big
title: A big store
data: {{name: digits}}
train: {{updates: 10000, learning_rate: 1e-3}}
grid:
  flow.family: [planar, nice-perm]
  flow.length: [10, 20, 40, 80]
  model.latent: [2, 5, 10, 20, 40]
repetitions: {repetitions}
exhibits: [summary, flow-length, effects, learning-curves, samples]
"""
CELLS = 40

_DATA = DataRecord.of("digits-static", "ab" * 32, "scikit-learn", {"train": (1197, 64)})
_INDEXES = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'metrics' AND sql IS NOT NULL"


def study_text(runs: int) -> str:
    """Return the study file of a store with so many runs.

    Raises:
        ValueError: `runs` is not a multiple of `CELLS`.
    """
    if runs < CELLS or runs % CELLS:
        raise ValueError(f"{runs} runs; expected: a multiple of {CELLS}, one run a repetition of each cell")
    return STUDY.format(repetitions=runs // CELLS)


def make_big_store(path: Path, runs: int, metrics: int = METRIC_COUNT, points: int = POINTS) -> StudySpec:
    """Make a SQLite store with the finished runs of one study, and return the study.

    Arguments:
        path: its file, which must not be there yet.
        runs: how many, a multiple of `CELLS`.
        metrics: how many each run has: all of `METRICS`, then others that another tool might log.
        points: how many each metric's history has.
    """
    study = parse_study(study_text(runs), "big.yaml")
    trials = [study.under(cell.budget).repetitions_of(cell) for cell in study.under().cells]
    # In a process of its own, since as long as MLflow has the file open its journal cannot be switched off.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        originals = process.submit(_log_originals, path, study.study, [first for first, *_ in trials]).result()
    names = [*METRICS, *(f"extra/number_{place}" for place in range(1, metrics - len(METRICS) + 1))][:metrics]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -1000000"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("BEGIN")
        _copy_runs(connection, originals, trials)
        _log_points(connection, names, points)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    open_store(f"sqlite:///{path}").tidy()
    return study


def _log_originals(path: Path, study: str, trials: list[Trial]) -> list[str]:
    store = open_store(f"sqlite:///{path}", create=True)
    experiment = store.experiment(study)
    run_ids = []
    for trial in trials:
        run_ids.append(store.start_run(experiment, trial, _DATA, Attempt("cpu", 1)))
        store.finish_run(run_ids[-1], TrialResult("finished", trial.settings.train.updates))
    return run_ids


def _copy_runs(connection: sqlite3.Connection, originals: list[str], trials: list[list[Trial]]) -> None:
    connection.execute("CREATE TEMP TABLE copies (run TEXT PRIMARY KEY, original TEXT, repetition INT, number INT)")
    connection.executemany("INSERT INTO copies VALUES (?, ?, ?, ?)", _copies(originals, trials))
    for table, columns in (("params", "key, value"), ("tags", "key, value")):
        connection.execute(
            f"INSERT INTO {table} (run_uuid, {columns}) SELECT run, {columns} FROM copies "
            f"JOIN {table} ON run_uuid = original WHERE run <> original"
        )
    connection.execute(
        "UPDATE tags SET value = (SELECT repetition FROM copies WHERE run = run_uuid) "
        f"WHERE key IN ('{Tag.INDEX}', '{Tag.REPETITION}')"
    )
    columns = "name, source_type, source_name, entry_point_name, user_id, status, source_version, lifecycle_stage, "
    connection.execute(
        f"INSERT INTO runs (run_uuid, start_time, end_time, {columns} artifact_uri, experiment_id) "
        f"SELECT run, {STARTED} + 1000 * number, {STARTED} + 1000 * number + 900, {columns} "
        "replace(artifact_uri, original, run), experiment_id "
        "FROM copies JOIN runs ON run_uuid = original WHERE run <> original"
    )


def _copies(originals: list[str], trials: list[list[Trial]]) -> Iterator[tuple[str, str, int, int]]:
    """Yield (run id, the run it copies, repetition, number of the run), originals first."""
    number = 0
    for original, group in zip(originals, trials, strict=True):
        yield original, original, 1, 0
        for trial in group[1:]:
            number += 1
            run_id = hashlib.sha256(repr(trial.identity).encode()).hexdigest()[:32]
            yield run_id, original, trial.repetition, number


def _log_points(connection: sqlite3.Connection, names: list[str], points: int) -> None:
    """Give every run each metric: level + 400 exp(−12 t) + 0.01 · repetition, t from 0 to 1."""
    connection.execute("CREATE TEMP TABLE levels (key TEXT, level REAL)")
    connection.executemany("INSERT INTO levels VALUES (?, ?)", [(name, -90.0 - i) for i, name in enumerate(names)])
    connection.execute(
        "CREATE TEMP TABLE steps AS WITH RECURSIVE numbers(n) AS "
        f"(SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {points}) "
        f"SELECT 10000 * n / {points} AS step, n, 400 * exp(-12.0 * n / {points}) AS fall FROM numbers"
    )
    indexes = connection.execute(_INDEXES).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    value = "CASE WHEN substr(key, 1, 5) = 'time/' THEN 100 + repetition ELSE level - fall + 0.01 * repetition END"
    connection.execute(
        "INSERT INTO metrics (run_uuid, key, step, timestamp, value, is_nan) "
        f"SELECT run, key, step, {STARTED} + 1000 * number + 9 * n, {value}, 0 "
        "FROM copies CROSS JOIN steps CROSS JOIN levels"
    )
    for _, sql in indexes:
        connection.execute(sql)
    connection.execute(
        "INSERT INTO latest_metrics (run_uuid, key, step, timestamp, value, is_nan) "
        f"SELECT run, key, step, {STARTED} + 1000 * number + 9 * n, {value}, 0 "
        f"FROM copies CROSS JOIN steps CROSS JOIN levels WHERE n = {points}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Make one and say where."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.big_store", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="the store's file; a study file goes beside it")
    parser.add_argument("--runs", type=int, default=10_000, help=f"a multiple of {CELLS} (default: 10000)")
    options = parser.parse_args(arguments)
    if options.file.exists():
        parser.error(f"{options.file}: is there already; expected: a new file")
    try:
        text = study_text(options.runs)
    except ValueError as error:
        parser.error(f"--runs: {error}")
    make_big_store(options.file, options.runs)
    options.file.with_name("big.yaml").write_text(text)
    print(f"{options.file}: {options.runs} runs, {options.file.stat().st_size / 1e6:,.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
