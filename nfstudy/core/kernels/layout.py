"""From the layout of the rest, images before variables, to that of the loops, which is batch-last, and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def lanes(x: Tensor, own: bool = False) -> np.ndarray:
    """Return x (..., B, D) as (S, D, B) without gaps: in the same memory where x is batch-last, else a copy.

    numpy turns small arrays round, and makes new ones, in a third of torch's time.

    Arguments:
        x: a tensor.
        own: whether to copy in any case, so that the array may be written to.
    """
    *_, images, latent = x.shape
    return np.array(x.numpy().reshape(-1, images, latent).transpose(0, 2, 1), order="C", copy=own or None)


def from_lanes(array: np.ndarray, shape: torch.Size) -> Tensor:
    """Return an array (S, D, B) as a tensor of the shape (..., B, D), in the same memory and so batch-last."""
    return torch.from_numpy(array.transpose(0, 2, 1).reshape(shape))
