"""Coupling networks: what passes a step unchanged says how the other variables are transformed (Dinh et al. 2014)."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
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
from nfstudy.flows.kernel_coupling import Loops, network_chain

Layers = tuple[tuple[Tensor, Tensor], ...]
"""W_l and b_l of the hidden layers of one coupling network."""


def coupling_networks(
    w_in: Tensor,
    b_in: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    w_hidden: tuple[Tensor, ...] = (),
    b_hidden: tuple[Tensor, ...] = (),
) -> list[tuple[Layers, Tensor, Tensor]]:
    """Return each step's hidden layers, W_out and b_out; ValueError where the numbers of steps differ.

    The network is g(z_A) = W_out h_L + b_out, h_1 = tanh(W_in z_A + b_in), h_l = tanh(W_l h_{l−1} + b_l).

    Arguments:
        w_in: (K, H, d).
        b_in: (B, K, H) or (K, H).
        w_out: (K, n, H).
        b_out: (K, n).
        w_hidden: W_2, ..., W_L, each (K, H, H); none for one hidden layer.
        b_hidden: b_2, ..., b_L, each (K, H).
    """
    weights, biases = (w_in, *w_hidden), (b_in.unbind(-2), *b_hidden)
    layers = zip(*(zip(w, b, strict=True) for w, b in zip(weights, biases, strict=True)), strict=True)
    return [*zip(layers, w_out, b_out, strict=True)]


def hidden_units(z_a: Tensor, layers: Layers) -> Tensor:
    """Return h_L, (..., B, H), of z_A, (..., B, d)."""
    hidden = z_a
    for w, b in layers:
        hidden = torch.tanh(hidden @ w.mT + b)
    return hidden


def network_output(z_a: Tensor, network: tuple[Layers, Tensor, Tensor]) -> Tensor:
    """Return g(z_A), (..., B, n), of z_A, (..., B, d), by one step of `coupling_networks`."""
    layers, w_out, b_out = network
    return F.linear(hidden_units(z_a, layers), w_out, b_out)


def split_halves(z: Tensor, network: tuple[Layers, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Return z_A, (..., B, d), and z_B, (..., B, D − d), of z, (..., B, D), by one step of `coupling_networks`."""
    first = network[0][0][0].shape[-1]
    return z.split([first, z.shape[-1] - first], dim=-1)


def count_passing(latent: int, share: float) -> int:
    """Return d = max(1, ⌊share · D⌋), how many of D ≥ 2 variables a coupling passes on unchanged; 0 < share < 1.

    The product is that of the decimal number: 0.29 of 100 are 29 variables, where in floating point they are 28.99…;
    and it never rounds up to D, so that at least one variable is left to change.
    """
    return max(1, math.floor(Fraction(str(share)) * latent))


def require_halves(latent: int) -> None:
    """Raise ValueError unless there are two variables at least."""
    if latent < 2:
        raise ValueError(f"latent {latent}: a coupling splits the latent variables in two, expected: at least 2")


