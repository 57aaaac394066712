"""Every study file in the repository loads, expands, and trains its smallest cell for two updates."""

from pathlib import Path

import pytest

from nfstudy.cells import corner_points, repetitions_of
from nfstudy.data import load_dataset
from nfstudy.reader import read_study
from nfstudy.report.exhibits import EXHIBITS
from nfstudy.trial import run_trial

STUDIES = sorted((Path(__file__).parents[1] / "studies").glob("*.yaml"))
BUDGETS = [(path, budget) for path in STUDIES for budget in read_study(path).budgets]


@pytest.mark.parametrize(("path", "budget"), BUDGETS, ids=[f"{path.stem}-{budget}" for path, budget in BUDGETS])
def test_a_study_trains_the_smallest_cell_of_each_budget(path, budget, request):
    study = read_study(path)
    folders = request.getfixturevalue("mnist_folders") if study.settings.data.name == "mnist" else ()
    cells = [cell for cell, _ in corner_points(study, budget)]
    assert len({cell.key for cell in cells}) == len(cells)
    smallest = min(cells, key=lambda cell: cell.settings.flow.length)
    (trial, *_) = repetitions_of(study, smallest, smallest.settings)
    small = {"train.updates": 2, "train.batch": 2, "data.train_images": 4, "evaluation.test_images": 3}
    trial = type(trial)(trial.study, trial.cell, trial.settings.replace(small), "repetition", 1)
    records = []
    result = run_trial(trial, load_dataset(trial.settings.data, folders, False), "cpu", lambda r: not records.append(r))
    assert result.outcome == "finished"
    assert records[-1].update == 2
    assert result.metrics["test/nll"] > 0
    assert set(study.exhibits) <= set(EXHIBITS)


def test_the_studies_of_the_readme_are_there():
    assert {"quickstart", "mnist"} <= {path.stem for path in STUDIES}
