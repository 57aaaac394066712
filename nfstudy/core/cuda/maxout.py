"""The largest of each `window` consecutive numbers, and where it stood: the kernels of `models.maxout`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from nfstudy.core.cuda import launch

BLOCK = 512


def largest(pieces: Tensor, bias: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Return the largest of each window of pieces (B, U · window) + bias (U · window,), and its first index.

    A NaN counts as the largest.

    Returns:
        Units (B, U), and in int32 the winners (B, U), each from 0 to window − 1.
    """
    pieces, bias = pieces.contiguous(), bias.contiguous()
    units = pieces.new_empty(len(pieces), pieces.shape[1] // window)
    winner = torch.empty_like(units, dtype=torch.int32)
    count = units.numel()
    sizes = (count, units.shape[1], window)
    launch(_largest, -(-count // BLOCK), pieces, bias, units, winner, *sizes, BLOCK=BLOCK, num_warps=4)
    return units, winner


def scatter(grad: Tensor, winner: Tensor, window: int) -> Tensor:
    """Return the gradient (B, U) where the largest stood, and 0 elsewhere, (B, U · window)."""
    pieces = grad.new_empty(len(grad), grad.shape[1] * window)
    count = pieces.numel()
    launch(_scatter, -(-count // BLOCK), grad.contiguous(), winner, pieces, count, window, BLOCK=BLOCK, num_warps=4)
    return pieces


@triton.jit(do_not_specialize=["count"])
def _largest(pieces_ptr, bias_ptr, units_ptr, winner_ptr, count, units, window, BLOCK: tl.constexpr):
    unit = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    has = unit < count
    piece_at = pieces_ptr + unit * window
    bias_at = bias_ptr + (unit % units) * window
    best = tl.load(piece_at, mask=has, other=0.0) + tl.load(bias_at, mask=has, other=0.0)
    winner = tl.zeros((BLOCK,), tl.int32)
    for i in range(1, window):
        piece_at += 1
        bias_at += 1
        piece = tl.load(piece_at, mask=has, other=0.0) + tl.load(bias_at, mask=has, other=0.0)
        # Written so that a NaN is taken, and kept.
        kept = (piece <= best) | (best != best)
        best = tl.where(kept, best, piece)
        winner = tl.where(kept, winner, i)
    tl.store(units_ptr + unit, best, mask=has)
    tl.store(winner_ptr + unit, winner, mask=has)


@triton.jit(do_not_specialize=["count"])
def _scatter(grad_ptr, winner_ptr, pieces_ptr, count, window, BLOCK: tl.constexpr):
    piece = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    has = piece < count
    unit = piece // window
    here = tl.load(winner_ptr + unit, mask=has, other=-1) == piece - unit * window
    tl.store(pieces_ptr + piece, tl.load(grad_ptr + unit, mask=has & here, other=0.0), mask=has)
