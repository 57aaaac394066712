"""First use: seconds from `nfstudy run` to the first update, loops compiled before and not; and short commands.

A run is taken to be at its first update when it is said to start: its worker has loaded everything by then, and the
update follows within some tenths of a second. Processor seconds are those of the command and its workers until then:
where others load the machine, these say more than the time by the clock.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.paper import environment
from benchmarks.result import Result, Row, Verdict

STUDIES = ("quickstart", "mnist")
REPEATS = 5
MOST_COMPILED, MOST_NOT, MOST_HELP = 6.0, 20.0, 0.2
"""Seconds."""
WITHIN = 600
"""Seconds after which a command is given up."""


class Taken(NamedTuple):
    """What a command took until it said something."""

    seconds: float
    processor_seconds: float
    """Of all its processes; NaN where there is no /proc."""


def measure(quick: bool) -> Result:
    """Run each study in a new folder, until its first run starts; take the least of some repeats.

    Arguments:
        quick: one repeat of the smaller study.
    """
    rows: list[Row] = []
    verdicts: list[Verdict] = []
    repeats = 1 if quick else REPEATS
    for study in STUDIES[: 1 if quick else None]:
        with tempfile.TemporaryDirectory(prefix="nfstudy-loops-") as loops:
            for compiled, most in ((False, MOST_NOT), (True, MOST_COMPILED)):
                found = []
                for repeat in range(repeats):
                    # Each first use has a cache of its own; the last one's is what the compiled ones find.
                    cache = Path(loops) / str(repeats - 1 if compiled else repeat)
                    found.append(until_first_run(study, cache))
                what = f"run {study}, loops {'compiled before' if compiled else 'not compiled'}"
                _add(rows, verdicts, what, found, most)
    _add(rows, verdicts, "--help", [short(["--help"]) for _ in range(repeats)], MOST_HELP)
    return Result(f"first use: the least of {repeats}", rows, verdicts)


def until_first_run(study: str, cache: Path) -> Taken:
    """Run a study in a new folder until its first run starts, and end it.

    Arguments:
        study: by its name.
        cache: folder of compiled loops.

    Raises:
        RuntimeError: the command ended before.
    """
    with tempfile.TemporaryDirectory(prefix="nfstudy-bench-") as name:
        variables = environment() | {"NUMBA_CACHE_DIR": str(cache), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-m", "nfstudy", "run", study]
        started = time.perf_counter()
        # A session of its own, by which its workers are known.
        process = subprocess.Popen(
            command,
            cwd=name,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert process.stdout
        said = []
        try:
            for line in process.stdout:
                said.append(line)
                if ": starts" in line:
                    return Taken(time.perf_counter() - started, processor_seconds(process.pid))
                if time.perf_counter() - started > WITHIN:
                    break
            raise RuntimeError(f"{study}: no run started:\n{''.join(said)}")
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def short(words: Sequence[str]) -> Taken:
    """Run a command to its end."""
    before, started = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "nfstudy", *words], env=environment(), check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - started, os.times()
    own = after.children_user + after.children_system - before.children_user - before.children_system
    return Taken(seconds, own)


def processor_seconds(session: int) -> float:
    """Return what the processes of a session have computed so far; NaN where there is no /proc."""
    total, found = 0, False
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may hold anything; the session is the fourth word after it.
            words = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[3]) == session:
            total, found = total + int(words[11]) + int(words[12]), True
    return total / os.sysconf("SC_CLK_TCK") if found else math.nan


def _add(rows: list[Row], verdicts: list[Verdict], what: str, found: Sequence[Taken], most: float) -> None:
    least, own = (min(times) for times in zip(*found, strict=True))
    rows.append({"what": what, "least_seconds": least, "least_processor_seconds": own, "limit": most})
    verdicts.append(Verdict(what, f"{least:.2f} s, {own:.2f} processor s", f"under {most:g} s", least < most))
