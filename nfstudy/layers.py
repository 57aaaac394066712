"""What the inference and generative networks are made of: Maxout layers, and how weights are drawn."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfstudy.sections import Initialisation


class Maxout(nn.Module):
    """A layer of units each of which is the largest of `window` consecutive linear pieces (Goodfellow et al. 2013).

    h_k(x) = max_{i ∈ [Δk, Δ(k+1))} (W x + b)_i, with Δ = `window`; Rezende & Mohamed (2015), Section 6.2.
    """

    def __init__(self, inputs: int, units: int, window: int) -> None:
        super().__init__()
        self.units = units
        self.window = window
        self.pieces = nn.Linear(inputs, units * window)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., units)."""
        pieces = self.pieces(x)
        return functional.max_pool1d(pieces.flatten(0, -2), self.window).unflatten(0, pieces.shape[:-1])

    def initialise(self, rule: Initialisation, generator: torch.Generator) -> None:
        """Draw the weights; fan_out counts units, not pieces, since one piece of a window carries the gradient."""
        draw_weights(self.pieces, self.units, rule, generator)


def draw_weights(linear: nn.Linear, fan_out: int, rule: Initialisation, generator: torch.Generator) -> None:
    """Draw a layer's weights from N(0, σ²); biases, where there are any, are 0.

    σ² = 2 / (fan_in + fan_out) after Glorot & Bengio (2010, `glorot`), or 2 / fan_in after He et al. (2015, `he`).
    """
    fans = linear.in_features + (fan_out if rule == "glorot" else 0)
    nn.init.normal_(linear.weight, std=math.sqrt(2 / fans), generator=generator)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
