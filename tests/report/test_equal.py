"""Families at equal cost: values read off, their contrasts and ranks, and the exhibit, on runs made by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from support.fake_runs import FakeRuns

from nfstudy.core.errors import SpecError
from nfstudy.report.build import make_exhibit
from nfstudy.report.plots.curves import Curve, render
from nfstudy.report.plots.equal import CostPanel, CostRow, row_limits
from nfstudy.report.statistics.equal import (
    Point,
    Reading,
    Training,
    common_costs,
    difference,
    lowest_at,
    ranks,
    read_at,
)
from nfstudy.report.statistics.estimates import gather_results
from nfstudy.runs.metrics import TIGHT_NLL
from nfstudy.study.reader import parse_study

STUDY = """\
study: families
title: Families
data: {name: digits}
model: {latent: 4, hidden: 8}
train: {updates: 1000, optimiser: adam}
objective: {anneal_updates: 20}
grid:
  flow.family: [planar, iaf, hamiltonian, full-covariance]
  flow.length: [0, 1, 4, 16]
repetitions: 6
exhibits: [beyond-table-2]
"""
NOISE = np.random.default_rng(3).normal(0, 0.01, (6, 2000))
GAIN = {"planar": 0.1, "iaf": 1.0, "hamiltonian": 0.1, "full-covariance": 2.0}
ADDED = {"planar": 100, "iaf": 400}
UPDATE_MS = {"none": 2.0, "planar": 2.5, "iaf": 3.0, "hamiltonian": 5.0, "full-covariance": 2.4}


def logged(more=lambda trial: {}, repetitions=lambda trial: True):
    """Return the plan and its runs: −ln p(x) falls with ln(1 + K) by each family's gain, from 30 + a seed's own."""
    plan = parse_study(STUDY, "s.yaml").under()
    runs = FakeRuns()
    for cell in plan.cells:
        for trial in filter(repetitions, plan.repetitions_of(cell)):
            flow = trial.settings.flow
            seed = trial.index / 2 + NOISE[trial.index - 1, len(runs.records)]
            gain = GAIN.get(flow.family, 0) * math.log1p(flow.length)
            added = {"hamiltonian": 900, "full-covariance": 250}.get(
                flow.family, ADDED.get(flow.family, 0) * flow.length
            )
            milliseconds = UPDATE_MS[flow.family] * (flow.length**0.5 if flow.family == "hamiltonian" else 1)
            numbers = {
                "test__nll_tight": 30 + seed - gain,
                "train__parameters": 5000 + added,
                "time__update_cpu_ms": milliseconds,
            }
            run_id = runs.add(trial, **(numbers | more(trial)))
            for update in (250, 500, 1000):  # F falls by the family's gain for each doubling of the updates.
                bound = 40 + seed - GAIN.get(flow.family, 0) * math.log2(update)
                runs.points.append((run_id, "valid/elbo", update, -bound))
    return plan, runs


def exhibit(plan, runs):
    return make_exhibit("beyond-table-2", gather_results(plan, runs))


def lines(table):
    """Return (flow, at) -> the row's other texts."""
    return {(row.name, row.entries[0].text): [entry.display for entry in row.entries[1:]] for row in table.rows}


def ranked(readings):
    return ranks([*readings], lambda a, b: difference(readings[a], readings[b], TIGHT_NLL))


def curve(*costs):
    return [Point(cost, SimpleNamespace(cost=cost)) for cost in costs]


def test_between_two_cells_a_curve_is_linear_in_the_logarithm():
    reading = read_at(curve(100, 400, 1600), 200)
    assert [cell.cost for cell in reading.cells] == [100, 400]
    assert reading.weights == pytest.approx((0.5, 0.5))
    assert read_at(curve(100, 400, 1600), 1131).weights == pytest.approx((0.25, 0.75), abs=1e-3)


@pytest.mark.parametrize("cost", [94, 1690])
def test_beyond_its_cells_a_curve_has_no_value(cost):
    assert read_at(curve(100, 400, 1600), cost) is None


def test_a_cell_that_is_near_is_read_as_it_is_and_of_several_the_longest():
    assert [cell.cost for cell in read_at(curve(100, 400), 104).cells] == [100]
    first, last = curve(2.6, 2.6)
    assert read_at([first, last], 2.6).cells == (last.cell,)


def test_where_costs_come_back_the_longest_chains_are_read():
    """K = 1, 4, 16 of costs 100, 300, 150, as where a measured time is noisy."""
    assert [cell.cost for cell in read_at(curve(100, 300, 150), 200).cells] == [300, 150]
    assert [cell.cost for cell in read_at(curve(100, 300, 150), 120).cells] == [100, 300]


