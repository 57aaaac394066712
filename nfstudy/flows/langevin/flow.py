"""Langevin flow in finite steps: an overdamped diffusion towards the posterior, with its bound (Thin et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from nfstudy.flows.base import HEAD_SCALE, Generators, StepHead, require_steps
from nfstudy.flows.guided import GuidedFlow, LogJoint, nearest_step_size, slope_of, step_size


def langevin(z: Tensor, noise: Tensor, steps: Tensor, log_joint: LogJoint) -> tuple[Tensor, Tensor]:
    """Apply K Euler-Maruyama steps of dz = ∇ ln p(x, z) dt + √2 dξ, over the time ε²/2 each.

        z_k = z_{k−1} + ½ ε² ∇ ln p(x, z_{k−1}) + ε ξ_k,   ξ_k ~ N(0, I)

    As the diffusion is reversible, r(z_{k−1}|z_k) is a step of it from z_k, which takes the noise ξ'_k, and

        c = Σ_k [ln r(z_{k−1}|z_k) − ln q(z_k|z_{k−1})] = ½ Σ_k (‖ξ_k‖² − ‖ξ'_k‖²).

    With small steps and z_0 ~ p(z|x), c vanishes. In Rezende & Mohamed's Section 3.2, L must be the energy −ln p(x, z)
    for their drift −∇L to lead to the posterior.

    Arguments:
        z: z_0, (..., B, D).
        noise: ξ, (..., B, K, D).
        steps: ε > 0, (B, K, D) or (K, D).
        log_joint: ln p(x, z), see `flows.guided.LogJoint`.

    Returns:
        z_K, (..., B, D), and c in nats, (..., B).
    """
    slope, c = slope_of(log_joint, z), z.new_zeros(z.shape[:-1])
    for xi, step in zip(noise.unbind(-2), steps.unbind(-2), strict=True):
        half = xi + 0.5 * step * slope
        z = z + step * half
        slope = slope_of(log_joint, z)
        back = half + 0.5 * step * slope  # −ξ', as z_{k−1} = z_k + ½ ε² ∇ ln p(x, z_k) + ε ξ'.
        c = c + 0.5 * (xi.square() - back.square()).sum(-1)
    return z, c


class LangevinFlow(GuidedFlow):
    """K steps with ε from one linear head: K D numbers an image.

    Arguments, beside those of `Flow`:
        leapfrog_step: ε before it has learned.
    """

    def __init__(self, latent: int, length: int, features: int, leapfrog_step: float) -> None:
        require_steps(length)
        super().__init__(latent, length, features)
        self.first_step = leapfrog_step
        self.head = StepHead(features, length, latent)

    @property
    def further_noise(self) -> int:
        """K D."""
        return self.length * self.latent

    def initialise(self, generator: Generators) -> None:
        """Start with the same small ε for all variables."""
        for step in range(1, self.length + 1):
            self.head.initialise_step(step, torch.zeros(self.latent), HEAD_SCALE, generator(f"step {step}"))

    def parameters_from(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return ε of all steps, (B, K, D), of features (B, F)."""
        return (step_size(self.first_step, self.head(features)),)

    def nearest(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return ε within what the head may give."""
        return tuple(nearest_step_size(self.first_step, steps) for steps in parameters)

    def guided(
        self, z: Tensor, parameters: tuple[Tensor, ...], noise: Tensor, log_joint: LogJoint
    ) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and c in nats, (..., B); see `langevin`."""
        (steps,) = parameters
        return langevin(z, noise.unflatten(-1, (self.length, self.latent)), steps, log_joint)
