"""Radial flow: each step contracts or expands space about one point (Rezende & Mohamed 2015, eq. 14)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nfstudy.flows.base import (
    HEAD_SCALE,
    Flow,
    Generators,
    StepHead,
    fits_cuda,
    fits_lanes,
    log_nonnegative,
    log_softplus,
    over_lanes,
    require_steps,
    softplus,
)
from nfstudy.flows.radial.kernel import RadialChain

NEAR = 1e-18
"""Where α + r is less than this, a step's scale β̂h is that of this: z is at z0 but for its rounding, and stays
there. The logarithm of its determinant is not touched."""


def radial_flow(z: Tensor, z0: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Apply K radial steps f(z) = z + β̂ h (z − z0), h = 1/(α + r), r = ‖z − z0‖, eq. (14) with Appendix A.

    The constraint is β̂ = −α + p, p = ln(1 + e^β) (this one has no −1), so that β̂ > −α. A step's determinant is

        (1 + β̂h)^(D−1) (1 + β̂h + β̂h′r),    1 + β̂h = (r + p)/(α + r),
                                           1 + β̂h + β̂h′r = (r² + 2αr + αp)/(α + r)²,

    sums of positive terms only, whose logarithms are finite even where the determinant underflows. All numbers are
    finite, and so are the gradients of one step, for every α > 0, at z0 too; an α below some 1e-32 (float64:
    2e-302) counts as that.

    Arguments:
        z: z_0, (..., B, D); leading axes are samples, over which the parameters are broadcast without copies.
        z0: reference points, (B, K, D) or (K, D), K ≥ 1.
        alpha: α > 0, (B, K) or (K,).
        beta: unconstrained β, (B, K) or (K,).

    Returns:
        z_K, (..., B, D), and Σ_k ln|det ∂f_k/∂z_{k−1}| in nats, (..., B).
    """
    alpha = _normal(alpha)
    z, r = _steps(z, z0, alpha, constrain_beta(beta, alpha))
    log_r, log_p, log_reach = log_nonnegative(r), log_softplus(beta), (alpha + r).log()
    across = torch.logaddexp(log_r, log_p) - log_reach
    along = torch.logaddexp(log_r + (r + 2 * alpha).log(), alpha.log() + log_p) - 2 * log_reach
    return z, ((z.shape[-1] - 1) * across + along).sum(-1)


