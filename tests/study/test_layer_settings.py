"""Settings of stochastic layers: sizes, keys, grids, searches, budgets, and what is refused."""

import pytest

from nfstudy.core.errors import SpecError
from nfstudy.study.reader import parse_study
from nfstudy.study.sections import ModelSpec
from nfstudy.study.settings import Settings

STUDY = """\
study: example
title: An example
data: {name: digits}
model: {latent: 8}
train: {updates: 100}
flow: {family: planar, length: 2}
grid:
  model.stochastic_layers: [1, 2, 3]
exhibits: [summary]
"""


def cells(text=STUDY, budget="default"):
    return parse_study(text, "example.yaml").under(budget).cells


def mistakes(text):
    with pytest.raises(SpecError) as caught:
        parse_study(text, "example.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("latent", "ratio", "layers", "sizes"),
    [
        (40, 1.0, 1, (40,)),
        (40, 0.5, 1, (40,)),
        (40, 1.0, 3, (40, 40, 40)),
        (100, 0.5, 2, (100, 50)),
        (12, 0.5, 4, (12, 6, 3, 2)),
        (5, 0.5, 3, (5, 3, 1)),
        (2, 0.01, 3, (2, 1, 1)),
        (2, 20.0, 2, (2, 40)),
    ],
)
def test_each_layer_has_its_share_of_the_one_below_and_at_least_one(latent, ratio, layers, sizes):
    assert ModelSpec(latent=latent, latent_ratio=ratio, stochastic_layers=layers).latent_sizes == sizes


def test_labels_name_the_sizes_of_all_layers():
    assert [cell.label for cell in cells(STUDY.replace("latent: 8", "latent: 8, latent_ratio: 0.5"))] == [
        "planar K=2 D=8, model.stochastic_layers 1",
        "planar K=2 D=8+4, model.stochastic_layers 2",
        "planar K=2 D=8+4+2, model.stochastic_layers 3",
    ]


def test_one_layer_has_the_key_of_before_there_were_several():
    before = STUDY.replace("model.stochastic_layers: [1, 2, 3]", "seed: [1]")
    (then,), now = cells(before), cells()
    assert then.key == now[0].key == "e25f69ec014cf441"
    assert len({cell.key for cell in now}) == 3


def test_sizes_of_layers_count_where_there_are_several():
    text = STUDY.replace("[1, 2, 3]", "[1, 2]\n  model.latent_ratio: [1.0, 0.5, 0.25]")
    found = cells(text)
    assert [cell.settings.model.latent_sizes for cell in found] == [(8,), (8, 8), (8, 4), (8, 2)]
    assert found[0].key == cells()[0].key, "with one layer the ratio is idle"
    assert "model.latent_ratio" not in found[0].settings.flat()
    assert found[1].key == cells()[1].key, "at 1 it is what it is by default"
    assert len({cell.key for cell in found}) == 4


def test_budgets_and_searches_may_set_them():
    text = STUDY + "budgets: {default: {}, deep: {model.latent_ratio: 0.5, model.latent: 6}}\n"
    assert [cell.settings.model.latent_sizes for cell in cells(text, "deep")] == [(6,), (6, 3), (6, 3, 2)]
    search = """\
search:
  sampler: {name: random, trials: 2}
  space:
    model.latent_ratio: {low: 0.25, high: 1.0}
    model.latent: [4, 8]
"""
    searched = cells(STUDY + search)
    assert [cell.label.split(",")[0] for cell in searched] == ["planar K=2 D=?"] * 3
    tried = searched[2].tried({"model.latent_ratio": 0.25, "model.latent": 8})
    assert tried.model.latent_sizes == (8, 2, 1)


def test_a_search_of_the_number_of_layers_holds_their_sizes_too():
    search = """\
search:
  sampler: {name: random, trials: 2}
  space: {model.stochastic_layers: [1, 2]}
"""
    text = STUDY.replace("model.stochastic_layers: [1, 2, 3]", "seed: [1]") + search
    keys = {cells(text.replace("latent: 8", f"latent: 8, latent_ratio: {ratio}"))[0].key for ratio in (1.0, 0.5)}
    assert len(keys) == 2, "idle at one layer, and used by what the search may choose"
    ratio = cells(text.replace("latent: 8", "latent: 8, latent_ratio: 0.5"))[0]
    assert ratio.chosen({"model.stochastic_layers": 2}).model.latent_sizes == (8, 4)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("stochastic_layers: 0", "model.stochastic_layers: got 0; expected: greater than or equal to 1"),
        ("stochastic_layers: 101", "model.stochastic_layers: got 101; expected: less than or equal to 100"),
        ("stochastic_layers: 2.0", "model.stochastic_layers: got 2.0; expected: integer"),
        ("stochastic_layers: true", "model.stochastic_layers: got True; expected: integer"),
        ("stochastic_layers: two", "model.stochastic_layers: got 'two'; expected: integer"),
        ("stochastic_layers: [1, 2]", "model.stochastic_layers"),
        ("stochastic_layers: null", "model.stochastic_layers: got nothing (null); expected: integer"),
        ("latent_ratio: 0", "model.latent_ratio: got 0; expected: greater than 0"),
        ("latent_ratio: -0.5", "model.latent_ratio: got -0.5; expected: greater than 0"),
        ("latent_ratio: .nan", "model.latent_ratio: got nan; expected: "),
        ("latent_ratio: .inf", "model.latent_ratio: got inf; expected: "),
        ("latent_ratio: 101", "model.latent_ratio: got 101; expected: less than or equal to 100"),
        ("latent_sizes: [4, 2]", "model.latent_sizes: unknown"),
    ],
)
def test_wrong_numbers_are_refused_by_name(given, says):
    text = STUDY.replace("latent: 8", f"latent: 8, {given}").replace("model.stochastic_layers: [1, 2, 3]", "seed: [1]")
    assert says in mistakes(text)


def impossible(**model):
    content = {"data": {"name": "digits"}, "flow": {"family": "nice-perm", "length": 2}, "train": {"updates": 1}}
    with pytest.raises(ValueError, match=r"model\.") as caught:
        Settings.model_validate(content | {"model": model})
    return str(caught.value)


def test_the_smallest_layer_must_hold_the_family():
    assert (
        "model.latent_ratio: got 0.25; expected: one at which each stochastic layer has at least 2 variables, not "
        "8 + 2 + 1, with flow.family nice-perm, which splits the latent variables in two"
    ) in impossible(latent=8, latent_ratio=0.25, stochastic_layers=3)
    assert "model.latent: got 1; expected: at least 2 with" in impossible(latent=1, stochastic_layers=2)
    assert "model.latent: got 1; expected: at least 2 with" in impossible(latent=1)


def test_no_layer_is_larger_than_the_one_there_may_be():
    said = impossible(latent=50_000, latent_ratio=100.0, stochastic_layers=100)
    assert "model.latent_ratio: got 100.0; expected: one at which none of model.stochastic_layers, 100, has" in said


def test_points_of_a_grid_without_room_for_the_family_are_impossible_and_the_others_run():
    text = STUDY.replace("planar", "nice-perm").replace("latent: 8", "latent: 8, latent_ratio: 0.25")
    plan = parse_study(text, "example.yaml").under("default")
    assert [cell.settings.model.latent_sizes for cell in plan.cells] == [(8,), (8, 2)]
    (found,) = plan.impossible
    assert found.reason.startswith("model.latent_ratio: got 0.25; expected: one at which each")
