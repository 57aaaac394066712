"""Study files: what is accepted, and that each mistake is named with its place, value and what was allowed."""

import re

import pytest

from nfstudy.core.errors import SpecError
from nfstudy.study.lr_schedules import CosineAnnealingLR
from nfstudy.study.reader import MAX_BYTES, overridable, parse_study, read_study
from nfstudy.study.spec import Range, Sampling

GOOD = """\
study: example
title: An example
data: {name: digits}
train:
  updates: 100
  learning_rate: 1e-3
grid:
  flow.family: [planar, radial]
  flow.length: [0, 4]
budgets:
  smoke: {train.updates: 10, repetitions: 1}
  laptop: {}
repetitions: 2
exhibits: [summary]
"""


def test_a_study_is_read_into_frozen_records():
    study = parse_study(GOOD, "good.yaml")
    assert study.settings.train.learning_rate == 1e-3
    assert study.settings.data.binarisation == "static"
    assert study.grid == {"flow.family": ("planar", "radial"), "flow.length": (0, 4)}
    assert study.budgets["smoke"].settings == {"train.updates": 10}
    assert study.budgets["smoke"].repetitions == 1
    assert study.budget == "laptop"
    with pytest.raises(ValueError, match="frozen"):
        study.repetitions = 5


def test_a_complaint_about_all_of_a_file_names_no_key():
    with pytest.raises(SpecError, match=r"^x\.yaml:1:1: got 'hello'; expected: a mapping"):
        parse_study("hello", "x.yaml")


def test_yaml_is_version_1_2():
    study = parse_study(GOOD.replace("1e-3", "1E-3").replace("An example", "no"), "good.yaml")
    assert (study.settings.train.learning_rate, study.title) == (0.001, "no")


def test_a_sampler_with_a_pruner_and_a_search_with_a_range():
    text = GOOD.replace("train.updates: 10,", "train.updates: 30, objective.annealing: none,") + (
        "objective: {anneal_updates: 20}\n"
        "sampler: {name: tpe, trials: 9, pruner: {name: median, n_startup_trials: 3}}\n"
        "search: {sampler: {name: gp, trials: 5}, space: {train.learning_rate: {low: 1e-5, high: 1e-2, log: true}}}\n"
    )
    study = parse_study(text, "good.yaml")
    assert isinstance(study.sampler, Sampling)
    assert study.sampler.pruner.n_startup_trials == 3
    assert study.search.space == {"train.learning_rate": Range(low=1e-5, high=1e-2, log=True)}


def test_a_budget_may_change_the_schedule():
    text = GOOD.replace("laptop: {}", "laptop: {train.schedule: {name: CosineAnnealingLR, eta_min: 1e-6}}")
    schedule = parse_study(text, "good.yaml").budgets["laptop"].settings["train.schedule"]
    assert CosineAnnealingLR.model_validate(schedule).eta_min == 1e-6


