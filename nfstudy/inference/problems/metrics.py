"""Metrics from outside, computed of a trained problem; and a try of one before anything is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from numbers import Real

import torch

from nfstudy.core import registry
from nfstudy.core.declarations import Metric, load_function, unmet_need
from nfstudy.core.errors import UserError
from nfstudy.core.seeds import derive_seed
from nfstudy.data import load_dataset
from nfstudy.inference.problems import make_problem
from nfstudy.inference.problems.base import Problem
from nfstudy.study.settings import Settings

_SMALL = {
    "flow": {"family": "planar", "length": 1},
    "train": {"updates": 1, "batch": 2},
    "evaluation": {"samples": 2},
}
TRIES = (
    {"data": {"name": "digits"}, "model": {"latent": 2, "hidden": 4, "layers": 1, "maxout": 2}, **_SMALL},
    {"energy": {"name": "u1"}, **_SMALL},
    {"drawn": {"density": "normal"}, "flow": _SMALL["flow"]},
)
"""Settings of a small problem of each kind."""


def compute_metric(name: str, problem: Problem) -> float:
    """Return a declared metric of a trained problem; the same problem gives the same number.

    Raises:
        Exception: whatever its function raises, or TypeError where that returns no number.
    """
    metric: Metric = registry.find("metrics", name)
    if metric.compute is None:
        raise TypeError(f"metric {name} has no function; expected: one with compute")
    generator = torch.Generator().manual_seed(derive_seed(problem.settings.seed, "metric", name))
    value = load_function(metric.compute)(problem, generator)
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, Real):
        raise TypeError(f"metric {name}: got {type(value).__name__}; expected: a number")
    return float(value)


def check_metric(metric: Metric) -> int:
    """Compute a metric of small untrained problems, each twice; return of how many, 0 where none has what it needs.

    Raises:
        UserError: its function fails, returns no number, or another the second time.
    """
    tried = 0
    for kind, problem in _tries(metric):
        before = _state(problem)
        try:
            first, second = (compute_metric(metric.name, problem) for _ in range(2))
        except (Exception, SystemExit) as error:  # Somebody else's code: it may raise anything.
            raise UserError(f"metric {metric.name}, of {kind}: {type(error).__name__}: {error}") from error
        if first != second and first == first:
            raise UserError(
                f"metric {metric.name}, of {kind}: got {first:g}, then {second:g} of the same problem; "
                "expected: draws from the generator that it is given"
            )
        if _state(problem) != before:
            what = "changes the weights or the data of what it measures"
            raise UserError(f"metric {metric.name}, of {kind}: {what}; expected: neither")
        tried += 1
    return tried


def _state(problem: Problem) -> str:
    """Return a digest of a problem's weights and data, of which other numbers and later runs are made."""
    digest = hashlib.sha256()
    dataset = getattr(problem, "dataset", None)
    arrays = [weight.detach().cpu().numpy() for weight in problem.parameters()]
    for array in (*arrays, *((dataset.train, dataset.valid, dataset.test) if dataset else ())):
        digest.update(array.tobytes())
    return digest.hexdigest()


def _tries(metric: Metric) -> Iterator[tuple[str, Problem]]:
    for content in TRIES:
        settings = Settings.model_validate(content)
        if unmet_need(metric.needs, settings.flat()) is None:
            dataset = load_dataset(settings.data, ()) if settings.data else None
            yield settings.problem, make_problem(settings, dataset, 1, "cpu")
