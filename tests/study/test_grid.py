"""Cells, their keys and seeds: pinned, and moved only by what can change a number."""

import pytest

from nfstudy.core.errors import SpecError
from nfstudy.core.seeds import derive_seed
from nfstudy.study.cells import Trial, settings_digest
from nfstudy.study.reader import parse_study
from nfstudy.study.sections import DataSpec
from nfstudy.study.settings import ADDED_SINCE_KEY_VERSION, Settings, setting_defaults

STUDY = """\
study: example
title: An example
data: {name: digits}
train: {updates: 100}
grid:
  flow.family: [planar, nice-perm]
  flow.length: [0, 4]
  model.latent: [2, 40]
budgets: {smoke: {repetitions: 1}, laptop: {}}
repetitions: 3
exhibits: [summary]
"""


def study(text=STUDY):
    return parse_study(text, "example.yaml")


def keys(text=STUDY, budget="laptop"):
    return {cell.label: cell.key for cell in study(text).under(budget).cells}


def test_length_0_is_one_cell_whatever_the_family():
    labels = [cell.label for cell in study().under("laptop").cells]
    assert labels == [
        "diagonal Gaussian K=0 D=2",
        "diagonal Gaussian K=0 D=40",
        "planar K=4 D=2",
        "planar K=4 D=40",
        "nice-perm K=4 D=2",
        "nice-perm K=4 D=40",
    ]


def test_no_flow_of_some_length_is_the_same_cell_too():
    assert keys(STUDY.replace("[planar, nice-perm]", "[none]")) == {
        label: key for label, key in keys().items() if label.startswith("diagonal Gaussian")
    }


def test_keys_are_pinned():
    """Whoever changes what a setting means raises KEY_VERSION, and these with it; nothing else may move them."""
    assert keys() == {
        "diagonal Gaussian K=0 D=2": "26548c4f4bdda6c2",
        "diagonal Gaussian K=0 D=40": "e37185a4e69f5f78",
        "planar K=4 D=2": "7a26063372061706",
        "planar K=4 D=40": "5edfe609a260852b",
        "nice-perm K=4 D=2": "267712544a8810b6",
        "nice-perm K=4 D=40": "07d726e2d7e3e489",
    }


def test_another_family_or_length_on_the_grid_moves_no_key():
    more = keys(STUDY.replace("[planar, nice-perm]", "[radial, planar, nice-perm]").replace("[0, 4]", "[0, 4, 8]"))
    assert keys().items() <= more.items()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("study: example", "study: another"),
        ("title: An example", "title: Another"),
        ("repetitions: 3", "repetitions: 7"),
        ("exhibits: [summary]", "exhibits: [flow-length]"),
        ("grid:", "objective: {annealing: energy}\ngrid:"),
    ],
    ids=["name", "title", "repetitions", "exhibits", "a default written out"],
)
def test_what_changes_no_number_moves_no_key(old, new):
    assert keys(STUDY.replace(old, new)) == keys()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("updates: 100", "updates: 101"),
        ("updates: 100", "updates: 100, learning_rate: 1e-4"),
        ("updates: 100", "updates: 100, schedule: {name: CosineAnnealingLR}"),
        ("name: digits", "name: digits, binarisation: dynamic"),
        ("grid:", "model: {initialisation: he}\ngrid:"),
        ("grid:", "seed: 2\ngrid:"),
        ("grid:", "evaluation: {samples: 100}\ngrid:"),
    ],
)
def test_what_changes_a_number_moves_every_key(old, new):
    assert not set(keys(STUDY.replace(old, new)).values()) & set(keys().values())


def test_budgets_never_share_a_key():
    assert not set(keys(budget="smoke").values()) & set(keys(budget="laptop").values())
    assert study().under("smoke").repetitions == 1
    assert study().under("laptop").repetitions == 3


@pytest.mark.parametrize("choice", ["hidden: 7", "layers: 2", "amortised: false", "pass: 0.3", "scaling: true"])
def test_settings_that_a_choice_makes_idle_move_no_key(choice):
    wider = keys(STUDY.replace("grid:", f"flow: {{coupling_{choice}}}\ngrid:"))
    same = {label for label, key in keys().items() if wider[label] == key}
    assert same == {label for label in keys() if not label.startswith("nice")}
    assert keys(STUDY.replace("updates: 100", "updates: 100, beta1: 0.5")) == keys()


