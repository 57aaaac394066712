"""The noise of gradients, of the training's own estimator and of all that there are, always of one minibatch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from pydantic import ValidationError
from torch import Tensor

from nfstudy.core import registry
from nfstudy.core.declarations import GradientEstimator, variance_metric
from nfstudy.inference.models.diagnostics import gradient_moments
from nfstudy.inference.objectives import make_estimator
from nfstudy.inference.problems.base import Problem, variational
from nfstudy.study.sections import ObjectiveSpec
from nfstudy.study.settings import Settings

DRAWS = 32
"""Of each gradient; as many before them for what an estimator learns along the way, such as a baseline."""
POINTS = 10
"""Of a training, beside its first epoch."""


def measured_epochs(epochs: int) -> frozenset[int]:
    """Return after which epochs of a training variances are measured: the first, and ⌈i · epochs / 10⌉."""
    return frozenset({1, *(-(-i * epochs // POINTS) for i in range(1, POINTS + 1))})


def variants(settings: Settings) -> dict[str, ObjectiveSpec]:
    """Return metric -> objective at β = 1 of each estimator's examples, but those impossible with these settings."""
    found = {}
    plain = {"objective.annealing": "none", "objective.free_bits": None, "objective.samples": 1}
    declared: dict[str, GradientEstimator] = registry.all_of("estimators")
    for name, estimator in declared.items():
        for variant, example in estimator.variants.items():
            values = {f"objective.{field}": value for field, value in example.items()}
            try:
                replaced = settings.replace({**plain, "objective.estimator": name, **values})
            except ValidationError:
                continue
            found[variance_metric(variant)] = replaced.objective
    return found


def gradient_variances(problem: Problem, objectives: dict[str, ObjectiveSpec]) -> dict[str, float]:
    """Return metric -> tr Cov of the gradient over q's weights, by `DRAWS` draws of the noise; nothing else changes."""
    weights = variational(problem.named_parameters())
    return {
        metric: gradient_moments(losses(problem, objective, DRAWS), weights).variance
        for metric, objective in objectives.items()
    }


def losses(problem: Problem, objective: ObjectiveSpec, draws: int) -> Iterator[Tensor]:
    """Yield losses at β = 1 of one minibatch with other noise each time, their gradients being those of the estimator.

    One that learns along the way first learns from as many draws more.
    """
    estimator = make_estimator(objective, problem.inputs, problem.device)
    batches = problem.repeated_minibatch(2 * draws if estimator.state else draws, objective.samples)
    if estimator.state:
        with torch.no_grad():
            for batch in islice(batches, draws):
                estimator(batch, 1.0)
    for batch in batches:
        yield estimator(batch, 1.0).objective.mean()
