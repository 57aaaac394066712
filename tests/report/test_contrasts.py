"""Contrasts against arithmetic in the test, tables of Student's t, scipy's own tests, and the coverage of intervals."""

import math

import numpy as np
import pytest
from scipy import stats

from nfstudy.report.statistics.contrasts import contrast_of, decide, holm

T_2 = 4.302653
"""Student's t at 0.975 with 2 degrees of freedom, from a printed table."""


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
    assert (found.mean, found.variances) == (-1.5, (pytest.approx(0.5),))
    with pytest.raises(ValueError, match="no repetition that all cells share"):
        contrast_of((1, -1, 1, -1), [{1: 4.0}, {2: 4.0}, {1: 3.0}, {1: 5.0}], distances=True)


def test_only_repetitions_that_all_cells_have_are_pairs():
    found = contrast_of((1, -1), ({1: 5.0, 2: 7.0, 3: 8.0, 4: 100.0}, {1: 4.0, 2: 5.0, 3: 6.0, 5: -100.0}))
    assert (found.repetitions, found.n) == ((1, 2, 3), 3)
    assert found.mean == pytest.approx(5 / 3, abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "pairs"),
    [
        pytest.param((1, 2), (1, 2, 3), (1, 2), id="two pairs, all that one cell has"),
        pytest.param((1, 2, 4), (1, 2, 3), (), id="two pairs, and a third value each"),
        pytest.param((1, 2, 3), (3, 4, 5), (), id="one pair"),
        pytest.param((1, 2, 3), (1, 2, 3, 4), (1, 2, 3), id="three pairs"),
    ],
)
def test_too_few_pairs_discard_no_values(first, second, pairs):
    rng = np.random.default_rng(3)
    cells = [{r: float(rng.normal()) for r in own} for own in (first, second)]
    found = contrast_of((1, -1), cells)
    assert found.repetitions == pairs
    if not pairs:
        by_scipy = stats.ttest_ind(*(list(cell.values()) for cell in cells), equal_var=False)
        assert found.interval(0.95) == pytest.approx(tuple(by_scipy.confidence_interval(0.95)), abs=1e-12)


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
    assert (found.p_within(-math.inf, 0), found.p_outside(-math.inf, 0)) == (1.0, 1.0)
    assert found.lack == "an interval takes at least 2 seeds"


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
        ((0.1, 0.1), -math.inf, 0.0, "undecided"),
        ((0.0, 0.0), -0.5, 0.5, "undecided"),
        (None, -0.5, 0.5, "undecided"),
    ],
)
def test_an_interval_decides_when_it_lies_on_one_side(interval, lower, upper, decision):
    assert decide(interval, lower, upper) == decision


@pytest.mark.parametrize(
    "cells",
    [
        pytest.param((values(3.5, 4.5), values(3.0, 4.0)), id="two equal differences"),
        pytest.param((values(97.1, 98.3, 91.7), values(92.1, 93.3, 86.7)), id="equal but for rounding"),
        pytest.param((values(5.0, 5.0), values(3.0, 4.0, 7.0, start=3)), id="unpaired, one cell with equal values"),
        pytest.param((values(0.0, 0.0), values(0.0, 0.0)), id="zeros"),
    ],
)
def test_equal_values_say_nothing_of_the_spread_and_decide_nothing(cells):
    found = contrast_of((1, -1), cells, noise=(0.1, 0.1))
    assert (found.se, found.interval(0.95)) == (None, None)
    assert (found.p_within(-1e6, 1e6), found.p_outside(-math.inf, -1e6)) == (1.0, 1.0)
    assert found.lack == "equal values: no spread to judge by"


def test_a_p_value_is_where_the_interval_meets_the_bound():
    # Differences 1, 2, 3: mean 2, se 1/√3. scipy's one-sided tests of the same three numbers.
    found = contrast_of((1,), (values(1, 2, 3),))
    greater = stats.ttest_1samp([1, 2, 3], 0, alternative="greater").pvalue
    assert found.p_outside(-math.inf, 0) == pytest.approx(greater, abs=1e-12)
    assert found.p_within(-math.inf, 0) == pytest.approx(1 - greater, abs=1e-12)
    low, high = found.interval(0.95)
    assert found.p_within(low, math.inf) == pytest.approx(0.025, abs=1e-12)
    # Two tests, the worse of both counts; against an interval both tails count, the far one little.
    assert found.p_within(low - 9, high) == pytest.approx(0.025, abs=1e-12)
    far = stats.t.sf(math.sqrt(3) * (2 - 1 + 8), 2)
    assert found.p_outside(-7, 1) == pytest.approx(stats.t.sf(math.sqrt(3), 2) + far, abs=1e-12)


def test_monte_carlo_errors_add_up_and_do_not_fall_with_the_repetitions():
    # se² = 1/3 + (0.3 + 0.2)², and the degrees of freedom stay those of the spread.
    found = contrast_of((1, -1), (values(91, 72, 103), values(90, 70, 100)), noise=(0.3, 0.2))
    assert found.noise == pytest.approx(0.5)
    assert found.se == pytest.approx(math.sqrt(1 / 3 + 0.25), abs=1e-12)
    assert found.freedom == 2
    assert found.interval(0.95)[1] == pytest.approx(2 + T_2 * math.sqrt(1 / 3 + 0.25), abs=1e-5)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.5, each at least the one before.
    assert holm([0.03, 0.5, 0.01, 0.02]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("first", "second", "start", "noise"),
    [
        pytest.param(3, 3, 1, 0.0, id="3 pairs"),
        pytest.param(6, 9, 20, 0.0, id="unpaired, 6 and 9 values, spread 1 and 3"),
        pytest.param(3, 3, 1, 3.0, id="3 pairs, under noise that all values share"),
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_say(first, second, start, noise):
    """Of 2,000 intervals of 95 %, the share that covers has a standard deviation of 0.5 %; Welch's is approximate."""
    rng, trials, covered = np.random.default_rng(7), 2000, 0
    for _ in range(trials):
        shared = rng.normal(0, 10, max(first, second))  # what a seed does to both cells alike
        a = shared[:first] * (start == 1) + rng.normal(2, 1, first) + rng.normal(0, noise)
        b = shared[:second] * (start == 1) + rng.normal(0, 3, second)
        found = contrast_of((1, -1), (values(*a), values(*b, start=start)), noise=(noise, 0.0))
        low, high = found.interval(0.95)
        covered += low < 2 < high
    assert covered / trials > 0.935
    assert noise or covered / trials < 0.965
