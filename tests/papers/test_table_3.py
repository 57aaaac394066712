"""The exhibit `table-3`: levels, changes over paired repetitions, and what is said of open choices."""

import csv
import io
import math

import pytest
from support.fake_runs import run_all, study

from nfstudy.papers.rezende2015.facts import FACTS
from nfstudy.papers.rezende2015.stated import stated_settings, why_not_comparable
from nfstudy.papers.rezende2015.table_3 import table_3
from nfstudy.report.plots.curves import render
from nfstudy.report.statistics.estimates import gather_results
from nfstudy.report.tables import to_csv

STUDY = """
study: cifar
title: Patches
data: {name: cifar10}
model: {latent: 30}
grid: {flow.family: [planar], flow.length: [0, 2, 5, 10]}
repetitions: 3
budgets: {full: {}}
exhibits: [table-3]
"""

# −ln p(x) by K and repetition. Repetitions differ by whole nats, changes within one by tenths.
PLANTED = {
    0: (-290.0, -300.0, -310.0),
    2: (-300.0, -311.0, -320.0),
    5: (-305.0, -316.0, -325.0),
    10: (-306.0, -317.5, -324.5),
}


def exhibit_of(values=PLANTED, absent=(), **changes):
    spec = study(STUDY, **changes)
    runs = run_all(
        spec, "full", lambda trial: None if (trial.settings.flow.length, trial.index) in absent else "finished"
    )
    for record in runs.records:
        record["test/nll"] = values[record["flow.length"]][record["index"] - 1]
    return table_3(gather_results(spec.under("full"), runs))


def lines_of(exhibit, table):
    return {line["row"]: line for line in csv.DictReader(io.StringIO(to_csv(exhibit.tables[table])))}


def test_levels_stand_beside_the_papers():
    lines = lines_of(exhibit_of(), 0)
    assert list(lines) == ["diagonal Gaussian, K = 0", *(f"NF (planar), K = {length}" for length in (2, 5, 10))]
    paper = [float(line["paper"]) for line in lines.values()]
    assert paper == [-293.7, -308.6, -317.9, -320.7]
    assert [float(line["ours_mean"]) for line in lines.values()] == pytest.approx([-300, -931 / 3, -946 / 3, -316])
    assert float(lines["NF (planar), K = 10"]["difference"]) == pytest.approx(4.7)
    assert {(line["n"], line["unit"]) for line in lines.values()} == {("3", "nats per patch")}


def test_changes_are_over_pairs_and_stand_beside_the_papers():
    lines = lines_of(exhibit_of(), 1)
    assert list(lines) == ["K = 0 to 2", "K = 2 to 5", "K = 5 to 10", "K = 0 to 10"]
    assert [float(line["paper"]) for line in lines.values()] == [-14.9, -9.3, -2.8, -27.0]
    # Differences −10, −11, −10; −5 three times; −1, −1.5, +0.5; −16, −17.5, −14.5.
    assert [float(line["ours_mean"]) for line in lines.values()] == pytest.approx([-31 / 3, -5, -2 / 3, -16])
    # Both ends have a Monte-Carlo error of 0.01; equal differences have no standard error.
    found = [float(line["ours_se"] or "nan") for line in lines.values()]
    assert found == pytest.approx([math.hypot(1 / 3, 0.02), math.nan, 0.6012579, 0.8662563], nan_ok=True)
    assert float(lines["K = 0 to 10"]["difference"]) == pytest.approx(11)
    assert all(len(line["run_ids"].split()) == 6 for line in lines.values())


def test_only_repetitions_that_both_lengths_have_make_a_pair():
    lines = lines_of(exhibit_of(absent=[(2, 2), (5, 2), (5, 3)]), 1)
    assert float(lines["K = 0 to 2"]["ours_mean"]) == -10
    assert [line["n"] for line in lines.values()] == ["2", "1", "1", "3"]
    assert [len(line["run_ids"].split()) for line in lines.values()] == [4, 2, 2, 6]
    assert "1 of 3 not run" in lines["K = 0 to 2"]["note"]


