"""What the settings change: planted numbers, paired by repetition, against the study's own setting."""

import csv
import io
import math

import pytest
from support.fake_runs import run_all, study

from nfstudy.report.build import build_report
from nfstudy.report.exhibits.effects import effects
from nfstudy.report.plots.curves import render
from nfstudy.report.statistics.estimates import gather_results
from nfstudy.report.tables import to_csv

ANNEALING = """
study: ambiguous
title: Ambiguous
data: {name: digits}
objective: {annealing: kl}
grid:
  flow.family: [planar]
  flow.length: [0, 8]
  objective.annealing: [energy, kl, none]
repetitions: 3
budgets: {full: {}}
exhibits: [effects]
"""
T_2 = 4.302653
"""Student's t at 0.975 with 2 degrees of freedom, from a printed table."""


def planted(spec, numbers, outcome=lambda trial: "finished"):
    """Runs whose F, KL and −ln p(x) are those of `numbers` by annealing and repetition, 1 nat lower at K = 8."""
    runs = run_all(spec, "full", outcome)
    for record in runs.records:
        f = numbers[record["objective.annealing"]][record["index"] - 1] - (record["flow.length"] == 8)
        record |= {"test/elbo": -f, "test/nll": f - 4, "test/kl": 4.0}
    return runs


def only(**finished):
    """An outcome: the repetitions named of each annealing have finished, the others diverged."""
    return lambda trial: "finished" if trial.index in finished[trial.settings.objective.annealing] else "diverged"


NUMBERS = {"energy": (91.0, 72.0, 103.0), "kl": (90.0, 70.0, 100.0), "none": (89.0, 72.0, 99.0)}
"""energy − kl: 1, 2, 3. none − kl: −1, 2, −1. The repetitions' own spread, tens of nats, plays no part."""


def exhibit(spec, runs):
    return effects(gather_results(spec.under("full"), runs))


def means_of(found):
    """Row -> the texts of the other columns of the first table."""
    table, _ = found.tables
    assert table.columns == ("row", "F", "KL", "−ln p(x)", "default", "note", "runs")
    return {row.name: [e.display for e in row.entries] for row in table.rows}


def differences_of(found):
    """(row, quantity) -> the texts of the other columns of the second table."""
    _, table = found.tables
    assert table.columns == ("row", "quantity", "difference", "95 % interval", "0 in it", "note")
    return {(row.name, row.entries[0].text): [e.display for e in row.entries[1:]] for row in table.rows}


def test_differences_to_the_default_by_hand():
    spec = study(ANNEALING)
    found = exhibit(spec, planted(spec, NUMBERS))
    cells = differences_of(found)
    difference, interval, inside, note = cells["NF (planar), K = 8, annealing = energy", "F"]
    half = T_2 / math.sqrt(3)
    assert (difference, interval) == ("2.000 ± 0.577 (3)", f"[−{half - 2:.3f}, {2 + half:.3f}]")
    assert (inside, note) == ("yes", "")
    assert cells["NF (planar), K = 8, annealing = none", "F"][0] == "0.000 ± 1.000 (3)"
    assert cells["NF (planar), K = 8, annealing = energy", "−ln p(x)"][0] == "2.000 ± 0.578 (3)"
    assert cells["diagonal Gaussian, K = 0, annealing = energy", "F"][0] == "2.000 ± 0.577 (3)"
    assert means_of(found)["NF (planar), K = 8, annealing = energy"][:5] == [
        "87.67 ± 9.02 (3)",
        "≥ 4.00 ± 0.01 (3)",
        "≤ 83.67 ± 9.02 (3)",
        "",
        "",
    ]


def test_the_csv_has_the_differences_in_full_with_the_runs_of_both_cells():
    spec = study(ANNEALING)
    runs = planted(spec, NUMBERS)
    lines = list(csv.DictReader(io.StringIO(to_csv(exhibit(spec, runs).tables[1]))))
    (line,) = (
        line
        for line in lines
        if line["row"] == "NF (planar), K = 8, annealing = energy" and line["metric"] == "F, difference"
    )
    assert float(line["ours_mean"]) == pytest.approx(2, abs=1e-12)
    assert float(line["ours_se"]) == pytest.approx(1 / math.sqrt(3), abs=1e-12)
    behind = [
        record["run_id"]
        for annealing in ("energy", "kl")
        for record in runs.records
        if (record["flow.length"], record["objective.annealing"]) == (8, annealing)
    ]
    assert line["run_ids"].split() == behind