class CouplingFlow(Flow):
    """K couplings; b_in comes from a linear head, so that the image moves the coupling: K H numbers an image.

    Arguments, beside those of `Flow`:
        outputs: how many numbers a step's network says of each variable that it transforms.
        coupling_hidden: H, the number of tanh units in each hidden layer of a coupling network.
        coupling_amortised: whether b_in depends on the image, or is shared by all.
        coupling_layers: L, how many hidden layers each coupling network has.
        coupling_pass: share of the variables that pass each step unchanged; see `count_passing`.
    """

    rows: ClassVar[tuple[str, ...]] = ("w_in", "w_out", "b_out", "w_hidden", "b_hidden")
    """Weights that have a row a step, beside those of the head."""

    def __init__(
        self,
        latent: int,
        length: int,
        features: int,
        outputs: int,
        coupling_hidden: int,
        coupling_amortised: bool = True,
        coupling_layers: int = 1,
        coupling_pass: float = 0.5,
    ) -> None:
        require_steps(length)
        require_halves(latent)
        super().__init__(latent, length, features)
        hidden, layers = coupling_hidden, coupling_layers
        self.passing = count_passing(latent, coupling_pass)
        self.amortised = coupling_amortised and features > 0
        self.head = StepHead(features if self.amortised else 0, length, hidden)
        self.w_in = nn.Parameter(torch.zeros(length, hidden, self.passing))
        self.w_out = nn.Parameter(torch.zeros(length, outputs * (latent - self.passing), hidden))
        self.b_out = nn.Parameter(torch.zeros(length, outputs * (latent - self.passing)))
        self.w_hidden = nn.ParameterList(torch.zeros(length, hidden, hidden) for _ in range(layers - 1))
        self.b_hidden = nn.ParameterList(torch.zeros(length, hidden) for _ in range(layers - 1))

    @torch.no_grad()
    def initialise(self, generator: Generators) -> None:
        """Start each coupling network near 0: full-sized hidden units, W_out small, b_out = 0.

        The biases of the second hidden layer and later ones start at 0.
        """
        for bias in (self.b_out, *self.b_hidden):
            bias.zero_()
        for k in range(self.length):
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

    def network_arguments(
        self, parameters: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return the arguments of `coupling_networks`."""
        (b_in,) = parameters
        return self.w_in, b_in, self.w_out, self.b_out, tuple(self.w_hidden), tuple(self.b_hidden)

    def fits_loops(self, z: Tensor, parameters: tuple[Tensor, ...]) -> bool:
        """Return whether `by_loops` takes these."""
        (b_in,) = parameters
        return fits_lanes(z, b_in) and z.dtype == self.w_in.dtype

    def by_loops(
        self,
        loops: Loops,
        option: float,
        z: Tensor,
        parameters: tuple[Tensor, ...],
        mixing: Tensor,
        moved: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and log-determinants, (..., B), by a family's compiled loops.

        Arguments:
            loops: of the family.
            option: what they are told beside.
            z: z_0, (..., B, D).
            parameters: what `parameters_from` returned for the B images.
            mixing: matrices, (K, D, D), or the indices of permutations, (K, D).
            moved: what is added after mixing by matrices, (K, D).
        """
        (b_in,) = parameters
        shift = z.new_empty(0, 0) if moved is None else moved

        def run(z: Tensor, b_in: Tensor) -> tuple[Tensor, Tensor]:
            return network_chain(loops, option, z, mixing, shift, *self.network_arguments((b_in,)))

        return in_pieces(run, z, b_in)

    def first_steps(self, count: int, parameters: tuple[Tensor, ...]) -> tuple[Flow, tuple[Tensor, ...]]:
        """Return a chain of copies of the first steps; see `Flow.first_steps`."""
        (b_in,) = parameters
        return shortened(self, count, self.rows), (b_in[..., :count, :],)


class MixedCouplingFlow(CouplingFlow):
    """K couplings with a mixing of the variables before each, a buffer that is drawn once and never learned."""

    mixing: Tensor
    rows = (*CouplingFlow.rows, "mixing")

    def add_mixing(self) -> None:
        """Register the buffer; the last thing that a constructor does."""
        mixing = torch.stack([self.draw_mixing(self.latent, torch.Generator())] * self.length)
        self.register_buffer("mixing", mixing.to(self.w_in.dtype) if mixing.is_floating_point() else mixing)

    @staticmethod
    def draw_mixing(latent: int, generator: torch.Generator) -> Tensor:
        """Return one step's mixing: a uniformly random permutation's indices, (D,), or a matrix (D, D)."""
        return torch.randperm(latent, generator=generator)

    @torch.no_grad()
    def initialise(self, generator: Generators) -> None:
        """Draw the mixing, and start each coupling network near 0; see `CouplingFlow.initialise`."""
        for k in range(self.length):
            self.mixing[k] = self.draw_mixing(self.latent, generator(f"mixing {k + 1}")).to(self.mixing)
        super().initialise(generator)
