"""Sylvester flow: each step bends space along M orthonormal directions at once (van den Berg et al. 2018)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nfstudy.flows.base import (
    HEAD_SCALE,
    Flow,
    Generators,
    StepHead,
    fits_lanes,
    log_nonnegative,
    over_lanes,
    require_steps,
    rows_by_image,
    rows_like,
)
from nfstudy.flows.sylvester.kernel import SylvesterChain

SLOPE = 1.0
"""Initial q_i of R̃_ii = tanh(q_i): units that bend, and a tanh that still learns."""


COPIED = 64
"""Most numbers of a step that are copied for each sample that shares them, for a loop that forms no Q.

With more, one Q for all samples takes less time.
"""


def sylvester_flow(z: Tensor, packed: Tensor, r_tilde: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Apply K orthogonal Sylvester steps f(z) = z + Q R tanh(a), a = R̃ Qᵀz + b (van den Berg et al. 2018, eqs. 8-13).

    Q has M ≤ D orthonormal columns; R and R̃ are upper triangular with diagonals tanh(p) and tanh(q), whose products lie
    above −1. By Sylvester's identity a step's determinant is then

        Π_i (1 + R_ii R̃_ii sech²a_i) = Π_i [tanh²a_i + sech²a_i (1 + tanh p_i tanh q_i)] > 0,

    whose logarithm is taken term by term, so that it is finite even where the determinant underflows.

    Arguments:
        z: z_0, (..., B, D); leading axes are samples, over which the parameters are broadcast without copies.
        packed: Q and R in one matrix, as a QR factorisation is kept in LAPACK, (B, K, D, M) or (K, D, M), K ≥ 1: below
            the diagonal the reflectors of `orthonormal_columns`; on it p, and above it R.
        r_tilde: q on the diagonal, and R̃ above it, (B, K, M, M) or (K, M, M); what lies below is not looked at.
        b: (B, K, M) or (K, M).

    Returns:
        z_K, (..., B, D), and Σ_k ln|det ∂f_k/∂z_{k−1}| in nats, (..., B).
    """
    r, r_tilde, log_margin = _triangles(packed, r_tilde)
    q = orthonormal_columns(packed)
    rows, a = _steps(rows_by_image(z, shared=b.dim() == 2), q @ r_tilde.mT, r.mT @ q.mT, b)
    log_tanh2 = 2 * log_nonnegative(a.tanh().abs())
    log_sech2 = -2 * _log_cosh(a)
    log_det = torch.logaddexp(log_tanh2, log_sech2 + log_margin.unsqueeze(-3)).sum((-2, -1))
    return rows_like(rows, z), log_det.transpose(0, 1).reshape(z.shape[:-1])


@torch.no_grad()
def invert_sylvester_flow(z: Tensor, packed: Tensor, r_tilde: Tensor, b: Tensor) -> Tensor:
    """Return z_0 of given z_K under `sylvester_flow`, whose arguments these are; without gradients.

    Within the span of Q a step maps c = Qᵀz to y = c + R tanh(R̃ c + b), and across it nothing moves. As both matrices
    are upper triangular, y_i depends on c_i, ..., c_M alone: from the last row up, each has one unknown left, with
    which y_i rises since R_ii R̃_ii > −1, and a bracketing solver finds it. Then z_{k−1} = z_k − Q R tanh(a).
    """
    r, r_tilde, _ = _triangles(packed, r_tilde)
    q = orthonormal_columns(packed)
    rows = rows_by_image(z, shared=b.dim() == 2)
    for q_k, r_k, r_tilde_k, b_k in reversed(
        [*zip(q.unbind(-3), r.unbind(-3), r_tilde.unbind(-3), b.unsqueeze(-2).unbind(-3), strict=True)]
    ):
        h = _solve_within(rows @ q_k, r_k, r_tilde_k, b_k)
        rows = rows - h @ r_k.mT @ q_k.mT
    return rows_like(rows, z)


def orthonormal_columns(packed: Tensor) -> Tensor:
    """Return the first M columns of the product of M Householder reflections, Q = H_1 ⋯ H_M, exactly orthonormal.

    H_j = I − 2 v vᵀ/‖v‖² with v = (0, ..., 0, 1, x_{j+1}, ..., x_D), whose 1 keeps the norm from vanishing. Every Q is
    such a product up to the signs of its columns, which those of R and R̃ make up for. With the v as columns of V, and
    S = triu(VᵀV) less half its diagonal, H_1 ⋯ H_M = I − V S⁻¹ Vᵀ (Puglisi 1992): some matrix products and a triangular
    solve for all steps at once, where the gradient of `torch.linalg.householder_product` takes 30 times as long.

    Arguments:
        packed: x_{j+1}, ..., x_D in column j below the diagonal, (..., D, M), M ≤ D; the rest is not looked at.
    """
    columns = packed.shape[-1]
    ones = torch.eye(*packed.shape[-2:], dtype=packed.dtype, device=packed.device)
    v = packed.tril(-1) + ones
    gram = v.mT @ v
    s = gram.triu(1) + 0.5 * torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
    return ones - v @ torch.linalg.solve_triangular(s, v[..., :columns, :].mT, upper=True)


