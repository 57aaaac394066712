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


def in_row_pieces(chain: Callable[[Tensor], tuple[Tensor, Tensor]], z: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Apply a chain to z_0 (S, B, D) some samples at a time, about `rows` rows each: what it keeps stays bounded.

    Arguments:
        chain: takes z_0 (s, B, D), and returns z_K (s, B, D) and log-determinants (s, B).
        z: z_0, (S, B, D), of which neither S nor B is 0.
        rows: of z, S B in all, that are of one piece.

    Returns:
        z_K, (S, B, D), and the log-determinants, (S, B).
    """
    samples = max(1, rows // z.shape[1])
    if len(z) <= samples:
        return chain(z)
    z_K, log_det = (torch.cat(ends) for ends in zip(*map(chain, z.split(samples)), strict=True))
    return z_K, log_det
