"""Curves of cells read off at common values of a cost, and their ranks there.

A curve is the cells of one flow family, by K. Between two neighbours with costs a ≤ x ≤ b the value at x is taken to be
linear in ln x,

    y(x) = (1 − t) y_a + t y_b,    t = ln(x / a) / ln(b / a),

a linear contrast of the two cells, so that its interval, and that of the difference of two curves, is a contrast's
(`contrasts`). Costs are taken for known. Outside of its cells a curve has no value: nothing is extrapolated.

Ranks are intervals. Of m curves that are read at one x all m (m − 1) / 2 differences are tested, each at an error of
(1 − `LEVEL`) / (m (m − 1) / 2). By Bonferroni's inequality none of them is then told wrongly, its sign included, with a
probability of at least `LEVEL`. With `better` the number of curves found lower, and `worse` that of those found higher,
the rank lies from 1 + better to m − worse, and all of these hold together. An order of the means alone would look like
more than the runs can tell.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nfstudy.core.declarations import Metric
from nfstudy.report.statistics.contrasts import ROUNDING, Contrast, contrast_of
from nfstudy.report.statistics.estimates import CellResult, Estimate, runs_of
from nfstudy.runs.metrics import TIGHT_NLL, TIGHT_SEED_ERROR

LEVEL = 0.95
NEAR = 0.05
"""In ln x: a cell as close as that to a common value is read as it is, since a cost that is measured is no nearer."""


@dataclass(frozen=True)
class Point:
    """A cell on a curve."""

    cost: float
    """Greater than 0, in the unit of the axis."""
    cell: CellResult


@dataclass(frozen=True)
class Reading:
    """A curve's value at one cost: a weighted mean of one cell, or of two neighbours."""

    weights: tuple[float, ...]
    cells: tuple[CellResult, ...]

    def contrast(self, quantity: Metric) -> Contrast:
        """Return the value with what is known of its spread."""
        return difference(self, None, quantity)

    def estimate(self, quantity: Metric) -> Estimate:
        """Return the same as tables have it."""
        found = self.contrast(quantity)
        return Estimate(found.n, found.mean, found.se, runs_of(found, [c.by_repetition(quantity) for c in self.cells]))


@dataclass(frozen=True)
class Rank:
    """Between which ranks a curve lies, both included; 1 is the lowest value."""

    best: int
    worst: int

    @property
    def text(self) -> str:
        """Such as `1`, or `2–4`."""
        return str(self.best) if self.best == self.worst else f"{self.best}–{self.worst}"


def read_at(points: Sequence[Point], cost: float) -> Reading | None:
    """Read a curve off at a cost; None where no cell is near and it does not lie between two.

    Where several pairs of neighbours have it between them, since a longer chain may take hardly more, it is that of the
    longest chains.

    Arguments:
        points: by K.
        cost: greater than 0.
    """
    near = [point for point in points if abs(math.log(cost / point.cost)) <= NEAR]
    if near:
        return Reading((1.0,), (near[-1].cell,))
    for left, right in reversed([*itertools.pairwise(points)]):
        if min(left.cost, right.cost) < cost < max(left.cost, right.cost):
            share = math.log(cost / left.cost) / math.log(right.cost / left.cost)
            return Reading((1 - share, share), (left.cell, right.cell))
    return None


def common_costs(curves: Sequence[Sequence[Point]], most: int) -> list[float]:
    """Return costs at which curves are read, in order: one for the most of them, further ones for those left over.

    Each is the cost of a cell; of several that serve as many curves, the one that serves more of all, and then the
    highest, where chains are longest.

    Arguments:
        curves: each by K, with at least one point.
        most: how many at most.
    """
    candidates = {point.cost for points in curves for point in points}
    left, found = list(curves), list[float]()
    while left and len(found) < most:
        served = {x: _readable(left, x) for x in candidates}
        best = max(candidates, key=lambda x: (served[x], _readable(curves, x), x))
        if _readable(curves, best) < 2:  # By itself a curve is compared with nothing.
            break
        found.append(best)
        left = [points for points in left if read_at(points, best) is None]
    return sorted(found)


def _readable(curves: Sequence[Sequence[Point]], cost: float) -> int:
    return sum(read_at(points, cost) is not None for points in curves)


def difference(minuend: Reading, subtrahend: Reading | None, quantity: Metric) -> Contrast:
    """Return the difference of two curves, or the first alone, over the repetitions that their cells share."""
    weights: dict[int, float] = {}
    cells: dict[int, CellResult] = {}
    for sign, reading in ((1.0, minuend), (-1.0, subtrahend)):
        for weight, cell in zip(reading.weights, reading.cells, strict=True) if reading else ():
            weights[id(cell)] = weights.get(id(cell), 0.0) + sign * weight
            cells[id(cell)] = cell
    values = [{r: value for r, (_, value) in cell.by_repetition(quantity).items()} for cell in cells.values()]
    return contrast_of([*weights.values()], values, noise=[_noise(cell, quantity) for cell in cells.values()])


def _noise(cell: CellResult, quantity: Metric) -> float:
    if quantity.name == TIGHT_NLL.name:
        return cell.estimate(TIGHT_SEED_ERROR).mean or 0.0
    return cell.noise(quantity)


def ranks(names: Sequence[str], contrast: Callable[[str, str], Contrast]) -> dict[str, Rank]:
    """Return the rank of each by its name: lower values are better.

    Arguments:
        names: of what is compared, each once.
        contrast: (name, other name) -> the difference of the two.
    """
    pairs = [*itertools.combinations(names, 2)]
    better, worse = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for a, b in pairs:
        found = contrast(a, b)
        if found.p_outside(0, 0) * len(pairs) <= 1 - LEVEL:
            low, high = (a, b) if found.mean < 0 else (b, a)
            better[high] += 1
            worse[low] += 1
    return {name: Rank(1 + better[name], len(names) - worse[name]) for name in names}


@dataclass(frozen=True)
class Training:
    """The bound on validation images over the seconds of the trainings of one cell."""

    cell: CellResult
    seconds: float
    """Of one update."""
    curves: Mapping[int, Sequence[tuple[int, float]]]
    """Repetition -> (updates done, F) of each epoch, in order."""

    @property
    def most(self) -> float:
        """The seconds that all repetitions have been trained."""
        return self.seconds * min((curve[-1][0] for curve in self.curves.values()), default=0)

    def at(self, seconds: float) -> dict[int, float]:
        """Return repetition -> F after so many seconds, linear between epochs; empty where a run does not reach it."""
        updates = seconds / self.seconds
        found = {}
        for repetition, curve in self.curves.items():
            done, bound = zip(*curve, strict=True)
            if not done[0] <= updates <= done[-1] * (1 + ROUNDING):
                return {}
            found[repetition] = float(np.interp(updates, done, bound))
        return found


def lowest_at(trainings: Sequence[Training], seconds: float) -> tuple[Training, dict[int, float]] | None:
    """Return the training whose mean F is lowest after so many seconds, with F; None where none is known there."""
    found = [(each, values) for each in trainings if (values := each.at(seconds))]
    return min(found, key=lambda pair: sum(pair[1].values()) / len(pair[1]), default=None)
