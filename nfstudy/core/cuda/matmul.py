"""Products of float32 matrices on tensor cores, exact to rounding: each operand in three parts of TF32.

A minibatch of 100 rows is too small for the float32 units to be busy: a layer's product takes them 10 µs and more. On
tensor cores, TF32 rounds operands to 11 bits. Here each is split into what TF32 holds and what it leaves over, and the
three products that matter are summed in float32 (Markidis et al. 2018), which leaves an error like that of float32.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from nfstudy.core.cuda import launch

LARGE = 512
"""Rows and columns of a result from which its tiles are larger: then there are enough of them for all processors."""


def product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Return a bᵀ + bias, (M, N), without a gradient.

    Arguments:
        a: (M, F), of any strides.
        b: (N, F), of any strides.
        bias: (N,) without gaps, or none.
    """
    rows, depth = a.shape
    columns = len(b)
    out = a.new_empty(rows, columns)
    if not depth:
        return out.zero_() if bias is None else out.copy_(bias.expand_as(out))
    large = rows >= LARGE and columns >= LARGE
    tile = (128, 64, 32) if large and depth >= LARGE else (64, 64, 32) if large else (32, 32, 64)
    tile_rows, tile_columns, tile_depth = tile
    launch(
        _product,
        -(-rows // tile_rows) * -(-columns // tile_columns),
        *(a, b, out if bias is None else bias, out, rows, columns, depth, *a.stride(), *b.stride()),
        **{"BIAS": bias is not None, "ROWS": tile_rows, "COLUMNS": tile_columns, "DEPTH": tile_depth},
        **{"num_warps": 4, "num_stages": 3},
    )
    return out


@triton.jit(do_not_specialize=["M", "N", "F"])
def _product(
    a_ptr, b_ptr, bias_ptr, out_ptr, M, N, F, a_m, a_f, b_n, b_f,
    BIAS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    across = tl.cdiv(N, COLUMNS)
    m = ((program // across) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    n = ((program % across) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    f = tl.arange(0, DEPTH)
    a_at = a_ptr + m[:, None] * a_m + f[None, :] * a_f
    b_at = b_ptr + f[:, None] * b_f + n[None, :] * b_n
    has_m, has_n = m < M, n < N
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, F, DEPTH):
        has_f = start + f < F
        a = tl.load(a_at, mask=has_m[:, None] & has_f[None, :], other=0.0)
        b = tl.load(b_at, mask=has_f[:, None] & has_n[None, :], other=0.0)
        total = tl.dot(a, b, total, input_precision="tf32x3")
        a_at += DEPTH * a_f
        b_at += DEPTH * b_f
    if BIAS:
        total += tl.load(bias_ptr + n, mask=has_n, other=0.0)[None, :]
    tl.store(out_ptr + m[:, None] * N + n[None, :], total, mask=has_m[:, None] & has_n[None, :])
