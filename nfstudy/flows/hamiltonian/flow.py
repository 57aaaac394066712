"""Hamiltonian variational inference: a trajectory of leapfrog steps (Salimans et al. 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

from nfstudy.flows.base import HEAD_SCALE, Generators, StepHead, require_steps
from nfstudy.flows.guided import GuidedFlow, LogJoint, nearest_step_size, slope_of, step_size


def leapfrog(z: Tensor, momentum: Tensor, step: Tensor, length: int, log_joint: LogJoint) -> tuple[Tensor, Tensor]:
    """Apply K leapfrog steps under H(z, ω) = −ln p(x, z) + ½ ωᵀω, which preserve the volume of (z, ω).

    ω ← ω + ½ ε ∇ ln p(x, z),  z ← z + ε ω,  ω ← ω + ½ ε ∇ ln p(x, z)

    With one ε for each variable, and so a diagonal mass matrix of 1/ε² up to a scale. (Rezende & Mohamed's signs in
    Section 5 are of an H that is no energy.)

    Arguments:
        z: (..., B, D).
        momentum: ω, (..., B, D).
        step: ε > 0, (B, D) or (D,).
        length: K.
        log_joint: ln p(x, z), see `flows.guided.LogJoint`.

    Returns:
        z and ω after K steps, each (..., B, D); ln|det| is 0.
    """
    momentum = momentum + 0.5 * step * slope_of(log_joint, z)
    for k in range(1, length + 1):
        z = z + step * momentum
        momentum = momentum + (1.0 if k < length else 0.5) * step * slope_of(log_joint, z)
    return z, momentum


class HamiltonianFlow(GuidedFlow):
    """One trajectory of K leapfrog steps from ω_0 ~ N(0, I).

    From one linear head come ε and r(ω_K|x, z_K) = N(a + c ⊙ z_K, diag exp(b)): 4 D numbers an image. Salimans et al.
    make r by a network.

    Arguments, beside those of `Flow`:
        leapfrog_step: ε before it has learned.
    """

    def __init__(self, latent: int, length: int, features: int, leapfrog_step: float) -> None:
        require_steps(length)
        super().__init__(latent, length, features)
        self.first_step = leapfrog_step
        self.head = StepHead(features, 1, 4 * latent)

    @property
    def further_noise(self) -> int:
        """D."""
        return self.latent

    def initialise(self, generator: Generators) -> None:
        """Start with the same small ε for all variables, and r = N(0, I)."""
        self.head.initialise_step(1, torch.zeros(4 * self.latent), HEAD_SCALE, generator("step 1"))

    def parameters_from(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return ε, a, c and b, each (B, D), of features (B, F)."""
        numbers, *reverse = self.head(features).squeeze(-2).chunk(4, dim=-1)
        return (step_size(self.first_step, numbers), *reverse)

    def nearest(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return ε within what the head may give; a, c and b may be any."""
        step, *reverse = parameters
        return (nearest_step_size(self.first_step, step), *reverse)

    def guided(
        self, z: Tensor, parameters: tuple[Tensor, ...], noise: Tensor, log_joint: LogJoint
    ) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and c = ln r(ω_K|x, z_K) − ln q(ω_0) in nats, (..., B)."""
        step, mean, along, log_variance = parameters
        z, momentum = leapfrog(z, noise, step, self.length, log_joint)
        off = momentum - mean - along * z
        log_r = -0.5 * (off.square() * (-log_variance).exp() + log_variance).sum(-1)
        return z, log_r + 0.5 * noise.square().sum(-1)
