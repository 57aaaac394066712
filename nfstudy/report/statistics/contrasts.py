"""Linear contrasts of cells over repetitions: the mean, its confidence interval, what it decides, how many seeds more.

A contrast is C = Σ_i c_i x_i of one quantity x in cells i. Repetition r of every cell has the same seeds, so where
all cells have finished the same repetitions these are pairs: C_r = Σ_i c_i x_ir is one sample, whose mean has a t
interval. Where no repetition is shared, each cell is a sample of its own and the interval is Welch's.

Both are one formula. With samples j of n_j values and v_j the variance that one value adds to C (paired: the variance
of C_r; else c_j² s_j²),

    se² = Σ_j v_j / n_j,    ν = se⁴ / Σ_j (v_j / n_j)² / (n_j − 1),    interval: C ± t_ν((1 + level) / 2) se

(Welch 1947, Biometrika 34; Satterthwaite 1946, Biometrics Bulletin 2). One sample gives ν = n − 1, Student's interval.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

MOST_SEEDS = 1000
"""Beyond so many seeds it is not said how many a decision would take."""

Decision = Literal["supported", "contradicted", "undecided"]


@dataclass(frozen=True)
class Contrast:
    """What repetitions say of a contrast, in the quantity's unit."""

    mean: float
    counts: tuple[int, ...]
    """n_j, how many values each sample has: one sample where paired, else one a cell."""
    variances: tuple[float, ...] | None
    """v_j, in the unit squared; None where a sample has one value."""
    repetitions: tuple[int, ...]
    """Those that all cells share, in order; empty where there are none, so that nothing is paired."""

    @property
    def n(self) -> int:
        """How many repetitions it rests on: the pairs, or the fewest values of a cell."""
        return min(self.counts)

    @property
    def se(self) -> float | None:
        """Standard error of the mean; None where a sample has one value."""
        return None if self.variances is None else math.sqrt(sum(_shares(self.variances, self.counts)))

    def interval(self, level: float) -> tuple[float, float] | None:
        """Return the two-sided confidence interval of the mean; None where a sample has one value.

        Arguments:
            level: such as 0.95.
        """
        if self.variances is None:
            return None
        half = _half_width(self.variances, self.counts, level)
        return self.mean - half, self.mean + half


def contrast_of(
    coefficients: Sequence[float], values: Sequence[Mapping[int, float]], distances: bool = False
) -> Contrast:
    """Form a contrast: over the repetitions that all cells share, else from each cell's own mean.

    Arguments:
        coefficients: c_i, one a cell.
        values: of each cell, repetition -> finite value; none is empty.
        distances: whether C_r is not Σ_i c_i x_ir but a difference of absolute values, as `combine` has it.

    Raises:
        ValueError: distances without a shared repetition, since they are of pairs.
    """
    shared = sorted(set.intersection(*(set(cell) for cell in values)))
    if distances and not shared:
        raise ValueError("no repetition that all cells share; expected, for distances: at least one")
    if shared:
        samples = [np.array([combine(coefficients, [cell[r] for cell in values], distances) for r in shared])]
        weights: Sequence[float] = (1.0,)
    else:
        samples = [np.array(list(cell.values())) for cell in values]
        weights = coefficients
    counts = tuple(len(sample) for sample in samples)
    variances = (
        tuple(weight**2 * float(sample.var(ddof=1)) for weight, sample in zip(weights, samples, strict=True))
        if min(counts) > 1
        else None
    )
    mean = combine(weights, [float(sample.mean()) for sample in samples])
    return Contrast(mean, counts, variances, tuple(shared))


def decide(interval: tuple[float, float] | None, lower: float, upper: float) -> Decision:
    """Judge lower < C < upper by an interval of C.

    Supported where the whole interval satisfies it, contradicted where none of it does, undecided where there is no
    interval or a bound lies in it. An interval without width, as equal values have, is its mean.

    Arguments:
        interval: both ends, in the bounds' unit.
        lower: −∞ for C < upper alone.
        upper: greater than `lower`.
    """
    if interval is None:
        return "undecided"
    low, high = interval
    if lower < low and high < upper:
        return "supported"
    return "contradicted" if high <= lower or low >= upper else "undecided"


def seeds_to_decide(contrast: Contrast, lower: float, upper: float, level: float) -> int | None:
    """Return how many seeds of each cell would decide, were mean and variances to stay as they are.

    It is the smallest n with t_ν se < |C − b|, for b the bound nearest to C and n values in every sample. None where
    that is beyond `MOST_SEEDS`, or nothing is known of the variances.
    """
    variances = contrast.variances
    if variances is None:
        return None
    distance = min(abs(contrast.mean - lower), abs(contrast.mean - upper))
    numbers = range(2, MOST_SEEDS + 1)
    # The half-width falls with n, so the answer can be bisected.
    place = bisect.bisect_left(
        numbers, True, key=lambda n: _half_width(variances, (n,) * len(variances), level) < distance
    )
    return numbers[place] if place < len(numbers) else None


def _half_width(variances: Sequence[float], counts: Sequence[int], level: float) -> float:
    shares = _shares(variances, counts)
    square = sum(shares)
    if square == 0:
        return 0.0
    freedom = square**2 / sum(share**2 / (n - 1) for share, n in zip(shares, counts, strict=True))
    return float(stats.t.ppf((1 + level) / 2, freedom)) * math.sqrt(square)


def _shares(variances: Sequence[float], counts: Sequence[int]) -> list[float]:
    return [variance / n for variance, n in zip(variances, counts, strict=True)]


def combine(coefficients: Sequence[float], values: Sequence[float], distances: bool = False) -> float:
    """Return Σ_i c_i x_i; or, of distances, |the sum of the first half| − |that of the second|."""
    terms = [c * x for c, x in zip(coefficients, values, strict=True)]
    if not distances:
        return math.fsum(terms)
    middle = len(terms) // 2
    return abs(math.fsum(terms[:middle])) - abs(math.fsum(terms[middle:]))
