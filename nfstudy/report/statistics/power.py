"""How many seeds would decide, and with what probability, were a contrast's mean and spread the true ones."""

from __future__ import annotations

import bisect
import math
from dataclasses import replace

from scipy import stats

from nfstudy.report.statistics.contrasts import Contrast

POWER = 0.8
MOST_SEEDS = 1000
"""Beyond so many seeds it is not said how many a decision would take."""
SPREAD_LEVEL = 0.9
"""Of the interval of the spread from which the range of the number of seeds comes."""


def chance(contrast: Contrast, seeds: int, bounds: tuple[float, float], error: float, outside: float) -> float:
    """Return the probability that so many seeds decide, on the side of the bounds on which the mean lies.

    A test rejects where (C − b) / se passes t_ν(1 − error); that ratio is noncentral t with (mean − b) / se. Within
    both bounds two tests have to reject, which they do with at least the sum of both probabilities less 1.

    Arguments:
        contrast: its mean, variances and Monte-Carlo error, taken for the true ones.
        seeds: n, of each cell; at least 2.
        bounds: lower < C < upper.
        error: of each test for C within the bounds.
        outside: of a test for C outside, such as that of one part among several.
    """
    if contrast.variances is None:
        return 0.0
    new = replace(contrast, counts=(seeds,) * len(contrast.counts))
    lower, upper = bounds
    if lower < contrast.mean < upper:
        distances = [abs(contrast.mean - bound) for bound in bounds if math.isfinite(bound)]
        return max(math.fsum(_rejects(new, distance, error) for distance in distances) - len(distances) + 1, 0.0)
    return _rejects(new, max(contrast.mean - upper, lower - contrast.mean), outside)


def seeds_for_power(contrast: Contrast, bounds: tuple[float, float], error: float, outside: float) -> int | None:
    """Return the fewest seeds that decide with a probability of `POWER`; None beyond `MOST_SEEDS`.

    Arguments are those of `chance`. A Monte-Carlo error does not fall with the seeds, so that none may be enough.
    """
    numbers = range(2, MOST_SEEDS + 1)
    place = bisect.bisect_left(numbers, True, key=lambda n: chance(contrast, n, bounds, error, outside) >= POWER)
    return numbers[place] if place < len(numbers) else None


def seeds_range(
    contrast: Contrast, bounds: tuple[float, float], error: float, outside: float
) -> tuple[int | None, int | None]:
    """Return the same at both ends of the spread's interval: ν s² / χ²_ν at 5 % and 95 % (`SPREAD_LEVEL`)."""
    if contrast.variances is None:
        return None, None
    freedom, variances = contrast.freedom, contrast.variances
    found = []
    for tail in ((1 + SPREAD_LEVEL) / 2, (1 - SPREAD_LEVEL) / 2):
        factor = freedom / float(stats.chi2.ppf(tail, freedom))
        scaled = replace(contrast, variances=tuple(factor * variance for variance in variances))
        found.append(seeds_for_power(scaled, bounds, error, outside))
    return found[0], found[1]


def seeds_text(contrast: Contrast, bounds: tuple[float, float], error: float, outside: float) -> str:
    """Say how many seeds have a power of `POWER`, such as `80 % power takes 30 seeds (11 to 560)`."""
    needed = seeds_for_power(contrast, bounds, error, outside)
    few, many = (f"{n:,}" if n else f"more than {MOST_SEEDS:,}" for n in seeds_range(contrast, bounds, error, outside))
    takes = f"{needed:,}" if needed else f"more than {MOST_SEEDS:,}"
    ends = f" ({few} to {many})" if few != many else ""
    return f"{100 * POWER:g} % power takes {takes} seeds{ends}"


def _rejects(contrast: Contrast, distance: float, error: float) -> float:
    """Return the probability that a one-sided t test rejects, the truth lying `distance` beyond its bound."""
    assert contrast.se is not None
    freedom, shift = contrast.least_freedom, distance / contrast.se
    critical = float(stats.t.isf(error, freedom))
    found = float(stats.nct.sf(critical, freedom, shift))
    # Where that is not to be had, the estimate is so far from the bound that the spread alone decides.
    return found if math.isfinite(found) else float(stats.chi2.cdf(freedom * (shift / critical) ** 2, freedom))
