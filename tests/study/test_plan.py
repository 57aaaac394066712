"""A study under a budget: one object, whose grid is expanded once a command, and whose points are their cells'."""

import json

import pytest
from pydantic import ValidationError

from nfstudy.__main__ import main
from nfstudy.core.errors import SpecError
from nfstudy.study import plan as plan_module
from nfstudy.study.reader import parse_study
from nfstudy.study.settings import Settings

STUDY = """\
study: example
title: An example
data: {name: digits}
model: {latent: 3, hidden: 8, layers: 1, maxout: 2}
train: {updates: 20, batch: 50}
evaluation: {samples: 8, test_images: 50}
grid: {flow.family: [none, planar, nice-perm], flow.length: [0, 4]}
repetitions: 3
budgets: {smoke: {repetitions: 1, train.updates: 10}, laptop: {}}
exhibits: [summary]
"""


def study(text=STUDY):
    return parse_study(text, "example.yaml")


@pytest.fixture
def expansions(monkeypatch):
    """The names of the budgets under which a grid has been expanded, in order."""
    budgets, expand = [], plan_module.expand

    def counted(axes, base, budget, *rest):
        budgets.append(budget)
        return expand(axes, base, budget, *rest)

    monkeypatch.setattr(plan_module, "expand", counted)
    return budgets


@pytest.mark.parametrize("command", [["status"], ["run", "--dry-run", "--workers", "1"]], ids=["status", "dry run"])
def test_a_command_expands_the_grid_once(command, expansions, tmp_path, monkeypatch, capsys):
    (tmp_path / "example.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main([command[0], "example.yaml", *command[1:]]) == 0
    assert "planar K=4 D=3" in capsys.readouterr().out
    assert sorted(expansions) == ["laptop", "smoke"], "each budget once, when the file is checked"


def test_a_study_under_a_budget_is_one_object():
    spec = study()
    assert spec.under("smoke") is spec.under("smoke")
    assert spec.under() is spec.under(spec.budget) is spec.under("laptop")
    copied = spec.model_copy(update={"repetitions": 9})
    assert (copied.under().repetitions, spec.under().repetitions) == (9, 3)
    assert spec == study()


def test_an_unknown_budget_is_an_error_with_a_suggestion():
    with pytest.raises(
        SpecError, match=r"example: no budget 'lapptop'; expected: smoke, laptop; did you mean 'laptop'"
    ):
        study().under("lapptop")
    with pytest.raises(SpecError, match=r"no budget 'huge'; expected: smoke, laptop$"):
        study().under("huge")


def test_a_cell_carries_the_first_point_that_means_it():
    points = [dict(cell.point) for cell in study().under().cells]
    assert points == [
        {"flow.family": "none", "flow.length": 0},
        {"flow.family": "planar", "flow.length": 4},
        {"flow.family": "nice-perm", "flow.length": 4},
    ]
    plan = study().under("smoke")
    assert [plan.cell_at(point).key for point in points] == [cell.key for cell in plan.cells]


def test_cells_have_equal_sections_in_common():
    first, second, _ = study().under().cells
    assert first.settings.train is second.settings.train
    assert first.settings.flow is not second.settings.flow


CHANGES = [
    {"flow.family": "planar", "flow.length": 4},
    {"train.schedule": {"name": "StepLR", "step_size": 5}, "seed": 3},
    {"energy.name": "u2"},
    {"data": None, "energy.name": "u2", "objective.annealing": "none"},
    {"model.latent": 1, "flow.family": "iaf", "flow.length": 2},
    {"train.batch": 2000},
    {"train.momentum": 1.5, "train.batch": 0},
    {"flow.length": -1, "data.train_images": 10**6},
]


@pytest.mark.parametrize("values", CHANGES, ids=[json.dumps(values) for values in CHANGES])
def test_replacing_a_few_settings_is_validating_them_all(values):
    """`replace` validates the changed sections alone; settings and errors are those of the whole record."""
    settings = study().settings
    tree = settings.model_dump()
    for path, value in values.items():
        section, _, field = path.partition(".")
        if field:
            tree[section] = {**(tree[section] or {}), field: value}
        else:
            tree[section] = value
    (whole, why), (replaced, found) = outcome(Settings.model_validate, tree), outcome(settings.replace, values)
    assert (replaced, found) == (whole, why)
    if whole:
        assert json.dumps(replaced.model_dump()) == json.dumps(whole.model_dump())


def outcome(make, values):
    """Return the settings, or what pydantic says is wrong with them."""
    try:
        return make(values), None
    except ValidationError as error:
        return None, error.errors(include_context=False)