@pytest.mark.parametrize(
    ("family", "choice"),
    [
        ("iaf", "autoregressive_hidden: 7"),
        ("iaf", "autoregressive_layers: 2"),
        ("sylvester", "sylvester_columns: 2"),
        ("realnvp", "coupling_log_scale: 1.0"),
        ("glow", "coupling_log_scale: 1.0"),
        ("spline", "spline_bins: 3"),
        ("spline", "spline_bound: 3.0"),
    ],
)
def test_settings_of_a_family_beyond_the_paper_move_its_keys_alone(family, choice):
    text = STUDY.replace("[planar, nice-perm]", f"[planar, nice-perm, {family}]")
    before, after = keys(text), keys(text.replace("grid:", f"flow: {{{choice}}}\ngrid:"))
    assert keys().items() <= before.items()
    assert {label for label, key in before.items() if after[label] == key} == set(keys())


def test_the_constraint_makes_cells_of_the_families_that_have_one_alone():
    constrained = STUDY.replace("model.latent: [2, 40]", "flow.constraint: [true, false]")
    cells = study(constrained).under("laptop").cells
    assert [cell.label for cell in cells] == [
        "diagonal Gaussian K=0 D=40",
        "planar K=4 D=40, flow.constraint true",
        "planar K=4 D=40, flow.constraint false",
        "nice-perm K=4 D=40",
    ]
    assert [cell.settings.flow.constraint for cell in cells[1:3]] == [True, False]
    assert len({cell.key for cell in cells}) == 4


def test_labels_tell_cells_apart_whatever_the_grid_varies():
    axes = (
        "train.precision: [float32, bfloat16]",
        "train.learning_rate: [1e-3, 1.2345e-4]",
        "train.clip_norm: [null, 9]",
    )
    cells = study(STUDY.replace("model.latent: [2, 40]", "\n  ".join(axes))).under("laptop").cells
    labels = [cell.label for cell in cells]
    assert len(set(labels)) == len(cells) == 3 * 8
    assert labels[8] == "planar K=4 D=40, train.precision float32, train.learning_rate 0.001, train.clip_norm null"
    assert labels[11].endswith("train.learning_rate 0.00012345, train.clip_norm 9")


def test_the_trials_of_a_search_do_not_enter_the_cells_key_but_the_search_does():
    searched = STUDY + "search: {sampler: {name: tpe, trials: 4}, space: {train.learning_rate: [1e-3, 1e-4]}}\n"
    longer = searched.replace("trials: 4", "trials: 5")
    assert not set(keys(searched).values()) & set(keys().values())
    assert not set(keys(searched).values()) & set(keys(longer).values())
    (cell, *_) = study(searched).under("laptop").cells
    assert study(searched).under("laptop").runs_of(6) == 6 * (3 + 4)
    chosen = cell.settings.replace({"train.learning_rate": 1e-4})
    trial = Trial("example", cell, chosen, "search", 2)
    assert trial.identity == (cell.key, "search", 2, settings_digest(chosen))
    assert trial.repetition == 0


def test_repetitions_count_from_1():
    (cell, *_) = study().under("laptop").cells
    assert [trial.index for trial in study().under(cell.budget).repetitions_of(cell)] == [1, 2, 3]


def test_seeds_are_pinned_and_their_parts_do_not_run_together():
    assert derive_seed(1, "data order", 1, 1) == 2976989465760492977
    assert derive_seed(1, "a", "bc") != derive_seed(1, "ab", "c")
    assert derive_seed(1, "a", 1, 2) != derive_seed(1, "a", 12)
    assert len({derive_seed(base, purpose, rep) for base in (1, 2) for purpose in "ab" for rep in (1, 2)}) == 8
    assert all(0 <= derive_seed(1, "a", i) < 2**63 for i in range(100))


