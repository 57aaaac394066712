"""Fused kernels for a GPU, written in Triton: each does in one launch what a plain formula elsewhere does in many.

As with the loops of `core.kernels`, the plain formulas stay the reference, and what runs where these do not. Triton
comes with torch's builds for CUDA and with no other, so that nothing but the modules named `cuda` imports it, and they
are imported only once `runs_here` has said yes. The kernels never wait for the device, copy nothing to it and take no
shape from data, so that a CUDA graph can hold them; their sums have one order, so that the same inputs give the same
bits. How many steps a chain has is known to them only as they run: a longer chain is not compiled anew.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

PROGRAMS = 256
"""Of samples that all share their steps: with more samples, a program takes several, up to `ROWS`."""
ROWS = 16
"""Most samples of one program."""
CELLS = 4096
"""Most numbers of a program's z, which the registers hold."""
PIECE = 65536
"""Samples of one launch: the gradient of shared steps is kept once for each program, and then summed."""


@cache
def has_triton() -> bool:
    """Return whether Triton can be imported."""
    return find_spec("triton") is not None


def runs_here(*tensors: Tensor) -> bool:
    """Return whether the kernels can take these tensors: float32, all on one GPU of CUDA, and Triton at hand."""
    kinds = {(x.dtype, x.device) for x in tensors}
    if len(kinds) != 1:
        return False
    kind, device = kinds.pop()
    return kind == torch.float32 and device.type == "cuda" and torch.version.hip is None and has_triton()


def launch(kernel: Any, programs: int, *arguments: Any, **options: Any) -> None:
    """Run a kernel on the device of its first argument; of no programs, do nothing.

    Arguments:
        kernel: what `triton.jit` made.
        programs: how many programs run side by side.
        arguments: of the kernel, the first of them a tensor.
        options: its compile-time arguments, and `num_warps`.
    """
    if programs:
        with torch.cuda.device_of(arguments[0]):
            kernel[(programs,)](*arguments, **options)


def power_of_two(count: int, least: int = 1) -> int:
    """Return the least power of two that is at least count, and at least `least`, itself one."""
    return max(least, 1 << (count - 1).bit_length())


def block_of(samples: int, images: int, latent: int) -> tuple[int, int, int]:
    """Return how many samples of an image a program takes, D filled up to a power of two, and a program's warps."""
    width = power_of_two(latent, 16)
    share = samples if images > 1 else -(-samples // PROGRAMS)
    rows = min(power_of_two(share), ROWS, max(1, CELLS // width))
    return rows, width, min(8, max(1, rows * width // 256))


def over_rows(
    chain: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], z: Tensor, steps: Tensor
) -> tuple[Tensor, Tensor]:
    """Apply a chain to samples of any shape, `PIECE` or so at a time.

    Arguments:
        chain: takes z_0 (S, B, D) and the numbers of all steps, (B, K, n), and returns z_K (S, B, D) and
            log-determinants (S, B).
        z: z_0, (..., B, D), at least one number.
        steps: (B, K, n), or (K, n) for all samples, which are then samples of one image.

    Returns:
        z_K, (..., B, D), and the log-determinants, (..., B).
    """
    own = steps if steps.dim() == 3 else steps.unsqueeze(0)
    rows = z.reshape(-1, len(own), z.shape[-1])
    pieces = rows.split(max(1, PIECE // len(own)))
    ends, log_dets = zip(*(chain(piece, own) for piece in pieces), strict=True)
    if len(pieces) == 1:
        return ends[0].view(z.shape), log_dets[0].view(z.shape[:-1])
    return torch.cat(ends).view(z.shape), torch.cat(log_dets).view(z.shape[:-1])
