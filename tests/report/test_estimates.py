"""Estimates against numbers worked by hand, and what counts as a repetition."""

import math

import pytest
from support.fake_runs import FakeRuns, run_all, study

from nfstudy.report.labels import label_cells, on_curve, setting_text
from nfstudy.report.statistics.estimates import BOUNDS, FREE_ENERGY, KL, NLL, estimate, gather_results
from nfstudy.study.cells import Trial

SPEC = study(exhibits="[summary]")


def trial(index=1, cell=0, stage="repetition", budget="laptop"):
    chosen = SPEC.under(budget).cells[cell]
    return Trial(SPEC.study, chosen, chosen.settings, stage, index)


@pytest.mark.parametrize(
    ("values", "mean", "se"),
    [
        pytest.param([90.0, 92.0], 91.0, 1.0, id="two: sd √2, over √2"),
        pytest.param([1.0, 2.0, 3.0], 2.0, 1 / math.sqrt(3), id="three: sd 1, over √3"),
        pytest.param([2.0, 4.0, 4.0, 6.0], 4.0, math.sqrt(8 / 3) / 2, id="four: sum of squares 8"),
        pytest.param([5.0, 5.0], 5.0, 0.0, id="equal"),
        pytest.param([0.0], 0.0, None, id="one has no standard error"),
        pytest.param([], None, None, id="none"),
    ],
)
def test_estimate_by_hand(values, mean, se):
    found = estimate({f"run{i}": value for i, value in enumerate(values)})
    assert (found.n, found.mean) == (len(values), mean)
    assert found.se == (None if se is None else pytest.approx(se, abs=1e-15))
    assert found.run_ids == tuple(f"run{i}" for i in range(len(values)))


def test_a_monte_carlo_error_is_not_divided_by_the_runs():
    assert estimate({"a": 1.0, "b": 2.0, "c": 3.0}, noise=0.5).se == pytest.approx(math.sqrt(1 / 3 + 0.25), abs=1e-12)
    assert estimate({"a": 1.0}, noise=0.5).se is None


def test_the_errors_of_a_difference_add_up_and_further_repetitions_are_in_no_estimate():
    runs = FakeRuns()
    for index, (error, nll_error) in enumerate([(0.3, 0.0), (0.4, 0.2), (0.0, 0.1), (9.0, 9.0)], start=1):
        runs.add(trial(index), test__elbo_mc_se=error, test__nll_mc_se=nll_error, test__elbo=-97.0 - index)
    cell = gather_results(SPEC.under("laptop"), runs).cells[0]
    f, nll = math.sqrt((0.3**2 + 0.4**2) / 3), math.sqrt((0.2**2 + 0.1**2) / 3)
    assert [cell.noise(quantity) for quantity in BOUNDS] == pytest.approx([f, f + nll, nll])
    assert (cell.estimate(FREE_ENERGY).n, cell.estimate(FREE_ENERGY).mean, cell.ended) == (3, 99.0, 4)
    assert [*cell.by_repetition(FREE_ENERGY, further=True)] == [1, 2, 3, 4]


def test_values_that_are_not_finite_are_left_out_and_counted():
    found = estimate({"a": 1.0, "b": math.nan, "c": math.inf, "d": 3.0})
    assert (found.n, found.mean, found.left_out, found.run_ids) == (2, 2.0, 2, ("a", "d"))


def test_bounds_read_their_metrics_and_f_is_minus_elbo():
    runs = FakeRuns()
    for index, (elbo, nll) in enumerate([(-97.0, 90.0), (-99.0, 91.0)], start=1):
        runs.add(trial(index), test__elbo=elbo, test__nll=nll, test__kl=-elbo - nll)
    first = gather_results(SPEC.under("laptop"), runs).cells[0]
    assert [first.estimate(quantity).mean for quantity in BOUNDS] == [98.0, 7.5, 90.5]
    assert [quantity.name for quantity in BOUNDS] == [FREE_ENERGY.name, KL.name, NLL.name]


@pytest.mark.parametrize(
    ("outcomes", "note", "complete", "n"),
    [
        pytest.param(["finished"] * 3, "", True, 3, id="all finished"),
        pytest.param(["finished", "diverged", "finished"], "1 of 3 diverged", True, 2, id="one diverged"),
        pytest.param(["diverged"] * 3, "3 of 3 diverged", True, 0, id="all diverged"),
        pytest.param(["finished", "failed", None], "1 of 3 failed, 1 of 3 not run", False, 1, id="failed and absent"),
        pytest.param([None] * 3, "not run", False, 0, id="nothing"),
        pytest.param(["finished", "killed", "finished"], "1 of 3 not run", False, 2, id="cut off"),
        pytest.param(["pruned", None, None], "pruned", True, 0, id="pruned, and so without further repetitions"),
    ],
)
def test_note_says_why_the_mean_is_not_over_all(outcomes, note, complete, n):
    runs = run_all(SPEC, "laptop", lambda t: outcomes[t.index - 1] if t.settings.flow.length == 0 else None)
    first = gather_results(SPEC.under("laptop"), runs).cells[0]
    assert (first.note, first.complete, first.estimate(NLL).n) == (note, complete, n)


def test_a_running_repetition_counts_as_running_only_while_a_coordinator_works():
    runs = FakeRuns()
    runs.add(trial(1))
    runs.add(trial(2), "running")
    notes = [gather_results(SPEC.under("laptop"), runs, active).cells[0].note for active in (True, False)]
    assert notes == ["1 of 3 running, 1 of 3 not run", "2 of 3 not run"]


def test_a_retry_counts_once_and_other_budgets_and_searches_do_not_count():
    runs = FakeRuns()
    runs.add(trial(1), "failed")
    runs.add(trial(1), attempt=2, test__nll=90.0)
    runs.add(trial(2), test__nll=92.0)
    runs.add(trial(3, budget="full"), test__nll=10.0)
    runs.add(trial(7, stage="search"), test__nll=20.0)
    results = gather_results(SPEC.under("laptop"), runs)
    found = results.cells[0].estimate(NLL)
    # The planted runs say that their Monte-Carlo error is 0.01, which two runs may share.
    assert (found.n, found.mean, found.se) == (2, 91.0, pytest.approx(math.hypot(1.0, 0.01), abs=1e-12))
    assert sorted(results.runs["attempts"]) == [1, 1, 2]


def test_labels_name_what_differs_and_length_zero_joins_each_curve():
    spec = study(SPEC_WITH_MORE_AXES)
    labels = label_cells(spec.under("default").cells)
    assert [label.row for label in labels] == [
        "diagonal Gaussian, K = 0, D = 2",
        "NICE-perm, K = 4, D = 2, coupling units = 10",
        "NICE-perm, K = 4, D = 2, coupling units = 20",
        "diagonal Gaussian, K = 0, D = 40",
        "NICE-perm, K = 4, D = 40, coupling units = 10",
        "NICE-perm, K = 4, D = 40, coupling units = 20",
    ]
    curve = labels[2]
    assert [on_curve(label, curve) for label in labels] == [True, False, True, False, False, False]


SPEC_WITH_MORE_AXES = """
study: more
title: More axes
data: {name: digits}
flow: {family: nice-perm}
grid: {model.latent: [2, 40], flow.length: [0, 4], flow.coupling_hidden: [10, 20]}
exhibits: [summary]
"""


@pytest.mark.parametrize(
    ("value", "text"),
    [(500_000, "500,000"), (1e-5, "1e-05"), (0, "0"), (True, "yes"), (None, "null"), ("rmsprop", "rmsprop")],
    ids=str,
)
def test_setting_text(value, text):
    assert setting_text(value) == text