def changed(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


# name -> (text, line and column, what the message must say)
MISTAKES = {
    "unknown section": (GOOD + "modell: {latent: 3}\n", "15:1", ["modell: unknown key", "did you mean 'model'?"]),
    "unknown key": (GOOD + "model: {latnt: 3}\n", "15:9", ["model.latnt: unknown key", "did you mean 'latent'?"]),
    "wrong type": (
        changed("updates: 100", "updates: many"),
        "5:12",
        ["train.updates: got 'many'", "expected: integer"],
    ),
    "number in quotes": (changed("1e-3", "'1e-3'"), "6:18", ["train.learning_rate: got '1e-3'", "expected: number"]),
    "truth for a count": (changed("updates: 100", "updates: true"), "5:12", ["train.updates: got True"]),
    "negative K": (changed("[0, 4]", "[0, -4]"), "9:20", ["grid.flow.length.1: got -4", "greater than or equal to 0"]),
    "latent 0": (GOOD + "model: {latent: 0}\n", "15:17", ["model.latent: got 0", "greater than or equal to 1"]),
    "no such family": (changed("radial]", "convex]"), "8:25", ["grid.flow.family.1: got 'convex'", "nice-orth"]),
    "no such data": (changed("digits", "omniglot"), "3:14", ["data.name: got 'omniglot'", "digits, file, mnist"]),
    "no such setting on the grid": (changed("flow.length", "flow.lenght"), "9:3", ["did you mean 'flow.length'?"]),
    "empty axis": (changed("[0, 4]", "[]"), "9:3", ["grid.flow.length", "at least 1 item"]),
    "value twice on an axis": (changed("[0, 4]", "[0, 0]"), "9:20", ["got 0 a second time"]),
    "a range on an exhaustive grid": (changed("[0, 4]", "{low: 0, high: 4}"), "9:3", ["needs a sampler"]),
    "infinite rate": (changed("1e-3", ".inf"), "6:18", ["train.learning_rate: got inf", "finite"]),
    "rate that is no number": (changed("1e-3", ".nan"), "6:18", ["train.learning_rate: got nan"]),
    "missing title": (changed("title: An example\n", ""), "1:1", ["title: is missing"]),
    "missing learning data": (
        changed("data: {name: digits}\n", ""),
        "1:1",
        ["data: got nothing", "one of data"],
    ),
    "a path as a name": (changed("example\n", "../../etc\n"), "1:8", ["study: got '../../etc'"]),
    "unknown budget": (GOOD + "budget: huge\n", "15:9", ["budget: got 'huge'", "smoke, laptop"]),
    "unknown setting in a budget": (
        changed("train.updates: 10", "train.upd: 10"),
        "11:11",
        ["budgets.smoke.train.upd"],
    ),
    "wrong value in a budget": (changed("train.updates: 10", "train.updates: 0"), "11:26", ["got 0", "or equal to 1"]),
    "budget and grid disagree": (changed("train.updates: 10", "flow.length: 1"), "11:24", ["is an axis of the grid"]),
    "a budget that MLflow would not name a view by": (
        changed("laptop: {}", "'lr=1e-3': {}"),
        "12:3",
        ["budgets.lr=1e-3: got 'lr=1e-3'; expected: a name of letters, digits, blanks and . : / - _"],
    ),
    "a budget without a name": (changed("laptop: {}", "'': {}"), "12:3", ["got ''; expected: a name of letters"]),
    "a budget of too long a name": (
        changed("laptop: {}", f"{'ü' * 60}: {{}}"),
        "12:3",
        ["expected: a name of letters", "at most 200 characters in an address"],
    ),
    "trials of no search": (
        changed("laptop: {}", "laptop: {trials: 3}"),
        "12:20",
        ["budgets.laptop.trials: the study has no search; expected: with search or a sampler"],
    ),
    "unknown exhibit": (
        changed("[summary]", "[table-9]"),
        "14:12",
        ["exhibits.0: got 'table-9'", "did you mean"],
    ),
    "an exhibit that cannot be made": (
        changed("[summary]", "[table-2]"),
        "14:12",
        ["digits", "data.name mnist"],
    ),
    "unknown sampler": (GOOD + "sampler: {name: oracle, trials: 3}\n", "15:17", ["oracle", "'tpe'"]),
    "a sampler without trials": (GOOD + "sampler: {name: tpe}\n", "15:1", ["sampler.trials: is missing"]),
    "unknown schedule": (changed("updates: 100", "schedule: {name: Cosine}"), "5:20", ["Cosine", "CosineAnnealingLR"]),
    "unknown key of a schedule": (
        changed("updates: 100", "schedule: {name: StepLR, step_size: 3, gama: 1}"),
        "5:42",
        ["gama: unknown key", "did you mean 'gamma'?"],
    ),
    "batch beyond the data": (
        changed("updates: 100", "batch: 5000"),
        "5:10",
        ["train.batch: got 5000", "at most 1197"],
    ),
    "nothing to split": (
        changed("[planar, radial]", "[nice-perm]").replace("[0, 4]", "[4]") + "model: {latent: 1}\n",
        "15:17",
        ["model.latent: got 1", "at least 2"],
    ),
    "range upside down": (
        GOOD + "search: {sampler: {name: tpe, trials: 2}, space: {train.learning_rate: {low: 1.0, high: 0.1}}}\n",
        "15:51",
        ["low 1.0 with high 0.1"],
    ),
    "search over the grid": (
        GOOD + "search: {sampler: {name: tpe, trials: 2}, space: {flow.length: [1, 2]}}\n",
        "15:51",
        ["is an axis of the grid too"],
    ),
    "a key twice": (GOOD + "title: Again\n", "15:1", ["the key 'title' is duplicated"]),
    "a number as a key": (GOOD + "3: 4\n", "15:1", ["got the key 3"]),
    "not YAML": (changed("{name: digits}", "{name: digits"), "4:6", ["is not YAML"]),
    "a tag": (changed("An example", "!!python/object/apply:os.system [ls]"), "2:8", ["YAML type", "apply:os.system"]),
    "a date": (changed("An example", "2015-07-06"), "2:8", ["YAML type 'timestamp'"]),
    "a list": ("- 1\n- 2\n", "1:1", ["got a list", "a mapping"]),
    "a word": ("hello\n", "1:1", ["got 'hello'", "a mapping"]),
}


PLANE = """\
study: plane
title: An energy
energy: {name: u1}
grid:
  energy.name: [u1, u2]
  flow.family: [planar]
exhibits: [figure-3]
"""
PLANE_MISTAKES = {
    "no such energy": (("u1, u2", "u1, u9"), "5:21", ["grid.energy.name.1: got 'u9'", "'u4'"]),
    "images and an energy": (("energy: {", "data: {name: digits}\nenergy: {"), "3:1", ["data: got data and energy"]),
    "a section it has not": (
        ("flow.family: [planar]", "data.epsilon: [0.01]"),
        "6:18",
        ["grid.data.epsilon.0: got 0.01, but the study has no use of 'data'", "expected: energy, q0, flow"],
    ),
    "a section of images": (
        ("grid:", "model: {latent: 3}\ngrid:"),
        "4:1",
        ["model: is not used together with 'energy'"],
    ),
    "an exhibit of images": (("figure-3", "table-2"), "7:12", ["got 'table-2' with no data.name", "data.name mnist"]),
    "a flow without an inverse": (
        ("[planar]", "[planar]\n  flow.constraint: [false]"),
        "7:3",
        ["flow.constraint: got False", "true on the plane"],
    ),
    "no likelihood to anneal": (("grid:", "objective: {annealing: kl}\ngrid:"), "4:24", ["energy or none on"]),
    "a wall of no width": (("{name: u1}", "{name: u1, edge: 0.0}"), "3:26", ["energy.edge: got 0.0"]),
}


def test_an_energy_s_study_is_read():
    study = parse_study(PLANE, "plane.yaml")
    assert study.settings.problem == "energy"
    assert [cell.settings.energy.name for cell in study.under("default").cells] == ["u1", "u2"]


@pytest.mark.parametrize("mistake", PLANE_MISTAKES)
def test_mistakes_on_the_plane_are_told_as_others_are(mistake):
    change, place, words = PLANE_MISTAKES[mistake]
    assert change[0] in PLANE
    with pytest.raises(SpecError) as caught:
        parse_study(PLANE.replace(*change), "plane.yaml")
    message = str(caught.value)
    assert f"plane.yaml:{place}" in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_file_line_key_value_and_what_was_allowed(mistake):
    text, place, words = MISTAKES[mistake]
    with pytest.raises(SpecError) as caught:
        parse_study(text, "some/study.yaml")
    message = str(caught.value)
    assert f"some/study.yaml:{place}: " in message
    for word in words:
        assert word in message
    assert "expected" in message or "not YAML" in message


def test_all_mistakes_are_told_at_once():
    with pytest.raises(SpecError) as caught:
        parse_study(changed("updates: 100", "updates: 0") + "model: {latent: 0, hiden: 3}\n", "x.yaml")
    message = str(caught.value)
    assert all(f"x.yaml:{place}" in message for place in ("5:12", "15:17", "15:20"))


TOGETHER = (
    changed("flow.length: [0, 4]", "flow.lenght: [0]\n  flow.length: [1, {a: 1}]\n  model.latent: 3")
    .replace("title: An example", "titel: An example")
    .replace("laptop: {}", "laptop: {train.updates: many, train.uptades: 1}\n  small: 3")
    .replace("repetitions: 2", "repetitions: 2.5\nsampler: tpe\nsearch: 3\nmodel: [3]\npaper: rezende2016")
    .replace("[summary]", "[summry, 4]")
)
ALL_OF_IT = [
    "titel: unknown key; expected: study, title",
    "title: is missing",
    "grid.flow.lenght: no such setting; expected: ",
    "grid.flow.length.1: got a mapping; expected: text, a number, true, false or null",
    "grid.model.latent: got 3; expected: a list of values, in [ ], or a range with low and high",
    "budgets.laptop.train.updates: got 'many'; expected: integer",
    "budgets.laptop.train.uptades: unknown key",
    "budgets.small: got 3; expected: a mapping of settings to values",
    "repetitions: got 2.5; expected: integer",
    "sampler: got 'tpe'; expected: a mapping with the keys name, trials",
    "search: got 3; expected: a mapping with the keys sampler, space",
    "model: got a list; expected: a mapping with the keys latent, hidden",
    "paper: got 'rezende2016'; expected: none, rezende2015; did you mean 'rezende2015'?",
    "exhibits.0: got 'summry'; expected: summary",
    "exhibits.1: got 4; expected: text",
]


def test_every_mistake_of_every_kind_is_told_at_once():
    with pytest.raises(SpecError) as caught:
        parse_study(TOGETHER, "x.yaml")
    message = str(caught.value)
    missing = [words for words in ALL_OF_IT if words not in message]
    assert not missing, message
    assert message.count("x.yaml:") == len(ALL_OF_IT), message


WRONG = ("text", "3", "2.5", "-1", "true", "null", "[1, [2]]", "[]", "{a: 1}", "{}", ".nan", ".inf", "''", "1e400")
INNER = re.compile(
    r"Input should|valid (string|tuple|dictionary|integer|number)|instance of|pydantic|validat|literal|discriminator"
    r"|tuple\[|<list>|<range>|Spec\b|Settings|function-|NoneType|\bobject\b"
)
"""Words that are pydantic's, or the code's, and not the file's."""
FLAWED = "study: x\ntitle: T\nexhibits: [summary]\n"


def places():
    """Every key of a study file and every setting: what stands before and behind a value of it."""
    for key in ("study", "title", "description", "grid", "sampler", "search", "repetitions", "budgets", "budget",
                "exhibits", "paper", "plugins", "data", "energy", "drawn", "q0", "model", "flow", "objective", "train",
                "evaluation", "seed"):  # fmt: skip
        yield f"{key}: ", ""
    for path in overridable():
        section, _, field = path.partition(".")
        if field:
            other = "{name: digits, " if section == "data" and field != "name" else "{"
            yield f"{section}: {other}{field}: ", "}"
            yield f"grid: {{{path}: ", "}"
            yield f"budgets: {{a: {{{path}: ", "}}"
    yield from (
        ("sampler: {name: tpe, trials: ", "}"),
        ("sampler: {name: ", ", trials: 3}"),
        ("sampler: {name: tpe, trials: 3, pruner: ", "}"),
        ("sampler: {name: tpe, trials: 3, pruner: {name: ", "}}"),
        ("search: {sampler: ", ", space: {seed: [1, 2]}}"),
        ("search: {sampler: {name: tpe, trials: 3}, space: ", "}"),
        ("grid: {train.learning_rate: {low: ", ", high: 0.1}}"),
        ("train: {schedule: ", "}"),
        ("train: {schedule: {name: StepLR, step_size: ", "}}"),
        ("budgets: {a: ", "}"),
        ("budgets: {a: {repetitions: ", "}}"),
        ("exhibits: [", "]"),
    )


def refusal(text):
    """Return what is said of a study file that is refused; empty where it is not."""
    try:
        parse_study(text, "x.yaml")
    except SpecError as error:
        return str(error)
    return ""


def test_no_key_and_no_wrong_value_is_answered_in_words_of_the_code():
    """Of all places and wrong values a few hundred, spread evenly and so that every place and every value is met."""
    tried = 0
    for number, (before, behind) in enumerate(places()):
        for value in WRONG[number % 7 :: 7]:
            line = f"{before}{value}{behind}\n"
            key = line.partition(":")[0]
            text = "".join(each for each in FLAWED.splitlines(True) if not each.startswith(f"{key}:")) + line
            text += "" if key in ("data", "energy", "drawn") else "data: {name: digits}\n"
            message = refusal(text)
            told = [row for row in message.splitlines() if row.startswith("x.yaml")]
            assert bool(told) == bool(message), message
            assert all("expected" in row for row in told), message
            assert not [row for row in told if INNER.search(row)], message
            tried += 1
    assert tried > 400


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
def test_an_empty_file_is_said_to_be_empty(text):
    with pytest.raises(SpecError, match=r"x\.yaml.*(empty|got nothing)"):
        parse_study(text, "x.yaml")


def bomb():
    levels = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 15)]
    return "\n".join(levels)


