"""The exhibit `readings`: distances to the paper's numbers by hand, their order, and what early stopping tells."""

import pytest
from support.fake_runs import run_all, study

from nfstudy.papers.rezende2015.published import FIGURE_4
from nfstudy.report.build import make_exhibit
from nfstudy.report.statistics.estimates import gather_results

MNIST = """
study: readings
title: Readings
paper: rezende2015
data: {name: mnist, binarisation: static}
grid: {model.layers: [1, 2], flow.family: [planar], flow.length: [0, 80]}
repetitions: 1
budgets: {full: {}}
exhibits: [readings]
"""
PLANE = """
study: readings
title: Readings
paper: rezende2015
energy: {name: u1}
grid: {flow.coupling_hidden: [2, 32], flow.family: [nice-perm], flow.length: [2, 32]}
repetitions: 1
budgets: {full: {}}
exhibits: [readings]
"""


def shown(text, numbers, points=()):
    """Return the exhibit of runs whose numbers `numbers` gives for their settings, and the runs' records."""
    spec = study(text)
    runs = run_all(spec, "full")
    runs.points.clear()
    for record in runs.records:
        record.update(numbers(record))
        runs.points += [(record["run_id"], "valid/elbo", update, -value) for update, value in points]
    return make_exhibit("readings", gather_results(spec.under("full"), runs)), runs


def on_mnist(record):
    """One layer: F 100 and 95, −ln p(x) 95 and 91; two layers: F 97 and 90, −ln p(x) 90 and 86."""
    f, nll = {(1, 0): (100, 95), (1, 80): (95, 91), (2, 0): (97, 90), (2, 80): (90, 86)}[
        record["model.layers"], record["flow.length"]
    ]
    return {"test/elbo": -f, "test/nll": nll, "test/kl": f - nll}


def test_the_nearest_reading_stands_first_with_its_distances():
    exhibit, _ = shown(MNIST, on_mnist)
    ranking = exhibit.tables[0]
    assert ranking.columns[2:] == (
        *("F, K = 0", "KL, K = 0", "−ln p(x), K = 0", "F, K = 80", "KL, K = 80", "−ln p(x), K = 80"),
        *("gain in F, K = 0 to 80", "gain in KL, K = 0 to 80", "gain in −ln p(x), K = 0 to 80"),
    )
    assert [row.name for row in ranking.rows] == ["NF (planar), layers = 2", "NF (planar), layers = 1"]
    # Figure 4: F 96.747 and 89.576, KL 6.828 and 4.427, −ln p(x) 89.920 and 85.149; gains 7.171, 2.401, 4.771.
    near = ["0.85", "+0.25", "+0.17", "+0.08", "+0.42", "−0.43", "+0.85", "−0.17", "+0.60", "−0.77"]
    assert [entry.display for entry in ranking.rows[0].entries] == near
    assert ranking.rows[1].entries[0].display == "5.85"
    assert exhibit.text.startswith(
        "Nearest of 2 is NF (planar), layers = 2: of 9 numbers none is further from the paper's than 0.85 nats "
        "(−ln p(x), K = 80)."
    )
    assert len(exhibit.drawings[0].figure.axes) == 12
    assert [axes.get_visible() for axes in exhibit.drawings[0].figure.axes] == [True] * 9 + [False] * 3


def test_a_reading_that_meets_the_paper_exactly_stands_first():
    at_0 = MNIST.replace("[0, 80]", "[0]").replace("[planar]", "[none]").replace("[1, 2]", "[2, 1]")
    paper = {title: FIGURE_4["none", 0, title].value for title in ("F", "KL", "−ln p(x)")}

    def numbers(record):
        off = 0.0 if record["model.layers"] == 1 else 1.0
        return {"test/elbo": -paper["F"] - off, "test/nll": paper["−ln p(x)"] + off, "test/kl": paper["KL"]}

    exhibit, _ = shown(at_0, numbers)
    assert [row.entries[0].display for row in exhibit.tables[0].rows] == ["0.00", "1.00"]


def test_lengths_that_are_still_to_come_have_their_columns_in_order():
    cells = [f"{{model.layers: {n}, flow.length: {k}}}" for n, k in ((2, 0), (2, 80), (1, 0), (1, 80), (1, 10))]
    grid = "grid: {model.layers: [1, 2], flow.family: [planar], flow.length: [0, 80]}"
    spec = study(MNIST.replace(grid, f"flow: {{family: planar}}\npoints: [{', '.join(cells)}]"))
    runs = run_all(spec, "full")
    runs.records[:] = [record | on_mnist(record) for record in runs.records if record["flow.length"] != 10]
    ranking = make_exhibit("readings", gather_results(spec.under("full"), runs)).tables[0]
    places = [name.rpartition(", ")[2] for name in ranking.columns[2:]]
    assert places == ["K = 0"] * 3 + ["K = 10"] * 3 + ["K = 80"] * 3 + ["K = 0 to 80"] * 3


