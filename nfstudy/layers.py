"""What the inference and generative networks are made of: Maxout layers, and how weights are drawn."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from nfstudy import kernels
from nfstudy.kernels.maxout import largest, scatter
from nfstudy.products import Linear, linear
from nfstudy.sections import Initialisation


class Maxout(nn.Module):
    """A layer of units each of which is the largest of `window` consecutive linear pieces (Goodfellow et al. 2013).

    h_k(x) = max_{i ∈ [Δk, Δ(k+1))} (W x + b)_i, with Δ = `window`; Rezende & Mohamed (2015), Section 6.2.

    While it trains (`nn.Module.train`), its matrix products are in `precision`, float32 or bfloat16.
    """

    def __init__(self, inputs: int, units: int, window: int, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.units = units
        self.window = window
        self.precision = precision
        self.pieces = Linear(inputs, units * window)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., units)."""
        precision = self.precision if self.training else torch.float32
        return maxout(linear(x, self.pieces.weight, self.pieces.bias, precision), self.window)

    def initialise(self, rule: Initialisation, generator: torch.Generator) -> None:
        """Draw the weights; fan_out counts units, not pieces, since one piece of a window carries the gradient."""
        draw_weights(self.pieces, self.units, rule, generator)


def maxout(pieces: Tensor, window: int) -> Tensor:
    """Return the largest of each `window` consecutive pieces, (..., U), of (..., U · window)."""
    flat = pieces.flatten(0, -2)
    units = _Maxout.apply(flat, window) if kernels.runs_here(pieces) else plain_maxout(flat, window)
    return units.unflatten(0, pieces.shape[:-1])


def plain_maxout(pieces: Tensor, window: int) -> Tensor:
    """Return the same of (B, U · window) by torch's own pooling, the reference of the compiled loops."""
    return functional.max_pool1d(pieces, window)


class _Maxout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, pieces: Tensor, window: int) -> Tensor:
        pieces = pieces.contiguous()
        units = pieces.new_empty(len(pieces), pieces.shape[1] // window)
        winner = torch.empty_like(units, dtype=torch.int32)
        largest(pieces.numpy(), window, units.numpy(), winner.numpy())
        ctx.save_for_backward(winner)
        ctx.window = window
        return units

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (winner,) = ctx.saved_tensors
        pieces = grad.new_empty(len(grad), grad.shape[1] * ctx.window)
        scatter(grad.contiguous().numpy(), winner.numpy(), ctx.window, pieces.numpy())
        return pieces, None


def draw_weights(linear: nn.Linear, fan_out: int, rule: Initialisation, generator: torch.Generator) -> None:
    """Draw a layer's weights from N(0, σ²); biases, where there are any, are 0.

    σ² = 2 / (fan_in + fan_out) after Glorot & Bengio (2010, `glorot`), or 2 / fan_in after He et al. (2015, `he`).
    """
    fans = linear.in_features + (fan_out if rule == "glorot" else 0)
    nn.init.normal_(linear.weight, std=math.sqrt(2 / fans), generator=generator)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
