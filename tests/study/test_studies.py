"""Every study file in the repository loads, expands, and trains its smallest cell for two updates."""

import pytest
from support.studies import STUDIES

from nfstudy.core import registry
from nfstudy.data import load_dataset
from nfstudy.inference.training.trial import run_trial
from nfstudy.study.cells import Trial
from nfstudy.study.reader import read_study

pytestmark = pytest.mark.slow

BUDGETS = [(path, budget) for path in STUDIES for budget in read_study(path).budgets]


FIXTURES = {"mnist": "mnist_folders", "cifar10": "cifar10_folders"}
"""Data set -> the fixture that knows the folders of its files, or skips."""


@pytest.mark.parametrize(("path", "budget"), BUDGETS, ids=[f"{path.stem}-{budget}" for path, budget in BUDGETS])
def test_a_study_trains_the_smallest_cell_of_each_budget(path, budget, request):
    study = read_study(path)
    cells = study.under(budget).corners
    assert len({cell.key for cell in cells}) == len(cells)
    smallest = min(cells, key=lambda cell: cell.settings.flow.length)
    settings = smallest.settings.replace(few_updates(smallest.settings))
    dataset = None
    if settings.data:
        fixture = FIXTURES.get(settings.data.name)
        dataset = load_dataset(settings.data, request.getfixturevalue(fixture) if fixture else (), download=False)
    records = []
    trial = Trial(study.study, smallest, settings, "repetition", 1)
    result = run_trial(trial, dataset, "cpu", lambda record: not records.append(record))
    assert result.outcome == "finished"
    if settings.problem == "drawn":
        assert (result.update, records) == (0, [])
    else:
        assert result.update == records[-1].update == 2
    if settings.data and settings.data.values in ("bits", "levels"):
        assert result.metrics["test/nll"] > 0
    assert set(study.exhibits) <= set(registry.all_of("exhibits"))


def few_updates(settings):
    """Return the changes that leave two updates on four images, evaluated on three, and few samples of the others."""
    if settings.problem == "drawn":
        return {}
    updates = {"train.updates": 2, "train.batch": 2}
    if settings.problem == "energy":
        return updates
    held_out = {"evaluation.valid_samples": 2} if settings.evaluation.valid_samples else {}
    return updates | held_out | {"data.train_images": 4, "evaluation.test_images": 3}


def test_the_studies_of_the_readme_are_there():
    assert {"quickstart", "mnist"} <= {path.stem for path in STUDIES}
