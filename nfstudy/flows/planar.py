"""Planar flow: each step stretches space along one direction, about one hyperplane (Rezende & Mohamed 2015, eq. 10)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nfstudy.flows.base import (
    HEAD_SCALE,
    Flow,
    Generators,
    StepHead,
    log_nonnegative,
    log_softplus,
    require_steps,
    softplus,
)


def planar_flow(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Apply K planar steps f(z) = z + û tanh(wᵀz + b), eqs. (10)-(13) with the constraint of Appendix A.

    With a = wᵀz + b and wᵀû = −1 + ln(1 + exp(wᵀu)), a step's determinant is

        1 + wᵀû sech²a = tanh²a + sech²a ln(1 + exp(wᵀu)) > 0,

    whose logarithm is taken term by term, so that it is finite even where the determinant underflows.

    Arguments:
        z: z_0, (..., B, D); leading axes are samples, over which the parameters are broadcast without copies.
        u: unconstrained u, (B, K, D) or (K, D), K ≥ 1.
        w: (B, K, D) or (K, D); where w = 0, the step is the shift u tanh(b).
        b: (B, K) or (K,).

    Returns:
        z_K, (..., B, D), and Σ_k ln|det ∂f_k/∂z_{k−1}| in nats, (..., B).
    """
    u_hat, log_margin = constrain_u(u, w)
    pre_activations = []
    for u_k, w_k, b_k in zip(u_hat.unbind(-2), w.unbind(-2), b.unbind(-1), strict=True):
        a = (z * w_k).sum(-1) + b_k
        z = torch.addcmul(z, u_k, a.tanh().unsqueeze(-1))
        pre_activations.append(a)
    a = torch.stack(pre_activations, dim=-1)
    log_tanh2 = 2 * log_nonnegative(a.tanh().abs())
    log_sech2 = 2 * (math.log(2) - torch.logaddexp(a, -a))
    return z, torch.logaddexp(log_tanh2, log_sech2 + log_margin).sum(-1)


def constrain_u(u: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return û = u + [m(wᵀu) − wᵀu] w/‖w‖², m(x) = −1 + ln(1 + eˣ), and ln(1 + wᵀû) (Appendix A).

    wᵀû > −1 makes every step invertible. Where w = 0 every u does so: û = u, and the logarithm is 0. As û grows like
    1/‖w‖ and its gradient like 1/‖w‖², a norm below the fourth root of the type's smallest number (3e-10 in float32)
    counts as 0.

    Arguments:
        u: (..., D).
        w: (..., D).

    Returns:
        û, (..., D), and ln(1 + wᵀû) in nats, (...).
    """
    wu = (w * u).sum(-1)
    norm = torch.linalg.vector_norm(w, dim=-1)
    vanishes = norm < torch.finfo(w.dtype).tiny ** 0.25
    norm = torch.where(vanishes, 1, norm)
    excess = torch.where(vanishes, 0, softplus(-wu) - 1)  # m(x) − x = ln(1 + e⁻ˣ) − 1
    # Dividing twice, and not by ‖w‖², keeps a 1/‖w‖⁴ out of the gradient, which would overflow.
    u_hat = torch.addcmul(u, w, (excess / norm / norm).unsqueeze(-1))
    return u_hat, torch.where(vanishes, 0, log_softplus(wu))


class PlanarFlow(Flow):
    """K planar steps with u, w and b from one linear head: K (2D + 1) numbers an image."""

    def __init__(self, latent: int, length: int, features: int) -> None:
        require_steps(length)
        super().__init__(latent, length, features)
        self.head = StepHead(features, length, 2 * latent + 1)

    def initialise(self, generator: Generators) -> None:
        """Start each step at a random direction w, ‖w‖ = 1, b = 0 and wᵀu = ln(e − 1), where û = 0."""
        for step in range(1, self.length + 1):
            stream = generator(f"step {step}")
            w = torch.randn(self.latent, generator=stream, dtype=torch.float64)
            w /= torch.linalg.vector_norm(w)
            bias = torch.cat([math.log(math.e - 1) * w, w, w.new_zeros(1)])
            self.head.initialise_step(step, bias, HEAD_SCALE, stream)

    def parameters_from(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return u (B, K, D), w (B, K, D) and b (B, K) of features (B, F)."""
        u, w, b = self.head(features).split([self.latent, self.latent, 1], dim=-1)
        return u, w, b.squeeze(-1)

    def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and the summed log-determinants in nats, (..., B); see `planar_flow`."""
        return planar_flow(z, *parameters)
