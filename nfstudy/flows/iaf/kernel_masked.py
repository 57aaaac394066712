"""Products with the masked weights of an autoregressive network, for the loops of `flows.iaf.kernel`.

Within a step the variables stand in its order. So each hidden unit sees the first of them, and hears, like what is said
of each variable, the first of the units: what is masked stands at the end of a row and is left out.
"""

from __future__ import annotations

import numpy as np

from nfstudy.core.kernels import PART
from nfstudy.core.kernels.cache import compiled


@compiled(**PART)
def add_product(out, weights, x, first, last, lanes):
    """Add weights (M, N) times x (N, B) to out (M, B), of row j columns first[j], ..., last[j] − 1 in lanes < lanes[j].

    More may be added, as bounds are those of four rows and four columns together, whose weights stay in registers: what
    is masked must be 0 in the weights, or of no account in out.
    """
    rows, depth = weights.shape
    for j in range(0, rows - rows % 4, 4):
        start = min(first[j], first[j + 1], first[j + 2], first[j + 3]) // 4 * 4
        stop = min((max(last[j], last[j + 1], last[j + 2], last[j + 3]) + 3) // 4 * 4, depth)
        images = max(lanes[j], lanes[j + 1], lanes[j + 2], lanes[j + 3])
        for d in range(0, stop - stop % 4, 4):
            if d < start:  # From `start` on, d might be negative for all that the compiler knows: 3 times slower.
                continue
            a0, a1, a2, a3 = weights[j, d], weights[j, d + 1], weights[j, d + 2], weights[j, d + 3]
            b0, b1, b2, b3 = weights[j + 1, d], weights[j + 1, d + 1], weights[j + 1, d + 2], weights[j + 1, d + 3]
            c0, c1, c2, c3 = weights[j + 2, d], weights[j + 2, d + 1], weights[j + 2, d + 2], weights[j + 2, d + 3]
            e0, e1, e2, e3 = weights[j + 3, d], weights[j + 3, d + 1], weights[j + 3, d + 2], weights[j + 3, d + 3]
            for i in range(images):
                x0, x1, x2, x3 = x[d, i], x[d + 1, i], x[d + 2, i], x[d + 3, i]
                out[j, i] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
                out[j + 1, i] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
                out[j + 2, i] += c0 * x0 + c1 * x1 + c2 * x2 + c3 * x3
                out[j + 3, i] += e0 * x0 + e1 * x1 + e2 * x2 + e3 * x3
        for d in range(stop - stop % 4, stop):
            a, b, c, e = weights[j, d], weights[j + 1, d], weights[j + 2, d], weights[j + 3, d]
            for i in range(images):
                out[j, i] += a * x[d, i]
                out[j + 1, i] += b * x[d, i]
                out[j + 2, i] += c * x[d, i]
                out[j + 3, i] += e * x[d, i]
    for j in range(rows - rows % 4, rows):
        for d in range(last[j]):
            if d >= first[j]:
                a = weights[j, d]
                for i in range(lanes[j]):
                    out[j, i] += a * x[d, i]


@compiled(**PART)
def bounds(seen, latent, images):
    """Return what each unit sees and each number said by the network hears, as bounds of `add_product`.

    Returns:
        heard: how many units each of the 2D numbers hears, m before s, a variable's after that before it in the order.
        low: the first unit that sees as many variables as this one, (H,).
        high: the first unit that sees more, (H,).
        none, all_units, all_said, all_images: 0, H, 2D and B, for as many rows as there may be.
    """
    units = len(seen)
    heard, low, high = np.zeros(2 * latent, np.int64), np.zeros(units, np.int64), np.zeros(units, np.int64)
    for place in range(latent):
        for j in range(units):
            heard[2 * place] += seen[j] <= place
        heard[2 * place + 1] = heard[2 * place]
    for j in range(units):
        for other in range(units):
            low[j] += seen[other] < seen[j]
            high[j] += seen[other] <= seen[j]
    ones = np.ones(max(units, 2 * latent), np.int64)
    return heard, low, high, 0 * ones, units * ones, 2 * latent * ones, images * ones


@compiled(**PART)
def invert(order, sequence):
    """Fill sequence (D,) with the variables in the order in which order (D,) gives their places."""
    for variable in range(len(order)):
        sequence[order[variable]] = variable


@compiled(**PART)
def pack(w_in, w_out, sequence, seen, heard, packed_in, packed_out):
    """Fill packed_in (H, D) and packed_out (2D, H) with a step's weights in its order, 0 where they are masked."""
    units, latent = w_in.shape
    packed_in[:] = 0
    packed_out[:] = 0
    for j in range(units):
        for place in range(seen[j]):
            packed_in[j, place] = w_in[j, sequence[place]]
    for place in range(latent):
        variable = sequence[place]
        for j in range(heard[2 * place]):
            packed_out[2 * place, j] = w_out[variable, j]
            packed_out[2 * place + 1, j] = w_out[latent + variable, j]


@compiled(**PART)
def unpack(sums_in, sums_out, sequence, seen, heard, grad_w_in, grad_w_out):
    """Put gradients from the step's order back into that of the weights, as `pack` took it from there.

    Of what is masked nothing is looked at or written. Those of W_in come as columns, from the last unit to the first.
    """
    units, latent = grad_w_in.shape
    for j in range(units):
        for place in range(seen[j]):
            grad_w_in[j, sequence[place]] = sums_in[place, units - 1 - j]
    for place in range(latent):
        variable = sequence[place]
        for j in range(heard[2 * place]):
            grad_w_out[variable, j] = sums_out[2 * place, j]
            grad_w_out[latent + variable, j] = sums_out[2 * place + 1, j]


@compiled(**PART)
def copy_unmasked(source, high, target):
    """Fill target with source, both (L − 1, H, H), but for what is masked between hidden layers."""
    for layer in range(len(source)):
        for j in range(len(high)):
            for unit in range(high[j]):
                target[layer, j, unit] = source[layer, j, unit]


@compiled(**PART)
def transpose(out, x):
    """Fill out (B, N) with xᵀ, x (N, B)."""
    rows, images = x.shape
    for i in range(images):
        for j in range(rows):
            out[i, j] = x[j, i]


@compiled(**PART)
def add_sums(out, x):
    """Add to out (N,) the sums over the images of x (N, B)."""
    rows, images = x.shape
    for j in range(rows):
        total = out.dtype.type(0)
        for i in range(images):
            total += x[j, i]
        out[j] += total