@pytest.mark.parametrize(
    ("differences", "inside"),
    [((1, 1, 1), ""), ((0, 0, 0), ""), ((1, 1.1, 0.9), "no"), ((1, -1, 0.5), "yes")],
)
def test_whether_zero_lies_in_the_interval(differences, inside):
    spec = study(ANNEALING)
    energy = tuple(default + difference for default, difference in zip(NUMBERS["kl"], differences, strict=True))
    cells = differences_of(exhibit(spec, planted(spec, NUMBERS | {"energy": energy})))
    assert cells["NF (planar), K = 8, annealing = energy", "F"][2] == inside


def test_the_default_is_the_studys_own_value_and_stands_first():
    spec = study(ANNEALING)
    found = exhibit(spec, planted(spec, NUMBERS))
    marks = {row: texts[3] for row, texts in means_of(found).items()}
    assert list(marks.items()) == [
        ("diagonal Gaussian, K = 0, annealing = kl", "default"),
        ("diagonal Gaussian, K = 0, annealing = energy", ""),
        ("diagonal Gaussian, K = 0, annealing = none", ""),
        ("NF (planar), K = 8, annealing = kl", "default"),
        ("NF (planar), K = 8, annealing = energy", ""),
        ("NF (planar), K = 8, annealing = none", ""),
    ]
    assert {row for row, _ in differences_of(found)} == {row for row, mark in marks.items() if not mark}


@pytest.mark.parametrize(
    ("own", "text"),
    [
        ("objective: {annealing: energy}", "The default is annealing = energy, as the paper states."),
        ("objective: {annealing: kl}", "The default is annealing = kl; the paper states energy."),
    ],
)
def test_the_text_says_what_the_paper_states(own, text):
    spec = study(ANNEALING.replace("objective: {annealing: kl}", own))
    assert exhibit(spec, planted(spec, NUMBERS)).text == text


def test_settings_that_a_family_does_not_use_make_no_cells_and_no_differences():
    spec = study(
        ANNEALING.replace("objective.annealing: [energy, kl, none]", "flow.constraint: [true, false]")
        .replace("[planar]", "[planar, nice-perm]")
        .replace("[0, 8]", "[0, 4]")
    )
    assert [cell.label for cell in spec.under("full").cells] == [
        "diagonal Gaussian K=0 D=40",
        "planar K=4 D=40, flow.constraint true",
        "planar K=4 D=40, flow.constraint false",
        "nice-perm K=4 D=40",
    ]
    found = exhibit(spec, run_all(spec, "full"))
    cells = differences_of(found)
    assert {row for row, _ in cells} == {"NF (planar), K = 4, constraint = no"}
    assert cells["NF (planar), K = 4, constraint = no", "F"][0] == "0.000 (n = 3)"
    assert found.text == "The default is constraint = yes; the paper states no value."


def test_only_repetitions_that_both_have_are_compared():
    spec = study(ANNEALING)
    lost = planted(
        spec,
        NUMBERS,
        lambda t: "diverged" if (t.settings.objective.annealing, t.index) == ("energy", 3) else "finished",
    )
    found = exhibit(spec, lost)
    row = "NF (planar), K = 8, annealing = energy"
    assert differences_of(found)[row, "F"][0] == "1.500 ± 0.500 (2)"
    *_, note, runs = means_of(found)[row]
    assert note == "1 of 3 diverged"
    assert len(runs.split()) == 2


