"""What every estimator is: from a minibatch to what is minimised there, with the gradient that it is descended by."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from nfstudy.inference.models.minibatch import Draws, Minibatch
from nfstudy.inference.models.objective import BoundTerms, free_energy
from nfstudy.study.sections import ObjectiveSpec

Beta = float | Tensor
"""β of the annealing: a number, or one that lies on the device, where updates are captured as a graph."""


class Estimate(NamedTuple):
    """What an estimator makes of a minibatch."""

    terms: BoundTerms
    """The terms of F at single samples of q, mean over the S samples, each (B,) in nats; what is logged as train/*."""
    objective: Tensor
    """What is minimised, (B,) in nats: its mean is logged as train/objective, and the gradient of its mean is the
    estimate that parameters are updated by, whether or not automatic differentiation of the value would give it."""

    @property
    def means(self) -> Tensor:
        """Return the minibatch's means of the terms, and last of the objective, in float64 and without gradients."""
        return torch.stack([*self.terms, self.objective]).detach().mean(-1).double()


class Estimator(ABC):
    """An objective and an estimator of its gradient.

    What it learns along the way, such as a baseline, are tensors in `state`; checkpoints hold them.

    Arguments of every estimator:
        objective: the section of the settings.
        inputs: N, how many numbers `Minibatch.inputs` has for an example; 0 without examples.
        device: where tensors live.
    """

    def __init__(self, objective: ObjectiveSpec, inputs: int = 0, device: str = "cpu") -> None:
        self.objective = objective
        self.state: dict[str, Tensor] = {}

    @abstractmethod
    def __call__(self, batch: Minibatch, beta: Beta) -> Estimate:
        """Return the estimate at β; `state` is then that after this update."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over the state of another estimator of the same settings."""
        self.state = {name: state[name].detach().clone() for name in self.state}

    def energies(self, terms: BoundTerms, beta: Beta) -> Tensor:
        """Return the annealed free energy, (..., B) in nats; see `free_energy`."""
        return free_energy(terms, beta, self.objective.annealing)

    def share_of_q(self, beta: Beta) -> Beta:
        """Return c, what `energies` multiplies ln q_K by: β of the annealed KL, and else 1."""
        return beta if self.objective.annealing == "kl" else 1.0


def over_samples(terms: BoundTerms) -> BoundTerms:
    """Return the means over S samples, (B,), of terms (S, B); terms (B,) as they are."""
    return BoundTerms(*(term.mean(0) if term.dim() > 1 else term for term in terms))


def with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return `value` with the gradient of `surrogate`."""
    return value.detach() + (surrogate - surrogate.detach())


def terms_at(batch: Minibatch, draws: Draws, z: Tensor) -> BoundTerms:
    """Return the terms (S, B) with the log joint at z, which are the samples or a copy with other gradients."""
    log_likelihood, log_prior = batch.log_joint(z)
    return BoundTerms(log_likelihood, log_prior, draws.log_q0, draws.log_det)


def along_path(slope: Tensor, draws: Draws) -> Tensor:
    """Return sᵀ z_K, (S, B): its gradient is that of ln q_K along the path alone, q's own parameters held."""
    return (slope * draws.z).sum(-1)


def log_mean(log_weights: Tensor) -> Tensor:
    """Return ln (1/S) Σ_s w_s, (B,), of ln w (S, B)."""
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))
