"""The chain of `flows.nice.nice_flow` with permutations, for many samples of each image, without gradients, in float32.

All samples share the weights, so that a coupling network is a product of small matrices: 64 samples at a time go
through the whole chain, in blocks of 4 × 64 sums that stay in registers. Nothing is permuted but the order in which
rows are looked up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from nfstudy.core.kernels import COMPILED, PART
from nfstudy.core.kernels.cache import compiled
from nfstudy.core.kernels.layout import aligned
from nfstudy.core.kernels.vector_functions import tanh
from nfstudy.core.kernels.vectors import LANES, every, fused, load, store

WIDTH = 4 * LANES
"""Samples that go through the chain together."""


@compiled(**PART)
def row(x, j):
    """Return a row of x (N, 64) as four vectors."""
    return load(x, (j, 0)), load(x, (j, LANES)), load(x, (j, 2 * LANES)), load(x, (j, 3 * LANES))


@compiled(**PART)
def put(x, j, sums):
    """Put four vectors into a row of x (N, 64)."""
    store(x, (j, 0), sums[0])
    store(x, (j, LANES), sums[1])
    store(x, (j, 2 * LANES), sums[2])
    store(x, (j, 3 * LANES), sums[3])


@compiled(**PART)
def spread(biases, j, owners):
    """Return a row's biases (H, B) of the images that four vectors belong to, or of all images, (H, 1)."""
    if biases.shape[1] == 1:
        b = every(biases[j, 0])
        return b, b, b, b
    return (
        every(biases[j, owners[0]]),
        every(biases[j, owners[1]]),
        every(biases[j, owners[2]]),
        every(biases[j, owners[3]]),
    )


@compiled(**PART)
def add(sums, weight, x):
    """Return four vectors of sums with weight · x added."""
    w = every(weight)
    return (
        fused(w, x[0], sums[0]),
        fused(w, x[1], sums[1]),
        fused(w, x[2], sums[2]),
        fused(w, x[3], sums[3]),
    )


@compiled(**PART)
def squashed(sums):
    """Return the tanh of four vectors."""
    return tanh(sums[0]), tanh(sums[1]), tanh(sums[2]), tanh(sums[3])


@compiled(**PART)
def layer(out, weights, biases, owners, x, order):
    """Fill out (H, 64) with tanh of biases plus weights (H, N) times the rows of x (..., 64) in this order, (N,)."""
    units, depth = weights.shape
    whole = units - units % 4
    for j in range(0, whole, 4):
        a, b = spread(biases, j, owners), spread(biases, j + 1, owners)
        c, e = spread(biases, j + 2, owners), spread(biases, j + 3, owners)
        for d in range(depth):
            came = row(x, order[d])
            a, b = add(a, weights[j, d], came), add(b, weights[j + 1, d], came)
            c, e = add(c, weights[j + 2, d], came), add(e, weights[j + 3, d], came)
        put(out, j, squashed(a))
        put(out, j + 1, squashed(b))
        put(out, j + 2, squashed(c))
        put(out, j + 3, squashed(e))
    for j in range(whole, units):
        a = spread(biases, j, owners)
        for d in range(depth):
            a = add(a, weights[j, d], row(x, order[d]))
        put(out, j, squashed(a))


@compiled(**PART)
def shift(z, order, weights, biases, x):
    """Add weights (N, H) times x (H, 64) and biases (N,) to the rows of z (..., 64) in this order, (N,)."""
    rows, depth = weights.shape
    whole = rows - rows % 4
    for j in range(0, whole, 4):
        a, b = spread(biases, j, order), spread(biases, j + 1, order)
        c, e = spread(biases, j + 2, order), spread(biases, j + 3, order)
        for d in range(depth):
            came = row(x, d)
            a, b = add(a, weights[j, d], came), add(b, weights[j + 1, d], came)
            c, e = add(c, weights[j + 2, d], came), add(e, weights[j + 3, d], came)
        put(z, order[j], add(a, np.float32(1), row(z, order[j])))
        put(z, order[j + 1], add(b, np.float32(1), row(z, order[j + 1])))
        put(z, order[j + 2], add(c, np.float32(1), row(z, order[j + 2])))
        put(z, order[j + 3], add(e, np.float32(1), row(z, order[j + 3])))
    for j in range(whole, rows):
        a = spread(biases, j, order)
        for d in range(depth):
            a = add(a, weights[j, d], row(x, d))
        put(z, order[j], add(a, np.float32(1), row(z, order[j])))


@compiled(**COMPILED)
def chain_of_samples(b_in, mixing, w_in, w_hidden, b_hidden, w_out, b_out, z):
    """Turn z (D, B, S) from z_0 into z_K; S a multiple of 16.

    b_in is (K, H, B) or (K, H, 1), b_hidden (L − 1, K, H, 1), b_out (K, D − d, 1); mixing has permutations, (K, D).
    """
    latent, images, samples = z.shape
    length, units, passing = w_in.shape
    # Before each step, variable d of Qz stands in row order[k, d].
    order = np.empty((length + 1, latent), np.int64)
    for d in range(latent):
        order[0, d] = mixing[0, d] if length else d
    for k in range(1, length):
        for d in range(latent):
            order[k, d] = order[k - 1, mixing[k, d]]
    plain = np.arange(units)
    room = aligned(latent + 2 * units, WIDTH, z)
    tile, hidden, further = room[:latent], room[latent : latent + units], room[latent + units :]
    groups = images * samples // LANES
    owners, starts = np.empty(4, np.int64), np.empty(4, np.int64)
    for first in range(0, groups, 4):
        for v in range(4):
            group = min(first + v, groups - 1)  # Where fewer are left, the last one is done again.
            owners[v], starts[v] = group * LANES // samples, group * LANES % samples
            for d in range(latent):
                store(tile, (d, v * LANES), load(z, (d, owners[v], starts[v])))
        for k in range(length):
            layer(hidden, w_in[k], b_in[k], owners, tile, order[k, :passing])
            for deeper in range(len(w_hidden)):
                layer(further, w_hidden[deeper, k], b_hidden[deeper, k], owners, hidden, plain)
                hidden, further = further, hidden
            shift(tile, order[k, passing:], w_out[k], b_out[k], hidden)
        for v in range(4):
            for d in range(latent):
                store(z, (d, owners[v], starts[v]), load(tile, (order[length - 1, d], v * LANES)))


def samples_loop(
    b_in: Tensor, mixing: Tensor, w_in: Tensor, w_hidden: Tensor, b_hidden: Tensor, w_out: Tensor, b_out: Tensor
) -> Callable[[np.ndarray, np.ndarray], None]:
    """Return what turns z_0 into z_K, as `kernels.layout.by_image` takes it; arguments as of `kernel.CouplingChain`."""
    b_in = b_in.detach().permute(1, 2, 0)
    b_first = b_in[..., :1] if b_in.stride(-1) == 0 else b_in
    tensors = (b_first, mixing, w_in, w_hidden, b_hidden.unsqueeze(-1), w_out, b_out.unsqueeze(-1))
    arrays = [np.ascontiguousarray(x.numpy()) for x in tensors]

    def run(z: np.ndarray, log_det: np.ndarray) -> None:
        chain_of_samples(*arrays, z)  # Whose determinant is 1.

    return run
