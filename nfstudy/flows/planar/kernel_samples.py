"""The chain of `flows.planar.planar_flow` for many samples of each image, without gradients, in float32.

In `flows.planar.kernel` the images lie side by side in memory, and each has numbers of its own for every step. Here the
samples of one image do, which share them: a step's numbers are fetched once for 16 samples, and 16 samples go through
the whole chain before the next ones, so that they never leave the nearest cache. What depends on the numbers alone, û
and M = 1 + wᵀû, is found once for all blocks of samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from nfstudy.core.kernels import COMPILED, PART
from nfstudy.core.kernels.cache import compiled
from nfstudy.core.kernels.elementary import log
from nfstudy.core.kernels.layout import aligned
from nfstudy.core.kernels.vector_functions import tanh_and_bend
from nfstudy.core.kernels.vectors import LANES, doubled, every, fused, load, store
from nfstudy.flows.planar.kernel import constrain, products_of_step, tiny_square

LEAST, MOST = 1e-30, 1e10
"""M between which no determinant leaves float32, the product of `TOGETHER` of them no float64, and sech² of `FARTHEST`,
the least that `tanh_and_bend` gives, is nothing times any."""
TOGETHER = 8
"""Steps of which there is one logarithm."""


class Constrained(NamedTuple):
    """The numbers of all steps, each image's own beside each other."""

    directions: np.ndarray
    """û_d and w_d by turns, (B, K, 2D)."""
    scalars: np.ndarray
    """b and M, (B, K, 2)."""


def constrained(steps: Tensor) -> Constrained | None:
    """Return û, w, b and M of steps (B, K, 2D + 1) in float32; None where an M is out of bounds, or no number."""
    numbers = np.ascontiguousarray(steps.detach().numpy().transpose(1, 2, 0))
    length, size, images = numbers.shape
    found = Constrained(
        np.empty((images, length, size - 1), numbers.dtype), np.empty((images, length, 2), numbers.dtype)
    )
    return found if constrain_all(numbers, *found) else None


@compiled(**COMPILED)
def constrain_all(steps, directions, scalars):
    """Fill directions and scalars, as `Constrained` has them, from steps (K, 2D + 1, B); say if each M is in bounds."""
    length, size, images = steps.shape
    latent = size // 2
    rows = aligned(4, images, steps)
    wu, ww, a, c = rows[0, :images], rows[1, :images], rows[2, :images], rows[3, :images]
    doubles = np.empty((4, images))
    nowhere = np.zeros((latent, images), steps.dtype)
    fit = True
    for k in range(length):
        step = steps[k]
        products_of_step(step, nowhere, wu, ww, a)
        constrain(wu, ww, doubles, c, tiny_square(steps), True)
        for i in range(images):
            fit &= LEAST < doubles[2, i] < MOST
            scalars[i, k, 0] = a[i]
            scalars[i, k, 1] = doubles[2, i]
            for d in range(latent):
                directions[i, k, 2 * d] = step[d, i] + c[i] * step[latent + d, i]
                directions[i, k, 2 * d + 1] = step[latent + d, i]
    return fit


@compiled(**PART)
def dot_of_step(numbers, z, latent, b):
    """Return wᵀz + b of the samples of one image, z (D, 16) and the row `numbers` of `Constrained.directions`."""
    a0, a1, a2, a3 = every(b), every(np.float32(0)), every(np.float32(0)), every(np.float32(0))
    whole = latent - latent % 4
    for d in range(0, whole, 4):
        a0 = fused(load(z, (d, 0)), every(numbers[2 * d + 1]), a0)
        a1 = fused(load(z, (d + 1, 0)), every(numbers[2 * d + 3]), a1)
        a2 = fused(load(z, (d + 2, 0)), every(numbers[2 * d + 5]), a2)
        a3 = fused(load(z, (d + 3, 0)), every(numbers[2 * d + 7]), a3)
    for d in range(whole, latent):
        a0 = fused(load(z, (d, 0)), every(numbers[2 * d + 1]), a0)
    return (a0 + a1) + (a2 + a3)


@compiled(**COMPILED)
def chain_of_samples(directions, scalars, z, log_det):
    """Turn z (D, B, S) from z_0 into z_K, fill log_det (B, S); S a multiple of 16, numbers as in `Constrained`."""
    latent, images, samples = z.shape
    length = scalars.shape[1]
    room = aligned(2 * latent, LANES, z)
    ours, theirs = room[:latent], room[latent:]
    products, totals = np.empty((2, LANES)), np.empty((2, LANES))
    # Two images at a time: while one waits for its tanh, the other adds up.
    groups = images * samples // LANES
    for first in range(0, groups, 2):
        last = min(first + 1, groups - 1)
        i, s, j, t = first * LANES // samples, first * LANES % samples, last * LANES // samples, last * LANES % samples
        for d in range(latent):
            store(ours, (d, 0), load(z, (d, i, s)))
            store(theirs, (d, 0), load(z, (d, j, t)))
        totals[:] = 0
        for start in range(0, length, TOGETHER):
            det, their_det = every(1.0), every(1.0)
            for k in range(start, min(start + TOGETHER, length)):
                a = dot_of_step(directions[i, k], ours, latent, scalars[i, k, 0])
                their_a = dot_of_step(directions[j, k], theirs, latent, scalars[j, k, 0])
                slope, bend = tanh_and_bend(a)
                their_slope, their_bend = tanh_and_bend(their_a)
                det = det * doubled(fused(bend, every(scalars[i, k, 1]), slope * slope))
                their_det = their_det * doubled(fused(their_bend, every(scalars[j, k, 1]), their_slope * their_slope))
                for d in range(latent):
                    store(ours, (d, 0), fused(slope, every(directions[i, k, 2 * d]), load(ours, (d, 0))))
                    store(theirs, (d, 0), fused(their_slope, every(directions[j, k, 2 * d]), load(theirs, (d, 0))))
            store(products, (0, 0), det)
            store(products, (1, 0), their_det)
            for row in range(2):
                for lane in range(LANES):
                    totals[row, lane] += log(products[row, lane])
        for d in range(latent):
            store(z, (d, i, s), load(ours, (d, 0)))
            store(z, (d, j, t), load(theirs, (d, 0)))
        for lane in range(LANES):
            log_det[i, s + lane] = totals[0, lane]
            log_det[j, t + lane] = totals[1, lane]
