"""Metrics from outside: computed of a trained problem, tried before, and no training is lost for one that fails."""

import dataclasses

import numpy as np
import pytest
import torch

from nfstudy.core import registry
from nfstudy.core.declarations import ExhibitDeclaration, Metric
from nfstudy.core.errors import SpecError, UserError
from nfstudy.core.registry import Origin
from nfstudy.data.dataset import Splits, make_dataset
from nfstudy.inference.problems.metrics import check_metric, compute_metric
from nfstudy.inference.training.trial import run_trial
from nfstudy.runs.metrics import METRICS, known_metrics
from nfstudy.study.cells import Cell, Trial
from nfstudy.study.reader import parse_study
from nfstudy.study.settings import Settings

SETTINGS = Settings.model_validate(
    {
        "data": {"name": "digits", "train_images": 20},
        "model": {"latent": 2, "hidden": 8, "layers": 1, "maxout": 2},
        "flow": {"family": "planar", "length": 2},
        "train": {"updates": 8, "batch": 5, "optimiser": "adam", "learning_rate": 0.01},
        "evaluation": {"samples": 20, "test_images": 12},
    }
)
STUDY = """
study: mine
title: Mine
paper: none
data: {name: digits}
grid: {flow.length: [0, 2]}
flow: {family: planar}
exhibits: [brightness]
"""
MINE = Origin(file="mine.py", digest="00")


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Have each test declare into a copy of what there is."""
    for kind in ("metrics", "exhibits"):
        registry.all_of(kind)
    monkeypatch.setattr(registry, "_declared", {kind: dict(found) for kind, found in registry._declared.items()})
    yield
    registry._version += 1


def metric(compute, name="test/brightness", **further):
    return Metric(name=name, meaning="mean of samples", unit="1", compute=compute, **further)


def brightness(problem, generator):
    noise = torch.randn(50, problem.settings.model.latent, generator=generator)
    with torch.no_grad():
        return problem.model.decode(noise).mean()


def declared(compute, **further):
    found = metric(compute, **further)
    registry.declare(
        ExhibitDeclaration(name="brightness", make="not.there:make", metrics=(found,), needs={"data.name": ()}), MINE
    )
    return found


def run(*names):
    rng = np.random.default_rng(0)
    splits = Splits(*(rng.integers(2, size=(30, 64), dtype=np.uint8) for _ in range(3)))
    trial = Trial("tiny", Cell(SETTINGS.normalized(), "full"), SETTINGS, "repetition", 1, metrics=names)
    return run_trial(trial, make_dataset("tiny-static", (8, 8), 1, splits, "here"), "cpu", lambda record: True)


def test_an_exhibit_brings_its_metric_and_its_runs_log_it():
    found = declared(brightness)
    assert known_metrics()["test/brightness"] is found
    study = parse_study(STUDY, "mine.yaml")
    assert study.metrics == (found,)
    plan = study.under()
    assert {trial.metrics for cell in plan.cells for trial in plan.repetitions_of(cell)} == {("test/brightness",)}


def test_it_is_computed_after_all_else_and_changes_no_other_number():
    declared(brightness)
    plain, first, second = run(), run("test/brightness"), run("test/brightness")
    assert 0 < first.metrics["test/brightness"] < 1
    assert first.metrics["test/brightness"] == second.metrics["test/brightness"]
    rest = {name for name in plain.metrics if not name.startswith("time/")}
    assert rest | {"test/brightness"} == {name for name in first.metrics if not name.startswith("time/")}
    assert all(plain.metrics[name] == first.metrics[name] for name in rest)
    assert plain.files == first.files


def test_a_metric_that_fails_costs_no_training():
    def broken(problem, generator):
        raise KeyError("encoder")

    declared(broken)
    result = run("test/brightness")
    assert (result.outcome, result.reason) == ("finished", "without test/brightness: KeyError: 'encoder'")
    assert result.metrics["test/nll"] > 0
    assert "test/brightness" not in result.metrics
    assert b"KeyError" in result.files["traceback-brightness.txt"]
    assert "checkpoint.pt" in result.files


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("change", ["weights", "data"])
def test_a_metric_that_changes_what_it_measures_is_refused(change):
    before = []

    def compute(problem, generator):
        with torch.no_grad():
            if change == "weights":
                problem.parameters()[0].add_(1)
            else:
                images = torch.from_numpy(problem.dataset.test)
                before.append((images, images.clone()))
                images.zero_()  # torch passes over numpy's mark that they are not to be written.
        return 1.0

    try:
        with pytest.raises(UserError, match="of images: changes the weights or the data of what it measures"):
            check_metric(declared(compute))
    finally:
        for images, own in reversed(before):
            images.copy_(own)


def test_a_metric_without_what_it_needs_is_not_asked_for():
    declared(brightness, needs={"energy.name": ()})
    plan = parse_study(STUDY, "mine.yaml").under()
    (trial,) = plan.repetitions_of(plan.cells[0])
    assert trial.metrics == ()


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda problem, generator: problem.nothing, "AttributeError"),
        (lambda problem, generator: "high", "got str; expected: a number"),
        (lambda problem, generator: torch.zeros(2), "got Tensor; expected: a number"),
        (lambda problem, generator: torch.rand(()), "of the same problem; expected: draws from the generator"),
    ],
    ids=["fails", "text", "several", "draws of its own"],
)
def test_a_metric_is_tried_before_anything_is_trained(compute, message):
    found = declared(compute)
    with pytest.raises(UserError, match=message):
        check_metric(found)


def test_a_metric_is_tried_on_what_has_what_it_needs():
    assert check_metric(declared(lambda problem, generator: problem.settings.seed)) == 3


def test_a_metric_without_a_function_is_not_computed():
    with pytest.raises(TypeError, match="no function"):
        compute_metric("test/nll", None)


@pytest.mark.parametrize("name", ["brightness", "test/Bright ness", "mine/brightness", "test/"])
def test_a_metric_has_the_name_of_a_split_and_a_word(name):
    with pytest.raises(ValueError, match="expected: such as test/active_units"):
        metric(brightness, name)


def test_what_is_computed_is_of_the_test_split_and_takes_no_name_of_ours():
    with pytest.raises(ValueError, match="begins with test/"):
        metric(brightness, "train/brightness")
    with pytest.raises(SpecError, match="'test/nll'; expected: a name not taken"):
        registry.declare(metric(brightness, "test/nll"), MINE)


def test_a_metric_can_be_shown_in_another_unit():
    assert dataclasses.replace(METRICS["test/nll"], unit="nats per patch").title == "−ln p(x)"
    assert metric(brightness).title == "brightness"