HOSTILE = {
    "anchor bomb": bomb(),
    "an alias of itself": "study: &a [*a]\n",
    "deep nesting": "study: " + "[" * 5000 + "]" * 5000,
    "deep nesting, block style": "".join(" " * i + "a:\n" for i in range(300)),
    "merge keys": "a: &a {study: x}\n<<: *a\n",
    "two documents": GOOD + "---\n" + GOOD,
    "control characters": "study: \x00\x01\n",
    "a number of many digits": changed("updates: 100", "updates: " + "9" * 20_000),
    "a number of many hexadecimal digits": changed("updates: 100", "updates: 0x" + "f" * 20_000),
    "a plug-in with a null in its name": GOOD + 'plugins: ["a\\0.py"]\n',
    "another version of YAML": "%YAML 1.1\n---\n" + GOOD,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_a_clear_error(name):
    with pytest.raises(SpecError, match=r"x\.yaml"):
        parse_study(HOSTILE[name], "x.yaml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"study: " + b"x" * MAX_BYTES, "at most 262,144 bytes"),
    ],
    ids=["not text", "too large"],
)
def test_a_file_that_is_no_text_or_too_large(tmp_path, content, words):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(SpecError, match=words):
        read_study(tmp_path / "x.yaml")


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(SpecError, match=r"gone\.yaml: no such study file"):
        read_study(tmp_path / "gone.yaml")
    with pytest.raises(SpecError, match="cannot be read"):
        read_study(tmp_path)


