"""A whole study: how its workers share the cores, and what the suite costs beside the training it does."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.paper import environment
from benchmarks.result import Result, Row, Verdict
from nfstudy.runner.local_engine import Pool
from nfstudy.runner.worker import Ready
from nfstudy.runs.provenance import usable_cores
from nfstudy.runs.tracking.open import load_frame

STUDY = """\
study: twenty-cells
title: Twenty cells
data: {{name: digits}}
flow: {{family: planar}}
train: {{updates: {updates}, optimiser: adam, learning_rate: 1e-4}}
grid:
  flow.length: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
  model.initialisation: [glorot, he]
budgets: {{all: {{}}}}
exhibits: [summary, flow-length, learning-curves]
"""
UPDATES, FEW_UPDATES = 2500, 12
MOST_OWN_COST = 0.05
"""Of a study's wall time: start-up, tracking and everything else but training and evaluation."""
MOST_START = 6.0
"""Seconds until a worker is ready."""


def measure(quick: bool) -> Result:
    """Run the study with one worker a core, and with one worker on all cores; start a worker.

    Arguments:
        quick: so few updates that the suite's own cost is all there is.
    """
    cores = usable_cores()
    rows = [run(arrangement, FEW_UPDATES if quick else UPDATES) for arrangement in ((cores, 1), (1, cores))]
    own = rows[0]["own_share"]
    started = start_worker()
    faster = rows[1]["seconds"] / rows[0]["seconds"]
    verdicts = [
        Verdict(f"{cores} workers of 1 thread, times as fast as 1 of {cores}", f"{faster:.2f}", "the default", True),
        Verdict(
            "the suite's own share of the time", f"{own:.1%}", f"at most {MOST_OWN_COST:.0%}", own <= MOST_OWN_COST
        ),
        Verdict("seconds until a worker is ready", f"{started:.1f}", f"at most {MOST_START:g}", started <= MOST_START),
    ]
    return Result("a study of 20 cells from the command to its report", rows, verdicts)


def run(arrangement: tuple[int, int], updates: int) -> Row:
    """Run the study in a new folder; return its wall time, and the share that is neither training nor evaluation."""
    workers, threads = arrangement
    with tempfile.TemporaryDirectory(prefix="nfstudy-bench-") as name:
        folder = Path(name)
        (folder / "mlruns").mkdir()
        (folder / "study.yaml").write_text(STUDY.format(updates=updates))
        command = [sys.executable, "-m", "nfstudy", "run", "study.yaml"]
        command += ["--workers", str(workers), "--threads", str(threads)]
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment(), check=True, stdout=sys.stderr)
        seconds = time.perf_counter() - started
        frame = load_frame(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}", "twenty-cells")
    busy = frame["time/wall_seconds"].sum() / workers
    return {
        "workers": workers,
        "threads": threads,
        "seconds": seconds,
        "training_and_evaluation_seconds": busy,
        "own_share": 1 - busy / seconds,
        "updates_per_second": workers * frame["time/updates_per_second"].mean(),
    }


def start_worker() -> float:
    """Return the seconds from a worker's start until it says that it is ready."""
    started = time.perf_counter()
    with Pool(1, 1, "cpu", ()) as pool:
        while not any(isinstance(message, Ready) for _, message in pool.events(60)):
            pass
        return time.perf_counter() - started
