"""NICE: additive coupling layers with fixed mixing in between, which preserve volume (Dinh et al. 2014)."""

from __future__ import annotations

import math
from abc import abstractmethod
from fractions import Fraction
from typing import cast

import torch
from torch import Tensor, nn

from nfstudy.flows.base import (
    HEAD_SCALE,
    Flow,
    Generators,
    StepHead,
    draw_normal,
    fits_lanes,
    in_pieces,
    require_steps,
    shortened,
)
from nfstudy.flows.nice.kernel import coupling_chain

Layers = tuple[tuple[Tensor, Tensor], ...]
"""W_l and b_l of the hidden layers of one coupling network."""


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
    _require_halves(z.shape[-1])
    split = [w_in.shape[-1], w_out.shape[-2]]
    for q, layers, w_out_k, b_out_k in _steps(mixing, w_in, b_in, w_out, b_out, w_hidden, b_hidden):
        mixed = z.index_select(-1, q) if mixing.dim() == 2 else z @ q.mT
        z_a, z_b = mixed.split(split, dim=-1)
        hidden = _hidden_units(z_a, layers)
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
        hidden = _hidden_units(z_a, layers)
        mixed = torch.cat([z_a, z_b - hidden @ w_out_k.mT - b_out_k], dim=-1)
        z = mixed.index_select(-1, q.argsort()) if mixing.dim() == 2 else mixed @ torch.linalg.inv(q).mT
    return z


def _steps(
    mixing: Tensor,
    w_in: Tensor,
    b_in: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    w_hidden: tuple[Tensor, ...],
    b_hidden: tuple[Tensor, ...],
) -> list[tuple[Tensor, Layers, Tensor, Tensor]]:
    """Return each step's mixing, hidden layers, W_out and b_out; ValueError where the numbers of steps differ."""
    weights, biases = (w_in, *w_hidden), (b_in.unbind(-2), *b_hidden)
    layers = zip(*(zip(w, b, strict=True) for w, b in zip(weights, biases, strict=True)), strict=True)
    return [*zip(mixing, layers, w_out, b_out, strict=True)]


def _hidden_units(z_a: Tensor, layers: Layers) -> Tensor:
    hidden = z_a
    for w, b in layers:
        hidden = torch.tanh(hidden @ w.mT + b)
    return hidden


