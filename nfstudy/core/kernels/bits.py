"""ln p(x|z) of bits from the logits of many samples, in one pass over memory: the loop of `Bernoulli.of_samples`."""

from __future__ import annotations

import numpy as np

from nfstudy.core.kernels import COMPILED, PART
from nfstudy.core.kernels.cache import compiled
from nfstudy.core.kernels.elementary import log, log1p_unit
from nfstudy.core.kernels.vector_functions import ONE, TWO, ZERO, exp
from nfstudy.core.kernels.vectors import LANES, below, choose, doubled, every, fused, load, minus_size, store

GROUP = 8
"""Pixels whose Π (1 + e) − 1 and Σ min(y, 0) are in float32, before they join those of others in float64."""
BLOCK = 512
"""Pixels whose Π (1 + e) is at most 2⁵¹², a number in float64; a multiple of `GROUP`."""


@compiled(**PART)
def fold(q, small, logits, bias, bit):
    """Return q and Σ min(y, 0) with one pixel of 16 samples of an image more."""
    zero = every(ZERO)
    y = every(TWO * bit - ONE) * (logits + every(bias))
    e = exp(minus_size(y))
    return fused(q, e, q) + e, small + choose(below(zero, y), zero, y)  # A NaN is kept.


@compiled(**PART)
def join(tails, sums, row, q, small):
    """Add a group's q and Σ min(y, 0) to those of the pixels before it."""
    tail, more = load(tails, (row, 0)), doubled(q)
    store(tails, (row, 0), fused(tail, more, tail) + more)
    store(sums, (row, 0), load(sums, (row, 0)) + doubled(small))


@compiled(**COMPILED)
def log_probability(logits, bias, x, offset, total):
    """Add Σ_i ln σ(y_i), y_i = (2 x_i − 1) (l_i + b_i), to total (B, S), which is in float64, all else in float32.

    ln σ(y) = min(y, 0) − ln(1 + e), e = exp(−|y|). In place of a logarithm for each pixel there is one for many,
    Σ_i ln(1 + e_i) = ln(1 + q), where q = Π_i (1 + e_i) − 1 is built up as q + e + q e: of terms that are not
    negative, so that nothing cancels, and what is left of large logits is not lost beside 1.

    Arguments:
        logits: l without biases, (N, B, S), the samples of an image side by side in memory.
        bias: b, (N,).
        x: zeros and ones, (B, at least offset + N).
        offset: the column of x that is of the first of these pixels.
        total: (B, S), without gaps.
    """
    pixels, images, samples = logits.shape
    raw = logits.reshape(pixels, images * samples)
    whole, groups = samples // LANES, (samples + LANES - 1) // LANES
    tails, sums = np.empty((images * groups, LANES)), np.zeros((images * groups, LANES))
    few = np.zeros((1, LANES), logits.dtype)
    zero = every(ZERO)
    for begin in range(0, pixels, BLOCK):
        end = min(begin + BLOCK, pixels)
        tails[:] = 0
        for first in range(begin, end, GROUP):
            last = min(first + GROUP, end)
            for i in range(images):
                for g in range(whole):
                    q, small = zero, zero
                    for n in range(first, last):
                        came = load(raw, (n, i * samples + g * LANES))
                        q, small = fold(q, small, came, bias[n], x[i, offset + n])
                    join(tails, sums, i * groups + g, q, small)
                if whole < groups:
                    q, small = zero, zero
                    for n in range(first, last):
                        for lane in range(samples - whole * LANES):
                            few[0, lane] = raw[n, i * samples + whole * LANES + lane]
                        q, small = fold(q, small, load(few, (0, 0)), bias[n], x[i, offset + n])
                    join(tails, sums, i * groups + whole, q, small)
        for row in range(len(sums)):
            for lane in range(LANES):
                q = tails[row, lane]
                sums[row, lane] -= log1p_unit(q) if q < 1 else log(1 + q)
    for i in range(images):
        for s in range(samples):
            total[i, s] += sums[i * groups + s // LANES, s % LANES]
