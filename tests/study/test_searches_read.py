"""Searches in study files: what makes one impossible is told before anything runs; keys; equal searches."""

import pytest

from nfstudy.core.errors import SpecError
from nfstudy.study.reader import parse_study
from nfstudy.study.searches import annealed_after, can_prune, epochs, numbers_of
from nfstudy.study.spec import MedianPruner

STUDY = """\
study: example
title: An example
data: {name: digits}
objective: {anneal_updates: 20}
train: {updates: 100, optimiser: adam}
grid:
  flow.family: [planar, radial]
  flow.length: [0, 4]
exhibits: [summary]
"""
RATE = "train.learning_rate: {low: 1e-5, high: 1e-2, log: true}"
DRAWN = """\
study: example
title: An example
drawn: {density: normal}
grid: {flow.family: [planar], flow.length: [1, 2]}
exhibits: [summary]
"""


def search(space=RATE, sampler="name: tpe, trials: 4", more=""):
    return f"search: {{sampler: {{{sampler}}}, space: {{{space}}}{more}}}\n"


def compared(samplers):
    return STUDY.replace("grid:\n", f"grid:\n  search.sampler: [{samplers}]\n")


def held_out(text=STUDY):
    return text.replace("name: digits", "name: digits, training_split: train+valid")


# name -> (text, key path that is blamed, what the message must say beside it)
MISTAKES = {
    "a range for a name": (
        STUDY + search("flow.coupling_scaling: {low: 0, high: 1}"),
        "search.space.flow.coupling_scaling",
        ["got a range", "takes no numbers"],
    ),
    "a range of words": (
        STUDY + search("objective.annealing: {low: a, high: b}"),
        "search.space.objective.annealing.low",
        ["got 'a'"],
    ),
    "what the grid has": (STUDY + search("flow.length: [1, 2]"), "search.space.flow.length", ["the grid too"]),
    "a pruner, and one epoch": (
        STUDY.replace("updates: 100", "updates: 5") + search(sampler="name: tpe, trials: 4, pruner: {name: median}"),
        "search.sampler.pruner",
        ["1 epoch", "at least 2 epochs"],
    ),
    "a pruner, and annealing to the end": (
        STUDY.replace("anneal_updates: 20", "anneal_updates: 1000")
        + search(sampler="name: tpe, trials: 4, pruner: {name: median}"),
        "search.sampler.pruner",
        ["10 epochs", "annealing, of 1,000 updates"],
    ),
    "a pruner that warms up to the end": (
        STUDY + search(sampler="name: tpe, trials: 4, pruner: {name: median, n_warmup_steps: 10}"),
        "search.sampler.pruner",
        ["n_warmup_steps 10", "less than 10"],
    ),
    "a pruner of a sampler, and one epoch": (
        STUDY.replace("updates: 100", "updates: 5") + "sampler: {name: tpe, trials: 4, pruner: {name: median}}\n",
        "sampler.pruner",
        ["1 epoch"],
    ),
    "a pruner that asks running trials": (
        STUDY + search(sampler="name: tpe, trials: 4, pruner: {name: hyperband, max_resource: 9}"),
        "search.sampler.pruner.name",
        ["hyperband", "'median', 'percentile', 'threshold'"],
    ),
    "a sampler for several objectives": (
        STUDY + search(sampler="name: nsgaii, trials: 4"),
        "search.sampler.name",
        ["nsgaii", "'tpe', 'random', 'gp' or 'qmc'"],
    ),
    "one point, as a range": (
        STUDY + search("train.learning_rate: {low: 1e-3, high: 1e-3}"),
        "search.space.train.learning_rate",
        ["one point", "low less than high"],
    ),
    "one point, as a list": (
        STUDY + search("train.learning_rate: [1e-3]"),
        "search.space.train.learning_rate",
        ["one point", "at least two values"],
    ),
    "one point, on a sampled grid": (
        STUDY.replace("[planar, radial]", "[planar]").replace("[0, 4]", "[4]") + "sampler: {name: tpe, trials: 3}\n",
        "grid",
        ["one point"],
    ),
    "no point": (STUDY + search(""), "search.space", ["at least 1 item"]),
    "no trials": (STUDY + search(sampler="name: tpe, trials: 0"), "search.sampler.trials", ["got 0", "equal to 1"]),
    "no trials under a budget": (
        STUDY + search() + "budgets: {a: {trials: 0}}\n",
        "budgets.a.trials",
        ["got 0", "equal to 1"],
    ),
    "by the test set": (STUDY + search(more=", metric: test/nll"), "search.metric", ["never the test set"]),
    "over how the test set is evaluated": (
        STUDY + search("evaluation.samples: [10, 20]"),
        "search.space.evaluation.samples",
        ["test set"],
    ),
    "over how trials are judged": (
        STUDY + search("evaluation.valid_images: [10, 20]"),
        "search.space.evaluation.valid_images",
        ["how trials are judged"],
    ),
    "trials that are tested by settings of their own": (
        STUDY + search(more=", settings: {evaluation.samples: 10}"),
        "search.settings.evaluation.samples",
        ["test set"],
    ),
    "over seeds": (STUDY + search("seed: {low: 1, high: 9}"), "search.space.seed", ["repetitions vary"]),
    "by images that it trains on": (held_out() + search(), "data.training_split", ["train+valid", "hint: search.set"]),
    "by images that a budget trains on": (
        STUDY + search() + "budgets: {a: {}, b: {data.training_split: train+valid}}\n",
        "budgets.b.data.training_split",
        ["train+valid"],
    ),
    "a sampler by images that it trains on": (
        held_out() + "sampler: {name: tpe, trials: 3}\n",
        "data.training_split",
        ["train+valid"],
    ),
    "over what is held out": (
        STUDY + search("data.training_split: [train, train+valid]"),
        "search.space.data.training_split",
        ["search.settings"],
    ),
    "over what no cell uses": (
        STUDY.replace(", optimiser: adam", "") + search("train.weight_decay: {low: 0.1, high: 0.5}"),
        "search.space.train.weight_decay",
        ["no cell uses"],
    ),
    "over what its last axes put to use is no mistake, but over what none does": (
        STUDY.replace("  flow.length: [0, 4]\n", "")
        + search(
            "flow.length: [0, 4], train.batch: [10, 20, 30, 40], train.beta1: [0.5, 0.6, 0.7, 0.8], "
            "train.learning_rate: [0.1, 0.2, 0.3, 0.4], train.beta2: [0.5, 0.6, 0.7, 0.8], "
            "flow.initial_scale: {low: 0.1, high: 3.0}, train.momentum: [0.1, 0.2]"
        ),
        "search.space.train.momentum",
        ["no cell uses"],
    ),
    "an axis that no cell uses": (
        STUDY.replace("grid:\n", "grid:\n  train.momentum: [0.1, 0.5]\n"),
        "grid.train.momentum",
        ["no cell uses", "in use"],
    ),
    "points along what no cell uses": (
        STUDY + "points:\n- {train.momentum: 0.1, train.batch: 20}\n- {train.momentum: 0.5, train.batch: 30}\n",
        "points",
        ["train.momentum", "no cell uses"],
    ),
    "a range of data": (
        STUDY.replace("{name: digits}", "{name: photos}") + search("data.epsilon: {low: 1e-5, high: 1e-2, log: true}"),
        "search.space.data.epsilon",
        ["got a range", "loaded before"],
    ),
    "a range of data in a sampler's grid": (
        STUDY.replace("{name: digits}", "{name: photos}").replace("grid:\n", "grid:\n  data.patch: {low: 4, high: 8}\n")
        + "sampler: {name: tpe, trials: 3}\n",
        "grid.data.patch",
        ["got a range", "loaded before"],
    ),
    "a step of next to nothing": (
        STUDY + search("train.learning_rate: {low: 1e-4, high: 1e-2, step: 1e-320}"),
        "search.space.train.learning_rate.step",
        ["got", "leads from 0.0001 to 0.01"],
    ),
    "trials of a search that a budget leaves out": (
        STUDY + search() + "budgets: {a: {search: none, trials: 5}}\n",
        "budgets.a.trials",
        ["leaves out"],
    ),
    "settings of a search that a budget leaves out": (
        STUDY + search() + "budgets: {a: {search: none, search.settings: {train.updates: 5}}}\n",
        "budgets.a.search.settings",
        ["leaves out"],
    ),
    "of what is not trained": (
        DRAWN + search("drawn.strength: {low: 0.5, high: 2.0}"),
        "search",
        ["not trained", "data or energy"],
    ),
    "half steps of a whole number": (
        STUDY + search("model.latent: {low: 2, high: 8, step: 0.5}"),
        "search.space.model.latent.step",
        ["got 0.5", "a whole number"],
    ),
    "steps that miss the end": (
        STUDY + search("model.latent: {low: 2, high: 8, step: 4}"),
        "search.space.model.latent.step",
        ["got 4", "from 2 to 8"],
    ),
    "an unknown setting of its trials": (
        STUDY + search(more=", settings: {train.update: 5}"),
        "search.settings.train.update",
        ["unknown key", "did you mean 'train.updates'"],
    ),
    "a wrong setting of its trials": (
        STUDY + search(more=", settings: {train.updates: 0}"),
        "search.settings.train.updates",
        ["got 0"],
    ),
    "a setting of its trials that the grid varies": (
        STUDY + search(more=", settings: {flow.length: 5}"),
        "search.settings.flow.length",
        ["axis of the grid"],
    ),
    "a setting of its trials that it searches for": (
        STUDY + search(more=", settings: {train.learning_rate: 1e-3}"),
        "search.settings.train.learning_rate",
        ["searched for"],
    ),
    "a wrong setting of a budget's trials": (
        STUDY + search() + "budgets: {a: {search.settings: {train.updates: -1}}}\n",
        "budgets.a.search.settings.train.updates",
        ["got -1"],
    ),
    "a budget without the search that is not there": (
        STUDY + "budgets: {a: {search: none}}\n",
        "budgets.a.search",
        ["the study has no search"],
    ),
    "samplers to compare, and no search": (
        compared("tpe, random"),
        "grid.search.sampler",
        ["the study has no search"],
    ),
    "a sampler to compare that there is not": (
        compared("tpe, oracle") + search(),
        "grid.search.sampler.1",
        ["got 'oracle'"],
    ),
    "samplers to compare, and a budget without the search": (
        compared("tpe, random") + search() + "budgets: {a: {search: none}}\n",
        "budgets.a.search",
        ["leaves no search"],
    ),
    "options of an exhibit that has none": (
        STUDY.replace("[summary]", "[{name: summary, x: flow.length}]"),
        "exhibits.0.x",
        ["unknown key", "summary has none"],
    ),
    "options of no exhibit": (STUDY.replace("[summary]", "[{x: flow.length}]"), "exhibits.0.name", ["is missing"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_search_that_makes_no_sense_is_told_before_anything_runs(mistake):
    text, key, words = MISTAKES[mistake]
    with pytest.raises(SpecError) as caught:
        parse_study(text, "example.yaml")
    message = str(caught.value)
    (line, *_) = [line for line in message.splitlines() if f": {key}: " in line]
    assert line.startswith("example.yaml:"), message
    assert "expected" in line
    for word in words:
        assert word in line


def test_a_budget_without_a_name_and_a_plug_in_of_too_long_a_name_are_told_with_their_place():
    with pytest.raises(SpecError, match=r"s.yaml:\d+:\d+: budget: got ''; expected: a, b"):
        parse_study(STUDY + 'budget: ""\nbudgets: {a: {}, b: {}}\n', "s.yaml")
    with pytest.raises(SpecError, match=r"s.yaml:\d+:\d+: plugins.0: got 'aaa.*no such file"):
        parse_study(STUDY + f"plugins: [{300 * 'a'}.py]\n", "s.yaml")


def test_an_axis_that_only_trials_of_a_search_use_is_one():
    text = STUDY.replace(", optimiser: adam", "").replace("grid:\n", "grid:\n  train.weight_decay: [0.0, 0.1]\n")
    with pytest.raises(SpecError, match=r"grid\.train\.weight_decay: got an axis that no cell uses"):
        parse_study(text, "s.yaml")
    plan = parse_study(text + search("train.optimiser: [rmsprop, adam]"), "s.yaml").under()
    assert len({cell.key for cell in plan.cells}) == 2 * 3


def test_what_is_wrong_under_one_budget_alone_names_it():
    text = STUDY.replace("grid:\n", "grid:\n  train.beta1: [0.5, 0.9]\n")
    plain = "budgets:\n  full: {}\n  plain: {train.optimiser: rmsprop}\n"
    with pytest.raises(SpecError, match=r"grid\.train\.beta1: got an axis .* \(under budget plain\)"):
        parse_study(text + plain, "s.yaml")
    assert len(parse_study(text, "s.yaml").under().cells) > 1


def test_data_of_settings_that_are_impossible_together_are_not_loaded():
    text = STUDY.replace("{name: digits}", "{name: mnist}")
    plan = parse_study(text + search("data.name: [mnist, digits], data.train_images: [1000, 20000]"), "s.yaml").under()
    assert {spec.name for spec in plan.data_sources} == {"mnist", "digits"}


def test_long_lists_of_numbers_cost_a_key_no_more_than_short_ones_and_do_not_change_it():
    samples = [[1, 2, 3, 5, 8, 9, 10, 20], list(range(1, 21))]
    found = []
    for numbers in samples:
        text = STUDY + search(f"objective.estimator: [pathwise, iwae], objective.samples: {numbers}")
        found.append(parse_study(text, "s.yaml").under().cells[0].identity())
    for identity in found:
        identity.pop("objective.samples")
    assert found[0] == found[1]
    assert "objective.samples" not in found[0]
    assert found[0].keys() > parse_study(STUDY, "s.yaml").under().cells[0].identity().keys() - {"objective.samples"}


def test_what_is_left_out_for_a_mistake_is_not_said_to_be_absent():
    text = compared("tpe, gp") + search(sampler="name: tpe, trials: many") + "budgets: {a: {search.settings: {}}}\n"
    with pytest.raises(SpecError) as caught:
        parse_study(text.replace("{}", "{train.updates: 5}"), "example.yaml")
    (line,) = [line for line in str(caught.value).splitlines() if "expected" in line]
    assert "search.sampler.trials: got 'many'" in line


def test_a_search_may_hold_out_images_that_the_repetitions_train_on():
    study = parse_study(
        held_out() + search(more=", settings: {data.training_split: train, train.updates: 50}"), "s.yaml"
    )
    cell = study.under().cells[0]
    tried = cell.tried({"train.learning_rate": 1e-3})
    assert (tried.data.training_split, tried.train.updates) == ("train", 50)
    chosen = cell.chosen({"train.learning_rate": 1e-3})
    assert (chosen.data.training_split, chosen.train.updates, chosen.train.learning_rate) == ("train+valid", 100, 1e-3)


def test_trials_may_be_judged_by_more_validation_images_than_repetitions_show():
    text = held_out() + "evaluation: {valid_images: 10}\n"
    text += search(
        more=", settings: {data.training_split: train, evaluation.valid_images: null, evaluation.valid_samples: 50}"
    )
    cell = parse_study(text, "s.yaml").under().cells[0]
    tried, chosen = cell.tried({"train.learning_rate": 1e-3}), cell.chosen({"train.learning_rate": 1e-3})
    assert (tried.evaluation.valid_images, tried.evaluation.valid_samples) == (None, 50)
    assert (chosen.evaluation.valid_images, chosen.evaluation.valid_samples) == (10, 0)


def test_a_budget_may_change_the_settings_of_the_trials_or_have_no_search():
    text = STUDY + search(more=", settings: {train.updates: 50, train.batch: 20}")
    text += "budgets:\n  own: {search.settings: {train.updates: 30}, trials: 2}\n"
    text += "  bare: {search: none, train.learning_rate: 0.1}\n"
    study = parse_study(text, "s.yaml")
    assert study.under("own").search.settings == {"train.updates": 30, "train.batch": 20}
    assert study.under("own").total_runs == 3 * (2 + 1)
    assert study.under("bare").search is None
    assert study.under("bare").total_runs == 3
    without = parse_study(STUDY + "budgets: {bare: {train.learning_rate: 0.1}}\n", "s.yaml")
    assert [c.key for c in study.under("bare").cells] == [c.key for c in without.under("bare").cells]


def test_the_key_of_a_searched_cell_knows_what_its_trials_are():
    keys = {
        parse_study(STUDY + search(more=more), "s.yaml").under().cells[0].key
        for more in ("", ", settings: {train.updates: 50}", ", settings: {train.updates: 60}")
    }
    assert len(keys) == 3


def test_samplers_of_a_search_are_compared_on_cells_that_differ_in_nothing_else():
    text = compared("tpe, random").replace("[0, 4]", "[4]") + search()
    plan = parse_study(text, "s.yaml").under()
    assert [cell.label for cell in plan.cells] == [
        "planar K=4 D=40, search.sampler tpe",
        "radial K=4 D=40, search.sampler tpe",
        "planar K=4 D=40, search.sampler random",
        "radial K=4 D=40, search.sampler random",
    ]
    assert len({cell.key for cell in plan.cells}) == 4
    assert {cell.search.sampler.trials for cell in plan.cells} == {4}
    assert plan.cell_at(plan.cells[2].point).key == plan.cells[2].key


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("train.learning_rate", float),
        ("train.clip_norm", float),
        ("train.updates", int),
        ("data.train_images", int),
        ("flow.length", int),
        ("flow.coupling_hidden", int),
        ("flow.coupling_scaling", None),
        ("flow.family", None),
        ("objective.annealing", None),
        ("train.schedule", None),
        ("energy.edge", float),
    ],
)
def test_which_settings_take_numbers(path, kind):
    assert numbers_of(path) is kind


def test_a_pruner_judges_after_the_annealing_and_before_the_end():
    settings = parse_study(STUDY, "s.yaml").settings  # 1,197 images: epochs of 11 updates, the tenth of one.
    assert (epochs(settings), annealed_after(settings)) == (10, 20)
    for after, judged in ((20, True), (99, True), (100, False), (10_000, False)):
        assert can_prune(MedianPruner(name="median"), settings.replace({"objective.anneal_updates": after})) == judged
    assert can_prune(MedianPruner(name="median", n_warmup_steps=9), settings)
    assert not can_prune(MedianPruner(name="median", n_warmup_steps=10), settings)
