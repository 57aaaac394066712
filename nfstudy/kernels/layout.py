"""From the layout of the rest, images before variables, to that of the loops, which is batch-last, and back."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def lanes(x: Tensor) -> np.ndarray:
    """Return x (..., B, D) as (S, D, B) without gaps: in the same memory where x is batch-last, else a copy.

    numpy turns small arrays round in a third of torch's time.
    """
    *_, images, latent = x.shape
    return np.ascontiguousarray(x.numpy().reshape(-1, images, latent).transpose(0, 2, 1))


def empty_lanes(like: Tensor) -> Tensor:
    """Return a tensor of that shape (..., B, D) and type, batch-last in memory, its numbers yet to be filled in."""
    *samples, images, latent = like.shape
    strides, step = [1, images], images * latent
    for count in reversed(samples):
        strides.insert(0, step)
        step *= count
    return like.new_empty_strided(like.shape, strides)
