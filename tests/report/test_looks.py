"""Power, looks and Holm: numbers worked out elsewhere, and false verdicts on 10,000 simulated studies at the bound."""

import math

import numpy as np
import pytest
from scipy import stats

from nfstudy.report.statistics.contrasts import Contrast, contrast_of, holm
from nfstudy.report.statistics.looks import (
    look_level,
    look_share,
    look_size,
    looks_up_to,
    sequential_p,
)
from nfstudy.report.statistics.power import chance, seeds_for_power, seeds_range, seeds_text

ERROR = 0.025
STUDIES = 10_000
ALLOWED = ERROR + 3 * math.sqrt(ERROR * (1 - ERROR) / STUDIES)
"""Three standard deviations above the nominal share of 10,000 studies: 0.0297."""


def test_the_schedule_spends_the_error_and_no_more():
    assert [look_size(3, look) for look in (1, 2, 3, 4)] == [3, 6, 12, 24]
    assert [look_share(look) for look in (1, 2, 3, 4)] == pytest.approx([0.8, 0.1, 0.05, 0.025])
    assert sum(look_share(look) for look in range(1, 60)) == pytest.approx(1.0, abs=1e-12)
    assert [looks_up_to(3, n) for n in (0, 3, 5, 6, 11, 12)] == [1, 1, 1, 2, 2, 3]
    assert look_level(0.95, 1) == pytest.approx(0.96)
    assert look_level(0.95, 2) == pytest.approx(0.995)


def test_a_p_value_over_looks_is_the_smallest_for_its_share():
    assert sequential_p([0.04, 0.001]) == pytest.approx(0.01)
    assert sequential_p([0.016, 0.5]) == pytest.approx(0.02)
    assert sequential_p([]) == sequential_p([0.9]) == 1.0


def pilot(mean, variance, n=3):
    return Contrast(mean, (n,), (variance,), tuple(range(n)))


def test_power_is_that_of_published_tables():
    # One-sample t test, two-sided 5 %, effect 0.5 sd: 34 values for 80 % (Cohen 1988; G*Power 3.1: 0.8078 at 34).
    found = pilot(-0.5, 1.0)
    assert chance(found, 34, (-math.inf, 0.0), 0.025, 0.025) == pytest.approx(0.8078, abs=2e-4)
    assert seeds_for_power(found, (-math.inf, 0.0), 0.025, 0.025) == 34
    # Two samples, one-sided 5 %, effect 0.5 sd: 51 in each (G*Power 3.1), and no more with fewer degrees of freedom.
    two = Contrast(0.5, (3, 3), (1.0, 1.0), ())
    assert seeds_for_power(two, (-math.inf, 0.0), 0.025, 0.05) == 51


def test_power_between_two_bounds_and_of_a_simulated_study():
    found, bounds = pilot(0.1, 1.0), (-1.0, 1.0)
    rng = np.random.default_rng(5)
    values = rng.normal(0.1, 1.0, (20_000, 12))
    se = values.std(axis=1, ddof=1) / math.sqrt(12)
    critical = stats.t.isf(ERROR, 11)
    inside = (values.mean(axis=1) + critical * se < 1) & (values.mean(axis=1) - critical * se > -1)
    # The sum of both less 1 is a lower bound, near the truth where both are likely.
    assert chance(found, 12, bounds, ERROR, ERROR) == pytest.approx(inside.mean(), abs=0.02)


def test_the_range_of_the_seeds_is_that_of_the_spread():
    found, bounds = pilot(-1.0, 1.0), (-math.inf, 0.0)
    few, many = seeds_range(found, bounds, ERROR, ERROR)
    # ν = 2: the spread's variance lies between 2/5.991 and 2/0.1026 of the pilot's.
    scaled = [seeds_for_power(pilot(-1.0, 2 / chi), bounds, ERROR, ERROR) for chi in (5.991465, 0.102587)]
    assert [few, many] == scaled
    assert few < seeds_for_power(found, bounds, ERROR, ERROR) < many
    assert seeds_text(found, bounds, ERROR, ERROR) == f"80 % power takes 10 seeds ({few} to {many})"


def test_no_number_of_seeds_outweighs_a_monte_carlo_error():
    found = Contrast(-0.1, (3,), (1e-4,), (1, 2, 3), noise=0.1)
    assert seeds_for_power(found, (-math.inf, 0.0), ERROR, ERROR) is None
    assert "more than 1,000 seeds" in seeds_text(found, (-math.inf, 0.0), ERROR, ERROR)


