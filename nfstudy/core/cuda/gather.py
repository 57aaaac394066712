"""A minibatch's bits out of all images in one kernel: those of `problems.images`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from nfstudy.core.cuda import launch

BLOCK = 1024


def gather(values: Tensor, places: Tensor, noise: Tensor | None) -> Tensor:
    """Return values (M, N) of bytes at places (B,), as floats (B, N); with noise of bytes (B, N), noise < value."""
    pixels = values.shape[1]
    found = torch.empty(len(places), pixels, device=values.device)
    count = found.numel()
    launch(
        _gather,
        -(-count // BLOCK),
        *(values, places, values if noise is None else noise.contiguous(), found, count, pixels),
        **{"COMPARES": noise is not None, "BLOCK": BLOCK, "num_warps": 4},
    )
    return found


@triton.jit(do_not_specialize=["count"], do_not_specialize_on_alignment=["places_ptr", "noise_ptr"])
def _gather(values_ptr, places_ptr, noise_ptr, found_ptr, count, pixels, COMPARES: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    has = i < count
    row = i // pixels
    place = tl.load(places_ptr + row, mask=has, other=0)
    value = tl.load(values_ptr + place * pixels + (i - row * pixels), mask=has, other=0)
    if COMPARES:
        drawn = tl.load(noise_ptr + i, mask=has, other=0)
        value = (drawn < value).to(tl.int32)
    tl.store(found_ptr + i, value.to(tl.float32), mask=has)