def test_the_numbers_behind_it_have_their_runs():
    exhibit, runs = shown(MNIST, on_mnist)
    (row,) = [row for row in exhibit.tables[1].rows if row.name == "NF (planar), layers = 2: gain in F, K = 0 to 80"]
    paper, ours, difference, _, _ = row.entries
    assert (paper.display, ours.display, difference.display) == ("7.17", "7.00 (n = 1)", "−0.17")
    assert set(ours.run_ids) == {r["run_id"] for r in runs.records if r["model.layers"] == 2}


def test_the_last_gain_is_told_from_the_least_to_the_greatest_distance():
    exhibit, _ = shown(MNIST, on_mnist)
    (span,) = exhibit.spans
    # Gains in −ln p(x): 4 with either, the paper's 4.771.
    assert (span.name, span.readings) == ("gain in −ln p(x), K = 0 to 80", 2)
    assert span.low.difference == span.high.difference == pytest.approx(-0.771)
    levels, _ = shown(MNIST.replace("[0, 80]", "[0]").replace("[planar]", "[none]"), on_mnist)
    (span,) = levels.spans
    assert (span.name, span.low.difference) == ("−ln p(x), K = 0", pytest.approx(0.08))
    assert span.high.difference == pytest.approx(5.08)
    assert set(span.low.run_ids).isdisjoint(span.high.run_ids)
    one, _ = shown(MNIST.replace("[1, 2]", "[1]"), on_mnist)
    assert one.spans == ()


def test_on_the_plane_gains_are_compared_and_levels_are_not():
    # Figure 3(d), energy 1, NICE-perm: 2.943 at K = 2 and 0.058 at K = 32.
    f = {(2, 2): 3.0, (2, 32): 0.503, (32, 2): 0.0, (32, 32): -1.703}
    exhibit, _ = shown(PLANE, lambda r: {"test/elbo": -f[r["flow.coupling_hidden"], r["flow.length"]]})
    ranking = exhibit.tables[0]
    assert [[entry.display for entry in row.entries] for row in ranking.rows] == [
        ["0.39", "", "", "−0.39"],
        ["1.18", "", "", "−1.18"],
    ]
    assert "coupling units = 2" in ranking.rows[0].name
    levels = [row for row in exhibit.tables[1].rows if "gain" not in row.name]
    assert all("unexplained constant" in row.entries[3].display for row in levels)


def test_a_reading_is_held_to_all_energies_that_it_was_made_for():
    # NICE-perm gains 2.943 − 0.058 on energy 1; here it gains 2 on all, by both readings.
    text = PLANE.replace("grid: {", "grid: {energy.name: [u1, u2], ")
    assert text != PLANE
    exhibit, _ = shown(text, lambda r: {"test/elbo": -(3.0 if r["flow.length"] == 2 else 1.0)})
    ranking = exhibit.tables[0]
    assert len(ranking.rows) == 2
    gains = [name for name in ranking.columns if name.startswith("gain")]
    assert gains == ["gain in F, K = 2 to 32, u1", "gain in F, K = 2 to 32, u2"]
    for row in ranking.rows:
        assert "energy" not in row.name
        distance, *entries = (entry.display for entry in row.entries)
        assert float(distance) == max(abs(float(each.replace("−", "-"))) for each in entries if each not in ("", "–"))


def test_what_stopping_early_would_have_given():
    exhibit, _ = shown(MNIST, on_mnist, points=((10, 120.0), (20, 98.5), (30, 99.25)))
    assert {entry.note for row in exhibit.tables[2].rows for entry in row.entries} == {""}
    for row in exhibit.tables[2].rows:
        lowest, update, end, risen, note = (entry.display for entry in row.entries)
        assert (lowest, update, end, risen) == ("98.50 (n = 1)", "20", "99.25 (n = 1)", "0.75 (n = 1)")
        assert note == ""


@pytest.mark.parametrize("split", ["train", "train+valid"])
def test_images_that_were_trained_on_are_not_called_held_out(split):
    text = MNIST.replace("binarisation: static", f"binarisation: static, training_split: {split}")
    exhibit, _ = shown(text, on_mnist, points=((10, 1.0),))
    told = {row.entries[-1].display for row in exhibit.tables[2].rows}
    assert told == ({"trained on these images: not held-out"} if split == "train+valid" else {""})


def test_runs_that_are_still_to_come_leave_their_places_empty():
    spec = study(MNIST)
    runs = run_all(spec, "full")
    del runs.records[:]
    runs.points.clear()
    exhibit = make_exhibit("readings", gather_results(spec.under("full"), runs))
    assert exhibit.text.startswith("No run has a number that can be compared with the paper's.")
    assert exhibit.drawings == ()
    assert {row.entries[0].display for row in exhibit.tables[0].rows} == {"–"}
    assert {row.entries[0].display for row in exhibit.tables[2].rows} == {"not run"}