def test_the_code_agrees_with_the_simulated_tests():
    """What the simulations below compute for all studies at once is what a contrast says of each."""
    rng = np.random.default_rng(9)
    values = rng.normal(0, 1, (5, 2, 1, 6))
    for study, p_pairs, p_welch in zip(values, one_sided_p(values, True), one_sided_p(values, False), strict=True):
        cells = [dict(enumerate(cell[0], 1)) for cell in study]
        apart = [cells[0], {r + 10: value for r, value in cells[1].items()}]
        assert contrast_of((1, -1), cells).p_outside(-math.inf, 0) == pytest.approx(p_pairs[0], abs=1e-12)
        assert contrast_of((1, -1), apart).p_outside(-math.inf, 0) == pytest.approx(p_welch[0], abs=1e-12)


def one_sided_p(values, paired):
    """p-values against "first − second < 0"; values (studies, 2 cells, parts, repetitions)."""
    n = values.shape[-1]
    if paired:
        sample = values[:, 0] - values[:, 1]
        se, freedom = sample.std(axis=-1, ddof=1) / math.sqrt(n), n - 1
    else:
        se, freedom = np.sqrt((values.var(axis=-1, ddof=1) / n).sum(axis=1)), n - 1
    difference = values[:, 0].mean(axis=-1) - values[:, 1].mean(axis=-1)
    return stats.t.sf(difference / se, freedom)


def over_looks(values, paired, looks):
    """The smallest p-value for its share, over looks that double the repetitions."""
    shown = [one_sided_p(values[..., : look_size(3, k)], paired) / look_share(k) for k in range(1, looks + 1)]
    return np.minimum(np.min(shown, axis=0), 1.0)


@pytest.mark.parametrize("parts", [1, 5, 8, 12])
@pytest.mark.parametrize("paired", [True, False], ids=["pairs", "Welch"])
def test_studies_at_the_bound_are_contradicted_at_most_as_often_as_is_said(parts, paired):
    """Repetitions are added until something is decided, or 24 are there; all parts are true, at their bounds.

    Without the correction for parts and looks, 1 part would be contradicted in 6 % of the studies, and 12 in 40 %.
    """
    rng = np.random.default_rng(parts)
    values = rng.normal(0, 1, (STUDIES, 2, parts, 24)) * np.array([1.0, 10.0])[:, None, None]
    if paired:  # What a seed does to both cells alike.
        values = values + rng.normal(0, 5, (STUDIES, 1, parts, 24))
    p = over_looks(values, paired, 4)
    false = (np.array([min(holm(list(own))) for own in p[: STUDIES // 5]]) <= ERROR).mean() if parts > 1 else None
    # The smallest of Holm's p-values is Bonferroni's, here for all studies.
    smallest = np.minimum(parts * p.min(axis=1), 1.0)
    if false is not None:
        assert false == pytest.approx((smallest[: STUDIES // 5] <= ERROR).mean(), abs=1e-12)
    share = (smallest <= ERROR).mean()
    assert share <= ALLOWED
    assert share > 0.3 * ERROR, "so conservative that nothing would ever be decided"
    uncorrected = np.min([one_sided_p(values[..., :n], paired) for n in (3, 6, 12, 24)], axis=0).min(axis=1)
    assert (uncorrected <= ERROR).mean() > 2 * ERROR


def test_welchs_degrees_of_freedom_would_not_be_safe():
    """2 values against 5 that spread less: at 0.0025, one-sided, Welch's ν rejects far more often, ours does not."""
    rng = np.random.default_rng(4)
    first, second = rng.normal(0, 1, (200_000, 2)), rng.normal(0, 0.1, (200_000, 5))
    shares = np.stack([first.var(axis=1, ddof=1) / 2, second.var(axis=1, ddof=1) / 5])
    t = (first.mean(axis=1) - second.mean(axis=1)) / np.sqrt(shares.sum(axis=0))
    welch = shares.sum(axis=0) ** 2 / (shares[0] ** 2 + shares[1] ** 2 / 4)
    assert (stats.t.sf(t, welch) <= 0.0025).mean() > 5 * 0.0025
    assert (stats.t.sf(t, 1) <= 0.0025).mean() < 1.15 * 0.0025
    cells = [dict(enumerate(map(float, first[0]), 1)), dict(enumerate(map(float, second[0]), 3))]
    assert contrast_of((1, -1), cells).p_outside(-math.inf, 0) == pytest.approx(stats.t.sf(t[0], 1), abs=1e-12)


def test_studies_at_the_bound_are_supported_at_most_as_often_as_is_said():
    """One of 5 parts lies at its bound and the others are plainly true: the claim is false, if barely."""
    rng = np.random.default_rng(2)
    values = rng.normal(0, 1, (STUDIES, 2, 5, 24))
    values[:, 0, 1:] -= 20
    p = over_looks(-values, True, 4)
    share = (p.max(axis=1) <= ERROR).mean()
    assert 0.3 * ERROR < share <= ALLOWED