def scale_variables(z: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return z_i exp(s_i), (..., D), and its ln|det| = Σ_i s_i nats, (...); −s undoes it.

    Dinh et al. (2014), Section 3.3; Rezende & Mohamed mention no scaling.

    Arguments:
        z: (..., D).
        log_scale: s, (D,).
    """
    return z * log_scale.exp(), log_scale.sum().expand(z.shape[:-1])


def count_passing(latent: int, share: float) -> int:
    """Return d = max(1, ⌊share · D⌋), how many of D ≥ 2 variables a coupling passes on unchanged; 0 < share < 1.

    The product is that of the decimal number: 0.29 of 100 are 29 variables, where in floating point they are 28.99…;
    and it never rounds up to D, so that at least one variable is left to change.
    """
    return max(1, math.floor(Fraction(str(share)) * latent))


def _require_halves(latent: int) -> None:
    if latent < 2:
        raise ValueError(f"latent {latent}: a coupling splits the latent variables in two, expected: at least 2")


class NiceFlow(Flow):
    """K coupling steps; b_in comes from a linear head, so that the image moves the coupling: K H numbers an image.

    The mixing is a buffer, drawn once and never learned. The paper does not describe its coupling network.

    Arguments, beside those of `Flow`:
        coupling_hidden: H, the number of tanh units in each hidden layer of a coupling network.
        coupling_amortised: whether b_in depends on the image, or is shared by all.
        coupling_layers: L, how many hidden layers each coupling network has.
        coupling_pass: share of the variables that pass each step unchanged; see `count_passing`.
        coupling_scaling: whether the chain ends with `scale_variables`, s being learned and shared by all images.
    """

    mixing: Tensor

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
        require_steps(length)
        _require_halves(latent)
        super().__init__(latent, length, features)
        first, hidden, layers = count_passing(latent, coupling_pass), coupling_hidden, coupling_layers
        self.amortised = coupling_amortised and features > 0
        self.head = StepHead(features if self.amortised else 0, length, hidden)
        self.w_in = nn.Parameter(torch.zeros(length, hidden, first))
        self.w_out = nn.Parameter(torch.zeros(length, latent - first, hidden))
        self.b_out = nn.Parameter(torch.zeros(length, latent - first))
        self.w_hidden = nn.ParameterList(torch.zeros(length, hidden, hidden) for _ in range(layers - 1))
        self.b_hidden = nn.ParameterList(torch.zeros(length, hidden) for _ in range(layers - 1))
        self.log_scale = nn.Parameter(torch.zeros(latent)) if coupling_scaling else None
        mixing = torch.stack([self.draw_mixing(latent, torch.Generator())] * length)
        self.register_buffer("mixing", mixing.to(self.w_in.dtype) if mixing.is_floating_point() else mixing)

    @staticmethod
    @abstractmethod
    def draw_mixing(latent: int, generator: torch.Generator) -> Tensor:
        """Return one step's mixing as `nice_flow` takes it: a matrix (D, D) or a permutation's indices (D,)."""

    @torch.no_grad()
    def initialise(self, generator: Generators) -> None:
        """Draw the mixing and start each coupling network near 0: full-sized hidden units, W_out small, b_out = 0.

        The biases of the second hidden layer and later ones start at 0, and so does the log scale s.
        """
        for bias in (self.b_out, *self.b_hidden):
            bias.zero_()
        if self.log_scale is not None:
            self.log_scale.zero_()
        for k in range(self.length):
            self.mixing[k] = self.draw_mixing(self.latent, generator(f"mixing {k + 1}")).to(self.mixing)
            stream = generator(f"coupling {k + 1}")
            hidden, first = self.w_in.shape[1:]
            draw_normal(self.w_in[k], first**-0.5, stream)
            draw_normal(self.w_out[k], HEAD_SCALE * hidden**-0.5, stream)
            for layer, weights in enumerate(self.w_hidden, start=2):
                draw_normal(weights[k], hidden**-0.5, generator(f"coupling {k + 1} layer {layer}"))
            # Without features that spread the biases, they are drawn: else all hidden units would bend at one place.
            bias = torch.zeros(hidden) if self.amortised else torch.randn(hidden, generator=stream, dtype=torch.float64)
            self.head.initialise_step(k + 1, bias, 1.0, stream)

    def parameters_from(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return b_in (B, K, H) of features (B, F), or (K, H) where it is shared."""
        return (self.head(features if self.amortised else features.new_empty(0)),)

    def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and Σ_i s_i nats, or 0 without scaling, (..., B); see `nice_flow`."""
        (b_in,) = parameters
        if fits_lanes(z, b_in):
            z, log_det = in_pieces(self._run, z, b_in)
        else:
            z, log_det = nice_flow(z, *self._arguments(parameters))
        return (z, log_det) if self.log_scale is None else scale_variables(z, self.log_scale)

    def inverse(self, z: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Return z_0, (..., B, D); see `invert_nice_flow`."""
        if self.log_scale is not None:
            z, _ = scale_variables(z, -self.log_scale)
        return invert_nice_flow(z, *self._arguments(parameters))

    def first_steps(self, count: int, parameters: tuple[Tensor, ...]) -> tuple[Flow, tuple[Tensor, ...]]:
        """Return a chain of copies of the first steps, without the scaling, which comes after the last one."""
        (b_in,) = parameters
        shorter = shortened(self, count, ("mixing", "w_in", "w_out", "b_out", "w_hidden", "b_hidden"))
        cast(NiceFlow, shorter).log_scale = None
        return shorter, (b_in[..., :count, :],)

    def _run(self, z: Tensor, b_in: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `nice_flow` does, by the compiled loop."""
        if self.w_hidden:
            w_hidden, b_hidden = torch.stack([*self.w_hidden]), torch.stack([*self.b_hidden])
        else:
            w_hidden, b_hidden = z.new_empty(0, 0, 0, 0), z.new_empty(0, 0, 0)
        z = coupling_chain(z, b_in, self.mixing, self.w_in, w_hidden, b_hidden, self.w_out, self.b_out)
        return z, z.new_zeros(z.shape[:-1])

    def _arguments(
        self, parameters: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        (b_in,) = parameters
        w_hidden, b_hidden = tuple(self.w_hidden), tuple(self.b_hidden)
        return self.mixing, self.w_in, b_in, self.w_out, self.b_out, w_hidden, b_hidden


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
