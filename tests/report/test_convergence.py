"""The exhibits on how far numbers can be trusted: what is marked, what is not measured, and what curves say."""

import math

import pytest
from support.fake_runs import run_all, study

from nfstudy.core.errors import UserError
from nfstudy.report.build import make_exhibit
from nfstudy.report.statistics.estimates import gather_results

SMALL = """
study: small
title: Small
data: {name: mnist, binarisation: static}
grid: {flow.family: [planar], flow.length: [0, 10]}
repetitions: 2
budgets: {full: {}}
exhibits: [summary, convergence, diagnostics, cost, evaluations]
"""
TRUST = {"test/nll_seed_se": 0.02, "test/nll_image_se": 0.3, "test/ess": 40.0, "test/pareto_k": 0.5}


def exhibits_of(runs, spec):
    results = gather_results(spec.under("full"), runs)
    return {name: make_exhibit(name, results) for name in spec.exhibits}


def filled(drop, share):
    spec = study(SMALL)
    runs = run_all(spec, "full")
    for record in runs.records:
        k = record["flow.length"]
        record.update(
            TRUST | {"test/nll_drop": drop if k == 0 else 0.01, "test/pareto_k_high": share if k == 0 else 0.1}
        )
        # K = 0 falls from 100 to 91, K = 10 from 95 to 90, the second repetition 1 nat above.
        ends = {1: 100.0, 10: 92.0, 5000: 91.0} if k == 0 else {1: 95.0, 10: 90.5, 5000: 90.0}
        runs.points += [(record["run_id"], "test/nll_curve", n, v + record["index"] - 1) for n, v in ends.items()]
    return runs, spec


@pytest.mark.parametrize(("drop", "share"), [(0.2, 0.1), (0.01, 0.97)], ids=["still falling", "heavy tails"])
def test_what_is_not_converged_is_marked_in_every_table_and_the_caption_says_what_that_means(drop, share):
    shown = exhibits_of(*filled(drop, share))
    for table in (shown["summary"].tables[0], shown["convergence"].tables[2]):
        first, second = table.rows
        texts = [[e.display for e in row.entries if e.display.startswith(("≤", "≥"))] for row in (first, second)]
        assert all(text.endswith(" †") for text in texts[0])
        assert not any("†" in text for text in texts[1])
        assert "† not converged in samples" in table.caption
    why = "by 0.20 nats" if drop > 0.1 else "k̂ > 0.7 for 97% of the images"
    assert why in shown["convergence"].tables[2].rows[0].entries[-1].text


def test_converged_estimates_carry_no_mark():
    shown = exhibits_of(*filled(0.01, 0.1))
    assert "†" not in shown["summary"].tables[0].caption
    assert not any(entry.marked for row in shown["summary"].tables[0].rows for entry in row.entries)


def test_the_curve_and_the_gain_by_hand():
    shown = exhibits_of(*filled(0.01, 0.1))["convergence"]
    levels, gains = shown.tables[:2]
    assert levels.columns == ("row", "n = 1", "n = 10", "n = 5,000", "note")
    assert [entry.display for entry in levels.rows[0].entries[:3]] == [
        "≤ 100.50 ± 0.50 (2)",
        "≤ 92.50 ± 0.50 (2)",
        "≤ 91.50 ± 0.50 (2)",
    ]
    assert [entry.display for entry in gains.rows[0].entries[:3]] == [
        "5.00 (n = 2)",  # Equal differences have no error.
        "1.50 (n = 2)",
        "1.00 (n = 2)",
    ]
    _, kl, _ = shown.drawings[0].figure.axes
    assert next(line.get_ydata().tolist() for line in kl.lines if len(line.get_xdata()) == 3) == [0.0, 8.0, 9.0]


def test_a_repetition_without_a_finite_value_is_no_pair_of_the_gain():
    runs, spec = filled(0.01, 0.1)
    (odd,) = (each["run_id"] for each in runs.records if each["flow.length"] == 10 and each["index"] == 2)
    runs.points = [(r, m, n, math.inf if (r, n) == (odd, 10) else v) for r, m, n, v in runs.points]
    levels, gains = exhibits_of(runs, spec)["convergence"].tables[:2]
    assert [entry.display for entry in gains.rows[0].entries[:3]] == ["5.00 (n = 2)", "1.50 (n = 1)", "1.00 (n = 2)"]
    assert levels.rows[1].entries[1].display.startswith("≤ 90.50 (n = 1)")


def test_runs_of_before_say_that_it_was_not_measured():
    spec = study(SMALL)
    shown = exhibits_of(run_all(spec, "full"), spec)
    assert "was not measured in these runs" in shown["summary"].tables[0].caption
    assert "No run has a convergence curve" in shown["convergence"].text
    assert {e.display for row in shown["diagnostics"].tables[0].rows for e in row.entries[:-1]} == {"not measured"}
    parameters, seconds, *_ = shown["cost"].tables[0].rows[0].entries
    assert (parameters.display, seconds.display) == ("not measured", "5.00 ± 0.00 (2)")
    assert "No run has been evaluated again" in shown["evaluations"].text


def test_a_tag_that_is_no_evaluation_is_told_of():
    spec = study(SMALL)
    runs = run_all(spec, "full")
    runs.records[0]["evaluations"] = '["nothing"]'
    with pytest.raises(UserError, match="tag nfstudy"):
        exhibits_of(runs, spec)
