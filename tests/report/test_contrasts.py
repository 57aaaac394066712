"""Contrasts against arithmetic in the test, tables of Student's t, scipy's own tests, and the coverage of intervals."""

import math

import numpy as np
import pytest
from scipy import stats

from nfstudy.report.statistics.contrasts import Contrast, contrast_of, decide, seeds_to_decide

T_2, T_3 = 4.302653, 3.182446
"""Student's t at 0.975 with 2 and 3 degrees of freedom, from a printed table."""


def values(*numbers, start=1):
    return dict(enumerate(numbers, start))


def test_pairs_by_hand():
    # Differences 1, 2, 3: mean 2, sd 1, se 1/√3. The cells' own spread, tens of nats, plays no part.
    found = contrast_of((1, -1), (values(91, 72, 103), values(90, 70, 100)))
    assert (found.n, found.mean, found.repetitions) == (3, 2.0, (1, 2, 3))
    assert found.se == pytest.approx(1 / math.sqrt(3), abs=1e-12)
    assert found.interval(0.95) == pytest.approx((2 - T_2 / math.sqrt(3), 2 + T_2 / math.sqrt(3)), abs=1e-6)


def test_four_cells_by_hand():
    # (a − b) − (c − d): repetition 1: (9 − 4) − (8 − 6) = 3; repetition 2: (7 − 6) − (3 − 3) = 1.
    cells = (values(9, 7), values(4, 6), values(8, 3), values(6, 3))
    found = contrast_of((1, -1, -1, 1), cells)
    assert (found.mean, found.n) == (2.0, 2)
    assert found.se == pytest.approx(math.sqrt(2) / math.sqrt(2), abs=1e-12)


def test_distances_shrink_whichever_is_the_lower_one():
    # |4 − 4| − |3 − 5| = −2 and |5 − 4| − |8 − 6| = −1: mean −1.5, variance 0.5.
    cells = [{1: 4.0, 2: 5.0}, {1: 4.0, 2: 4.0}, {1: 3.0, 2: 8.0}, {1: 5.0, 2: 6.0}]
    found = contrast_of((1, -1, 1, -1), cells, distances=True)
    assert (found.mean, found.variances) == (-1.5, (0.5,))
    with pytest.raises(ValueError, match="no repetition that all cells share"):
        contrast_of((1, -1, 1, -1), [{1: 4.0}, {2: 4.0}, {1: 3.0}, {1: 5.0}], distances=True)


def test_only_repetitions_that_all_cells_have_are_pairs():
    found = contrast_of((1, -1), ({1: 5.0, 2: 7.0, 4: 100.0}, {1: 4.0, 2: 5.0, 3: -100.0}))
    assert (found.repetitions, found.mean, found.n) == ((1, 2), 1.5, 2)


def test_without_shared_repetitions_the_interval_is_welchs():
    # {1, 3}: mean 2, variance 2, n 2; {2, 4, 6}: mean 4, variance 4, n 3. se² = 2/2 + 4/3 = 7/3;
    # ν = (7/3)² / (1² / 1 + (4/3)² / 2) = (49/9) / (17/9) = 49/17.
    first, second = [1.0, 3.0], [2.0, 4.0, 6.0]
    found = contrast_of((1, -1), (values(*first), values(*second, start=3)))
    assert (found.mean, found.n, found.repetitions) == (-2.0, 2, ())
    assert found.se == pytest.approx(math.sqrt(7 / 3), abs=1e-12)
    half = stats.t.ppf(0.975, 49 / 17) * math.sqrt(7 / 3)
    assert found.interval(0.95) == pytest.approx((-2 - half, -2 + half), abs=1e-12)
    by_scipy = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert found.interval(0.95) == pytest.approx(tuple(by_scipy), abs=1e-12)


def test_pairs_agree_with_scipy():
    first, second = np.random.default_rng(1).normal(size=(2, 7))
    found = contrast_of((1, -1), (values(*first), values(*second)))
    assert found.interval(0.9) == pytest.approx(
        tuple(stats.ttest_rel(first, second).confidence_interval(0.9)), abs=1e-12
    )


@pytest.mark.parametrize(
    "cells",
    [
        pytest.param((values(5.0), values(3.0)), id="one pair"),
        pytest.param(({1: 5.0, 2: 5.0}, {3: 3.0}), id="no pair, and a cell with one value"),
    ],
)
def test_one_value_has_no_interval(cells):
    found = contrast_of((1, -1), cells)
    assert (found.mean, found.n, found.se, found.interval(0.95)) == (2.0, 1, None, None)
    assert decide(found.interval(0.95), -math.inf, 0) == "undecided"
    assert seeds_to_decide(found, -math.inf, 0, 0.95) is None


