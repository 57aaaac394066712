"""Linear contrasts of cells over repetitions: the mean, its confidence interval, and p-values against bounds.

A contrast is C = Σ_i c_i x_i of one quantity x in cells i. Repetition r of every cell has the same seeds, so
repetitions that all cells share are pairs: C_r = Σ_i c_i x_ir is one sample, whose mean has a t interval. Where there
are fewer than `LEAST_PAIRS` of them and every cell has more values, each cell is a sample of its own and the interval
is Welch's; what seeds have in common makes that one wider than need be.

Both are one formula. With samples j of n_j values, v_j the variance that one value adds to C (paired: the variance of
C_r; else c_j² s_j²), and m the Monte-Carlo error of the mean,

    se² = Σ_j v_j / n_j + m²,    ν = (Σ_j v_j / n_j)² / Σ_j (v_j / n_j)² / (n_j − 1),
    interval: C ± t_ν((1 + level) / 2) se

(Welch 1947, Biometrika 34; Satterthwaite 1946, Biometrics Bulletin 2). One sample gives ν = n − 1, Student's interval.

Verdicts are made far out in the tails, and there Welch's ν is not safe: of 2 values against 5 it rejects at 0.002 up to
ten times too often. So p-values, and intervals that go with them, have ν = min_j n_j − 1, which never rejects too often
(Mickey & Brown 1966, Ann. Math. Statist. 37): with se² = Σ_j w_j χ²_j / ν_j times its mean, and Σ_j w_j = 1,
P(Z > t √(se² / mean)) is convex in se², and so at most what the χ²_j with the fewest degrees of freedom would give.

Evaluations may share their noise, over repetitions and over cells, and then more repetitions do not make its part
smaller. So m = Σ_i |c_i| m_i, with m_i the root mean square of the errors that the runs of cell i have logged: an upper
bound whatever their correlations (triangle inequality). It is known and not estimated, which by the same convexity
makes the ν of the spread conservative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

LEAST_PAIRS = 3
"""With fewer, a contrast is of the cells' own means if each has more values than there are pairs."""

ROUNDING = 1e-9
"""A spread below this share of the values is one of rounding: the values are equal."""

Decision = Literal["supported", "contradicted", "undecided"]


@dataclass(frozen=True)
class Contrast:
    """What repetitions say of a contrast, in the quantity's unit."""

    mean: float
    counts: tuple[int, ...]
    """n_j, how many values each sample has: one sample where paired, else one a cell."""
    variances: tuple[float, ...] | None
    """v_j, in the unit squared; None where a sample has one value, or equal ones, which say nothing of its spread."""
    repetitions: tuple[int, ...]
    """The pairs, in order; empty where there are none."""
    noise: float = 0.0
    """m, the Monte-Carlo standard error of the mean, at most."""

    @property
    def n(self) -> int:
        """How many repetitions it rests on: the pairs, or the fewest values of a cell."""
        return min(self.counts)

    @property
    def se(self) -> float | None:
        """Standard error of the mean; None where nothing is known of the spread."""
        if self.variances is None:
            return None
        return math.sqrt(sum(_shares(self.variances, self.counts)) + self.noise**2)

    @property
    def freedom(self) -> float:
        """Welch's degrees of freedom ν; nan where nothing is known of the spread."""
        return math.nan if self.variances is None else _freedom(_shares(self.variances, self.counts), self.counts)

    @property
    def least_freedom(self) -> int:
        """The degrees of freedom with which a test never rejects too often."""
        return min(self.counts) - 1

    @property
    def lack(self) -> str:
        """Why there is no interval; empty where there is one."""
        if self.variances is not None:
            return ""
        return "an interval takes at least 2 seeds" if self.n < 2 else "equal values: no spread to judge by"

    def interval(self, level: float, safe: bool = False) -> tuple[float, float] | None:
        """Return the two-sided confidence interval of the mean; None where nothing is known of the spread.

        Arguments:
            level: such as 0.95.
            safe: whether with the fewest degrees of freedom, as p-values have them, in place of Welch's.
        """
        if self.se is None:
            return None
        freedom = self.least_freedom if safe else self.freedom
        half = float(stats.t.isf((1 - level) / 2, freedom)) * self.se
        return self.mean - half, self.mean + half

    def p_within(self, lower: float, upper: float) -> float:
        """Return the p-value of "C lies outside (lower, upper)": a small one speaks for C within.

        It is the larger of two one-sided t tests' (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15), and at most
        (1 − level) / 2 where the safe interval of that level lies within. 1 where nothing is known of the spread.
        """
        return max(self._tail(upper - self.mean), self._tail(self.mean - lower))

    def p_outside(self, lower: float, upper: float) -> float:
        """Return the p-value of "lower ≤ C ≤ upper": a small one speaks for C outside.

        With d the distance of the mean beyond the nearer bound, in standard errors, it is P(t_ν ≥ d) +
        P(t_ν ≥ d + (upper − lower) / se): how often a mean lies as far beyond either, were C at one of them. 1 where
        nothing is known of the spread.
        """
        beyond = max(self.mean - upper, lower - self.mean)
        return min(self._tail(beyond) + self._tail(beyond + upper - lower), 1.0)

    def _tail(self, distance: float) -> float:
        """Return P(t_ν ≥ distance / se)."""
        return 1.0 if self.se is None else float(stats.t.sf(distance / self.se, self.least_freedom))


