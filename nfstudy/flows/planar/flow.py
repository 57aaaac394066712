"""Planar flow: each step stretches space along one direction, about one hyperplane (Rezende & Mohamed 2015, eq. 10)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from nfstudy.core.kernels.layout import by_image
from nfstudy.flows.base import (
    HEAD_SCALE,
    Flow,
    Generators,
    StepHead,
    fits_cuda,
    fits_lanes,
    fits_samples,
    in_pieces,
    log_nonnegative,
    log_softplus,
    require_steps,
    softplus,
)
from nfstudy.flows.planar.kernel import PlanarChain
from nfstudy.flows.planar.kernel_samples import chain_of_samples, constrained

PLANE_NORM = 2.0
"""Initial ‖w‖ of a chain whose parameters depend on nothing."""


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
    z, a = _steps(z, u_hat, w, b)
    log_tanh2 = 2 * log_nonnegative(a.tanh().abs())
    return z, torch.logaddexp(log_tanh2, _log_sech2(a) + log_margin).sum(-1)


def free_planar_flow(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Apply K planar steps f(z) = z + u tanh(wᵀz + b) without the constraint, eqs. (10)-(13).

    A step's determinant is 1 + wᵀu sech²a; where wᵀu < −1 it changes its sign, and the step cannot be inverted: the
    numbers of such a chain are then of no density. Arguments and results are those of `planar_flow`.
    """
    z, a = _steps(z, u, w, b)
    return z, torch.log((1 + (w * u).sum(-1) * _log_sech2(a).exp()).abs()).sum(-1)


@torch.no_grad()
def invert_planar_flow(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Return z_0 of given z_K under `planar_flow`, whose arguments these are; without gradients.

    Along w, a step maps a = wᵀz + b to y = a + wᵀû tanh(a), which rises with a since wᵀû > −1; so a lies within |wᵀû|
    of y, where a bracketing solver finds it. Then z_{k−1} = z_k − û tanh(a).

    f(z_0) = z holds to rounding. So does z_0 itself but where a step is all but flat: with wᵀû within rounding ε of −1,
    y = a³/3 + … near a = 0, and a is known there to about ε^⅓ only (6e-6 in float64, 5e-3 in float32).
    """
    u_hat, _ = constrain_u(u, w)
    for u_k, w_k, b_k in reversed([*zip(u_hat.unbind(-2), w.unbind(-2), b.unbind(-1), strict=True)]):
        y = (z * w_k).sum(-1) + b_k
        a = _solve_along_w(y, (w_k * u_k).sum(-1).expand_as(y))
        z = torch.addcmul(z, u_k, a.tanh().unsqueeze(-1), value=-1)
    return z


def _solve_along_w(y: Tensor, wu: Tensor) -> Tensor:
    """Return a with a + wᵀû tanh(a) = y, element by element."""
    from scipy.optimize.elementwise import find_root  # It takes as long to load as all flows together.

    y_, wu_ = (x.double().cpu().numpy() for x in (y, wu))
    reach = np.abs(wu_) + 1.0  # Wider than need be by 1, so that both signs are met at the ends in spite of rounding.
    found = find_root(lambda a, y, wu: a + wu * np.tanh(a) - y, (y_ - reach, y_ + reach), args=(y_, wu_))
    return torch.from_numpy(np.asarray(found.x)).to(y)


def _steps(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return z_K, (..., B, D), and the pre-activations a = wᵀz + b of all steps, (..., B, K)."""
    pre_activations = []
    for u_k, w_k, b_k in zip(u.unbind(-2), w.unbind(-2), b.unbind(-1), strict=True):
        a = (z * w_k).sum(-1) + b_k
        z = torch.addcmul(z, u_k, a.tanh().unsqueeze(-1))
        pre_activations.append(a)
    return z, torch.stack(pre_activations, dim=-1)


def _log_sech2(a: Tensor) -> Tensor:
    return 2 * (math.log(2) - torch.logaddexp(a, -a))


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
    """K planar steps with u, w and b from one linear head: K (2D + 1) numbers an image.

    Arguments, beside those of `Flow`:
        constraint: whether u is constrained to û, which makes every step invertible.
    """

    def __init__(self, latent: int, length: int, features: int, constraint: bool = True) -> None:
        require_steps(length)
        super().__init__(latent, length, features)
        self.constraint = constraint
        self.head = StepHead(features, length, 2 * latent + 1)

    def initialise(self, generator: Generators) -> None:
        """Start each step at the identity: û = 0, that is wᵀu = ln(e − 1), or u = 0 if free; w in a random direction.

        With features, ‖w‖ = 1 and b = 0: each image then moves its own hyperplanes. Without, they lie where they are
        drawn, so b ~ N(0, 1) spreads them, and ‖w‖ = 2 makes their bends about as wide as a unit Gaussian.
        """
        for step in range(1, self.length + 1):
            stream = generator(f"step {step}")
            w = torch.randn(self.latent, generator=stream, dtype=torch.float64)
            w /= torch.linalg.vector_norm(w)
            u = (math.log(math.e - 1) if self.constraint else 0.0) * w
            if self.features:
                bias = torch.cat([u, w, w.new_zeros(1)])
            else:
                b = torch.randn(1, generator=stream, dtype=torch.float64)
                bias = torch.cat([u / PLANE_NORM, PLANE_NORM * w, b])
            self.head.initialise_step(step, bias, HEAD_SCALE, stream)

    def parameters_from(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return u, w and b of each step side by side, (B, K, 2D + 1), of features (B, F)."""
        return (self.head(features),)

    def split(self, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return u (B, K, D), w (B, K, D) and b (B, K) of what `parameters_from` returns."""
        u, w, b = steps.split([self.latent, self.latent, 1], dim=-1)
        return u, w, b.squeeze(-1)

    def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and the summed log-determinants in nats, (..., B); see `planar_flow`."""
        (steps,) = parameters
        if fits_lanes(z, steps):
            return in_pieces(lambda z, steps: PlanarChain.apply(z, steps, self.constraint), z, steps)
        if fits_cuda(z, steps):
            from nfstudy.flows.planar.cuda import planar_chain  # It imports Triton, which few machines have.

            return planar_chain(z, steps, self.constraint)
        return planar_flow(z, *self.split(steps)) if self.constraint else free_planar_flow(z, *self.split(steps))

    def for_samples(self, parameters: tuple[Tensor, ...]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return the chain of many samples, whose numbers are constrained once; of free steps, the usual one."""
        (steps,) = parameters
        found = constrained(steps) if self.constraint and fits_samples(steps) else None
        if found is None:
            return super().for_samples(parameters)
        return partial(by_image, partial(chain_of_samples, *found))

    def inverse(self, z: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Return z_0, (..., B, D); see `invert_planar_flow`. Raises ValueError without the constraint."""
        if not self.constraint:
            raise ValueError("constraint false: a planar chain has an inverse only with it")
        return invert_planar_flow(z, *self.split(*parameters))

    def first_steps(self, count: int, parameters: tuple[Tensor, ...]) -> tuple[Flow, tuple[Tensor, ...]]:
        """Return the chain of the first steps: this one, with the numbers of as many."""
        (steps,) = parameters
        return self, (steps[..., :count, :],)
