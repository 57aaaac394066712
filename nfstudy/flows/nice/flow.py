"""NICE: additive coupling layers with fixed mixing in between, which preserve volume (Dinh et al. 2014)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from nfstudy.core.kernels.layout import by_image
from nfstudy.flows.base import Flow, Generators, fits_cuda, fits_lanes, fits_samples, in_pieces
from nfstudy.flows.coupling import Layers, MixedCouplingFlow, coupling_networks, hidden_units, require_halves
from nfstudy.flows.nice.kernel import coupling_chain
from nfstudy.flows.nice.kernel_samples import samples_loop


def nice_flow(
    z: Tensor,
    mixing: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    w_hidden: tuple[Tensor, ...] = (),
    b_hidden: tuple[Tensor, ...] = (),
) -> tuple[Tensor, Tensor]:
    """Apply K additive coupling steps f(z) = (z_A, z_B + g(z_A)) with (z_A, z_B) = Qz split after the first d.

    The coupling network is g(z_A) = W_out h_L + b_out, where h_1 = tanh(W_in z_A + b_in) and h_l = tanh(W_l h_{l−1} +
    b_l) for l = 2, ..., L, and Q mixes the coordinates before each split (Rezende & Mohamed 2015, Sections 5 and 6.1).
    |det Q| = 1, and so is the absolute determinant of each step.

    Arguments:
        z: z_0, (..., B, D), D ≥ 2; leading axes are samples, over which the parameters are broadcast without copies.
        mixing: orthogonal matrices Q, (K, D, D), or permutations as whole-number indices π, (K, D): (Qz)_i = z_π(i).
        w_in: (K, H, d).
        b_in: (B, K, H) or (K, H).
        w_out: (K, D − d, H).
        b_out: (K, D − d).
        w_hidden: W_2, ..., W_L, each (K, H, H); none for one hidden layer.
        b_hidden: b_2, ..., b_L, each (K, H).

    Returns:
        z_K, (..., B, D), and Σ_k ln|det ∂f_k/∂z_{k−1}| = 0 nats, (..., B).

    Raises:
        ValueError: D is less than 2, which cannot be split.
    """
    require_halves(z.shape[-1])
    split = [w_in.shape[-1], w_out.shape[-2]]
    for q, layers, w_out_k, b_out_k in _steps(mixing, w_in, b_in, w_out, b_out, w_hidden, b_hidden):
        mixed = z.index_select(-1, q) if mixing.dim() == 2 else z @ q.mT
        z_a, z_b = mixed.split(split, dim=-1)
        hidden = hidden_units(z_a, layers)
        z = torch.cat([z_a, z_b + hidden @ w_out_k.mT + b_out_k], dim=-1)
    return z, z.new_zeros(z.shape[:-1])


@torch.no_grad()
def invert_nice_flow(
    z: Tensor,
    mixing: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    w_hidden: tuple[Tensor, ...] = (),
    b_hidden: tuple[Tensor, ...] = (),
) -> Tensor:
    """Return z_0 of given z_K under `nice_flow`, whose arguments these are; without gradients."""
    split = [w_in.shape[-1], w_out.shape[-2]]
    for q, layers, w_out_k, b_out_k in reversed(_steps(mixing, w_in, b_in, w_out, b_out, w_hidden, b_hidden)):
        z_a, z_b = z.split(split, dim=-1)
        hidden = hidden_units(z_a, layers)
        mixed = torch.cat([z_a, z_b - hidden @ w_out_k.mT - b_out_k], dim=-1)
        z = mixed.index_select(-1, q.argsort()) if mixing.dim() == 2 else mixed @ torch.linalg.inv(q).mT
    return z


def _steps(mixing: Tensor, *networks: Any) -> list[tuple[Tensor, Layers, Tensor, Tensor]]:
    """Return each step's mixing, hidden layers, W_out and b_out; ValueError where the numbers of steps differ."""
    return [(q, *network) for q, network in zip(mixing, coupling_networks(*networks), strict=True)]


