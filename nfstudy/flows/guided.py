"""Flows whose steps follow the gradient of the model's log joint, on a space with further variables of their own."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from nfstudy.flows.base import Flow

LogJoint = Callable[[Tensor], Tensor]
"""z (..., B, D) -> ln p(x, z) (..., B) in nats, up to a constant, of the B images."""
FARTHEST = 2.0
"""Of the logarithm of a step size from where it starts."""


class GuidedFlow(Flow):
    """A chain on (z, ω), ω further variables with q(ω) = N(0, I) (Rezende & Mohamed 2015, Section 3.2).

    Of what it ends in, ω_K is integrated out by a density r(ω_K|x, z_K) of which any will do (Salimans et al. 2015):

        ln p(x) ≥ E[ln p(x, z_K) − ln q0(z_0) + c],   c = ln r(ω_K|x, z_K) − ln q(ω_0) + ln|det J|,

    J being the Jacobian of (z_K, ω_K) by (z_0, ω_0).

    So c stands where another flow's log-determinant does, in the bound as in importance weights, whose mean is p(x).
    """

    @property
    @abstractmethod
    def further_noise(self) -> int:
        """How many numbers ω_0 has."""

    @abstractmethod
    def guided(
        self, z: Tensor, parameters: tuple[Tensor, ...], noise: Tensor, log_joint: LogJoint
    ) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and c in nats, (..., B).

        Arguments:
            z: z_0, (..., B, D).
            parameters: what `parameters_from` returned for the B images.
            noise: ω_0, (..., B, n), draws from N(0, I).
            log_joint: of the same images.
        """

    def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Raise TypeError: there is no step without a model; see `guided`."""
        raise TypeError(f"{type(self).__name__} follows a model's gradient; expected: `guided`, with its log joint")


def slope_of(log_joint: LogJoint, z: Tensor) -> Tensor:
    """Return ∂ ln p(x, z)/∂z, (..., B, D): itself with gradients where those are on, and else without any."""
    if torch.is_grad_enabled():
        point = z if z.requires_grad else z.detach().requires_grad_()
        return torch.autograd.grad(log_joint(point).sum(), point, create_graph=True)[0]
    with torch.inference_mode(False), torch.enable_grad():
        point = z.clone().requires_grad_()
        return torch.autograd.grad(log_joint(point).sum(), point)[0]


def nearest_step_size(first: float, size: Tensor) -> Tensor:
    """Return the step size nearest to these that `step_size` may give."""
    return size.clamp(first * math.exp(-FARTHEST), first * math.exp(FARTHEST))


def step_size(first: float, numbers: Tensor) -> Tensor:
    """Return step sizes ε = ε_0 exp(2 tanh(r/2)): ε_0 at r = 0, and never further from it than a factor of e²."""
    return first * (FARTHEST * (numbers / FARTHEST).tanh()).exp()
