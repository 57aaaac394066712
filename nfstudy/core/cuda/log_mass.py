"""The log-probability of bits by their logits, and its slope: the kernels of `likelihoods.bernoulli`."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from nfstudy.core.cuda import launch, power_of_two
from nfstudy.core.cuda.elementary import sigmoid, softplus

MOST = 1024
"""Pixels that a program goes through at once."""


def log_mass(logits: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """Return Σ_i ln σ((2 x_i − 1) l_i), l = logits + bias, (R,), for logits (R, N), bias (N,) and bits x (B, N).

    Row r is of image r mod B.
    """
    logits, bias, x = logits.contiguous(), bias.contiguous(), x.contiguous()
    rows, pixels = logits.shape
    total = logits.new_empty(rows)
    launch(_log_mass, rows, logits, bias, x, total, pixels, len(x), **_shape(pixels))
    return total


def slope(grad: Tensor, logits: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of the logits (R, N), for that of `log_mass` (R,), of any stride."""
    logits, bias, x = logits.contiguous(), bias.contiguous(), x.contiguous()
    rows, pixels = logits.shape
    grads = logits.new_empty(rows, pixels)
    launch(_slope, rows, grad, logits, bias, x, grads, pixels, len(x), grad.stride(0), **_shape(pixels))
    return grads


def _shape(pixels: int) -> dict[str, int]:
    """Return what the kernels are compiled for."""
    block = min(MOST, power_of_two(pixels, 32))
    return {"BLOCK": block, "num_warps": max(1, block // 256)}


@triton.jit(do_not_specialize=["images"])
def _log_mass(logits_ptr, bias_ptr, x_ptr, total_ptr, pixels, images, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * pixels
    x_ptr += (row % images) * pixels
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, pixels, BLOCK):
        i = start + tl.arange(0, BLOCK)
        has = i < pixels
        logit = tl.load(logits_ptr + i, mask=has, other=0.0) + tl.load(bias_ptr + i, mask=has, other=0.0)
        sign = 2.0 * tl.load(x_ptr + i, mask=has, other=0.0) - 1.0
        total -= tl.where(has, softplus(-sign * logit), 0.0)
    tl.store(total_ptr + row, tl.sum(total, axis=0))


@triton.jit(do_not_specialize=["images", "g_r"])
def _slope(grad_ptr, logits_ptr, bias_ptr, x_ptr, grads_ptr, pixels, images, g_r, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * pixels
    grads_ptr += row * pixels
    x_ptr += (row % images) * pixels
    grad = tl.load(grad_ptr + row * g_r)
    for start in range(0, pixels, BLOCK):
        i = start + tl.arange(0, BLOCK)
        has = i < pixels
        logit = tl.load(logits_ptr + i, mask=has, other=0.0) + tl.load(bias_ptr + i, mask=has, other=0.0)
        sign = 2.0 * tl.load(x_ptr + i, mask=has, other=0.0) - 1.0
        tl.store(grads_ptr + i, grad * sign * sigmoid(-sign * logit), mask=has)