def test_settings_younger_than_the_keys_move_none_at_the_value_they_had_before():
    plain = Settings(data=DataSpec(name="digits"))
    # What was done before is the default, but for what should not be done any more.
    others = {path for path, value in ADDED_SINCE_KEY_VERSION.items() if setting_defaults()[path] != value}
    assert others == {"train.decay_biases"}
    assert settings_digest(plain) == settings_digest(plain.replace(ADDED_SINCE_KEY_VERSION))
    plain = plain.replace({"train.optimiser": "adam"})
    others = {"train.weight_decay": 0.1, "train.precision": "bfloat16", "train.averaging": 0.99, "train.keep": "best"}
    others |= {"evaluation.tight_samples": 100, "evaluation.tight_images": 0, "evaluation.valid_samples": 9}
    others |= {"evaluation.valid_images": 7}
    # A likelihood other than the suite's own takes a plug-in: tests/data/test_plugin_data.py.
    # Nor is there a chain here whose scale could be other: `test_the_initial_scale_counts_where_there_is_a_chain`.
    # Nor several stochastic layers, whose sizes could differ: `test_sizes_of_layers_count_where_there_are_several`.
    others |= {"model.stochastic_layers": 2}
    others |= {"objective.estimator": "iwae", "objective.samples": 2}
    # Free bits need another annealing too.
    free = plain.replace({"objective.annealing": "none"})
    assert settings_digest(free) != settings_digest(free.replace({"objective.free_bits": 0.1}))
    idle = {"model.likelihood", "train.decay_biases", "flow.initial_scale", "model.latent_ratio"}
    assert {*others, *idle, "objective.free_bits"} == set(ADDED_SINCE_KEY_VERSION)
    digests = {settings_digest(plain.replace({path: value})) for path, value in others.items()}
    assert len(digests | {settings_digest(plain)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("family", "moves"), [("planar", False), ("sylvester", False), ("nice-perm", True), ("iaf", True)]
)
def test_a_cell_has_its_old_key_with_biases_that_decay_where_some_did(family, moves):
    """Pinned at the commit before `train.decay_biases`: 2-D biases of NICE and IAF decayed then."""
    before = {
        "planar": "59b933409a2c14fd",
        "sylvester": "4714d0be7865c531",
        "nice-perm": "6775cd757ce69d7a",
        "iaf": "741dc01dead81b56",
    }
    decay = STUDY.replace("updates: 100", "updates: 100, optimiser: adam, weight_decay: 0.1")
    text = decay.replace("[planar, nice-perm]", f"[{family}]").replace("[2, 40]", "[40]").replace("[0, 4]", "[4]")
    (now,), (then,) = (keys(each).values() for each in (text, text.replace("adam,", "adam, decay_biases: true,")))
    assert then == before[family]
    assert (now != then) == moves


def test_the_initial_scale_counts_where_there_is_a_chain():
    images = Settings(data=DataSpec(name="digits"))
    chain = images.replace({"flow.family": "planar", "flow.length": 4})
    for plain, moves in ((images, False), (chain, True)):
        other, same = (settings_digest(plain.replace({"flow.initial_scale": scale})) for scale in (0.3, 1.0))
        assert same == settings_digest(plain)
        assert (other != same) == moves


def test_without_a_decay_the_biases_setting_moves_no_key_and_a_searched_decay_counts_as_one():
    assert keys(STUDY.replace("updates: 100", "updates: 100, decay_biases: true")) == keys()
    search = "search: {sampler: {name: random, trials: 2}, space: {train.weight_decay: [0.0, 0.1]}}\n"
    adam = STUDY.replace("updates: 100", "updates: 100, optimiser: adam")
    (cell, *_) = [c for c in study(adam + search).under("laptop").cells if c.settings.flow.family == "nice-perm"]
    assert cell.identity()["train.decay_biases"] is False
    decaying = study(adam.replace("adam", "adam, decay_biases: true") + search).under("laptop").cells
    (other, *_) = [c for c in decaying if c.settings.flow.family == "nice-perm"]
    assert other.key != cell.key
    assert [cell.chosen({"train.weight_decay": 0.1}).train.decay_biases for cell in (cell, other)] == [False, True]


def test_what_is_chosen_by_the_validation_bound_is_not_trained_on_it():
    both = STUDY.replace("{name: digits}", "{name: digits, training_split: train+valid}")
    assert study(both).under("laptop").cells
    search = "search: {sampler: {name: random, trials: 2}, space: {train.learning_rate: [0.1, 0.2]}}\n"
    for text, setting in (
        (both + search, "data.training_split"),
        (both + "sampler: {name: random, trials: 2}\n", "data.training_split"),
        (both.replace("updates: 100", "updates: 100, keep: best"), "train.keep"),
    ):
        with pytest.raises(SpecError, match=rf"{setting}: got .*; expected: (train|last) ") as caught:
            study(text).under("laptop").check()
        assert "trains on the images of the validation bound" in str(caught.value)