def test_a_grid_that_explodes_is_refused():
    values = ", ".join(str(number) for number in range(1, 1001))
    with pytest.raises(SpecError, match=r"2,000,000 points; expected: at most 100,000"):
        parse_study(changed("[planar, radial]", f"[planar]\n  seed: [{values}]\n  model.latent: [{values}]"), "x.yaml")


def study_of(settings, exhibit, further=""):
    return parse_study(f"study: x\ntitle: X\n{settings}\n{further}exhibits: [{exhibit}]\n", "x.yaml")


@pytest.mark.parametrize(
    ("settings", "exhibit", "words"),
    [
        ("data: {name: cifar10}", "code-lengths", "with data of patches; expected: with data that are not patches"),
        ("data: {name: photos}", "code-lengths", "with data of patches; expected: with data that are not patches"),
        ("drawn: {density: normal}", "estimators", "with no objective.estimator; expected: with objective.estimator"),
        (
            "data: {name: digits}\nmodel: {latent: 2, stochastic_layers: 2}",
            "mcmc-posteriors",
            "with model.stochastic_layers 2; expected: with model.stochastic_layers 1",
        ),
        ("data: {name: digits}\nmodel: {latent: 2, stochastic_layers: 2}", "latent-map", "model.stochastic_layers 2"),
    ],
)
def test_an_exhibit_that_no_run_could_fill_is_refused(settings, exhibit, words):
    with pytest.raises(SpecError) as caught:
        study_of(settings, exhibit)
    assert f"exhibits.0: got '{exhibit}' with " in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "further",
    [
        "grid: {data.dequantisation: [uniform, categories]}\n",
        "budgets: {small: {data.name: digits}}\n",
        "search:\n  sampler: {name: tpe, trials: 2}\n  space: {data.dequantisation: [uniform, categories]}\n",
    ],
)
def test_an_exhibit_of_whole_numbers_is_one_of_any_choice_that_has_them(further):
    assert study_of("data: {name: cifar10}", "code-lengths", further).exhibits == ("code-lengths",)


def test_what_a_search_makes_impossible_without_a_grid_is_blamed_on_its_setting():
    space = "{objective.estimator: [pathwise, reweighted-wake-sleep]}"
    search = f"search:\n  sampler: {{name: tpe, trials: 2}}\n  space: {space}\n"
    with pytest.raises(SpecError) as caught:
        study_of("data: {name: digits}\nobjective: {annealing: none}", "summary", search)
    assert ": : " not in str(caught.value)
    assert "objective.samples: got 1; expected: at least 2" in str(caught.value)
