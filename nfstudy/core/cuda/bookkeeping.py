"""What is kept of each update of a CUDA graph, in a kernel each: those of `training.replayed` and `update_graph`."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from nfstudy.core.cuda import launch, power_of_two


def account(sums: Tensor, last_norm: Tensor, terms: Sequence[Tensor], norm: Tensor) -> Tensor:
    """Add the means of five terms, each (B,), to sums (5,) in float64, and put the norm into `last_norm`.

    Returns:
        The norm plus the last term's mean, (1,), which is finite where an update is.
    """
    gapless = [term.contiguous() for term in terms]
    count = len(gapless[0])
    watched = norm.new_empty(1)
    block = min(1024, power_of_two(count, 32))
    launch(_account, 1, *gapless, norm, sums, last_norm, watched, count, BLOCK=block, num_warps=max(1, block // 256))
    return watched


def advance(position: Tensor, failed: Tensor, watched: Tensor) -> None:
    """Where a number is not finite, put position into `failed` if nothing is there yet (−1); then add 1 to position."""
    launch(_advance, 1, position, failed, watched, num_warps=1)


@triton.jit
def _mean(x_ptr, count, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, count, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(x_ptr + i, mask=i < count, other=0.0)
    return tl.sum(total, axis=0) / count


@triton.jit
def _add(sums_ptr, mean):
    tl.store(sums_ptr, tl.load(sums_ptr) + mean.to(tl.float64))


@triton.jit(
    do_not_specialize=["count"],
    do_not_specialize_on_alignment=["a_ptr", "b_ptr", "c_ptr", "d_ptr", "e_ptr", "norm_ptr"],
)
def _account(
    a_ptr, b_ptr, c_ptr, d_ptr, e_ptr, norm_ptr, sums_ptr, last_norm_ptr, watched_ptr, count, BLOCK: tl.constexpr
):  # fmt: skip
    norm = tl.load(norm_ptr)
    tl.store(last_norm_ptr, norm)
    _add(sums_ptr, _mean(a_ptr, count, BLOCK))
    _add(sums_ptr + 1, _mean(b_ptr, count, BLOCK))
    _add(sums_ptr + 2, _mean(c_ptr, count, BLOCK))
    _add(sums_ptr + 3, _mean(d_ptr, count, BLOCK))
    objective = _mean(e_ptr, count, BLOCK)
    _add(sums_ptr + 4, objective)
    tl.store(watched_ptr, norm + objective)


@triton.jit(do_not_specialize_on_alignment=["watched_ptr"])
def _advance(position_ptr, failed_ptr, watched_ptr):
    position = tl.load(position_ptr)
    failed = tl.load(failed_ptr)
    watched = tl.load(watched_ptr)
    bad = (watched != watched) | (tl.abs(watched) > 3.4028234663852886e38)
    tl.store(failed_ptr, tl.where((failed < 0) & bad, position, failed))
    tl.store(position_ptr, position + 1)
