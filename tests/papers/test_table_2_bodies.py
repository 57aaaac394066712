"""Table 2 with a column for each body of evidence: its cells, its marks, what is missing, what is not as stated."""

import pytest
from support.fake_runs import run_all, study

from nfstudy.papers.rezende2015.table_2_figure_4 import table_2_of_bodies
from nfstudy.report.statistics.estimates import gather_results
from nfstudy.runs.metrics import NLL_DROP

STUDY = """
study: mnist
title: T
data: {name: mnist, binarisation: static}
grid: {flow.family: [planar, nice-perm], flow.length: [0, 10, 20, 40, 80]}
repetitions: 3
budgets: {short: {train.updates: 2000}, long: {}, one: {repetitions: 1}}
exhibits: [table-2]
"""


def body(budget, text=STUDY, outcome=lambda trial: "finished", **numbers):
    spec = study(text)
    runs = run_all(spec, budget, outcome)
    for record in runs.records:
        record.update({name.replace("__", "/"): value for name, value in numbers.items()})
    return gather_results(spec.under(budget), runs)


def rows_of(table):
    return {row.name: [entry.display for entry in row.entries] for row in table.rows}


def test_the_papers_nine_cells_stand_beside_those_of_each_body():
    again = STUDY.replace("study: mnist", "study: again")
    bodies = [body("short"), body("long", test__nll=88.0), body("one", test__elbo=-91.0), body("long", again)]
    exhibit = table_2_of_bodies(bodies)
    nll, energy = exhibit.tables
    for table in (nll, energy):
        assert [column.removesuffix(" *") for column in table.columns] == [
            *(table.columns[0], "paper", "mnist short", "mnist long", "mnist one", "again long")
        ]
        assert len(table.rows) == 9
    # 90.9 ± 0.1/√3 by `plausible_metrics`.
    assert rows_of(nll)["diagonal Gaussian, K = 0"] == [
        "≤ 89.9", "≤ 90.90 ± 0.06 (3)", "≤ 88.00 ± 0.01 (3)", "≤ 90.80 (n = 1)", "≤ 90.90 ± 0.06 (3)",
    ]  # fmt: skip
    assert rows_of(energy)["NF (planar), K = 80"][:4:3] == ["89.58 ± 0.06", "91.00 (n = 1)"]
    runs = {run_id for row in nll.rows for run_id in row.entries[1].run_ids}
    assert len(runs) == 27


def test_no_body_leaves_the_papers_numbers():
    exhibit = table_2_of_bodies([])
    assert [table.columns for table in exhibit.tables] == [("−ln p(x) of", "paper"), ("F of", "paper")]
    assert [row.entries[0].display for row in exhibit.tables[0].rows][:2] == ["≤ 89.9", "≤ 87.5"]
    assert exhibit.text == ""


def test_what_has_not_run_or_has_diverged_or_is_not_of_a_study_is_marked():
    few = STUDY.replace("study: mnist", "study: few").replace("nice-perm", "radial").replace("20, 40, 80", "20")

    def outcome(trial):
        length = trial.settings.flow.length
        return None if length == 80 else "diverged" if length == 40 or trial.index == length / 10 else "finished"

    exhibit = table_2_of_bodies([body("short", outcome=outcome), body("long", few)])
    rows = rows_of(exhibit.tables[0])
    assert rows["NF (planar), K = 80"] == ["≤ 85.1", "not run", "–"]
    assert rows["NF (planar), K = 40"][1] == "3 of 3 diverged"
    assert rows["NICE-perm, K = 10"][2] == "–"
    (ten,) = [row for row in exhibit.tables[0].rows if row.name == "NF (planar), K = 10"]
    assert (ten.entries[1].estimate.n, ten.entries[1].note) == (2, "1 of 3 diverged")
    assert ten.entries[2].value is not None


def test_numbers_that_are_not_converged_have_a_dagger_and_the_caption_says_so():
    drop = {NLL_DROP.name.replace("/", "__"): 0.2}
    exhibit = table_2_of_bodies([body("short", **drop), body("long")])
    rows = rows_of(exhibit.tables[0])
    assert rows["NF (planar), K = 10"][1].endswith(" †")
    assert "†" not in rows["NF (planar), K = 10"][2]
    caption = exhibit.tables[0].caption
    assert "† not converged in samples" in caption
    assert "was not measured of mnist long." in caption


def test_what_is_not_as_stated_is_told_once_for_all_and_then_of_each():
    exhibit = table_2_of_bodies([body("short"), body("long")])
    assert exhibit.tables[0].columns[2:] == ("mnist short *", "mnist long *")
    first, shared, short = exhibit.text.split("\n")
    assert first == "* Not as the paper states:"
    assert shared.startswith("all of these: ")
    assert "repetitions 3 (paper: 100)" in shared
    assert short == "mnist short: updates 2,000 (paper: 500,000)"


def test_settings_that_a_search_chose_are_named():
    searched = (
        STUDY + "search: {sampler: {name: random, trials: 2}, space: {train.learning_rate: {low: 1e-4, high: 1e-2}}}"
    )
    assert "chosen by a search: learning rate" in table_2_of_bodies([body("short", searched)]).text


def test_variants_of_a_study_have_rows_of_their_own():
    varied = STUDY.replace("flow.length:", "model.layers: [1, 2], flow.length:")
    rows = rows_of(table_2_of_bodies([body("short"), body("long", varied)]).tables[0])
    assert len(rows) == 3 * 9
    assert rows["NF (planar), K = 10, layers = 2"][1] == "–"
    assert rows["NF (planar), K = 10"][2] == "–"


def test_a_cell_that_the_paper_quotes_has_a_row_where_a_body_has_it():
    guided = STUDY.replace("[planar, nice-perm]", "[hamiltonian]").replace("[0, 10, 20, 40, 80]", "[1]")
    rows = rows_of(table_2_of_bodies([body("short", guided)]).tables[0])
    assert len(rows) == 10
    assert rows["HVI, K = 1"][0] == "88.08"


@pytest.mark.parametrize("quantity", [0, 1])
def test_each_number_has_its_runs(quantity):
    results = body("short")
    table = table_2_of_bodies([results]).tables[quantity]
    for row in table.rows:
        (cell,) = [c for c in results.cells if (c.label.family, c.label.length) == (row.flow, row.length)]
        assert set(row.entries[1].run_ids) == set(cell.repetitions["run_id"])
