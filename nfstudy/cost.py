"""What a trial takes here, measured on a few real updates, for the estimate before a study starts."""

from __future__ import annotations

import dataclasses
import time

from nfstudy.data import Dataset
from nfstudy.dlgm import DLGM
from nfstudy.evaluation import evaluate_bound, evaluate_likelihood
from nfstudy.outcomes import Cost
from nfstudy.settings import Settings
from nfstudy.training import fit

WARM_UP, TIMED = 2, 8
"""Updates: the first ones of a process are slow."""
VALID_IMAGES, TEST_IMAGES, TEST_SAMPLES = 500, 100, 16


def measure_cost(settings: Settings, dataset: Dataset, device: str) -> Cost:
    """Train and evaluate a little with a trial's settings, and scale the times up to the whole of it."""
    few = dataclasses.replace(dataset, train=dataset.train[: settings.train.batch * TIMED], valid=dataset.valid[:1])
    model = DLGM(dataset.train.shape[1], settings.model, settings.flow)
    model.initialise(settings.seed, 0)
    model.to(device)
    # A schedule may not fit so short a training, and costs nothing to speak of.
    plain = settings.replace({"train.schedule": {"name": "constant"}})
    fit(model, few, plain.replace({"train.updates": WARM_UP}), 0, device, lambda _: True)
    end = fit(model, few, plain.replace({"train.updates": TIMED}), 0, device, lambda _: True)

    valid = dataset.valid[:VALID_IMAGES]
    started = time.perf_counter()
    evaluate_bound(model, valid, settings.seed)
    validation = (time.perf_counter() - started) * len(dataset.valid) / len(valid)

    images = min(settings.evaluation.test_images or len(dataset.test), len(dataset.test))
    samples = settings.evaluation.samples
    some = dataset.test[: min(images, TEST_IMAGES)]
    started = time.perf_counter()
    evaluate_likelihood(model, some, min(samples, TEST_SAMPLES), settings.seed)
    per_image = (time.perf_counter() - started) / len(some)
    return Cost(end.seconds / max(end.update, 1), validation, per_image * images * max(samples / TEST_SAMPLES, 1))