def contrast_of(
    coefficients: Sequence[float],
    values: Sequence[Mapping[int, float]],
    distances: bool = False,
    noise: Sequence[float] = (),
) -> Contrast:
    """Form a contrast: over the repetitions that all cells share, or from each cell's own mean where these are few.

    Arguments:
        coefficients: c_i, one a cell.
        values: of each cell, repetition -> finite value; none is empty.
        distances: whether C_r is not Σ_i c_i x_ir but a difference of absolute values, as `combine` has it; it is
            always of pairs.
        noise: m_i, the Monte-Carlo standard error of one value of each cell; none where that is not known.

    Raises:
        ValueError: distances without a shared repetition.
    """
    shared = sorted(set.intersection(*(set(cell) for cell in values)))
    if distances and not shared:
        raise ValueError("no repetition that all cells share; expected, for distances: at least one")
    if distances or paired([len(cell) for cell in values], len(shared)):
        samples = [np.array([combine(coefficients, [cell[r] for cell in values], distances) for r in shared])]
        weights: Sequence[float] = (1.0,)
    else:
        shared = []
        samples = [np.array(list(cell.values())) for cell in values]
        weights = coefficients
    counts = tuple(len(sample) for sample in samples)
    size = max(abs(c * x) for c, cell in zip(coefficients, values, strict=True) for x in cell.values())
    variances = None
    if min(counts) > 1:
        spreads = [abs(weight) * float(sample.std(ddof=1)) for weight, sample in zip(weights, samples, strict=True)]
        variances = tuple(spread**2 for spread in spreads) if min(spreads) > ROUNDING * size else None
    mean = combine(weights, [float(sample.mean()) for sample in samples])
    error = math.fsum(abs(c) * m for c, m in zip(coefficients, noise, strict=True)) if noise else 0.0
    return Contrast(mean, counts, variances, tuple(shared), error)


def paired(counts: Sequence[int], shared: int) -> bool:
    """Say whether so many shared repetitions are compared in pairs, by how many values each cell has."""
    return shared > 0 and shared >= min(LEAST_PAIRS, *counts)


def decide(interval: tuple[float, float] | None, lower: float, upper: float) -> Decision:
    """Judge lower < C < upper by one interval of C, by itself.

    Supported where the whole interval satisfies it, contradicted where none of it does, undecided where a bound lies in
    it, or where there is no interval, or none with a width.

    Arguments:
        interval: both ends, in the bounds' unit.
        lower: −∞ for C < upper alone.
        upper: greater than `lower`.
    """
    if interval is None or interval[0] == interval[1]:
        return "undecided"
    low, high = interval
    if lower < low and high < upper:
        return "supported"
    return "contradicted" if high <= lower or low >= upper else "undecided"


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given: max_{j ≤ i} (m − j + 1) p_(j), at most 1.

    Rejecting where they are at most α rejects any true hypothesis with a probability of at most α, however the tests
    depend on each other (Holm 1979, Scand. J. Statist. 6).
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, (len(p_values) - rank) * p_values[place])
        adjusted[place] = min(largest, 1.0)
    return adjusted


def combine(coefficients: Sequence[float], values: Sequence[float], distances: bool = False) -> float:
    """Return Σ_i c_i x_i; or, of distances, |the sum of the first half| − |that of the second|."""
    terms = [c * x for c, x in zip(coefficients, values, strict=True)]
    if not distances:
        return math.fsum(terms)
    middle = len(terms) // 2
    return abs(math.fsum(terms[:middle])) - abs(math.fsum(terms[middle:]))


def _shares(variances: Sequence[float], counts: Sequence[int]) -> list[float]:
    return [variance / n for variance, n in zip(variances, counts, strict=True)]


def _freedom(shares: Sequence[float], counts: Sequence[int]) -> float:
    # By parts of the whole, so that tiny variances do not vanish when they are squared.
    whole = math.fsum(shares)
    return 1 / math.fsum((share / whole) ** 2 / (n - 1) for share, n in zip(shares, counts, strict=True))
