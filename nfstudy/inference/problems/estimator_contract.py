"""What an estimator of gradients must satisfy, checked on small problems before anything is trained by it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import ValidationError
from torch import Tensor

from nfstudy.core.declarations import GradientEstimator
from nfstudy.core.errors import UserError
from nfstudy.data import load_dataset
from nfstudy.inference.models.minibatch import Minibatch
from nfstudy.inference.models.objective import BoundTerms
from nfstudy.inference.objectives import make_estimator
from nfstudy.inference.objectives.base import over_samples
from nfstudy.inference.problems import make_problem
from nfstudy.inference.problems.base import Problem
from nfstudy.inference.problems.metrics import TRIES
from nfstudy.study.settings import Settings

BETA = 0.5
DESCENT = {"train.batch": 8}
UPDATES, RATE = 100, 0.01
RISE = 4.0
"""Nats of F. After these updates by Adam every estimator of the suite is 1.3 nats or more below its start; with the
other sign it is 5.2 or more above, on images thousands."""


def check_estimator(declaration: GradientEstimator) -> int:
    """Check an estimator at each of its examples; return on how many small problems.

    Objectives and terms are of each example of a minibatch and finite, and no term is another one, or of the other
    sign; the same minibatch gives the same numbers; all parameters get a gradient; what it learns along the way are
    tensors, from which another one goes on; and F does not rise by many nats where a few updates are made by its
    gradient.

    Raises:
        UserError: one of these does not hold, or its code fails; or none of its examples is possible.
    """
    checked = 0
    descended = set[tuple[str, str]]()
    for variant, annealing, problem in _problems(declaration):
        kind = problem.settings.problem
        try:
            found = _mistake(problem)
            if not found and (variant, kind) not in descended:  # At β = 1 all annealings are one.
                found = _uphill(problem.settings)
                descended.add((variant, kind))
        except (Exception, SystemExit) as error:  # Somebody else's code: it may raise anything.
            found = f"{type(error).__name__}: {error}"
        if found:
            raise UserError(f"estimator {declaration.name}: {variant}, annealing {annealing}, {kind}: {found}")
        checked += 1
    if not checked:
        raise UserError(f"estimator {declaration.name}: examples: none is possible; expected: one that is, of images")
    return checked


def _problems(declaration: GradientEstimator) -> Iterator[tuple[str, str, Problem]]:
    for variant, example in declaration.variants.items():
        own = {f"objective.{field}": value for field, value in example.items()}
        for content in TRIES:
            settings = Settings.model_validate(content)
            if settings.drawn:
                continue
            for annealing in declaration.annealing:
                values = {"objective.estimator": declaration.name, "objective.annealing": annealing, **own}
                try:
                    settings = settings.replace(values)
                except ValidationError:
                    continue
                dataset = load_dataset(settings.data, ()) if settings.data else None
                yield variant, annealing, make_problem(settings, dataset, 1, "cpu")


def _mistake(problem: Problem) -> str:
    """Return what is wrong with the estimator of a problem's settings; empty where nothing is."""
    objective = problem.settings.objective
    beta = 1.0 if objective.annealing == "none" else BETA
    estimator, again = (make_estimator(objective, problem.inputs, problem.device) for _ in range(2))
    first, second = (list(problem.minibatches(1, 2)) for _ in range(2))
    rows = problem.settings.train.batch
    for place, (batch, same) in enumerate(zip(first, second, strict=True)):
        estimate = estimator(batch, beta)
        for name, value in (*estimate.terms._asdict().items(), ("objective", estimate.objective)):
            if value.shape != (rows,):
                return f"{name}: got shape {tuple(value.shape)}; expected: ({rows},), one number an example"
            if not bool(value.isfinite().all()):
                return f"{name}: got numbers that are not finite; expected: finite ones"
        if found := _exchanged(estimate.terms, batch):
            return found
        gradients = _gradients(problem, estimate.objective)
        if missed := [name for name, gradient in gradients.items() if gradient is None]:
            return f"gradient of {missed[0]}: none; expected: one that reaches every parameter"
        if bad := [name for name, g in gradients.items() if g is not None and not bool(g.isfinite().all())]:
            return f"gradient of {bad[0]}: not finite; expected: finite numbers"
        if place == 0 and not all(isinstance(value, Tensor) for value in estimator.state.values()):
            return "state: got what is no tensor; expected: tensors, which checkpoints hold"
        once_more = again(same, beta).objective
        twice, repeated = _gradients(problem, once_more), once_more.detach()
        of, wanted = "of the same minibatch", "no draws but the minibatch's"
        if place:
            of = "by another one that has taken over its state"
            wanted = "all that it learns to be tensors that are in `state` from the start"
        if not torch.equal(repeated, estimate.objective):
            return f"objective: got other numbers {of}; expected: {wanted}"
        for name, gradient in gradients.items():
            other = twice[name]
            if gradient is not None and (other is None or not torch.equal(gradient, other)):
                return f"gradient of {name}: another one {of}; expected: {wanted}"
        # The second goes on from the first one's state, as after a checkpoint.
        again = make_estimator(objective, problem.inputs, problem.device)
        again.load(estimator.state)
    return ""


def _exchanged(terms: BoundTerms, batch: Minibatch) -> str:
    """Return which term has the numbers of another one, or its own with the other sign; else empty.

    Where an estimator makes other samples of the noise than `Minibatch.terms` does, its terms are none of those.
    """
    with torch.no_grad():
        known = over_samples(batch.terms())._asdict()
    for name, value in terms._asdict().items():
        if torch.allclose(value, known[name], rtol=1e-3):
            continue
        for other, numbers in known.items():
            if torch.allclose(value, numbers, rtol=1e-3):
                return f"{name}: got the numbers of {other}; expected: its own"
        if torch.allclose(-value, known[name], rtol=1e-3):
            return f"{name}: got its numbers with the other sign; expected: that of `BoundTerms`"
    return ""


def _uphill(settings: Settings) -> str:
    """Return what descent by an estimator does to F, where that rises; else empty."""
    settings = settings.replace(DESCENT)
    problem = make_problem(settings, load_dataset(settings.data, ()) if settings.data else None, 1, "cpu")
    estimator = make_estimator(settings.objective, problem.inputs, problem.device)
    weights = {name: weight for name, weight in problem.named_parameters().items() if weight.numel()}
    optimiser = torch.optim.Adam(weights.values(), RATE)
    before = -problem.validate()["elbo"]
    for batch in problem.minibatches(1, UPDATES):
        for name, gradient in _gradients(problem, estimator(batch, 1.0).objective).items():
            weights[name].grad = gradient
        optimiser.step()
    after = -problem.validate()["elbo"]
    if after < before + RISE:
        return ""
    way = f"{UPDATES} updates by it take F on held-out data from {before:.4g} to {after:.4g} nats"
    return f"gradient: {way}; expected: that of what is minimised, with its sign, by which F falls"


def _gradients(problem: Problem, objective: Tensor) -> dict[str, Tensor | None]:
    named = {name: weight for name, weight in problem.named_parameters().items() if weight.numel()}
    found = torch.autograd.grad(objective.mean(), list(named.values()), allow_unused=True)
    return dict(zip(named, found, strict=True))
