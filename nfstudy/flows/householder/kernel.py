"""The chain of `flows.householder.householder_flow` in one loop, with its backward pass derived by hand.

Names are those of `flows.householder`. Reflections of each image's own are passes over its vectors; the plain formula's
products of matrices pay where all images share them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfstudy.core.kernels import COMPILED, PART, differentiable_once
from nfstudy.core.kernels.cache import compiled
from nfstudy.core.kernels.layout import from_lanes, lanes
from nfstudy.flows.nice.kernel import copy
from nfstudy.flows.planar.kernel import dot


class HouseholderChain(torch.autograd.Function):
    """Apply K reflections; layouts change in here, where no node of the graph has to be made of it.

    Arguments:
        z: z_0, (..., B, D).
        v: (B, K, D); not copied where it is batch-last in memory.

    Returns:
        z_K, (..., B, D), batch-last in memory, and zeros, (..., B).
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Run the chain; where a gradient will be asked for, keep every z_{k−1}."""
        vectors, end = _batch_last(v), lanes(z, own=True)
        path = np.empty((len(vectors) if any(ctx.needs_input_grad) else 0, *end.shape), end.dtype)
        chain(vectors, path, end)
        ctx.save_for_backward(v)
        ctx.path = path
        return from_lanes(end, z.shape), z.new_zeros(z.shape[:-1])

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_z: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of z and v."""
        vectors, g = _batch_last(*ctx.saved_tensors), lanes(grad_z, own=True)
        grad_v = np.zeros_like(vectors)
        chain_backward(vectors, ctx.path, g, grad_v)
        return from_lanes(g, grad_z.shape), torch.from_numpy(grad_v.transpose(2, 0, 1))


def _batch_last(v: Tensor) -> np.ndarray:
    """Return v (B, K, D) as (K, D, B) without gaps."""
    return np.ascontiguousarray(v.numpy().transpose(1, 2, 0))


@compiled(**PART)
def unit_vectors(v, unit, largest, total):
    """Fill unit (D, B) with v/‖v‖, or 0 where v = 0, largest (B,) with the largest |v_d|, and total with ‖v‖/largest.

    Vectors are first divided by their largest number: so no square overflows or underflows.
    """
    latent, images = v.shape
    for i in range(images):
        largest[i], total[i] = 0, 0
    for d in range(latent):
        for i in range(images):
            size = abs(v[d, i])
            largest[i] = (
                size if (size > largest[i]) | (size != size) else largest[i]
            )  # So that a NaN is taken, and kept.
    for d in range(latent):
        for i in range(images):
            unit[d, i] = v[d, i] / largest[i] if largest[i] != 0 else 0
    dot(unit, unit, total)
    kind = v.dtype.type
    for i in range(images):
        total[i] = kind(math.sqrt(total[i]))
    for d in range(latent):
        for i in range(images):
            unit[d, i] = unit[d, i] / total[i] if total[i] != 0 else 0


@compiled(**COMPILED)
def chain(v, path, end):
    """Turn end (S, D, B) from z_0 into z_K.

    Fills path (K, S, D, B) with z_{k−1}, unless it is (0, S, D, B).
    """
    length, latent, images = v.shape
    unit, along = np.empty((latent, images), v.dtype), np.empty(images, v.dtype)
    largest, total = np.empty(images, v.dtype), np.empty(images, v.dtype)
    for k in range(length):
        unit_vectors(v[k], unit, largest, total)
        for s in range(len(end)):
            z = end[s]
            if len(path):
                copy(path[k, s], z)
            for i in range(images):
                along[i] = 0
            dot(unit, z, along)
            for d in range(latent):
                for i in range(images):
                    z[d, i] -= 2 * along[i] * unit[d, i]


@compiled(**PART)
def add_gradient(unit, z, g, by_g, by_z, by_unit, grad):
    """Add by_g g + by_z z + by_unit unit, factors (B,) times arrays (D, B), to grad (D, B)."""
    latent, images = z.shape
    for d in range(latent):
        for i in range(images):
            grad[d, i] += by_g[i] * g[d, i] + by_z[i] * z[d, i] + by_unit[i] * unit[d, i]


@compiled(**COMPILED)
def chain_backward(v, path, grad_z, grad_v):
    """Turn grad_z (S, D, B) from the gradient of z_K into that of z_0, and add to grad_v (K, D, B).

    With u = v/‖v‖, c = uᵀz and a = uᵀg, the gradients are g − 2 a u by z and −2 (c g + a z − 2 a c u)/‖v‖ by v.
    """
    length, latent, images = v.shape
    unit, along = np.empty((latent, images), v.dtype), np.empty(images, v.dtype)
    largest, total = np.empty(images, v.dtype), np.empty(images, v.dtype)
    against, by_g, by_z, by_unit = (
        np.empty(images, v.dtype),
        np.empty(images, v.dtype),
        np.empty(images, v.dtype),
        np.empty(images, v.dtype),
    )
    for k in range(length - 1, -1, -1):
        unit_vectors(v[k], unit, largest, total)
        for s in range(len(grad_z)):
            z, g = path[k, s], grad_z[s]
            for i in range(images):
                along[i], against[i] = 0, 0
            dot(unit, z, along)
            dot(unit, g, against)
            for i in range(images):
                factor = -2 / total[i] / largest[i] if largest[i] != 0 else 0
                by_g[i] = factor * along[i]
                by_z[i] = factor * against[i]
                by_unit[i] = -2 * factor * along[i] * against[i]
            add_gradient(unit, z, g, by_g, by_z, by_unit, grad_v[k])
            for d in range(latent):
                for i in range(images):
                    g[d, i] -= 2 * against[i] * unit[d, i]
