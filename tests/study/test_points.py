"""Points of a grid that are listed one by one: which cells they are, and what is told of points that are none."""

import pytest

from nfstudy.core.errors import SpecError
from nfstudy.study.reader import parse_study

STUDY = """\
study: example
title: An example
data: {name: digits}
train: {optimiser: adam}
points:
  - {flow.family: planar, flow.length: 4, train.updates: 100}
  - {flow.family: planar, flow.length: 8, train.updates: 50}
  - {flow.family: radial, flow.length: 4, train.updates: 200}
exhibits: [summary]
"""
GRID = "grid: {train.learning_rate: [0.01, 0.02]}\n"


def study(text=STUDY):
    return parse_study(text, "s.yaml")


def shapes(cells):
    return [(c.settings.flow.family, c.settings.flow.length, c.settings.train.updates) for c in cells]


def test_each_point_is_a_cell_and_their_product_is_none():
    plan = study().under()
    assert shapes(plan.cells) == [("planar", 4, 100), ("planar", 8, 50), ("radial", 4, 200)]
    assert plan.total_runs == 3
    assert plan.cells[1].label == "planar K=8 D=40, train.updates 50"


def test_a_grid_is_crossed_with_the_points_and_varies_faster():
    cells = study(STUDY + GRID).under().cells
    assert [c.settings.train.learning_rate for c in cells] == 3 * [0.01, 0.02]
    assert shapes(cells)[::2] == shapes(study().under().cells)


def test_a_point_has_the_key_that_the_same_settings_have_on_a_grid():
    (alone,) = (
        study(
            STUDY[: STUDY.index("points")]
            + "grid: {flow.family: [radial], flow.length: [4], train.updates: [200]}\nexhibits: [summary]\n"
        )
        .under()
        .cells
    )
    assert study().under().cells[2].key == alone.key


def test_points_that_mean_the_same_training_are_one_cell():
    text = STUDY.replace("flow.length: 4", "flow.length: 0").replace("train.updates: 200", "train.updates: 100")
    assert shapes(study(text).under().cells) == [("none", 0, 100), ("planar", 8, 50)]


def test_what_varies_is_told_in_the_order_of_the_file():
    spec = study(STUDY + GRID)
    assert spec.varied == ("flow.family", "flow.length", "train.updates", "train.learning_rate")
    assert spec.axes["train.updates"] == (100, 50, 200)
    assert spec.axes["flow.family"] == ("planar", "radial")
    plan = spec.under()
    places = [plan.place_of(cell.point) for cell in plan.cells]
    assert len(set(places)) == 6
    assert plan.cell_at(plan.cells[3].point).key == plan.cells[3].key


def test_an_impossible_point_is_told_and_the_others_stay():
    text = STUDY.replace("train.updates: 50", "train.updates: 50, train.batch: 5000")
    text = text.replace("updates: 100}", "updates: 100, train.batch: 50}").replace("200}", "200, train.batch: 50}")
    plan = study(text).under()
    assert shapes(plan.cells) == [("planar", 4, 100), ("radial", 4, 200)]
    (impossible,) = plan.impossible
    assert "train.batch: got 5000" in impossible.text


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("flow.length: 8, ", "", "points.1: is without flow.length; expected: the same settings in all: flow.family"),
        (
            "updates: 50",
            "updates: 50, train.batch: 9",
            "points.1.train.batch: is not in the first point; expected: the",
        ),
        ("flow.length: 8", "flow.lenght: 8", "flow.lenght: no such setting"),
        ("train.updates: 50", "train.updates: many", "points.1.train.updates: got 'many'; expected: integer"),
        ("train.updates: 50", "train.updates: 0", "points.1.train.updates: got 0; expected:"),
        ("flow.length: 8, train.updates: 50", "flow.length: 4, train.updates: 100", "points.1: is there already"),
        ("exhibits", "grid: {flow.length: [1]}\nexhibits", "points.0.flow.length: is an axis of the grid too"),
        ("exhibits", "sampler: {name: random, trials: 2}\nexhibits", "cannot be drawn by the sampler random"),
        ("exhibits", "budgets: {a: {train.updates: 3}}\nexhibits", "train.updates: is an axis of the grid"),
        (
            "exhibits",
            "search: {sampler: {name: random, trials: 2}, space: {train.updates: [1, 2]}}\nexhibits",
            "search.space.train.updates: is an axis of the grid too",
        ),
        ("  - {flow.family: planar, flow.length: 4, train.updates: 100}", "  - {}", "points.0: "),
        ("flow.length: 8", "flow.length: [8]", "points.1.flow.length: got"),
    ],
)
def test_what_is_no_point_is_told_with_its_place(old, new, words):
    assert old in STUDY
    with pytest.raises(SpecError) as caught:
        study(STUDY.replace(old, new, 1))
    assert words in str(caught.value)


def test_more_points_than_a_file_may_have_are_not_called_aliases():
    points = "".join(f"  - {{train.updates: {number}}}\n" for number in range(1, 7000))
    with pytest.raises(SpecError, match="is beyond 20,000 keys and values, those of aliases included"):
        study(STUDY[: STUDY.index("  - ")] + points + "exhibits: [summary]\n")
