"""ln p(x|z) of bits from the logits of many samples, in one pass over memory: the loop of `Bernoulli.of_samples`."""

from __future__ import annotations

import numpy as np

from nfstudy.core.kernels import COMPILED
from nfstudy.core.kernels.cache import compiled
from nfstudy.core.kernels.elementary import exp_alike, log, log1p_unit

LANES = 16
"""Numbers in float32 of the widest vector registers."""
BLOCK = 512
"""Pixels whose Π (1 + e) is at most 2⁵¹², a number in float64; a multiple of 4."""


@compiled(**COMPILED)
def log_probability(logits, bias, x, total):
    """Fill total (S, B), in float64, with Σ_i ln σ(y_i), y_i = (2 x_i − 1) (l_i + b_i).

    ln σ(y) = min(y, 0) − ln(1 + e), e = exp(−|y|). In place of a logarithm for each pixel there is one for many,
    Σ_i ln(1 + e_i) = ln(1 + q), where q = Π_i (1 + e_i) − 1 is built up as q + e + q e: of terms that are not
    negative, so that nothing cancels, and what is left of large logits is not lost beside 1.

    Arguments:
        logits: l without biases, (N, S, B), images side by side in memory.
        bias: b, (N,).
        x: zeros and ones, (B, N).
        total: (S, B), without gaps.
    """
    pixels, samples, images = logits.shape
    # So many samples side by side fill registers to the last lane.
    together = 1
    while together * images % LANES and samples % (2 * together) == 0:
        together *= 2
    rows, lanes = samples // together, together * images
    l, sums = logits.reshape(pixels, rows, lanes), total.reshape(rows, lanes)
    tails = np.empty((rows, lanes))
    signs = np.empty((4, lanes), logits.dtype)
    zero = logits.dtype.type(0)
    sums[:] = 0
    for first in range(0, pixels, BLOCK):
        last = min(first + BLOCK, pixels)
        tails[:] = 0
        whole = last - (last - first) % 4
        for n in range(first, whole, 4):
            for i in range(images):
                for j in range(4):
                    signs[j, i] = 2 * x[i, n + j] - 1
            for t in range(1, together):
                for j in range(4):
                    for i in range(images):
                        signs[j, t * images + i] = signs[j, i]
            b0, b1, b2, b3 = bias[n], bias[n + 1], bias[n + 2], bias[n + 3]
            for s in range(rows):
                for i in range(lanes):
                    y0, y1 = signs[0, i] * (l[n, s, i] + b0), signs[1, i] * (l[n + 1, s, i] + b1)
                    y2, y3 = signs[2, i] * (l[n + 2, s, i] + b2), signs[3, i] * (l[n + 3, s, i] + b3)
                    e0, e1 = np.float64(exp_alike(-abs(y0))), np.float64(exp_alike(-abs(y1)))
                    e2, e3 = np.float64(exp_alike(-abs(y2))), np.float64(exp_alike(-abs(y3)))
                    q, r = e0 + e1 + e0 * e1, e2 + e3 + e2 * e3
                    q = q + r + q * r
                    tails[s, i] += q + tails[s, i] * q
                    # Written so that a NaN is kept.
                    y0, y1 = zero if y0 > zero else y0, zero if y1 > zero else y1
                    y2, y3 = zero if y2 > zero else y2, zero if y3 > zero else y3
                    sums[s, i] += np.float64((y0 + y1) + (y2 + y3))
        for n in range(whole, last):
            for s in range(rows):
                for i in range(lanes):
                    y = (2 * x[i % images, n] - 1) * (l[n, s, i] + bias[n])
                    e = np.float64(exp_alike(-abs(y)))
                    tails[s, i] += e + tails[s, i] * e
                    sums[s, i] += np.float64(zero if y > zero else y)
        for s in range(rows):
            for i in range(lanes):
                q = tails[s, i]
                sums[s, i] -= log1p_unit(q) if q < 1 else log(1 + q)
