"""How many trials a second the coordinator, its engines and the stores carry: workers whose trials end at once."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import uuid
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks.empty_trials import EPOCHS, EmptyActor, answer_at_once
from benchmarks.result import Result, Row, Verdict
from benchmarks.tracking_server import tracking_server
from nfstudy.core.project import Project
from nfstudy.runner.engine import Engine
from nfstudy.runner.launch import run_study
from nfstudy.runner.local_engine import Pool, Process
from nfstudy.runner.options import Launch
from nfstudy.runner.prepare import prepare_data
from nfstudy.runner.signals import StopSignal
from nfstudy.runs.tracking.store import open_store
from nfstudy.study.reader import parse_study

STUDY = """\
study: {name}
title: Empty trials
data: {{name: digits}}
train: {{updates: 46, batch: 50}}
repetitions: {trials}
exhibits: [summary]
"""
WORKERS = (2, 8, 32)
TRIALS, FEW_TRIALS = 100, 40
MANY_WORKERS, TRIAL_SECONDS = 1000, 1800
"""What the plan of docs/scaling.md asks of the slowest of them."""
ASKED_OF_SERVER = 20.0
"""Trials a second, of the slowest behind a server."""


def measure(quick: bool) -> Result:
    """Run studies of empty trials, into a SQLite file and to a server: `MLFLOW_TRACKING_URI`, or one of their own.

    Arguments:
        quick: few trials and workers, SQLite alone.
    """
    engines, missing = {"local": EmptyPool}, []
    try:
        engines["ray"] = _ray_engine()
    except ImportError as error:
        missing.append(f"ray: {error}")
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    with nullcontext(given) if given or quick else tracking_server() as server:
        stores = {"SQLite": ""} if quick else {"SQLite": "", "server": server}
        rows = [
            carry(engine, engines[engine], store, uri, workers, FEW_TRIALS if quick else TRIALS)
            for store, uri in stores.items()
            for engine in engines
            for workers in (WORKERS[:1] if quick else WORKERS)
        ]
    return Result(f"empty trials of {EPOCHS} epochs a second", rows, _verdicts(rows), missing)


def _verdicts(rows: list[Row]) -> list[Verdict]:
    fewest = min(row["trials_per_second"] for row in rows)
    found = f"{fewest * TRIAL_SECONDS:,.0f}"
    enough = fewest * TRIAL_SECONDS >= MANY_WORKERS
    what = f"workers kept busy by trials of {TRIAL_SECONDS / 60:.0f} minutes"
    verdicts = [Verdict(what, found, f"{MANY_WORKERS:,}", enough)]
    if behind := [row["trials_per_second"] for row in rows if row["store"] == "server"]:
        asked = f"at least {ASKED_OF_SERVER:g}"
        verdicts.append(
            Verdict("trials a second to a server", f"{min(behind):.1f}", asked, min(behind) >= ASKED_OF_SERVER)
        )
    return verdicts


def carry(engine: str, kind: Any, store: str, uri: str, workers: int, trials: int) -> Row:
    """Run a study of empty trials in a new folder, and into a new experiment.

    Arguments:
        engine: its name.
        kind: makes it, of so many workers.
        store: its name.
        uri: its address; empty for a SQLite file in the folder.
        workers: how many.
        trials: how many.
    """
    with tempfile.TemporaryDirectory(prefix="nfstudy-bench-") as folder:
        study = parse_study(STUDY.format(name=f"empty-{uuid.uuid4().hex[:12]}", trials=trials), "empty.yaml")
        project = Project(Path(folder))
        uri = uri or project.tracking_uri(f"sqlite:///{folder}/mlruns/mlflow.db")
        open_store(uri, create=True)
        launch = Launch(study.under(), project, uri)
        data = prepare_data(launch.plan, project)
        with StopSignal() as stop, kind(workers) as held:
            _wait_for_all(held)
            done = run_study(launch, data, {}, held, stop)
    return {
        "store": store,
        "engine": engine,
        "workers": workers,
        "trials": done.ran["finished"],
        "seconds": done.seconds,
        "trials_per_second": trials / done.seconds,
    }


class EmptyPool(Pool):
    """Processes that answer every trial at once."""

    def __init__(self, size: int) -> None:
        super().__init__(size, 1, "cpu", ())

    def _start(self, number: int) -> Process:
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(target=answer_at_once, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        return Process(number, process, ours)


def _ray_engine() -> Any:
    """Return what makes an engine of actors that answer every trial at once; raises ImportError without Ray."""
    import ray

    from nfstudy.runner.ray_engine import RayEngine, RayWorker, join_cluster

    class EmptyCluster(RayEngine):
        def __init__(self, size: int) -> None:
            join_cluster(size)
            super().__init__(size, 1, "cpu", 0.0, {})

        def _start(self, number: int) -> RayWorker:
            remote: Any = ray.remote  # Ray's types lack max_concurrency.
            return RayWorker(number, remote(num_cpus=1, max_concurrency=2)(EmptyActor).remote())

    return EmptyCluster


def _wait_for_all(engine: Engine) -> None:
    while not all(worker.device for worker in engine.workers):
        list(engine.events(60))
