"""`flows.full_covariance.full_covariance` of each image's own factor in one loop, with a backward pass by hand.

Names are those of `flows.full_covariance`. The factor is read as the head gives it, row by row, and never made square.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfstudy.core.kernels import COMPILED, ORDERED, differentiable_once
from nfstudy.core.kernels.cache import compiled
from nfstudy.core.kernels.elementary import exp
from nfstudy.core.kernels.layout import from_lanes, lanes


class TriangularProduct(torch.autograd.Function):
    """Return L z, (..., B, D), batch-last in memory, and ln|det L| in nats, (..., B).

    Arguments:
        z: (..., B, D).
        log_diagonal: l, (B, D); not copied where it is batch-last in memory.
        below: L below its diagonal, row by row, (B, D (D − 1)/2); not copied either.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, log_diagonal: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply; z is kept."""
        start = lanes(z)
        end, log_det = np.empty_like(start), np.empty((len(start), start.shape[2]), start.dtype)
        multiply(_batch_last(log_diagonal), _batch_last(below), start, end, log_det)
        ctx.save_for_backward(log_diagonal, below)
        ctx.start = start
        return from_lanes(end, z.shape), torch.from_numpy(log_det.reshape(z.shape[:-1]))

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor, grad_log_det: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of z, l and L below its diagonal."""
        log_diagonal, below = map(_batch_last, ctx.saved_tensors)
        grad_z = lanes(grad, own=True)
        grad_diagonal, grad_below = np.empty_like(log_diagonal), np.empty_like(below)
        totals = np.ascontiguousarray(grad_log_det.numpy()).reshape(len(grad_z), -1)
        multiply_backward(log_diagonal, below, ctx.start, totals, grad_z, grad_diagonal, grad_below)
        return from_lanes(grad_z, grad.shape), torch.from_numpy(grad_diagonal.T), torch.from_numpy(grad_below.T)


def _batch_last(numbers: Tensor) -> np.ndarray:
    """Return numbers (B, n) as (n, B) without gaps."""
    return np.ascontiguousarray(numbers.numpy().T)


@compiled(**ORDERED)
def scale(log):
    """Return eˡ; infinite from l = 709 on, near which float64 ends."""
    return math.inf if log > 709 else exp(log)


@compiled(**COMPILED)
def multiply(log_diagonal, below, start, end, log_det):
    """Fill end (S, D, B) with L times start, and log_det (S, B) with the sums of l (D, B)."""
    samples, latent, images = start.shape
    total = np.zeros(images)
    for d in range(latent):
        for i in range(images):
            total[i] += log_diagonal[d, i]
    for s in range(samples):
        for i in range(images):
            log_det[s, i] = total[i]
        for d in range(latent):
            row, z = below[d * (d - 1) // 2 : d * (d + 1) // 2], end[s, d]
            for i in range(images):
                z[i] = scale(np.float64(log_diagonal[d, i])) * np.float64(start[s, d, i])
            for j in range(d):
                for i in range(images):
                    z[i] += row[j, i] * start[s, j, i]


@compiled(**COMPILED)
def multiply_backward(log_diagonal, below, start, grad_log_det, grad, grad_diagonal, grad_below):
    """Turn grad (S, D, B) from the gradient of L z into that of z, and fill those of l (D, B) and below (n, B)."""
    samples, latent, images = start.shape
    kind = grad.dtype.type
    for s in range(samples):
        g = grad[s]
        for d in range(latent):
            row = grad_below[d * (d - 1) // 2 : d * (d + 1) // 2]
            for j in range(d):
                if s == 0:
                    for i in range(images):
                        row[j, i] = g[d, i] * start[s, j, i]
                else:
                    for i in range(images):
                        row[j, i] += g[d, i] * start[s, j, i]
        for d in range(latent):
            # What is further down is still the gradient of L z.
            for i in range(images):
                g[d, i] = kind(scale(np.float64(log_diagonal[d, i])) * np.float64(g[d, i]))
            for i in range(images):
                so_far = grad_diagonal[d, i] if s > 0 else 0
                grad_diagonal[d, i] = so_far + g[d, i] * start[s, d, i] + grad_log_det[s, i]
            for lower in range(d + 1, latent):
                entry = below[lower * (lower - 1) // 2 + d]
                for i in range(images):
                    g[d, i] += entry[i] * g[lower, i]