def scale_variables(z: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return z_i exp(s_i), (..., D), and its ln|det| = Σ_i s_i nats, (...); −s undoes it.

    Dinh et al. (2014), Section 3.3; Rezende & Mohamed mention no scaling.

    Arguments:
        z: (..., D).
        log_scale: s, (D,).
    """
    return z * log_scale.exp(), log_scale.sum().expand(z.shape[:-1])


class NiceFlow(MixedCouplingFlow):
    """K additive couplings. The paper does not describe its coupling network.

    Arguments, beside those of `CouplingFlow`:
        coupling_scaling: whether the chain ends with `scale_variables`, s being learned and shared by all images.
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
        coupling_scaling: bool = False,
    ) -> None:
        networks = (coupling_hidden, coupling_amortised, coupling_layers, coupling_pass)
        super().__init__(latent, length, features, 1, *networks)
        self.log_scale = nn.Parameter(torch.zeros(latent)) if coupling_scaling else None
        self.add_mixing()

    @torch.no_grad()
    def initialise(self, generator: Generators) -> None:
        """Draw the mixing and start each coupling network near 0, and the log scale s at 0."""
        super().initialise(generator)
        if self.log_scale is not None:
            self.log_scale.zero_()

    def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and Σ_i s_i nats, or 0 without scaling, (..., B); see `nice_flow`."""
        (b_in,) = parameters
        if fits_lanes(z, b_in):
            z, log_det = in_pieces(self._run, z, b_in)
        else:
            z, log_det = self._run_elsewhere(z, parameters)
        return (z, log_det) if self.log_scale is None else scale_variables(z, self.log_scale)

    def for_samples(self, parameters: tuple[Tensor, ...]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return the chain of many samples, if it mixes by permutations; of matrices, the usual one."""
        (b_in,) = parameters
        if not (fits_samples(b_in) and self.mixing.dim() == 2):
            return super().for_samples(parameters)
        run = partial(by_image, samples_loop(b_in, *(x.detach() for x in self._stacked())))
        log_scale = self.log_scale
        return run if log_scale is None else lambda z: scale_variables(run(z)[0], log_scale)

    def inverse(self, z: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Return z_0, (..., B, D); see `invert_nice_flow`."""
        if self.log_scale is not None:
            z, _ = scale_variables(z, -self.log_scale)
        return invert_nice_flow(z, self.mixing, *self.network_arguments(parameters))

    def first_steps(self, count: int, parameters: tuple[Tensor, ...]) -> tuple[Flow, tuple[Tensor, ...]]:
        """Return a chain of copies of the first steps, without the scaling, which comes after the last one."""
        shorter, own = super().first_steps(count, parameters)
        cast(NiceFlow, shorter).log_scale = None
        return shorter, own

    def _run(self, z: Tensor, b_in: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `nice_flow` does, by the compiled loop."""
        z = coupling_chain(z, b_in, *self._stacked())
        return z, z.new_zeros(z.shape[:-1])

    def _run_elsewhere(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return what `nice_flow` does, by the kernels for a GPU where they take it."""
        (b_in,) = parameters
        if fits_cuda(z, b_in):
            from nfstudy.flows.nice import cuda  # It imports Triton, which few machines have.

            if cuda.fits(self.mixing, self.w_in):
                z = cuda.nice_chain(z, b_in, *self._stacked())
                return z, z.new_zeros(z.shape[:-1])
        return nice_flow(z, self.mixing, *self.network_arguments(parameters))

    def _stacked(self) -> tuple[Tensor, ...]:
        """Return the mixing, W_in, the hidden layers' weights and biases, each stacked, W_out and b_out."""
        if self.w_hidden:
            w_hidden, b_hidden = torch.stack([*self.w_hidden]), torch.stack([*self.b_hidden])
        else:
            w_hidden, b_hidden = self.w_in.new_empty(0, 0, 0, 0), self.w_in.new_empty(0, 0, 0)
        return self.mixing, self.w_in, w_hidden, b_hidden, self.w_out, self.b_out


class NicePermFlow(NiceFlow):
    """NICE with a random permutation before each split (NICE-perm)."""


class NiceOrthFlow(NiceFlow):
    """NICE with a random rotation or reflection before each split (NICE-orth)."""

    @staticmethod
    def draw_mixing(latent: int, generator: torch.Generator) -> Tensor:
        """Return a Haar-distributed orthogonal matrix, (D, D), in float64.

        It is Q of the QR factorisation of a standard-Gaussian matrix, its columns' signs such that R has a positive
        diagonal; without these signs the distribution would be the factorisation's and not Haar's (Mezzadri 2007).
        """
        q, r = torch.linalg.qr(torch.randn(latent, latent, generator=generator, dtype=torch.float64))
        return q * r.diagonal().sign()
