"""What a trial takes here, measured on a few real updates, for the estimate before a study starts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from nfstudy.core.kernels import cache
from nfstudy.data import Dataset
from nfstudy.inference.problems import make_problem
from nfstudy.inference.training.loop import fit
from nfstudy.runs.result import Cost
from nfstudy.study.settings import Settings

WARM_UP, TIMED = 1, 5
"""Updates: the first ones of a process are slow."""
VALID_IMAGES, TEST_IMAGES, TEST_SAMPLES = 300, 60, 16


def measure_cost(settings: Settings, dataset: Dataset | None, device: str) -> Cost:
    """Train and evaluate a little with a trial's settings, and scale the times up to the whole of it."""
    # A schedule may not fit so short a training, and costs nothing to speak of.
    little = settings.replace({"train.schedule": {"name": "constant"}, "train.updates": TIMED})
    validation_scale = test_scale = 1.0
    evaluation = settings.evaluation
    if dataset:
        test_images = min(evaluation.test_images or len(dataset.test), len(dataset.test))
        few, few_samples = min(test_images, TEST_IMAGES), min(evaluation.samples, TEST_SAMPLES)
        little = little.replace({"evaluation.test_images": few, "evaluation.samples": few_samples})
        tight = min(evaluation.tight_images, test_images) * evaluation.tight_samples
        test_scale = (test_images * evaluation.samples + tight) / (few * few_samples)
        valid_images = min(evaluation.valid_images or len(dataset.valid), len(dataset.valid))
        few_valid = min(valid_images, VALID_IMAGES)
        little = little.replace({"evaluation.valid_images": None})
        validation_scale = valid_images / few_valid
        train = dataset.train[: settings.train.batch * TIMED]
        dataset = dataclasses.replace(dataset, train=train, valid=dataset.valid[:few_valid])
        little = little.replace({"data.training_split": "train"})
    problem = make_problem(little, dataset, 0, device)
    update = 0.0
    if problem.parameters():
        fit(problem, little.replace({"train.updates": WARM_UP}), lambda _: True)
        end = fit(problem, little, lambda _: True)
        update = end.seconds / max(end.update, 1)
    return Cost(update, validation_scale * _seconds(problem.validate), test_scale * _seconds(problem.test))


def _seconds(work: Callable[[], object]) -> float:
    """Time some work; once more where loops were compiled for it, or waited for, which is done once."""
    before, started = cache.first_uses, time.perf_counter()
    work()
    if cache.first_uses > before:
        started = time.perf_counter()
        work()
    return time.perf_counter() - started