def test_without_a_common_repetition_the_interval_is_welchs_and_says_so():
    # {3, 5} less {2, 4}: mean 1, se² = 2/2 + 2/2, ν = 2² / (1 + 1) = 2.
    spec = study(ANNEALING, repetitions="4")
    numbers = {"energy": (3.0, 5.0, 0.0, 0.0), "kl": (0.0, 0.0, 2.0, 4.0), "none": (0.0, 0.0, 9.0, 0.0)}
    cells = differences_of(exhibit(spec, planted(spec, numbers, only(energy=(1, 2), kl=(3, 4), none=(3,)))))
    difference, interval, inside, note = cells["NF (planar), K = 8, annealing = energy", "F"]
    half = T_2 * math.sqrt(2)
    assert (difference, interval, inside) == ("1.000 ± 1.414 (2)", f"[−{half - 1:.3f}, {1 + half:.3f}]", "yes")
    assert note == "too few pairs: difference of means, Welch's interval"
    difference, interval, inside, note = cells["NF (planar), K = 8, annealing = none", "F"]
    assert (difference, interval, inside) == ("7.000 (n = 1)", "", "")
    assert note == "an interval takes at least 2 seeds"


def test_cells_without_numbers_or_a_default_say_why():
    spec = study(ANNEALING.replace("[energy, kl, none]", "[energy, none]"))
    found = exhibit(spec, planted(spec, NUMBERS))
    assert differences_of(found)["NF (planar), K = 8, annealing = energy", "F"][0] == "no cell at the default"
    assert {texts[3] for texts in means_of(found).values()} == {""}
    spec = study(ANNEALING)
    found = exhibit(spec, planted(spec, NUMBERS, only(energy=(1, 2, 3), kl=(1, 2, 3), none=())))
    row = "NF (planar), K = 8, annealing = none"
    assert differences_of(found)[row, "F"] == ["nothing to compare", "", "", ""]
    assert means_of(found)[row][0] == "3 of 3 diverged"


def test_the_sampler_of_a_search_is_a_setting_with_a_default():
    search = "search: {sampler: {name: tpe, trials: 2}, space: {train.learning_rate: [1.0e-3, 1.0e-2]}}\n"
    text = ANNEALING.replace("objective.annealing: [energy, kl, none]", "search.sampler: [tpe, random]") + search
    spec = study(text)
    runs = run_all(spec, "full")
    found = effects(gather_results(spec.under("full"), runs))
    assert "The default is sampler = tpe" in found.text
    assert [row.entries[3].display for row in found.tables[0].rows] == ["default", "", "default", ""]


def test_a_study_that_varies_the_flow_alone_has_nothing_to_show():
    spec = study()
    found = exhibit(spec, run_all(spec, "full"))
    assert found.text == "The cells differ in nothing but the flow's family and length."
    assert (found.tables, found.drawings) == ((), ())


def test_the_figure_has_a_panel_a_quantity_and_a_line_a_difference():
    spec = study(ANNEALING)
    (drawing,) = exhibit(spec, planted(spec, NUMBERS)).drawings
    panels = drawing.figure.axes
    assert [axes.get_xlabel().split(" (")[0] for axes in panels] == [
        "difference in F",
        "difference in KL",
        "difference in −ln p(x)",
    ]
    names = [label.get_text() for label in panels[0].get_yticklabels()]
    assert names == [
        f"{flow}, annealing = {value}"
        for flow in ("diagonal Gaussian, K = 0", "NF (planar), K = 8")
        for value in ("energy", "none")
    ]
    # Each line of the plot is the dashed zero, or a dot (its caps are lines too): its x is the mean difference.
    means = {round(float(line.get_xdata()[0]), 6) for line in panels[0].lines if line.get_marker() == "o"}
    assert means == {2.0, 0.0}
    assert render(drawing.figure, "png") == render(exhibit(spec, planted(spec, NUMBERS)).drawings[0].figure, "png")


def test_the_report_shows_table_and_figure(tmp_path):
    spec = study(ANNEALING)
    page = build_report(spec.under("full"), planted(spec, NUMBERS), tmp_path / "ambiguous").read_text()
    assert "What the settings change" in page
    assert "annealing = none" in page
    assert (tmp_path / "ambiguous/figures/effects.svg").exists()
    assert (tmp_path / "ambiguous/tables/effects.csv").exists()
