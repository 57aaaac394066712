"""The chain of `flows.planar.planar_flow` and `free_planar_flow` as two kernels, forward and backward.

Names are those of `flows.planar`: a = wᵀz + b, t = tanh a, s = sech²a, M = 1 + wᵀû, û = u + c w. All is in float32,
which on a GPU has the fast units, so that a determinant t² + s M is kept by its logarithm, as in the plain formula: its
gradient goes by the share s M / (t² + s M), which is a sigmoid of logarithms. A program takes a block of samples that
have their steps in common, and goes through the steps one after another; it fetches the next while it works on one.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nfstudy.core.cuda import block_of, launch, over_rows
from nfstudy.core.cuda.elementary import (
    log1p_unit,
    log_or_nothing,
    log_softplus,
    log_softplus_slope,
    sigmoid,
    softplus,
    tanh,
)
from nfstudy.core.kernels import differentiable_once


def planar_chain(z: Tensor, steps: Tensor, constraint: bool) -> tuple[Tensor, Tensor]:
    """Return what `planar_flow`, or without the constraint `free_planar_flow`, does.

    Arguments:
        z: z_0, (..., B, D), of any strides.
        steps: u, w and b side by side, (B, K, 2D + 1), or (K, 2D + 1) for all samples; of any strides.
        constraint: whether u is constrained to û.

    Returns:
        z_K, (..., B, D), and Σ_k ln|det ∂f_k/∂z_{k−1}| in nats, (..., B).
    """
    return over_rows(lambda rows, own: _PlanarChain.apply(rows, own, constraint), z, steps)


class _PlanarChain(torch.autograd.Function):
    """Apply K planar steps to z_0 (S, B, D), with steps (B, K, 2D + 1)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, steps: Tensor, constraint: bool) -> tuple[Tensor, Tensor]:
        """Run the chain; where a gradient will be asked for, keep every z_{k−1} and wᵀz + b."""
        (samples, images, latent), length = z.shape, steps.shape[1]
        keeps = any(ctx.needs_input_grad)
        end, log_det = z.new_empty(z.shape), z.new_empty(samples, images)
        path = z.new_empty(length if keeps else 0, samples, images, latent)
        bends = z.new_empty(length if keeps else 0, samples, images)
        rows, width, warps = block_of(samples, images, latent)
        launch(
            _forward,
            images * -(-samples // rows),
            *(z, steps, path if keeps else end, bends if keeps else log_det, end, log_det),
            *(samples, images, latent, length, *z.stride(), *steps.stride()),
            **{"CONSTRAINT": constraint, "KEEPS": keeps, "ROWS": rows, "WIDTH": width, "num_warps": warps},
        )
        ctx.save_for_backward(steps, path, bends)
        ctx.constraint = constraint
        return end, log_det

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_z: Tensor, grad_log_det: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of z and steps, the second in the memory order of a head's numbers."""
        steps, path, bends = ctx.saved_tensors
        length, samples, images, latent = path.shape
        rows, width, warps = block_of(samples, images, latent)
        blocks = -(-samples // rows)
        grad_start = grad_z.new_empty(grad_z.shape)
        grad_steps = steps.new_empty(blocks, length, 2 * latent + 1, images)
        launch(
            _backward,
            images * blocks,
            *(path[-1], steps[:, -1], bends[-1], grad_z, grad_log_det, grad_start, grad_steps[:, -1]),
            *(samples, images, latent, length, *steps.stride(), *grad_z.stride(), *grad_log_det.stride()),
            grad_steps.stride(0),
            **{"CONSTRAINT": ctx.constraint, "ROWS": rows, "WIDTH": width, "num_warps": warps},
        )
        total = grad_steps.squeeze(0) if blocks == 1 else grad_steps.sum(0)
        return grad_start, total.permute(2, 0, 1), None


TINY = tl.constexpr(1.0842021724855044e-19)
"""Where ‖w‖² is less, w counts as 0: the square root of the least normal number; see `flows.planar.constrain_u`."""


@triton.jit
def _log_bend(a):
    """Return ln sech² a = 2 ln 2 − 2|a| − 2 ln(1 + e^(−2|a|))."""
    return 1.3862943611198906 - 2.0 * tl.abs(a) - 2.0 * log1p_unit(tl.exp(-2.0 * tl.abs(a)))


@triton.jit(do_not_specialize=["S", "B", "K", "z_s", "z_b", "z_d", "n_k"])
def _forward(
    z_ptr, steps_ptr, path_ptr, bend_ptr, end_ptr, log_det_ptr,
    S, B, D, K, z_s, z_b, z_d, n_b, n_k, n_d,
    CONSTRAINT: tl.constexpr, KEEPS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Turn z_0 (S, B, D) into z_K and log-determinants (S, B); fill path (K, S, B, D) and bends (K, S, B)."""
    program = tl.program_id(0).to(tl.int64)
    image, block = program % B, program // B
    sample = block * ROWS + tl.arange(0, ROWS)[:, None]
    d = tl.arange(0, WIDTH)[None, :]
    has_d, has_row = d < D, sample < S
    has = has_row & has_d
    z = tl.load(z_ptr + sample * z_s + image * z_b + d * z_d, mask=has, other=0.0)
    row = sample * B + image
    cell = row * D + d
    u_at = steps_ptr + image * n_b + d * n_d
    b_at = steps_ptr + image * n_b + 2 * D * n_d
    u = tl.load(u_at, mask=has_d, other=0.0)
    w = tl.load(u_at + D * n_d, mask=has_d, other=0.0)
    b = tl.load(b_at)
    path_at, bend_at = path_ptr + cell, bend_ptr + row
    total = tl.zeros((ROWS, 1), tl.float32)
    for k in range(K):
        u_at += n_k
        b_at += n_k
        more = k + 1 < K
        next_u = tl.load(u_at, mask=has_d & more, other=0.0)
        next_w = tl.load(u_at + D * n_d, mask=has_d & more, other=0.0)
        next_b = tl.load(b_at, mask=more, other=0.0)
        a = tl.sum(z * w, axis=1, keep_dims=True) + b
        wu = tl.sum(u * w, axis=1, keep_dims=True)
        if KEEPS:
            tl.store(path_at, z, mask=has)
            tl.store(bend_at, a, mask=has_row)
            path_at += S * B * D
            bend_at += S * B
        t, log_bend = tanh(a), _log_bend(a)
        if CONSTRAINT:
            ww = tl.sum(w * w, axis=1, keep_dims=True)
            vanishes = ww < TINY
            m = softplus(wu)
            c = tl.where(vanishes, 0.0, (softplus(-wu) - 1.0) / tl.where(vanishes, 1.0, ww))
            log_m = tl.where(vanishes, 0.0, log_softplus(wu, m))
            along, flat = 2.0 * log_or_nothing(tl.abs(t)), log_bend + log_m
            high = tl.maximum(along, flat)
            total += high + log1p_unit(tl.exp(tl.minimum(along, flat) - high))
            z += t * (u + c * w)
        else:
            total += tl.log(tl.abs(1.0 + wu * tl.exp(log_bend)))
            z += t * u
        u, w, b = next_u, next_w, next_b
    tl.store(end_ptr + cell, z, mask=has)
    tl.store(log_det_ptr + row, total, mask=has_row)


@triton.jit(do_not_specialize=["S", "B", "K", "n_k", "g_s", "g_b", "g_d", "l_s", "l_b", "p"])
def _backward(
    path_ptr, steps_ptr, bend_ptr, grad_ptr, grad_log_det_ptr, grad_start_ptr, grad_steps_ptr,
    S, B, D, K, n_b, n_k, n_d, g_s, g_b, g_d, l_s, l_b, p,
    CONSTRAINT: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Turn the gradient of z_K (S, B, D) into that of z_0, and fill that of steps (blocks, K, 2D + 1, B).

    Of path, steps, bends and the gradient of steps, the last step is pointed to.
    """
    program = tl.program_id(0).to(tl.int64)
    image, block = program % B, program // B
    sample = block * ROWS + tl.arange(0, ROWS)[:, None]
    d = tl.arange(0, WIDTH)[None, :]
    has_d, has_row = d < D, sample < S
    has = has_row & has_d
    g = tl.load(grad_ptr + sample * g_s + image * g_b + d * g_d, mask=has, other=0.0)
    grad_log_det = tl.load(grad_log_det_ptr + sample * l_s + image * l_b, mask=has_row, other=0.0)
    row = sample * B + image
    cell = row * D + d
    u_at = steps_ptr + image * n_b + d * n_d
    path_at, bend_at = path_ptr + cell, bend_ptr + row
    grad_u_at = grad_steps_ptr + block * p + d * B + image
    grad_b_at = grad_steps_ptr + block * p + 2 * D * B + image + tl.zeros((1, 1), tl.int64)
    u = tl.load(u_at, mask=has_d, other=0.0)
    w = tl.load(u_at + D * n_d, mask=has_d, other=0.0)
    z = tl.load(path_at, mask=has, other=0.0)
    a = tl.load(bend_at, mask=has_row, other=0.0)
    for k in range(K):
        u_at -= n_k
        path_at -= S * B * D
        bend_at -= S * B
        more = k + 1 < K
        next_u = tl.load(u_at, mask=has_d & more, other=0.0)
        next_w = tl.load(u_at + D * n_d, mask=has_d & more, other=0.0)
        next_z = tl.load(path_at, mask=has & more, other=0.0)
        next_a = tl.load(bend_at, mask=has_row & more, other=0.0)
        along_u = tl.sum(g * u, axis=1, keep_dims=True)
        along_w = tl.sum(g * w, axis=1, keep_dims=True)
        wu = tl.sum(u * w, axis=1, keep_dims=True)
        t, log_bend = tanh(a), _log_bend(a)
        bend = tl.exp(log_bend)
        if CONSTRAINT:
            ww = tl.sum(w * w, axis=1, keep_dims=True)
            vanishes = ww < TINY
            norm = tl.where(vanishes, 1.0, ww)
            m = softplus(wu)
            c = tl.where(vanishes, 0.0, (softplus(-wu) - 1.0) / norm)
            log_m = tl.where(vanishes, 0.0, log_softplus(wu, m))
            # Of the determinant t² + s M, the second term's share: at M = 1 the two slopes by a cancel.
            odds = log_bend + log_m - 2.0 * log_or_nothing(tl.abs(t))
            share, rest = sigmoid(odds), sigmoid(-odds)
            slope = 2.0 * (rest * bend / tl.where(t == 0, 1.0, t) - share * t)
            ratio = tl.where(vanishes, 0.0, t * (along_w / norm))
            grad_wu = grad_log_det * share * tl.where(vanishes, 0.0, log_softplus_slope(wu, m)) - sigmoid(-wu) * ratio
            grad_a = bend * (along_u + c * along_w) + grad_log_det * slope
            grad_w = t * c * g + grad_a * z + grad_wu * u - 2.0 * c * ratio * w
        else:
            # Of rows that there are none of, the determinant might be 0.
            grad_det = grad_log_det / tl.where(has_row, 1.0 + wu * bend, 1.0)
            grad_wu = grad_det * bend
            grad_a = bend * along_u - 2.0 * grad_det * wu * bend * t
            grad_w = grad_a * z + grad_wu * u
        tl.store(grad_u_at, tl.sum(t * g + grad_wu * w, axis=0, keep_dims=True), mask=has_d)
        tl.store(grad_u_at + D * B, tl.sum(grad_w, axis=0, keep_dims=True), mask=has_d)
        tl.store(grad_b_at, tl.sum(grad_a, axis=0, keep_dims=True))
        grad_u_at -= (2 * D + 1) * B
        grad_b_at -= (2 * D + 1) * B
        g += grad_a * w
        u, w, z, a = next_u, next_w, next_z, next_a
    tl.store(grad_start_ptr + cell, g, mask=has)