@pytest.mark.parametrize(
    ("interval", "lower", "upper", "decision"),
    [
        ((-2.0, -1.0), -math.inf, 0.0, "supported"),
        ((1.0, 2.0), -math.inf, 0.0, "contradicted"),
        ((-1.0, 1.0), -math.inf, 0.0, "undecided"),
        ((-1.0, 0.0), -math.inf, 0.0, "undecided"),
        ((-0.4, 0.4), -0.5, 0.5, "supported"),
        ((-0.6, 0.4), -0.5, 0.5, "undecided"),
        ((-9.0, 9.0), -0.5, 0.5, "undecided"),
        ((0.6, 0.9), -0.5, 0.5, "contradicted"),
        ((-0.9, -0.5), -0.5, 0.5, "contradicted"),
        ((0.0, 0.0), -math.inf, 0.0, "contradicted"),
        ((0.0, 0.0), -0.5, 0.5, "supported"),
        (None, -0.5, 0.5, "undecided"),
    ],
)
def test_an_interval_decides_when_it_lies_on_one_side(interval, lower, upper, decision):
    assert decide(interval, lower, upper) == decision


def test_seeds_to_decide_by_hand():
    # Mean −2, sd 1, against 0: 3 seeds leave t se = 4.30/√3 = 2.48 > 2, and 4 leave 3.18/2 = 1.59 < 2.
    found = contrast_of((1,), (values(-1, -2, -3),))
    assert T_2 / math.sqrt(3) > 2 > T_3 / math.sqrt(4)
    assert seeds_to_decide(found, -math.inf, 0.0, 0.95) == 4
    # The nearer bound counts, 0.5 away: 17 seeds leave 2.1199/√17 = 0.514, and 18 leave 2.1098/√18 = 0.497.
    assert seeds_to_decide(found, -2.5, 0.0, 0.95) == 18


def test_seeds_to_decide_are_the_fewest_and_at_most_a_thousand():
    # sd 1, t_999(0.975) = 1.96234: 1,000 seeds leave 0.06205, 999 leave 0.06209.
    one = (1.0,)
    assert seeds_to_decide(Contrast(0.06207, (3,), one, (1, 2, 3)), -math.inf, 0.0, 0.95) == 1000
    assert seeds_to_decide(Contrast(0.06203, (3,), one, (1, 2, 3)), -math.inf, 0.0, 0.95) is None
    assert seeds_to_decide(Contrast(0.0, (3,), one, (1, 2, 3)), -math.inf, 0.0, 0.95) is None


def test_seeds_to_decide_without_pairs_are_those_of_each_cell():
    # Variances 1 and 1: se² = 2/n, ν = 2 (n − 1). At distance 2: n = 3: t_4 = 2.776445, half-width 2.267;
    # n = 4: t_6 = 2.446912, half-width 1.730.
    found = contrast_of((1, -1), (values(1, 2, 3), values(3, 4, 5, start=4)))
    assert found.mean == -2.0
    assert 2.776445 * math.sqrt(2 / 3) > 2 > 2.446912 * math.sqrt(2 / 4)
    assert seeds_to_decide(found, -math.inf, 0.0, 0.95) == 4


def test_equal_differences_have_an_interval_without_width():
    found = contrast_of((1, -1), (values(3.5, 4.5, 9.0), values(3.0, 4.0, 8.5)))
    assert (found.se, found.interval(0.95)) == (0.0, (0.5, 0.5))
    assert decide(found.interval(0.95), -math.inf, 0.0) == "contradicted"
    assert seeds_to_decide(found, -math.inf, 0.0, 0.95) == 2


@pytest.mark.parametrize(
    ("first", "second", "start"),
    [
        pytest.param(3, 3, 1, id="3 pairs"),
        pytest.param(6, 9, 20, id="unpaired, 6 and 9 values, spread 1 and 3"),
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_say(first, second, start):
    """Of 3,000 intervals of 95 %, the share that covers has a standard deviation of 0.4 %; Welch's is approximate."""
    rng, trials, covered = np.random.default_rng(7), 3000, 0
    for _ in range(trials):
        shared = rng.normal(0, 10, max(first, second))  # what a seed does to both cells alike
        a = shared[:first] * (start == 1) + rng.normal(2, 1, first)
        b = shared[:second] * (start == 1) + rng.normal(0, 3, second)
        low, high = contrast_of((1, -1), (values(*a), values(*b, start=start))).interval(0.95)
        covered += low < 2 < high
    assert covered / trials == pytest.approx(0.95, abs=0.016)
