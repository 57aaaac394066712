"""Paired timings: contestants take turns, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import math
import os
import random
import timeit
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numpy as np

from nfstudy.runner.worker import MEMORY_VARIABLES

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}
"""Environment in which torch, numpy, numba and jax compute in one thread; they read it once, when imported."""
VARIABLES = ONE_THREAD | MEMORY_VARIABLES
"""Environment of all that is compared: one thread each, and memory kept as our workers keep it."""


Name = TypeVar("Name")


class Plan(NamedTuple):
    """How long is timed."""

    rounds: int
    """In each, every contestant has one turn."""
    turn: float
    """Least seconds of a turn, in which a fast contestant repeats its work."""


FULL = Plan(rounds=25, turn=0.04)
QUICK = Plan(rounds=3, turn=0.005)


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    lower: float
    upper: float


def plain_environment() -> dict[str, str]:
    """Return the environment of a command that is run as a person would: without `VARIABLES`."""
    return {key: value for key, value in os.environ.items() if key not in VARIABLES}


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this thread, and those it starts, on one core, where the system lets one choose.

    jax has a pool of threads that no flag makes one: else it would compute on more cores than the others.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def take_turns(steps: Mapping[Name, Callable[[], object]], plan: Plan) -> dict[Name, list[float]]:
    """Return seconds per call of each step, one number a round.

    Each is called twice before, to compile and to fill caches. Its calls in a turn are as many as reach `plan.turn`.
    Each round has an order of its own, drawn from a fixed seed, so that nobody always follows the same neighbour.

    Arguments:
        steps: name -> what is timed.
        plan: how many rounds, and how long a turn.
    """
    timers = {name: timeit.Timer(step) for name, step in steps.items()}
    calls = {}
    for name, timer in timers.items():
        timer.timeit(1)
        calls[name] = max(1, math.ceil(plan.turn / max(timer.timeit(1), 1e-9)))
    seconds: dict[Name, list[float]] = {name: [] for name in steps}
    names, orders = list(steps), random.Random(0)
    for _ in range(plan.rounds):
        for name in orders.sample(names, len(names)):
            seconds[name].append(timers[name].timeit(calls[name]) / calls[name])
    return seconds


def pace() -> float:
    """Return the machine's pace, in GFLOP/s of a float32 product of matrices: the median of a second's.

    Taken before and after a benchmark it says whether the machine was left to it: a processor that is shared with
    strangers is at times several times slower, and then not all contestants by the same factor.
    """
    a, b = np.ones((512, 784), np.float32), np.ones((784, 512), np.float32)
    (seconds,) = take_turns({"product": lambda: a @ b}, FULL).values()
    return 2e-9 * a.size * b.shape[1] / spread(seconds).median


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles, by linear interpolation."""
    lower, median, upper = np.quantile(values, [0.25, 0.5, 0.75])
    return Spread(float(median), float(lower), float(upper))


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    """Return median(theirs) / median(ours), how many times faster we are, with quartiles of the rounds' ratios.

    Arguments:
        theirs: seconds a call, one number a round.
        ours: the same rounds'.

    Raises:
        ValueError: the two have different numbers of rounds.
    """
    if len(theirs) != len(ours):
        raise ValueError(f"{len(theirs)} rounds against {len(ours)}; expected: equally many, timed together")
    rounds = spread([a / b for a, b in zip(theirs, ours, strict=True)])
    return Spread(float(np.median(theirs) / np.median(ours)), rounds.lower, rounds.upper)


def log_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the least-squares slope of ln y against ln x: p where y grows as x^p."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