@pytest.mark.parametrize(
    ("curves", "expected"),
    [
        ([(1, 10), (5, 50)], [10]),
        ([(1, 10), (5, 50), (100,)], [10]),
        ([(1, 10), (5, 50), (40, 45), (100,), (60, 200)], [10, 45, 100]),
        ([(1,), (2,)], []),
        ([], []),
    ],
    ids=["the highest that both have", "one by itself has none", "more for those left", "no two meet", "none"],
)
def test_common_costs_serve_the_most_curves_and_then_those_left_over(curves, expected):
    assert common_costs([curve(*costs) for costs in curves], 3) == expected


def test_a_difference_of_two_readings_is_a_contrast_over_the_repetitions():
    plan, runs = logged()
    cells = {(r.label.family, r.label.length): r for r in gather_results(plan, runs).cells}
    planar = Reading((0.25, 0.75), (cells["planar", 1], cells["planar", 4]))
    iaf = Reading((1.0,), (cells["iaf", 4],))
    found = difference(planar, iaf, TIGHT_NLL)
    values = {
        key: np.array([x for _, (_, x) in sorted(cell.by_repetition(TIGHT_NLL).items())]) for key, cell in cells.items()
    }
    by_hand = 0.25 * values["planar", 1] + 0.75 * values["planar", 4] - values["iaf", 4]
    half = stats.t.isf(0.025, 5) * by_hand.std(ddof=1) / 6**0.5
    assert found.mean == pytest.approx(by_hand.mean())
    assert found.interval(0.95) == pytest.approx((by_hand.mean() - half, by_hand.mean() + half))


def test_the_evaluations_own_error_widens_an_interval():
    noisy = gather_results(*logged(lambda trial: {"test__nll_tight_seed_se": 0.5}))
    reading = [Reading((1.0,), (cell,)) for cell in noisy.cells[:2]]
    assert difference(*reading, TIGHT_NLL).noise == pytest.approx(1.0)
    assert difference(*reading, TIGHT_NLL).se > 1.0


def test_families_that_the_seeds_do_not_tell_apart_share_ranks():
    cells = {(r.label.family, r.label.length): r for r in gather_results(*logged()).cells}
    readings = {name: Reading((1.0,), (cells[name, 16],)) for name in ("planar", "iaf", "hamiltonian")}
    assert {name: rank.text for name, rank in ranked(readings).items()} == {
        "planar": "2–3",
        "iaf": "1",
        "hamiltonian": "2–3",
    }
    assert ranked({"iaf": readings["iaf"]})["iaf"].text == "1"


def test_one_seed_tells_nothing_apart():
    results = gather_results(*logged(repetitions=lambda trial: trial.index == 1))
    cells = {(r.label.family, r.label.length): r for r in results.cells}
    readings = {name: Reading((1.0,), (cells[name, 16],)) for name in ("planar", "iaf")}
    assert {rank.text for rank in ranked(readings).values()} == {"1–2"}


def test_the_exhibit_ranks_families_at_equal_k_parameters_and_seconds():
    shown = exhibit(*logged())
    of_k, of_parameters, of_seconds = map(lines, shown.tables[:3])
    assert of_k["IAF", "16"][1] == "1"
    assert of_k["NF (planar)", "16"][1] == of_k["HVI", "16"][1] == "2–3"
    assert of_k["full covariance", "16"][:2] == ["no run near: K = 1", ""]
    assert of_k["full covariance", "1"][1] == "1"
    # Planar adds 100 to 1,600, IAF 400 to 6,400, HVI 900 whatever K, and full covariance 250.
    assert {at for _, at in of_parameters} == {"250", "900"}
    assert of_parameters["HVI", "900"][-2] == "K = 16"
    assert of_parameters["NF (planar)", "900"][-2] == "K = 4 and 16"
    assert of_parameters["IAF", "250"][0] == "no run near: 400 to 6,400 parameters"
    # 1,000 updates of 2.4 or 2.5 ms are as near as makes no difference; of 3 and of 5 to 20 they are not.
    assert {name for (name, _), texts in of_seconds.items() if not texts[0].startswith("no run")} == {
        "NF (planar)",
        "full covariance",
    }
    assert "processor milliseconds" in shown.tables[2].caption
    assert shown.answer.text.startswith("The seeds tell one family from all others at ")
    (drawing,) = shown.drawings
    assert render(drawing.figure, "png").startswith(b"\x89PNG")


