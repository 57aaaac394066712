"""NICE: additive coupling layers with fixed mixing in between, which preserve volume (Dinh et al. 2014)."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from nfstudy.flows.base import HEAD_SCALE, Flow, Generators, StepHead, draw_normal, require_steps


def nice_flow(
    z: Tensor, mixing: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor
) -> tuple[Tensor, Tensor]:
    """Apply K additive coupling steps f(z) = (z_A, z_B + g(z_A)) with (z_A, z_B) = Qz split after d = ⌊D/2⌋.

    The coupling network is g(z_A) = W_out tanh(W_in z_A + b_in) + b_out, and Q mixes the coordinates before each split
    (Rezende & Mohamed 2015, Sections 5 and 6.1). |det Q| = 1, and so is the absolute determinant of each step.

    Arguments:
        z: z_0, (..., B, D), D ≥ 2; leading axes are samples, over which the parameters are broadcast without copies.
        mixing: orthogonal matrices Q, (K, D, D), or permutations as whole-number indices π, (K, D): (Qz)_i = z_π(i).
        w_in: (K, H, d).
        b_in: (B, K, H) or (K, H).
        w_out: (K, D − d, H).
        b_out: (K, D − d).

    Returns:
        z_K, (..., B, D), and Σ_k ln|det ∂f_k/∂z_{k−1}| = 0 nats, (..., B).

    Raises:
        ValueError: D is less than 2, which cannot be split.
    """
    latent = z.shape[-1]
    _require_halves(latent)
    split = [latent // 2, latent - latent // 2]
    for q, w_in_k, b_in_k, w_out_k, b_out_k in zip(mixing, w_in, b_in.unbind(-2), w_out, b_out, strict=True):
        mixed = z.index_select(-1, q) if mixing.dim() == 2 else z @ q.mT
        z_a, z_b = mixed.split(split, dim=-1)
        hidden = torch.tanh(z_a @ w_in_k.mT + b_in_k)
        z = torch.cat([z_a, z_b + hidden @ w_out_k.mT + b_out_k], dim=-1)
    return z, z.new_zeros(z.shape[:-1])


def _require_halves(latent: int) -> None:
    if latent < 2:
        raise ValueError(f"latent {latent}: a coupling splits the latent variables in two, allowed: at least 2")


class NiceFlow(Flow):
    """K coupling steps; b_in comes from a linear head, so that the image moves the coupling: K H numbers an image.

    The mixing is a buffer, drawn once and never learned. The paper does not describe its coupling network.

    Arguments, beside those of `Flow`:
        hidden: H, the number of tanh units in each coupling network.
    """

    mixing: Tensor

    def __init__(self, latent: int, length: int, features: int, hidden: int) -> None:
        require_steps(length)
        _require_halves(latent)
        super().__init__(latent, length, features)
        first = latent // 2
        self.head = StepHead(features, length, hidden)
        self.w_in = nn.Parameter(torch.zeros(length, hidden, first))
        self.w_out = nn.Parameter(torch.zeros(length, latent - first, hidden))
        self.b_out = nn.Parameter(torch.zeros(length, latent - first))
        mixing = torch.stack([self.draw_mixing(latent, torch.Generator())] * length)
        self.register_buffer("mixing", mixing.to(self.w_in.dtype) if mixing.is_floating_point() else mixing)

    @staticmethod
    @abstractmethod
    def draw_mixing(latent: int, generator: torch.Generator) -> Tensor:
        """Return one step's mixing as `nice_flow` takes it: a matrix (D, D) or a permutation's indices (D,)."""

    @torch.no_grad()
    def initialise(self, generator: Generators) -> None:
        """Draw the mixing and start each coupling network near 0: full-sized hidden units, W_out small, b_out = 0."""
        self.b_out.zero_()
        for k in range(self.length):
            self.mixing[k] = self.draw_mixing(self.latent, generator(f"mixing {k + 1}")).to(self.mixing)
            stream = generator(f"coupling {k + 1}")
            hidden, first = self.w_in.shape[1:]
            draw_normal(self.w_in[k], first**-0.5, stream)
            draw_normal(self.w_out[k], HEAD_SCALE * hidden**-0.5, stream)
            self.head.initialise_step(k + 1, torch.zeros(hidden), 1.0, stream)

    def parameters_from(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return b_in (B, K, H) of features (B, F)."""
        return (self.head(features),)

    def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and zeros, (..., B); see `nice_flow`."""
        (b_in,) = parameters
        return nice_flow(z, self.mixing, self.w_in, b_in, self.w_out, self.b_out)


class NicePermFlow(NiceFlow):
    """NICE with a random permutation before each split (NICE-perm)."""

    @staticmethod
    def draw_mixing(latent: int, generator: torch.Generator) -> Tensor:
        """Return a uniformly random permutation's indices, (D,)."""
        return torch.randperm(latent, generator=generator)


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