def test_without_a_common_repetition_the_change_is_that_of_the_means():
    lines = lines_of(exhibit_of(absent=[(0, 1), (2, 2), (2, 3)]), 1)
    assert lines["K = 0 to 2"]["n"] == "1"
    assert lines["K = 0 to 2"]["ours_se"] == ""
    assert len(lines["K = 0 to 2"]["run_ids"].split()) == 3


def test_lengths_that_are_absent_or_not_run_are_said_to_be():
    lines = lines_of(exhibit_of(grid="{flow.family: [planar], flow.length: [0, 10]}"), 1)
    assert lines["K = 2 to 5"]["note"] == "K = 2 not in this study; K = 5 not in this study"
    assert float(lines["K = 0 to 10"]["ours_mean"]) == -16
    missing = exhibit_of(absent=[(10, index) for index in (1, 2, 3)])
    assert lines_of(missing, 0)["NF (planar), K = 10"]["note"] == "not run"
    assert "not run" in lines_of(missing, 1)["K = 5 to 10"]["note"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "{latent: 20}"}, "D = 20, the paper's is 30"),
        ({"data": "{name: cifar10, patch: 6}"}, "patches of 6 pixels a side"),
        ({"title": "Patches\nevaluation: {test_images: 500}"}, "500 test images"),
    ],
)
def test_another_quantity_has_no_difference(changes, reason):
    for lines in (lines_of(exhibit_of(**changes), table) for table in (0, 1)):
        assert {line["difference"] for line in lines.values()} == {""}
        assert all(reason in line["note"] for line in lines.values())


def test_open_choices_and_departures_are_told():
    assert exhibit_of().text == (
        "The paper leaves open, and here is chosen: dequantisation noise uniform; source of the variances α network; "
        "least α 0.001; patches of each training image 4; patches of each validation or test image 1; places drawn "
        "once. Patches are of 45,000 training images (5,000 more for validation, where the paper trains on all) and of "
        "all 10,000 test images. The level of −ln p(x) depends on these choices; the second table compares what longer "
        "chains change in it. Not as the paper states: repetitions 3 (paper: 100)."
    )
    text = exhibit_of(grid="{flow.length: [0], data.dequantisation: [uniform, none], data.epsilon: [1e-3]}").text
    assert "dequantisation noise uniform or none" in text
    assert "epsilon 0.001 (paper: 0.0001)" in text


def test_a_choice_that_cells_do_not_have_is_not_told_of_them():
    some = "{data.dequantisation: [uniform, categories], flow.family: [planar], flow.length: [0, 2]}"
    text = exhibit_of(grid=some).text
    assert "variance" in text
    assert "variance" not in exhibit_of(data="{name: cifar10, dequantisation: categories}").text


def test_each_further_axis_has_lines_of_its_own():
    exhibit = exhibit_of(grid="{flow.family: [planar], flow.length: [0, 2], model.variance_floor: [1e-3, 1e-2]}")
    assert [name for name in lines_of(exhibit, 1) if name.startswith("K = 0 to 2")] == [
        "K = 0 to 2, variance floor = 0.001",
        "K = 0 to 2, variance floor = 0.01",
    ]
    assert len(lines_of(exhibit, 0)) == 2 * 2 + 2


def test_the_figure_has_both_panels_and_the_same_bytes_twice():
    figures = [exhibit_of().drawings[0].figure for _ in range(2)]
    levels, changes = figures[0].axes
    ours, paper = (drawn.lines[0].get_ydata().tolist() for drawn in levels.containers)
    assert ours == pytest.approx([-300, -931 / 3, -946 / 3, -316])
    assert paper == [-293.7, -308.6, -317.9, -320.7]
    ours, paper = (drawn.lines[0].get_ydata().tolist() for drawn in changes.containers)
    assert ours == pytest.approx([0, -31 / 3, -46 / 3, -16])
    assert paper == pytest.approx([0, -14.9, -24.2, -27.0])
    assert render(figures[0], "svg") == render(figures[1], "svg")


def test_the_papers_settings_are_those_of_its_patches():
    settings = study(STUDY).settings
    assert FACTS.departures(settings) == []
    assert why_not_comparable(settings, "cifar10") == ""
    assert stated_settings({"data.name": "mnist"})["model.latent"] == 40
    assert FACTS.departures(settings.replace({"model.latent": 40})) == ["D 40 (paper: 30)"]
