"""A Gaussian posterior with full covariance, as a flow of one linear step with a Cholesky factor."""

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
)
from nfstudy.flows.full_covariance.kernel import TriangularProduct


def full_covariance(z: Tensor, log_diagonal: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """Apply f(z) = L z, where L is lower triangular with the diagonal exp(l_i) > 0.

    So N(m, diag σ²) becomes N(L m, L diag(σ²) Lᵀ), and L diag(σ) is the Cholesky factor of its covariance: every
    Gaussian is one of these.

    Arguments:
        z: z_0, (..., B, D); leading axes are samples, over which the parameters are broadcast without copies.
        log_diagonal: l, (B, D) or (D,).
        below: L below its diagonal, row by row, (B, D (D − 1)/2) or (D (D − 1)/2,).

    Returns:
        z_K, (..., B, D), and ln|det L| = Σ_i l_i nats, (..., B).
    """
    rows = rows_by_image(z, shared=log_diagonal.dim() == 1)
    log_det = log_diagonal.sum(-1).expand(z.shape[:-1])
    return rows_like(rows @ cholesky_factor(log_diagonal, below).mT, z), log_det


@torch.no_grad()
def invert_full_covariance(z: Tensor, log_diagonal: Tensor, below: Tensor) -> Tensor:
    """Return z_0 of given z_K under `full_covariance`, by forward substitution; without gradients."""
    rows = rows_by_image(z, shared=log_diagonal.dim() == 1)
    factor = cholesky_factor(log_diagonal, below).mT
    return rows_like(torch.linalg.solve_triangular(factor, rows, upper=True, left=False), z)


def cholesky_factor(log_diagonal: Tensor, below: Tensor) -> Tensor:
    """Return L, (..., D, D), of l (..., D) and what is below the diagonal, row by row, (..., D (D − 1)/2)."""
    latent = log_diagonal.shape[-1]
    rows, columns = torch.tril_indices(latent, latent, -1, device=below.device)
    square = below.new_zeros(*below.shape[:-1], latent**2).index_copy(-1, rows * latent + columns, below)
    return square.unflatten(-1, (latent, latent)) + torch.diag_embed(log_diagonal.exp())


class FullCovarianceFlow(Flow):
    """One linear step, whatever K, with L from one linear head: D (D + 1)/2 numbers an image.

    A product of K lower triangular matrices is one, so that more steps would say nothing more.
    """

    def __init__(self, latent: int, length: int, features: int) -> None:
        require_steps(length)
        super().__init__(latent, length, features)
        self.head = StepHead(features, 1, latent * (latent + 1) // 2)

    def initialise(self, generator: Generators) -> None:
        """Start near L = I."""
        self.head.initialise_step(1, torch.zeros(self.head.size), HEAD_SCALE, generator("step 1"))

    def parameters_from(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return l, (B, D), and what is below the diagonal, (B, D (D − 1)/2), of features (B, F)."""
        numbers = self.head(features).squeeze(-2)
        return numbers.split([self.latent, numbers.shape[-1] - self.latent], dim=-1)

    def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and ln|det L| in nats, (..., B); see `full_covariance`."""
        log_diagonal, below = parameters
        if log_diagonal.dim() == 2 and fits_lanes(z, log_diagonal.unsqueeze(1)):
            return TriangularProduct.apply(z, log_diagonal, below)
        return full_covariance(z, log_diagonal, below)

    def inverse(self, z: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Return z_0, (..., B, D); see `invert_full_covariance`."""
        return invert_full_covariance(z, *parameters)
