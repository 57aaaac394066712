"""RealNVP: affine coupling layers with fixed permutations in between (Dinh et al. 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nfstudy.flows.coupling import (
    Layers,
    MixedCouplingFlow,
    coupling_networks,
    network_output,
    require_halves,
    split_halves,
)
from nfstudy.flows.realnvp.kernel import LOOPS


def realnvp_flow(z: Tensor, log_scale: float, mixing: Tensor, *networks: Any) -> tuple[Tensor, Tensor]:
    """Apply K affine couplings f(z) = (z_A, exp(s) z_B + t), s and t of z_A (Dinh et al. 2017, eqs. 4, 5).

    (z_A, z_B) is Pz split after the first d, P a permutation; `affine_coupling` says what s and t are.

    Arguments:
        z: z_0, (..., B, D), D ≥ 2; leading axes are samples, over which the parameters are broadcast without copies.
        log_scale: c, the most |s_i|.
        mixing: permutations as whole-number indices π, (K, D): (Pz)_i = z_π(i).
        networks: arguments of `coupling_networks`, with W_out (K, 2 (D − d), H).

    Returns:
        z_K, (..., B, D), and Σ_k ln|det ∂f_k/∂z_{k−1}| = Σ s nats, (..., B).

    Raises:
        ValueError: D is less than 2, which cannot be split.
    """
    require_halves(z.shape[-1])
    log_det = z.new_zeros(z.shape[:-1])
    for order, network in zip(mixing, coupling_networks(*networks), strict=True):
        z, gain = affine_coupling(z.index_select(-1, order), network, log_scale)
        log_det = log_det + gain
    return z, log_det


@torch.no_grad()
def invert_realnvp_flow(z: Tensor, log_scale: float, mixing: Tensor, *networks: Any) -> Tensor:
    """Return z_0 of given z_K under `realnvp_flow`, whose arguments these are; without gradients."""
    for order, network in reversed([*zip(mixing, coupling_networks(*networks), strict=True)]):
        z = invert_affine_coupling(z, network, log_scale).index_select(-1, order.argsort())
    return z


def affine_coupling(z: Tensor, network: tuple[Layers, Tensor, Tensor], log_scale: float) -> tuple[Tensor, Tensor]:
    """Return (z_A, exp(s) z_B + t), (..., B, D), and its ln|det| = Σ_i s_i nats, (..., B).

    The network says (t, r) of z_A, and s = c tanh(r/c): near 0 it is r, and it never leaves ±c. Dinh et al. have a tanh
    times a learned scale there, which is bounded as well, though not by a number that one knows beforehand.

    Arguments:
        z: (..., B, D), z_A first.
        network: one step of `coupling_networks`.
        log_scale: c > 0.
    """
    z_a, z_b = split_halves(z, network)
    shift, s = _shift_and_scale(z_a, network, log_scale)
    return torch.cat([z_a, torch.addcmul(shift, z_b, s.exp())], dim=-1), s.sum(-1)


def invert_affine_coupling(z: Tensor, network: tuple[Layers, Tensor, Tensor], log_scale: float) -> Tensor:
    """Return what `affine_coupling` makes z of, (..., B, D)."""
    z_a, z_b = split_halves(z, network)
    shift, s = _shift_and_scale(z_a, network, log_scale)
    return torch.cat([z_a, (z_b - shift) * (-s).exp()], dim=-1)


def _shift_and_scale(z_a: Tensor, network: tuple[Layers, Tensor, Tensor], log_scale: float) -> tuple[Tensor, Tensor]:
    shift, raw = network_output(z_a, network).chunk(2, dim=-1)
    return shift, log_scale * (raw / log_scale).tanh()


class RealNvpFlow(MixedCouplingFlow):
    """K affine couplings, with a random permutation before each split, where Dinh et al. have alternating masks.

    Arguments, beside those of `CouplingFlow`:
        coupling_log_scale: c, the most |ln scale| of a variable in one step.
    """

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
        self.add_mixing()

    def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and the summed log-determinants in nats, (..., B); see `realnvp_flow`."""
        if self.fits_loops(z, parameters):
            return self.by_loops(LOOPS, self.log_scale, z, parameters, self.mixing)
        return realnvp_flow(z, self.log_scale, self.mixing, *self.network_arguments(parameters))

    def inverse(self, z: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Return z_0, (..., B, D); see `invert_realnvp_flow`."""
        return invert_realnvp_flow(z, self.log_scale, self.mixing, *self.network_arguments(parameters))
