"""What a run says of itself, gathered so that it can be written in one call to the store; free of mlflow."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nfstudy.runs.metrics import END_STEP, FREE_ENERGY, POSITIVE_FREE_ENERGY
from nfstudy.runs.result import EpochRecord, TrialResult


def now() -> int:
    """Return the time in milliseconds since 1970, as MLflow takes it."""
    return int(time.time() * 1000)


@dataclass(frozen=True)
class Point:
    """One logged number."""

    metric: str
    step: int
    """The update, or what is counted along a curve."""
    value: float
    time: int
    """When it came, in milliseconds since 1970."""


@dataclass(frozen=True)
class Entries:
    """Parameters, numbers and tags of one run; none may contradict another."""

    params: Mapping[str, str] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


def together(entries: Iterable[Entries]) -> Entries:
    """Return all in one; of two tags of a name, the later one's text."""
    params, points, tags = dict[str, str](), list[Point](), dict[str, str]()
    for each in entries:
        params |= each.params
        points += each.points
        tags |= each.tags
    return Entries(params, tuple(points), tags)


def of_epoch(record: EpochRecord, when: int) -> Entries:
    """Return one epoch's numbers, at the step of its last update."""
    return Entries(points=tuple(Point(name, record.update, value, when) for name, value in record.metrics.items()))


def of_end(result: TrialResult, when: int) -> Entries:
    """Return the numbers of a run's end; F stands beside the bound, positive."""
    numbers = dict(result.metrics)
    if FREE_ENERGY.name in numbers:
        numbers[POSITIVE_FREE_ENERGY.name] = -numbers[FREE_ENERGY.name]
    ends = [Point(name, END_STEP, value, when) for name, value in numbers.items()]
    curves = [Point(name, step, y, when) for name, curve in result.curves.items() for step, y in curve.items()]
    return Entries(points=(*ends, *curves))
