"""From the layout of the rest, images before variables, to that of the loops, which is batch-last, and back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nfstudy.core.kernels import PART
from nfstudy.core.kernels.cache import compiled
from nfstudy.core.kernels.vectors import LANES


def lanes(x: Tensor, own: bool = False) -> np.ndarray:
    """Return x (..., B, D) as (S, D, B) without gaps: in the same memory where x is batch-last, else a copy.

    numpy turns small arrays round, and makes new ones, in a third of torch's time.

    Arguments:
        x: a tensor.
        own: whether to copy in any case, so that the array may be written to.
    """
    *_, images, latent = x.shape
    return np.array(x.numpy().reshape(-1, images, latent).transpose(0, 2, 1), order="C", copy=own or None)


def by_image(loop: Callable[[np.ndarray, np.ndarray], None], z: Tensor) -> tuple[Tensor, Tensor]:
    """Run a loop on many samples of each image, those of one image side by side in memory.

    Arguments:
        loop: turns z_0, (D, B, W), into z_K, and adds to log-determinants (B, W), which are 0; W is S, rounded up to
            whole vectors of `kernels.vectors`.
        z: z_0, (S, B, D).

    Returns:
        z_K, (S, B, D), and the log-determinants, (S, B), the samples of one image side by side.
    """
    samples, images, latent = z.shape
    width = -(-samples // LANES) * LANES
    array = np.zeros((latent, images, width), z.numpy().dtype)
    array[..., :samples] = z.numpy().transpose(2, 1, 0)
    log_det = np.zeros((images, width), array.dtype)
    loop(array, log_det)
    # Without gaps, so that what multiplies it need not copy it.
    array, log_det = (np.ascontiguousarray(x[..., :samples]) for x in (array, log_det))
    return torch.from_numpy(array).permute(2, 1, 0), torch.from_numpy(log_det).T


def from_lanes(array: np.ndarray, shape: torch.Size) -> Tensor:
    """Return an array (S, D, B) as a tensor of the shape (..., B, D), in the same memory and so batch-last."""
    return torch.from_numpy(array.transpose(0, 2, 1).reshape(shape))


@compiled(**PART)
def aligned(count, length, like):
    """Return empty rows (count, at least length) in the type of `like`, each of which begins with a line of the cache.

    A row that begins elsewhere has every other vector register straddle two lines: `move_back` of planar chains, which
    reads five such rows for each number of a step, took a quarter longer.
    """
    line = 64 // like.itemsize
    width = (length + line - 1) // line * line
    room = np.empty(count * width + line, like.dtype)
    first = -room.ctypes.data % 64 // like.itemsize
    return room[first : first + count * width].reshape(count, width)
