"""A SQLite store with all that may befall a run."""

import math
import sqlite3
from contextlib import closing
from dataclasses import replace

from mlflow.entities import Metric

from nfstudy.runs.result import EpochRecord, TrialResult
from nfstudy.runs.tracking.store import Attempt, open_store
from nfstudy.runs.whole_run import DataRecord
from nfstudy.study.reader import parse_study

SPEC = parse_study(
    "study: s\ntitle: T\ndata: {name: digits}\ntrain: {updates: 30, batch: 240, learning_rate: 1e-3}\n"
    "grid: {flow.family: [planar], flow.length: [0, 2]}\nrepetitions: 3\nexhibits: [summary]\n",
    "s.yaml",
)
PLAN = SPEC.under("default")
TRIALS = [trial for cell in PLAN.cells for trial in PLAN.repetitions_of(cell)]
DATA = DataRecord.of("digits-static", "ab" * 32, "scikit-learn", {"train": (1197, 64)})


def fill(folder):
    """Make the store in a folder; of its runs of study `s` four have ended."""
    store = open_store(f"sqlite:///{folder}/mlflow.db", create=True)
    ours = store.experiment("s", "What it is about.")

    def log(trial):
        trial = replace(trial, cell=replace(trial.cell, point={"odd": "µ 'x' \"y\" 数"}))
        return store.start_run(ours, trial, DATA, Attempt("cpu", 1))

    finished = log(TRIALS[0])
    for update, value in ((5, -5.0), (10, math.nan), (15, math.inf), (20, -math.inf), (25, -1e-300), (30, 0.1 + 0.2)):
        store.log_epoch(finished, EpochRecord(1, update, 30, {"train/elbo": value, "valid/elbo": -value}))
    repeated = [
        Metric("valid/elbo", value, 1_700_000_000_000 + after, 30) for value, after in ((2.0, 9), (math.nan, 9))
    ]
    store.client.log_batch(finished, metrics=repeated)
    store.client.log_param(finished, "odd.text", "数" * 2000)
    files = {"samples.png": b"\x89PNG", "checkpoint.pt": b"weights" * 1000}
    store.finish_run(finished, TrialResult("finished", 30, metrics={"test/nll": math.inf}, files=files))
    store.client.log_text(finished, "deep", "a/b/c.txt")
    store.finish_run(log(TRIALS[1]), TrialResult("diverged", 3, "loss is nan", metrics={"test/nll": 1.5}))
    store.finish_run(log(TRIALS[2]), TrialResult("failed", 0, "MemoryError", files={"traceback.txt": b"..."}))
    store.kill_run(log(TRIALS[3]))
    log(TRIALS[4])
    store.client.delete_run(log(TRIALS[5]))
    store.client.create_run(ours, run_name="of another tool")
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