def free_radial_flow(z: Tensor, z0: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Apply K radial steps f(z) = z + β h (z − z0) without the constraint, eq. (14).

    Where β < −α a step cannot be inverted: the numbers of such a chain are then of no density. Arguments and results
    are those of `radial_flow`.
    """
    alpha = _normal(alpha)
    z, r = _steps(z, z0, alpha, beta)
    reach = alpha + r
    # Of 1 + βh and 1 + βh + βh′r; quotients of their own would leave the range of floats where α + r is next to 0.
    across, along = reach + beta, reach + (alpha / reach) * beta
    return z, ((z.shape[-1] - 1) * across.abs().log() + along.abs().log() - z.shape[-1] * reach.log()).sum(-1)


@torch.no_grad()
def invert_radial_flow(z: Tensor, z0: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return z_0 of given z_K under `radial_flow`, whose arguments these are; without gradients.

    A step maps the distance r to r′ = r (r + p)/(α + r), so r is the positive root of r² + (p − r′) r − α r′ = 0, taken
    in the form that does not cancel; the direction from z0 stays.
    """
    alpha, p = _normal(alpha), softplus(beta)
    for z0_k, alpha_k, p_k in reversed([*zip(z0.unbind(-2), alpha.unbind(-1), p.unbind(-1), strict=True)]):
        offset = z - z0_k
        r_out = torch.linalg.vector_norm(offset, dim=-1)
        half = 0.5 * (r_out - p_k)
        root = torch.hypot(half, (alpha_k * r_out).sqrt())
        r = torch.where(half > 0, half + root, alpha_k * r_out / (root - half))
        z = z0_k + offset * torch.where(r_out > 0, r / r_out, 0).unsqueeze(-1)
    return z


def _steps(z: Tensor, z0: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Return z_K, (..., B, D), and the distances r = ‖z − z0‖ before all steps, (..., B, K)."""
    distances = []
    for z0_k, alpha_k, beta_k in zip(z0.unbind(-2), alpha.unbind(-1), beta.unbind(-1), strict=True):
        offset = z - z0_k
        r = torch.linalg.vector_norm(offset, dim=-1)
        z = torch.addcmul(z, offset, (beta_k / (alpha_k + r).clamp(min=NEAR)).unsqueeze(-1))
        distances.append(r)
    return z, torch.stack(distances, dim=-1)


def _normal(alpha: Tensor) -> Tensor:
    """Return α > 0, or 2²⁰ of the least normal number of its type where that is more; sums of 1/α are then finite."""
    return alpha.clamp(min=torch.finfo(alpha.dtype).tiny * 2**20)


def constrain_beta(beta: Tensor, alpha: Tensor) -> Tensor:
    """Return β̂ = −α + ln(1 + e^β) > −α, which makes every step invertible (Appendix A)."""
    return softplus(beta) - alpha


class RadialFlow(Flow):
    """K radial steps with z0, α and β from one linear head: K (D + 2) numbers an image; α = ln(1 + e^(head)).

    Arguments, beside those of `Flow`:
        constraint: whether β is constrained to β̂, which makes every step invertible.
    """

    def __init__(self, latent: int, length: int, features: int, constraint: bool = True) -> None:
        require_steps(length)
        super().__init__(latent, length, features)
        self.constraint = constraint
        self.head = StepHead(features, length, latent + 2)

    def initialise(self, generator: Generators) -> None:
        """Start each step at z0 ~ N(0, I), α = √D, about the distance to z0, and β̂ = 0 or, if free, β = 0."""
        raw = math.log(math.expm1(math.sqrt(self.latent)))
        identity = raw if self.constraint else 0.0
        for step in range(1, self.length + 1):
            stream = generator(f"step {step}")
            z0 = torch.randn(self.latent, generator=stream, dtype=torch.float64)
            self.head.initialise_step(step, torch.cat([z0, z0.new_tensor([raw, identity])]), HEAD_SCALE, stream)

    def parameters_from(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return z0, what gives α, and β of each step side by side, (B, K, D + 2), of features (B, F)."""
        return (self.head(features),)

    def split(self, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return z0 (B, K, D), α (B, K) and unconstrained β (B, K) of what `parameters_from` returns."""
        z0, alpha, beta = steps.split([self.latent, 1, 1], dim=-1)
        return z0, softplus(alpha.squeeze(-1)), beta.squeeze(-1)

    def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and the summed log-determinants in nats, (..., B); see `radial_flow`."""
        (steps,) = parameters
        if fits_lanes(z, steps):
            return over_lanes(lambda z, steps: RadialChain.apply(z, steps, self.constraint), z, steps)
        if fits_cuda(z, steps):
            from nfstudy.flows.radial.cuda import radial_chain  # It imports Triton, which few machines have.

            return radial_chain(z, steps, self.constraint)
        return radial_flow(z, *self.split(steps)) if self.constraint else free_radial_flow(z, *self.split(steps))

    def inverse(self, z: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Return z_0, (..., B, D); see `invert_radial_flow`. Raises ValueError without the constraint."""
        if not self.constraint:
            raise ValueError("constraint false: a radial chain has an inverse only with it")
        return invert_radial_flow(z, *self.split(*parameters))

    def first_steps(self, count: int, parameters: tuple[Tensor, ...]) -> tuple[Flow, tuple[Tensor, ...]]:
        """Return the chain of the first steps: this one, with the numbers of as many."""
        (steps,) = parameters
        return self, (steps[..., :count, :],)
