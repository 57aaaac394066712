"""What the inference and generative networks are made of: Maxout layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfstudy.core import cuda, kernels
from nfstudy.core.kernels.linear import Linear, linear, operand, product, product_with_gradient
from nfstudy.core.kernels.maxout import largest, largest_alone, scatter
from nfstudy.inference.weights import draw_weights
from nfstudy.study.sections import Initialisation

CHUNK = 5 * 2**18
"""Pieces of one product, 5 MiB in float32, whose largest are then found: of more, glibc gives the memory back each time
if it is not told to keep it. Each part costs some calls from Python."""


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
        layer = plain_maxout
        if kernels.runs_here(x, self.pieces.weight):
            layer = _Maxout.apply if torch.is_grad_enabled() else fast_maxout
        elif cuda.runs_here(x, self.pieces.weight):
            layer = _MaxoutOnGPU.apply
        units = layer(x.flatten(0, -2), self.pieces.weight, self.pieces.bias, self.window, precision)
        return units.unflatten(0, x.shape[:-1])

    def initialise(self, rule: Initialisation, generator: torch.Generator) -> None:
        """Draw the weights; fan_out counts units, not pieces, since one piece of a window carries the gradient."""
        draw_weights(self.pieces, self.units, rule, generator)


def plain_maxout(x: Tensor, weight: Tensor, bias: Tensor, window: int, precision: torch.dtype) -> Tensor:
    """Return the units (B, U) of x (B, F), weight (U · window, F) and bias (U · window,), without the loops."""
    return functional.max_pool1d(linear(x, weight, bias, precision), window)


@torch.no_grad()
def fast_maxout(x: Tensor, weight: Tensor, bias: Tensor, window: int, precision: torch.dtype) -> Tensor:
    """Return what `_Maxout` does, to the bit, and keep nothing for a gradient."""
    units = weight.new_empty(len(weight) // window, len(x))
    parts = -(-len(weight) * len(x) // CHUNK)
    at_once = -(-len(units) // max(1, parts))
    for first in range(0, len(units), max(1, at_once)):
        rows = slice(first * window, (first + at_once) * window)
        pieces = product(weight[rows], x, precision=precision)
        largest_alone(pieces.numpy(), bias[rows].numpy(), units[first : first + at_once].numpy())
    return units.T


class _Maxout(torch.autograd.Function):
    """`plain_maxout` with the pieces batch-last in memory, and so its units too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, window: int, precision: torch.dtype) -> Tensor:
        operands = operand(weight, precision), operand(x, precision)
        pieces = product(*operands).to(x.dtype)
        units = pieces.new_empty(len(pieces) // window, len(x))
        winner = torch.empty_like(units, dtype=torch.int32)
        largest(pieces.numpy(), bias.detach().numpy(), units.numpy(), winner.numpy())
        ctx.save_for_backward(x, weight, winner, *operands)
        ctx.precision = precision
        return units.T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, winner, *operands = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        if torch.is_grad_enabled():  # A derivative of this is asked for, as of flows that follow a gradient.
            pieces = grad.new_zeros(len(winner), len(weight) // len(winner), len(x))
            pieces = pieces.scatter(1, winner.long().unsqueeze(1), grad.T.unsqueeze(1)).flatten(0, 1)
            to_x = product_with_gradient(pieces.T, weight.T, precision=ctx.precision) if needs_x else None
            to_weight = product_with_gradient(pieces, x.T, precision=ctx.precision) if needs_weight else None
        else:
            pieces = grad.new_empty(len(weight), len(x))
            scatter(grad.T.contiguous().numpy(), winner.numpy(), pieces.numpy())
            rounded = operand(pieces, ctx.precision)
            to_x = product(rounded.T, operands[0].T).to(grad.dtype) if needs_x else None
            to_weight = product(rounded, operands[1].T).to(grad.dtype) if needs_weight else None
        return to_x, to_weight, pieces.sum(-1) if needs_bias else None, None, None


class _MaxoutOnGPU(torch.autograd.Function):
    """`plain_maxout` without passing over the pieces for the bias, and to find the largest, and back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, window: int, precision: torch.dtype) -> Tensor:
        from nfstudy.core.cuda import maxout  # It imports Triton, which few machines have.

        units, winner = maxout.largest(product(x, weight, precision=precision), bias, window)
        ctx.save_for_backward(x, weight, winner)
        ctx.window, ctx.precision = window, precision
        return units

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from nfstudy.core.cuda import maxout

        x, weight, winner = ctx.saved_tensors
        if torch.is_grad_enabled():  # A derivative of this is asked for, as of flows that follow a gradient.
            multiply = product_with_gradient
            pieces = grad.new_zeros(*grad.shape, ctx.window)
            pieces = pieces.scatter(2, winner.long().unsqueeze(2), grad.unsqueeze(2)).flatten(1)
        else:
            multiply = product
            pieces = maxout.scatter(grad, winner, ctx.window)
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        return (
            multiply(pieces, weight.T, precision=ctx.precision) if needs_x else None,
            multiply(pieces.T, x.T, precision=ctx.precision) if needs_weight else None,
            pieces.sum(0) if needs_bias else None,
            None,
            None,
        )
