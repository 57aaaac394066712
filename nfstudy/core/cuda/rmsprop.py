"""One update of RMSprop with momentum in one launch for all weights: the kernel of `optimisers.FusedRMSprop`."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from nfstudy.core.cuda import launch

BLOCK = 1024
MOST = 32
"""Tensors of one launch, which are all its arguments."""


def update(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    squares: Sequence[Tensor],
    velocities: Sequence[Tensor],
    learning_rate: Tensor,
    decay: float,
    epsilon: float,
    momentum: float,
) -> None:
    """Update weights, the running means of squared gradients and the velocities in place.

    Arguments:
        weights: tensors without gaps, of any sizes.
        gradients: of each, in the same order, and so what follows.
        squares: the running mean of squared gradients.
        velocities: the running mean of steps.
        learning_rate: a tensor of one number on the same device, so that a CUDA graph finds there what is of now.
        decay: α.
        epsilon: ε.
        momentum: μ.
    """
    for start in range(0, len(weights), MOST):
        some = [tuple(each[start : start + MOST]) for each in (weights, gradients, squares, velocities)]
        counts = tuple(weight.numel() for weight in some[0])
        ends, end = [], 0
        for count in counts:
            end += -(-count // BLOCK)
            ends.append(end)
        constants = (decay, 1 - decay, epsilon, momentum)
        launch(_update, end, learning_rate, *some, counts, tuple(ends), *constants, BLOCK=BLOCK, num_warps=4)


@triton.jit
def _update(
    learning_rate_ptr, weights, gradients, squares, velocities, counts, ends,
    decay, rest, epsilon, momentum, BLOCK: tl.constexpr,
):  # fmt: skip
    """Update the block that is this program's; the programs of a tensor end before `ends`."""
    program = tl.program_id(0)
    eta = tl.load(learning_rate_ptr).to(tl.float32)
    first = 0
    for n in tl.static_range(len(weights)):
        end = ends[n]
        if (program >= first) & (program < end):
            _update_block(
                weights[n], gradients[n], squares[n], velocities[n], counts[n], program - first,
                eta, decay, rest, epsilon, momentum, BLOCK,
            )  # fmt: skip
        first = end


@triton.jit
def _update_block(
    weights_ptr, gradients_ptr, squares_ptr, velocities_ptr, count, block,
    eta, decay, rest, epsilon, momentum, BLOCK: tl.constexpr,
):  # fmt: skip
    i = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    has = i < count
    g = tl.load(gradients_ptr + i, mask=has, other=0.0)
    square = tl.load(squares_ptr + i, mask=has, other=0.0)
    velocity = tl.load(velocities_ptr + i, mask=has, other=0.0)
    weight = tl.load(weights_ptr + i, mask=has, other=0.0)
    square = decay * square + rest * (g * g)
    # Rows that there are none of divide by ε alone, or by 0, and are not stored.
    velocity = momentum * velocity + tl.div_rn(g, tl.sqrt_rn(square) + epsilon)
    tl.store(squares_ptr + i, square, mask=has)
    tl.store(velocities_ptr + i, velocity, mask=has)
    tl.store(weights_ptr + i, weight - eta * velocity, mask=has)
