"""Reading a big store: how long `status`, `check` and the report take with 10,000 runs, and how much memory.

Each is a command of its own, as a person would start it, with 30 parameters, 30 metrics and histories of 100 points a
run: 30 million points, for which the store takes 8 GB of disk. The files are warm in the system's cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.timing import plain_environment

RUNS = 10_000
COMMANDS: dict[str, tuple[tuple[str, ...], float]] = {
    "status": (("status", "studies/big.yaml"), 3.0),
    "check": (("check",), 5.0),
    "report": (("report", "studies/big.yaml"), 15.0),
    "report --all": (("report", "--all"), 30.0),
}
"""What is measured -> (arguments, limit in seconds)."""
MEGABYTES = 1500.0
"""Limit of each command's peak memory."""
REPEATS = 2
"""Of each command; the faster one counts, as others may use the machine."""


def measure(runs: int = RUNS) -> list[dict[str, Any]]:
    """Make a store in a temporary folder and time each command on it.

    Returns:
        One row a command: `what`, `seconds` with `limit`, `peak_megabytes` with `limit_megabytes`.
    """
    with tempfile.TemporaryDirectory(prefix="nfstudy-big-") as name:
        folder = Path(name)
        print(f"store: making {runs:,} runs ...", file=sys.stderr, flush=True)
        for made in ("mlruns", "studies"):
            (folder / made).mkdir()
        file = folder / "mlruns" / "mlflow.db"
        make = [sys.executable, "-m", "benchmarks.big_store", str(file), "--runs", str(runs)]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        file.with_name("big.yaml").rename(folder / "studies" / "big.yaml")
        return [_measure_command(what, folder, runs) for what in COMMANDS]


def _measure_command(what: str, folder: Path, runs: int) -> dict[str, Any]:
    arguments, limit = COMMANDS[what]
    measured = []
    for _ in range(REPEATS):
        # From a new and small process, since a process counts as at least as large as the one that started it.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as starter:
            measured.append(starter.submit(run_command, arguments, folder).result())
    seconds, peak = (min(found) for found in zip(*measured, strict=True))
    print(f"store: {what}: {seconds:.1f} s, {peak:,.0f} MB", file=sys.stderr, flush=True)
    return {
        "what": f"{what}, {runs:,} runs",
        "seconds": round(seconds, 2),
        "limit": limit,
        "peak_megabytes": round(peak),
        "limit_megabytes": MEGABYTES,
    }


def run_command(arguments: tuple[str, ...], folder: Path) -> tuple[float, float]:
    """Return seconds of wall clock and peak resident megabytes of one command."""
    environment = {name: value for name, value in plain_environment().items() if name != "MLFLOW_TRACKING_URI"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "nfstudy", *arguments], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"nfstudy {' '.join(arguments)}: exit code {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # Of ru_maxrss, in bytes.
    return seconds, usage.ru_maxrss * unit / 1e6
