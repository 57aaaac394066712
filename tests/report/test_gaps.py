"""The exhibit `inference-gaps`, of evaluations made up by hand."""

import json

import pytest
from support.fake_runs import run_all, study

from nfstudy.report.build import make_exhibit
from nfstudy.report.statistics.estimates import gather_results
from nfstudy.runs.evaluations import Evaluation, make_request

SMALL = """
study: small
title: Small
data: {name: mnist, binarisation: static}
grid: {flow.family: [planar], flow.length: [0, 10]}
repetitions: 2
budgets: {full: {}}
exhibits: [inference-gaps]
"""


def evaluation(approximation, amortisation, converged=1.0, annealed=-0.1, **given):
    numbers = {"images": 100, "elbo": -90 - amortisation, "elbo_local": -90, "converged": converged, "updates": 700}
    gaps = {"approximation": approximation, "amortisation": amortisation, "inference": approximation + amortisation}
    for name, value in gaps.items():
        numbers |= {f"{name}_gap": value, f"{name}_gap_image_se": 0.25, f"{name}_gap_seed_se": 0.004}
    best = -90 + approximation
    numbers |= {"nll": -best, "log_p_importance": best - max(annealed, 0), "log_p_ais": best + min(annealed, 0)}
    numbers["annealed"] = float(annealed > 0)
    request = make_request("local", given.pop("seed", 1), **given)
    return Evaluation(
        request=request, numbers=numbers, version="0", commit="c" * 40, dirty=False, device="cpu", ended="2026-01-01"
    )


def shown(fill):
    spec = study(SMALL)
    runs = run_all(spec, "full")
    for record in runs.records:
        record["evaluations"] = json.dumps([each.tag()[1] for each in fill(record["flow.length"], record["index"])])
    return make_exhibit("inference-gaps", gather_results(spec.under("full"), runs))


def test_gaps_are_means_over_runs_and_their_bars_stand_on_one_another():
    # K = 0: approximation 2 and 2.2, amortisation 1; K = 10: 0.5 and 1.5 each.
    found = shown(lambda k, i: [evaluation(2 + 0.2 * (i - 1), 1.0) if k == 0 else evaluation(0.5, 1.5)])
    table, trust = found.tables
    first, second = ([entry.display for entry in row.entries] for row in table.rows)
    assert first[3] == "2.10 ± 0.10 (2)"
    assert first[4] == "1.00 ± 0.00 (2)"
    assert first[5] == "3.10 ± 0.10 (2)"
    errors = [entry.display for entry in trust.rows[0].entries]
    assert errors == ["IS; AIS − IS −0.100", *["0.25", "0.004"] * 3, "100 %", "700"]
    assert second[5] == "2.00 ± 0.00 (2)"
    assert (first[6], second[6]) == ("32 %", "75 %")
    assert "Of 100 held-out images" in table.caption
    assert "†" not in table.caption
    assert found.text == ""
    axes, *_ = found.drawings[0].figure.axes
    heights = [(round(bar.get_y(), 9), round(bar.get_height(), 9)) for bar in axes.patches]
    assert heights == [(0, 2.1), (0, 0.5), (2.1, 1.0), (0.5, 1.5)]
    assert len(found.run_ids) == 4


def test_runs_without_are_counted_and_the_command_has_what_was_asked_of_the_others():
    found = shown(lambda k, i: [evaluation(2, 1, samples=300, seed=7)] if k == 0 else [])
    assert "2 of 4 finished runs have not been evaluated: " in found.text
    assert "`python -m nfstudy evaluate small --budget full --estimator local --samples 300 --seed 7`" in found.text
    assert found.tables[0].rows[1].entries[3].display == "not evaluated"
    nothing = shown(lambda k, i: [])
    assert nothing.tables == ()
    assert "`python -m nfstudy evaluate small --budget full --estimator local`" in nothing.text


def test_of_two_requests_the_one_that_most_runs_have_is_shown():
    def fill(k, index):
        other = [evaluation(9, 9, seed=2)] if index == 1 else []
        return [evaluation(2, 1), *other]

    found = shown(fill)
    assert found.tables[0].rows[0].entries[3].display == "2.00 ± 0.00 (2)"
    assert "seed 2" in found.text


def test_a_search_that_has_not_ended_is_marked_and_so_is_annealing():
    found = shown(lambda k, i: [evaluation(2, 1, converged=0.5 if k else 1.0, annealed=0.3)])
    first, second = found.tables[0].rows
    assert found.tables[1].rows[0].entries[0].display == "AIS; AIS − IS +0.300"
    assert not first.entries[3].marked
    assert second.entries[3].display.endswith("†")
    assert "had converged" in found.tables[0].caption


@pytest.mark.parametrize("outcome", [None, "failed"])
def test_where_nothing_has_finished_there_is_nothing_to_evaluate(outcome):
    spec = study(SMALL)
    found = make_exhibit(
        "inference-gaps", gather_results(spec.under("full"), run_all(spec, "full", lambda trial: outcome))
    )
    assert "nothing to evaluate" in found.text