def test_a_value_stands_with_its_interval_its_change_and_its_runs():
    plan, runs = logged()
    table = exhibit(plan, runs).tables[0]
    row = next(row for row in table.rows if (row.name, row.entries[0].text) == ("IAF", "4"))
    values = np.array([run["test/nll_tight"] for run in runs.records if run["run_id"] in row.entries[1].run_ids])
    half = stats.t.isf(0.025, 5) * values.std(ddof=1) / 6**0.5
    assert len(row.entries[1].run_ids) == 6
    assert row.entries[1].display == f"≤ {values.mean():.2f} ± {values.std(ddof=1) / 6**0.5:.2f} (6)"
    assert row.entries[3].display == f"[{values.mean() - half:.2f}, {values.mean() + half:.2f}]"
    assert row.entries[4].display.startswith("−1.6")  # ln 5 = 1.61, within the noise.


def test_without_processor_times_the_clock_is_used_and_said():
    shown = exhibit(*logged(lambda trial: {"time__update_cpu_ms": math.nan}))
    assert "wall clock" in shown.tables[2].caption


def test_a_curve_is_read_off_after_so_many_seconds():
    training = Training(None, 0.01, {1: [(100, 8.0), (300, 4.0)], 2: [(100, 9.0), (200, 7.0), (300, 6.0)]})
    assert training.most == pytest.approx(3)
    assert training.at(2.0) == {1: 6.0, 2: 7.0}
    assert training.at(3.0) == {1: 4.0, 2: 6.0}
    assert training.at(0.5) == training.at(3.1) == {}
    other = Training(None, 0.005, {1: [(100, 5.0), (400, 5.5)], 2: [(100, 5.0), (400, 5.5)]})
    assert lowest_at([training, other], 1.0)[0] is other
    assert lowest_at([training, other], 3.0)[0] is training  # Which the other does not reach.
    assert lowest_at([training, other], 9.0) is None


def test_after_equal_seconds_a_slow_family_has_done_fewer_updates():
    """All reach 2 s, the whole training of K = 0; of HVI at K = 16 these are 100 updates, before its first epoch."""
    table = exhibit(*logged()).tables[3]
    rows = {row.name: [entry.display for entry in row.entries] for row in table.rows}
    assert {texts[0] for texts in rows.values()} == {"2"}
    assert rows["diagonal Gaussian"][4:] == ["K = 0", "1,000"]
    assert rows["NF (planar)"][5] == "800"
    assert rows["IAF"][5] == "667"
    assert rows["HVI"][4:] == ["K = 1", "400"]
    assert rows["full covariance"][2] == "1"
    seeds = np.array([index / 2 for index in range(1, 7)])
    # 2/3 of 1,000 updates lie a third of the way between the epochs at 500 and 1,000.
    expected = 40 + seeds.mean() - (math.log2(500) * 2 / 3 + math.log2(1000) / 3)
    assert float(rows["IAF"][1].split()[0]) == pytest.approx(expected, abs=0.03)


def test_a_study_without_k_0_counts_all_parameters():
    plan = parse_study(STUDY.replace("[0, 1, 4, 16]", "[1, 4]"), "s.yaml").under()
    runs = FakeRuns()
    for cell in plan.cells:
        for trial in plan.repetitions_of(cell):
            runs.add(trial, train__parameters=5000, time__update_cpu_ms=2.0)
    shown = exhibit(plan, runs)
    assert "all numbers that are trained" in shown.tables[1].caption
    assert {at for _, at in lines(shown.tables[1])} == {"5,000"}
    assert all(row.entries[4].display == "–" for row in shown.tables[0].rows if row.entries[1].value is not None)


def test_without_runs_it_says_so():
    plan, _ = logged()
    shown = exhibit(plan, FakeRuns())
    assert shown.text == "No run of a flow has a number to draw."
    assert not shown.drawings


def test_it_needs_data():
    text = STUDY.replace("data: {name: digits}", "energy: {name: u1}").replace(", hamiltonian", "")
    with pytest.raises(SpecError, match="beyond-table-2"):
        parse_study(text.replace("model: {latent: 4, hidden: 8}\n", ""), "s.yaml")


def test_a_point_far_above_the_others_does_not_set_the_axis():
    def row(last):
        y = [23.7, 23.6, 23.8, 23.65, 23.75, 23.7, 23.72, last]
        curve = Curve("a", [*map(float, range(1, 9))], y, [0.05] * 8, "planar")
        return CostRow("y", [CostPanel("t", "x", [curve], ())], 23.75)

    assert row_limits(row(23.78)) is None
    low, high = row_limits(row(24.9))
    assert 23.5 < low < 23.55
    assert 23.85 < high < 23.9
