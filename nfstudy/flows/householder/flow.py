"""Householder flow: each step reflects space in a hyperplane through the origin (Tomczak & Welling 2016)."""

from __future__ import annotations

import torch
from torch import Tensor

from nfstudy.flows.base import (
    HEAD_SCALE,
    Flow,
    Generators,
    StepHead,
    fits_lanes,
    require_steps,
    rows_by_image,
    rows_like,
    shortened,
)
from nfstudy.flows.householder.kernel import HouseholderChain


def householder_flow(z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Apply K reflections f(z) = z − 2 v vᵀz/‖v‖² (Tomczak & Welling 2016, eq. 9), which preserve volume.

    With the unit vectors v/‖v‖ as columns of V, and S = triu(VᵀV) less half its diagonal, all K of them are
    z_K = z_0 − V S⁻ᵀ Vᵀz_0 (Puglisi 1992): some matrix products and one triangular solve.

    Arguments:
        z: z_0, (..., B, D); leading axes are samples, over which the parameters are broadcast without copies.
        v: (B, K, D) or (K, D), K ≥ 1; of any length, and where v = 0 the step is the identity.

    Returns:
        z_K, (..., B, D), and Σ_k ln|det ∂f_k/∂z_{k−1}| = 0 nats, (..., B).
    """
    unit = _unit_vectors(v)
    gram = unit @ unit.mT
    s = gram.triu(1) + 0.5 * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    rows = rows_by_image(z, shared=v.dim() == 2)
    along = torch.linalg.solve_triangular(s, rows @ unit.mT, upper=True, left=False)
    return rows_like(rows - along @ unit, z), z.new_zeros(z.shape[:-1])


@torch.no_grad()
def invert_householder_flow(z: Tensor, v: Tensor) -> Tensor:
    """Return z_0 of given z_K under `householder_flow`: the same reflections, the last one first; without gradients."""
    return householder_flow(z, v.flip(-2))[0]


def _unit_vectors(v: Tensor) -> Tensor:
    """Return v/‖v‖, (..., D); 0 where v = 0.

    A vector is first divided by its largest number, a constant to the gradient, as its length does not matter: so no
    square overflows or underflows.
    """
    largest = v.detach().abs().amax(-1, keepdim=True)
    scaled = v / torch.where(largest == 0, 1, largest)
    norm = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled / torch.where(norm == 0, 1, norm)


class HouseholderFlow(Flow):
    """K reflections with v from one linear head: K D numbers an image."""

    def __init__(self, latent: int, length: int, features: int) -> None:
        require_steps(length)
        super().__init__(latent, length, features)
        self.head = StepHead(features, length, latent)

    def initialise(self, generator: Generators) -> None:
        """Start each step with v in a random direction, ‖v‖ = √D, about the same for all images.

        No reflection is near the identity; but each keeps lengths, and with them the density of N(0, I), which is where
        training starts, up to the mean.
        """
        for step in range(1, self.length + 1):
            stream = generator(f"step {step}")
            v = torch.randn(self.latent, generator=stream, dtype=torch.float64)
            v *= self.latent**0.5 / torch.linalg.vector_norm(v)
            self.head.initialise_step(step, v, HEAD_SCALE, stream)

    def parameters_from(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return v of all steps, (B, K, D), of features (B, F)."""
        return (self.head(features),)

    def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and zeros, (..., B); see `householder_flow`."""
        (v,) = parameters
        if v.dim() == 3 and fits_lanes(z, v):
            return HouseholderChain.apply(z, v)
        return householder_flow(z, v)

    def inverse(self, z: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Return z_0, (..., B, D); see `invert_householder_flow`."""
        return invert_householder_flow(z, *parameters)

    def first_steps(self, count: int, parameters: tuple[Tensor, ...]) -> tuple[Flow, tuple[Tensor, ...]]:
        """Return the same chain with the vectors of the first steps alone: it has no weights but the head's."""
        (v,) = parameters
        return shortened(self, count, ()), (v[..., :count, :],)
