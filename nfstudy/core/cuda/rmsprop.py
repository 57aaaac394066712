"""One update of RMSprop with momentum in one pass over memory: the kernel of `optimisers.FusedRMSprop`."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from nfstudy.core.cuda import launch

BLOCK = 1024


def update(
    weights: Tensor,
    gradients: Tensor,
    squares: Tensor,
    velocities: Tensor,
    learning_rate: Tensor,
    decay: float,
    epsilon: float,
    momentum: float,
) -> None:
    """Update weights, the running mean of squared gradients and the velocities in place.

    Arguments:
        weights: n numbers without gaps.
        gradients: likewise, in the same order, and so what follows.
        squares: the running mean of squared gradients.
        velocities: the running mean of steps.
        learning_rate: a tensor of one number on the same device, so that a CUDA graph finds there what is of now.
        decay: α.
        epsilon: ε.
        momentum: μ.
    """
    count = weights.numel()
    launch(
        _update,
        -(-count // BLOCK),
        *(weights, gradients, squares, velocities, learning_rate, count),
        *(decay, 1 - decay, epsilon, momentum),
        **{"BLOCK": BLOCK, "num_warps": 4},
    )


@triton.jit(do_not_specialize=["count"])
def _update(
    weights_ptr, gradients_ptr, squares_ptr, velocities_ptr, learning_rate_ptr, count,
    decay, rest, epsilon, momentum, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    has = i < count
    eta = tl.load(learning_rate_ptr).to(tl.float32)
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
