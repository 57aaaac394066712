"""What a trial takes here, measured on a few real updates, for the estimate before a study starts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from nfstudy.core.kernels import cache
from nfstudy.data import Dataset
from nfstudy.inference.problems import make_problem
from nfstudy.inference.problems.base import Problem
from nfstudy.inference.training.fit import fit
from nfstudy.runs.result import Cost, EpochRecord
from nfstudy.study.settings import Settings

WARM_UP, TIMED = 1, 5
"""Updates: the first ones of a process are slow."""
VALID_IMAGES, TEST_IMAGES, TEST_SAMPLES = 300, 60, 16
TIMED_ON_GPU, EPOCH_ON_GPU = 300, 50
"""Updates on a CUDA device, of which the first epoch captures the graphs."""
MORE_ON_GPU = 8
"""Times as many test images and samples, of which a device does few in the time of none."""


def measure_cost(settings: Settings, dataset: Dataset | None, device: str) -> Cost:
    """Train and evaluate a little with a trial's settings, and scale the times up to the whole of it."""
    # A schedule may not fit so short a training, and costs nothing to speak of.
    little = settings.replace({"train.schedule": {"name": "constant"}, "train.updates": TIMED})
    on_gpu = device.startswith("cuda")
    validation_scale = test_scale = 1.0
    evaluation = settings.evaluation
    if dataset:
        test_images = min(evaluation.test_images or len(dataset.test), len(dataset.test))
        more = MORE_ON_GPU if on_gpu else 1
        few, few_samples = min(test_images, more * TEST_IMAGES), min(evaluation.samples, more * TEST_SAMPLES)
        little = little.replace({"evaluation.test_images": few, "evaluation.samples": few_samples})
        tight = min(evaluation.tight_images, test_images) * evaluation.tight_samples
        test_scale = (test_images * evaluation.samples + tight) / (few * few_samples)
        valid_images = min(evaluation.valid_images or len(dataset.valid), len(dataset.valid))
        few_valid = min(valid_images, VALID_IMAGES)
        little = little.replace({"evaluation.valid_images": None})
        validation_scale = valid_images / few_valid
        train = dataset.train[: settings.train.batch * (EPOCH_ON_GPU if on_gpu else TIMED)]
        dataset = dataclasses.replace(dataset, train=train, valid=dataset.valid[:few_valid])
        little = little.replace({"data.training_split": "train", "data.train_images": None})  # They are these few.
    problem = make_problem(little, dataset, 0, device)
    update = 0.0
    if problem.parameters() and on_gpu:
        update = _after_first_epoch(problem, little)
    elif problem.parameters():
        fit(problem, little.replace({"train.updates": WARM_UP}), lambda _: True)
        end = fit(problem, little, lambda _: True)
        update = end.seconds / max(end.update, 1)
    return Cost(update, validation_scale * _seconds(problem.validate), test_scale * _seconds(problem.test))


def _after_first_epoch(problem: Problem, settings: Settings) -> float:
    """Return the seconds of an update, those of the first epoch aside, in which graphs are captured."""
    updates = max(TIMED_ON_GPU, 2 * problem.epoch_updates)
    marks: list[tuple[float, int]] = []

    def on_epoch(record: EpochRecord) -> bool:
        marks.append((time.perf_counter(), record.update))
        return True

    end = fit(problem, settings.replace({"train.updates": updates}), on_epoch)
    if len(marks) < 2:  # It has diverged: then its graphs count too.
        return end.seconds / max(end.update, 1)
    (first, of_first), (last, of_last) = marks[0], marks[-1]
    return (last - first) / (of_last - of_first)


def _seconds(work: Callable[[], object]) -> float:
    """Time some work; once more where loops were compiled for it, or waited for, which is done once."""
    before, started = cache.first_uses, time.perf_counter()
    work()
    if cache.first_uses > before:
        started = time.perf_counter()
        work()
    return time.perf_counter() - started
