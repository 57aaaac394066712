"""The chain of `flows.radial.radial_flow` and `free_radial_flow` as two kernels, forward and backward.

Names are those of `flows.radial`: r = ‖z − z0‖, q = α + r, and c = β̂h = (p − α)/q with p = ln(1 + e^β), or α + β
without the constraint; across = 1 + c and along = 1 + c α/q are the factors of the determinant. All is in float32,
where r is either 0 or some 1e-23 at least: so logarithms are of quotients of numbers in range, but at z0 itself, where
both factors are p/α. A program takes a block of samples that have their steps in common, as in `flows.planar.cuda`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nfstudy.core.cuda import block_of, launch, over_rows
from nfstudy.core.cuda.elementary import log_softplus, log_softplus_slope, sigmoid, softplus
from nfstudy.core.kernels import differentiable_once


def radial_chain(z: Tensor, steps: Tensor, constraint: bool) -> tuple[Tensor, Tensor]:
    """Return what `radial_flow`, or without the constraint `free_radial_flow`, does.

    Arguments:
        z: z_0, (..., B, D), of any strides.
        steps: z0, the a of α = ln(1 + e^a), and β side by side, (B, K, D + 2), or (K, D + 2) for all samples.
        constraint: whether β is constrained to β̂.

    Returns:
        z_K, (..., B, D), and Σ_k ln|det ∂f_k/∂z_{k−1}| in nats, (..., B).
    """
    return over_rows(lambda rows, own: _RadialChain.apply(rows, own, constraint), z, steps)


class _RadialChain(torch.autograd.Function):
    """Apply K radial steps to z_0 (S, B, D), with steps (B, K, D + 2)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, steps: Tensor, constraint: bool) -> tuple[Tensor, Tensor]:
        """Run the chain; where a gradient will be asked for, keep every z_{k−1}."""
        (samples, images, latent), length = z.shape, steps.shape[1]
        keeps = any(ctx.needs_input_grad)
        end, log_det = z.new_empty(z.shape), z.new_empty(samples, images)
        path = z.new_empty(length if keeps else 0, samples, images, latent)
        rows, width, warps = block_of(samples, images, latent)
        launch(
            _forward,
            images * -(-samples // rows),
            *(z, steps, path if keeps else end, end, log_det),
            *(samples, images, latent, length, *z.stride(), *steps.stride()),
            **{"CONSTRAINT": constraint, "KEEPS": keeps, "ROWS": rows, "WIDTH": width, "num_warps": warps},
        )
        ctx.save_for_backward(steps, path)
        ctx.constraint = constraint
        return end, log_det

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_z: Tensor, grad_log_det: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of z and steps, the second in the memory order of a head's numbers."""
        steps, path = ctx.saved_tensors
        length, samples, images, latent = path.shape
        rows, width, warps = block_of(samples, images, latent)
        blocks = -(-samples // rows)
        grad_start = grad_z.new_empty(grad_z.shape)
        grad_steps = steps.new_empty(blocks, length, latent + 2, images)
        launch(
            _backward,
            images * blocks,
            *(path[-1], steps[:, -1], grad_z, grad_log_det, grad_start, grad_steps[:, -1]),
            *(samples, images, latent, length, *steps.stride(), *grad_z.stride(), *grad_log_det.stride()),
            grad_steps.stride(0),
            **{"CONSTRAINT": ctx.constraint, "ROWS": rows, "WIDTH": width, "num_warps": warps},
        )
        total = grad_steps.squeeze(0) if blocks == 1 else grad_steps.sum(0)
        return grad_start, total.permute(2, 0, 1), None


LEAST_ALPHA = tl.constexpr(1.232595164407831e-32)
"""α below it counts as it: 2²⁰ of the least normal number, as in the plain formula."""
NEAR = tl.constexpr(1e-18)
"""As in the plain formula: q below it counts as it where z is moved."""


@triton.jit(do_not_specialize=["S", "B", "K", "z_s", "z_b", "z_d", "n_k"])
def _forward(
    z_ptr, steps_ptr, path_ptr, end_ptr, log_det_ptr,
    S, B, D, K, z_s, z_b, z_d, n_b, n_k, n_d,
    CONSTRAINT: tl.constexpr, KEEPS: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Turn z_0 (S, B, D) into z_K and log-determinants (S, B); fill path (K, S, B, D)."""
    program = tl.program_id(0).to(tl.int64)
    image, block = program % B, program // B
    sample = block * ROWS + tl.arange(0, ROWS)[:, None]
    d = tl.arange(0, WIDTH)[None, :]
    has_d, has_row = d < D, sample < S
    has = has_row & has_d
    z = tl.load(z_ptr + sample * z_s + image * z_b + d * z_d, mask=has, other=0.0)
    row = sample * B + image
    cell = row * D + d
    point_at = steps_ptr + image * n_b + d * n_d
    alpha_at = steps_ptr + image * n_b + D * n_d
    point = tl.load(point_at, mask=has_d, other=0.0)
    x = tl.load(alpha_at)
    beta = tl.load(alpha_at + n_d)
    path_at = path_ptr + cell
    total = tl.zeros((ROWS, 1), tl.float32)
    for k in range(K):
        point_at += n_k
        alpha_at += n_k
        more = k + 1 < K
        next_point = tl.load(point_at, mask=has_d & more, other=0.0)
        next_x = tl.load(alpha_at, mask=more, other=0.0)
        next_beta = tl.load(alpha_at + n_d, mask=more, other=0.0)
        offset = z - point
        r = tl.sqrt_rn(tl.sum(offset * offset, axis=1, keep_dims=True))
        if KEEPS:
            tl.store(path_at, z, mask=has)
            path_at += S * B * D
        alpha = tl.maximum(softplus(x), LEAST_ALPHA)
        q = alpha + r
        if CONSTRAINT:
            p = softplus(beta)
            excess = p - alpha
            at_point = r == 0
            across = tl.where(at_point, 1.0, (r + p) / q)
            along = tl.where(
                at_point, 1.0, tl.where(excess < 0, across - excess / q * (r / q), 1 + excess / q * (alpha / q))
            )
            both = D * (log_softplus(beta, p) - tl.log(alpha))
            total += tl.where(at_point, both, (D - 1) * tl.log(across) + tl.log(along))
        else:
            excess = beta
            # Quotients of their own would leave the range of floats where q is next to 0.
            across, along = q + beta, q + (alpha / q) * beta
            total += (D - 1) * tl.log(tl.abs(across)) + tl.log(tl.abs(along)) - D * tl.log(q)
        z += excess / tl.maximum(q, NEAR) * offset
        point, x, beta = next_point, next_x, next_beta
    tl.store(end_ptr + cell, z, mask=has)
    tl.store(log_det_ptr + row, total, mask=has_row)


@triton.jit(do_not_specialize=["S", "B", "K", "n_k", "g_s", "g_b", "g_d", "l_s", "l_b", "p_b"])
def _backward(
    path_ptr, steps_ptr, grad_ptr, grad_log_det_ptr, grad_start_ptr, grad_steps_ptr,
    S, B, D, K, n_b, n_k, n_d, g_s, g_b, g_d, l_s, l_b, p_b,
    CONSTRAINT: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Turn the gradient of z_K (S, B, D) into that of z_0, and fill that of steps (blocks, K, D + 2, B).

    Of path, steps and the gradient of steps, the last step is pointed to.
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
    point_at = steps_ptr + image * n_b + d * n_d
    alpha_at = steps_ptr + image * n_b + D * n_d
    path_at = path_ptr + cell
    grad_point_at = grad_steps_ptr + block * p_b + d * B + image
    grad_alpha_at = grad_steps_ptr + block * p_b + D * B + image + tl.zeros((1, 1), tl.int64)
    point = tl.load(point_at, mask=has_d, other=0.0)
    x = tl.load(alpha_at)
    beta = tl.load(alpha_at + n_d)
    z = tl.load(path_at, mask=has, other=0.0)
    for k in range(K):
        point_at -= n_k
        alpha_at -= n_k
        path_at -= S * B * D
        more = k + 1 < K
        next_point = tl.load(point_at, mask=has_d & more, other=0.0)
        next_x = tl.load(alpha_at, mask=more, other=0.0)
        next_beta = tl.load(alpha_at + n_d, mask=more, other=0.0)
        next_z = tl.load(path_at, mask=has & more, other=0.0)
        offset = z - point
        r = tl.sqrt_rn(tl.sum(offset * offset, axis=1, keep_dims=True))
        pulled = tl.sum(offset * g, axis=1, keep_dims=True)
        at_point = r == 0
        alpha = tl.maximum(softplus(x), LEAST_ALPHA)
        q = alpha + r
        share = alpha / q
        if CONSTRAINT:
            p = softplus(beta)
            excess = p - alpha
            log_p_slope, p_slope = log_softplus_slope(beta, p), sigmoid(beta)
        else:
            p = alpha + beta
            excess = beta
        reach = r + p
        across = reach / q
        n = r + reach * share  # along times q
        if CONSTRAINT:
            # Quotients of p by sums with p are 1 at z0, where p may be no normal number.
            part = tl.where(at_point, 1.0, p / tl.where(at_point, 1.0, reach))
            part_along = tl.where(at_point, 1.0, share * p / tl.where(at_point, 1.0, n))
            grad_beta = pulled * (p_slope / q) + grad_log_det * log_p_slope * ((D - 1) * part + part_along)
        else:
            grad_beta = pulled / q + grad_log_det * ((D - 1) / reach + share / n)
        r_by_n = tl.where(at_point, 0.0, r / tl.where(at_point, 1.0, n))
        grad_x = (sigmoid(x) / q) * (grad_log_det * (across * r_by_n - D) - pulled * across)
        if not CONSTRAINT:
            grad_x += sigmoid(x) * grad_beta
        scale = excess / tl.maximum(q, NEAR)
        slope = grad_log_det * ((D - 1) / reach + (1.0 - share * scale) / n - D / q) - pulled / q * scale
        unit = offset / tl.where(at_point, 1.0, r)
        pull = tl.where(has_row, scale * g + tl.where(at_point, 0.0, slope) * unit, 0.0)
        grad_x, grad_beta = tl.where(has_row, grad_x, 0.0), tl.where(has_row, grad_beta, 0.0)
        tl.store(grad_point_at, -tl.sum(pull, axis=0, keep_dims=True), mask=has_d)
        tl.store(grad_alpha_at, tl.sum(grad_x, axis=0, keep_dims=True))
        tl.store(grad_alpha_at + B, tl.sum(grad_beta, axis=0, keep_dims=True))
        grad_point_at -= (D + 2) * B
        grad_alpha_at -= (D + 2) * B
        g += pull
        point, x, beta, z = next_point, next_x, next_beta, next_z
    tl.store(grad_start_ptr + cell, g, mask=has)
