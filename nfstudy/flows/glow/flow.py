"""Glow for vectors: each step is an actnorm, a learned linear map and an affine coupling (Kingma & Dhariwal 2018)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from nfstudy.flows.base import Generators
from nfstudy.flows.coupling import CouplingFlow, coupling_networks, require_halves
from nfstudy.flows.nice.flow import NiceOrthFlow
from nfstudy.flows.realnvp.flow import affine_coupling, invert_affine_coupling
from nfstudy.flows.realnvp.kernel import LOOPS


def glow_flow(
    z: Tensor,
    log_scale: float,
    order: Tensor,
    sign: Tensor,
    triangles: Tensor,
    log_gain: Tensor,
    shift: Tensor,
    *networks: Any,
) -> tuple[Tensor, Tensor]:
    """Apply K steps of Glow (Kingma & Dhariwal 2018, Table 1), whose 1×1 convolution is a matrix here.

    A step is y = exp(g) ⊙ z + a (actnorm), then W y, W = P L U (their eq. 10), then `affine_coupling`. L is lower
    triangular with ones on its diagonal, U upper triangular with ±exp(l_i) on its own, so that W is invertible, and

        ln|det| = Σ_i g_i + Σ_i l_i + Σ_i s_i.

    Arguments:
        z: z_0, (..., B, D), D ≥ 2; leading axes are samples, over which the parameters are broadcast without copies.
        log_scale: c, the most |s_i|.
        order: permutations P as whole-number indices π, (K, D): (Py)_i = y_π(i).
        sign: of the diagonal of U, (K, D), ±1.
        triangles: L below the diagonal, l on it, U above it, (K, D, D).
        log_gain: g, (K, D).
        shift: a, (K, D).
        networks: arguments of `coupling_networks`, with W_out (K, 2 (D − d), H).

    Returns:
        z_K, (..., B, D), and Σ_k ln|det ∂f_k/∂z_{k−1}| in nats, (..., B).

    Raises:
        ValueError: D is less than 2, which cannot be split.
    """
    require_halves(z.shape[-1])
    matrices, moved, total = linear_maps(order, sign, triangles, log_gain, shift)
    log_det = total.expand(z.shape[:-1])
    for w, b, network in zip(matrices, moved, coupling_networks(*networks), strict=True):
        z, gain = affine_coupling(F.linear(z, w, b), network, log_scale)
        log_det = log_det + gain
    return z, log_det


@torch.no_grad()
def invert_glow_flow(
    z: Tensor,
    log_scale: float,
    order: Tensor,
    sign: Tensor,
    triangles: Tensor,
    log_gain: Tensor,
    shift: Tensor,
    *networks: Any,
) -> Tensor:
    """Return z_0 of given z_K under `glow_flow`, whose arguments these are; without gradients."""
    steps = zip(order, *_factors(sign, triangles), log_gain, shift, coupling_networks(*networks), strict=True)
    for order_k, lower, upper, gain, shift_k, network in reversed([*steps]):
        mixed = invert_affine_coupling(z, network, log_scale).index_select(-1, order_k.argsort())
        rows = mixed.reshape(-1, z.shape[-1]).mT
        half = torch.linalg.solve_triangular(lower, rows, upper=False, unitriangular=True)
        rows = torch.linalg.solve_triangular(upper, half, upper=True).mT
        z = (rows.reshape(z.shape) - shift_k) * (-gain).exp()
    return z


def linear_maps(
    order: Tensor, sign: Tensor, triangles: Tensor, log_gain: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return actnorm and W of all steps as matrices, (K, D, D), what they add, (K, D), and their summed ln|det|, ()."""
    lower, upper = _factors(sign, triangles)
    # Row i of P L U is row π(i) of L U.
    product = (lower @ upper).gather(-2, order.unsqueeze(-1).expand_as(triangles))
    scaled, moved = product * log_gain.exp().unsqueeze(-2), (product @ shift.unsqueeze(-1)).squeeze(-1)
    return scaled, moved, log_gain.sum() + triangles.diagonal(dim1=-2, dim2=-1).sum()


def _factors(sign: Tensor, triangles: Tensor) -> tuple[Tensor, Tensor]:
    """Return L and U, each (K, D, D)."""
    diagonal = sign * triangles.diagonal(dim1=-2, dim2=-1).exp()
    ones = torch.eye(triangles.shape[-1], dtype=triangles.dtype, device=triangles.device)
    return triangles.tril(-1) + ones, triangles.triu(1) + torch.diag_embed(diagonal)


class GlowFlow(CouplingFlow):
    """K steps of Glow; of their parameters, the image determines what it does of every coupling, b_in.

    Arguments, beside those of `CouplingFlow`:
        coupling_log_scale: c, the most |ln scale| of a variable in one coupling.
    """

    order: Tensor
    sign: Tensor
    rows = (*CouplingFlow.rows, "w_triangles", "b_log_gain", "b_shift", "order", "sign")

    def __init__(
        self,
        latent: int,
        length: int,
        features: int,
        coupling_hidden: int,
        coupling_amortised: bool = True,
        coupling_layers: int = 1,
        coupling_pass: float = 0.5,
        coupling_log_scale: float = 2.0,
    ) -> None:
        networks = (coupling_hidden, coupling_amortised, coupling_layers, coupling_pass)
        super().__init__(latent, length, features, 2, *networks)
        self.log_scale = coupling_log_scale
        self.w_triangles = nn.Parameter(torch.zeros(length, latent, latent))
        self.b_log_gain = nn.Parameter(torch.zeros(length, latent))
        self.b_shift = nn.Parameter(torch.zeros(length, latent))
        self.register_buffer("order", torch.arange(latent).repeat(length, 1))
        self.register_buffer("sign", torch.ones(length, latent))

    @torch.no_grad()
    def initialise(self, generator: Generators) -> None:
        """Start each W at a random rotation or reflection, as Glow does, actnorm and coupling at the identity.

        Kingma & Dhariwal set actnorm by the first minibatch; z_0 has mean 0 and variance 1 there, or nearly so.
        """
        super().initialise(generator)
        self.b_log_gain.zero_()
        self.b_shift.zero_()
        for k in range(self.length):
            rotation = NiceOrthFlow.draw_mixing(self.latent, generator(f"mixing {k + 1}"))
            permutation, lower, upper = torch.linalg.lu(rotation)
            self.order[k] = permutation.argmax(-1)
            self.sign[k] = upper.diagonal().sign()
            self.w_triangles[k] = lower.tril(-1) + upper.triu(1) + upper.diagonal().abs().log().diag()

    def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and the summed log-determinants in nats, (..., B); see `glow_flow`."""
        if self.fits_loops(z, parameters):
            matrices, moved, total = linear_maps(*self._linear_maps())
            z, log_det = self.by_loops(LOOPS, self.log_scale, z, parameters, matrices, moved)
            return z, log_det + total
        return glow_flow(z, self.log_scale, *self._linear_maps(), *self.network_arguments(parameters))

    def inverse(self, z: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Return z_0, (..., B, D); see `invert_glow_flow`."""
        return invert_glow_flow(z, self.log_scale, *self._linear_maps(), *self.network_arguments(parameters))

    def _linear_maps(self) -> tuple[Tensor, ...]:
        return self.order, self.sign, self.w_triangles, self.b_log_gain, self.b_shift