def _triangles(packed: Tensor, r_tilde: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return R and R̃, (..., K, M, M), and ln(1 + R_ii R̃_ii) in nats, (..., K, M).

    1 + tanh p tanh q = cosh(p + q) / (cosh p cosh q), which neither cancels nor underflows as a logarithm.
    """
    columns = packed.shape[-1]
    r = packed[..., :columns, :]
    p, q = (matrix.diagonal(dim1=-2, dim2=-1) for matrix in (r, r_tilde))
    r, r_tilde = (matrix.triu(1) + torch.diag_embed(diagonal.tanh()) for matrix, diagonal in ((r, p), (r_tilde, q)))
    return r, r_tilde, _log_cosh(p + q) - _log_cosh(p) - _log_cosh(q)


def _steps(rows: Tensor, inward: Tensor, outward: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return z_K, (B, S, D), and all a, (B, S, K, M), of steps z + tanh(a) outward with a = z inward + b."""
    pre_activations = []
    for inward_k, outward_k, b_k in zip(inward.unbind(-3), outward.unbind(-3), b.unsqueeze(-2).unbind(-3), strict=True):
        a = rows @ inward_k + b_k
        rows = rows + a.tanh() @ outward_k
        pre_activations.append(a)
    return rows, torch.stack(pre_activations, dim=-2)


def _solve_within(y: Tensor, r: Tensor, r_tilde: Tensor, b: Tensor) -> Tensor:
    """Return tanh(R̃ c + b), (B, S, M), of the c with c + R tanh(R̃ c + b) = y."""
    c, h = torch.zeros_like(y), torch.zeros_like(y)
    for i in reversed(range(y.shape[-1])):
        shift = (c * r_tilde[..., i : i + 1, :]).sum(-1) + b[..., i]
        bent = y[..., i] - (h * r[..., i : i + 1, :]).sum(-1)
        c[..., i] = _solve_row(bent, r[..., i, i, None], r_tilde[..., i, i, None], shift)
        h[..., i] = (r_tilde[..., i, i, None] * c[..., i] + shift).tanh()
    return h


def _solve_row(y: Tensor, r: Tensor, r_tilde: Tensor, shift: Tensor) -> Tensor:
    """Return c with c + r tanh(r̃ c + shift) = y, element by element."""
    from scipy.optimize.elementwise import find_root  # It takes as long to load as all flows together.

    y_, *rest = (x.double().cpu().numpy() for x in torch.broadcast_tensors(y, r, r_tilde, shift))
    reach = np.abs(rest[0]) + 1.0  # Wider than need be by 1: both signs are met at the ends in spite of rounding.
    found = find_root(
        lambda c, y, r, r_tilde, shift: c + r * np.tanh(r_tilde * c + shift) - y,
        (y_ - reach, y_ + reach),
        args=(y_, *rest),
    )
    return torch.from_numpy(np.asarray(found.x)).to(y)


def _log_cosh(x: Tensor) -> Tensor:
    return torch.logaddexp(x, -x) - math.log(2)


class SylvesterFlow(Flow):
    """K Sylvester steps with all parameters from one linear head: K (M D + M (M + 1)/2 + M) numbers an image.

    Arguments, beside those of `Flow`:
        sylvester_columns: M, how many directions a step bends space along; where D is less, D.
    """

    def __init__(self, latent: int, length: int, features: int, sylvester_columns: int) -> None:
        require_steps(length)
        super().__init__(latent, length, features)
        self.columns = min(sylvester_columns, latent)
        self.sizes = [latent * self.columns, self.columns * (self.columns + 1) // 2, self.columns]
        self.head = StepHead(features, length, sum(self.sizes))

    def initialise(self, generator: Generators) -> None:
        """Start each step at the identity, R = 0, with Q uniform up to signs, and R̃ = tanh(1) I.

        With features, b = 0: each image then moves its own bends. Without, b ~ N(0, 1) spreads them.
        """
        on_diagonal = torch.eye(self.columns, dtype=torch.float64)[*self._upper_triangle()]
        for step in range(1, self.length + 1):
            stream = generator(f"step {step}")
            gaussian = torch.randn(self.latent, self.columns, generator=stream, dtype=torch.float64)
            reflectors = torch.geqrf(gaussian).a.tril(-1)  # Those of a Gaussian matrix (Stewart 1980).
            b = torch.randn(self.columns, generator=stream, dtype=torch.float64)
            bias = torch.cat([reflectors.flatten(), SLOPE * on_diagonal, torch.zeros_like(b) if self.features else b])
            self.head.initialise_step(step, bias, HEAD_SCALE, stream)

    def parameters_from(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return what `split` takes apart, (B, K, n), of features (B, F), n = M D + M (M + 1)/2 + M."""
        return (self.head(features),)

    def split(self, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `packed` (..., K, D, M), `r_tilde` (..., K, M, M) and b (..., K, M) of steps (..., K, n)."""
        packed, triangle, b = steps.split(self.sizes, dim=-1)
        rows, columns = self._upper_triangle(b.device)
        square = triangle.new_zeros(*triangle.shape[:-1], self.columns**2)
        r_tilde = square.index_copy(-1, rows * self.columns + columns, triangle)
        return packed.unflatten(-1, (self.latent, self.columns)), r_tilde.unflatten(-1, (self.columns, self.columns)), b

    def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and the summed log-determinants in nats, (..., B); see `sylvester_flow`."""
        (steps,) = parameters
        if fits_lanes(z, steps) and (steps.dim() == 3 or steps.shape[-1] <= COPIED):
            return over_lanes(lambda z, steps: SylvesterChain.apply(z, steps, self.columns), z, steps)
        return sylvester_flow(z, *self.split(steps))

    def inverse(self, z: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Return z_0, (..., B, D); see `invert_sylvester_flow`."""
        (steps,) = parameters
        return invert_sylvester_flow(z, *self.split(steps))

    def first_steps(self, count: int, parameters: tuple[Tensor, ...]) -> tuple[Flow, tuple[Tensor, ...]]:
        """Return the chain of the first steps: this one, with the numbers of as many."""
        (steps,) = parameters
        return self, (steps[..., :count, :],)

    def _upper_triangle(self, device: torch.device | None = None) -> Tensor:
        return torch.triu_indices(self.columns, self.columns, device=device)
