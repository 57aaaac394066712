"""The chain of `flows.planar.planar_flow` and `free_planar_flow` in one loop, with its backward pass derived by hand.

Names are those of `flows.planar`: a = wᵀz + b, t = tanh a, M = 1 + wᵀû, û = u + c w. Scalars of a lane are in float64,
which is what keeps determinants from underflowing where the plain formula takes their logarithm term by term. Sums over
the latent variables take four at a time, so that a sum is fetched and put back a quarter as often.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from nfstudy.kernels import COMPILED
from nfstudy.kernels.elementary import exp, log, sigmoid, softplus, tanh
from nfstudy.kernels.layout import from_lanes, lanes

FLOOR = -690.0
"""Below such a wᵀu, M = ln(1 + exp(wᵀu)) is no longer a normal number, and ln M = wᵀu to rounding."""


class PlanarChain(torch.autograd.Function):
    """Apply K planar steps; layouts change in here, where no node of the graph has to be made of it.

    Arguments:
        z: z_0, (..., B, D).
        steps: u, w and b side by side, (B, K, 2D + 1); not copied where they are batch-last in memory.
        constraint: whether u is constrained to û.

    Returns:
        z_K, (..., B, D), batch-last in memory, and Σ_k ln|det ∂f_k/∂z_{k−1}| in nats, (..., B).
    """

    @staticmethod
    def forward(ctx: FunctionCtx, z: Tensor, steps: Tensor, constraint: bool) -> tuple[Tensor, Tensor]:
        """Run the chain; where a gradient will be asked for, keep of every step z_{k−1}, a, wᵀu and wᵀw."""
        start, steps = lanes(z), steps.permute(1, 2, 0).contiguous()
        samples, latent, images = start.shape
        # Two slots in turn, where nothing is kept: a loop that writes over what it reads is not vectorised.
        slots = len(steps) if any(ctx.needs_input_grad) else 2
        kept = np.empty((slots, samples * (latent + 1) + 2, images), start.dtype)
        end, log_det = np.empty_like(start), np.empty((samples, images), start.dtype)
        chain(steps.numpy(), start, kept, end, log_det, constraint)
        ctx.save_for_backward(torch.from_numpy(kept), steps)
        ctx.constraint = constraint
        return from_lanes(end, z.shape), torch.from_numpy(log_det.reshape(z.shape[:-1]))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_z: Tensor, grad_log_det: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of z and steps."""
        kept, steps = (x.numpy() for x in ctx.saved_tensors)
        grad_end = lanes(grad_z)
        grad_start, grad_steps = np.empty_like(grad_end), np.empty_like(steps)
        totals = grad_log_det.contiguous().numpy().reshape(len(grad_end), -1)
        chain_backward(steps, kept, grad_end, totals, grad_start, grad_steps, ctx.constraint)
        return from_lanes(grad_start, grad_z.shape), torch.from_numpy(grad_steps.transpose(2, 0, 1)), None


@njit(**COMPILED)
def tiny_square(x):
    """Return the ‖w‖² below which w counts as 0, in the type of x; see `flows.planar.constrain_u`."""
    return math.sqrt(np.float64(np.finfo(x.dtype).tiny))


@njit(**COMPILED)
def products_of_step(step, wu, ww):
    """Fill wu and ww (B,) with wᵀu and wᵀw of one step (2D + 1, B)."""
    latent, images = len(step) // 2, step.shape[1]
    for i in range(images):
        wu[i], ww[i] = 0, 0
    whole = latent - latent % 4
    for d in range(0, whole, 4):
        for i in range(images):
            w0, w1, w2, w3 = (
                step[latent + d, i],
                step[latent + d + 1, i],
                step[latent + d + 2, i],
                step[latent + d + 3, i],
            )
            wu[i] += (w0 * step[d, i] + w1 * step[d + 1, i]) + (w2 * step[d + 2, i] + w3 * step[d + 3, i])
            ww[i] += (w0 * w0 + w1 * w1) + (w2 * w2 + w3 * w3)
    for d in range(whole, latent):
        for i in range(images):
            wu[i] += step[latent + d, i] * step[d, i]
            ww[i] += step[latent + d, i] * step[latent + d, i]


@njit(**COMPILED)
def dot(x, y, total):
    """Add the sums of x · y over the latent variables, each (D, B), to total (B,)."""
    latent, images = x.shape
    whole = latent - latent % 4
    for d in range(0, whole, 4):
        for i in range(images):
            total[i] += (x[d, i] * y[d, i] + x[d + 1, i] * y[d + 1, i]) + (
                x[d + 2, i] * y[d + 2, i] + x[d + 3, i] * y[d + 3, i]
            )
    for d in range(whole, latent):
        for i in range(images):
            total[i] += x[d, i] * y[d, i]


@njit(**COMPILED)
def chain(steps, z, kept, end, log_det, constraint):
    """Fill end (S, D, B), log_det (S, B) and kept (K, S (D + 1) + 2, B), or the slots that it has, from z (S, D, B).

    A slot holds z_{k−1} and a of each sample, then wᵀu and wᵀw.
    """
    samples, latent, images = end.shape
    kind, tiny = end.dtype.type, tiny_square(end)
    t, c, m, total = (
        np.empty(images, end.dtype),
        np.empty(images, end.dtype),
        np.empty(images),
        np.zeros((samples, images)),
    )
    for s in range(samples):
        for d in range(latent):
            for i in range(images):
                kept[0, s * (latent + 1) + d, i] = z[s, d, i]
    for k in range(len(steps)):
        step, slot, following = steps[k], kept[k % len(kept)], kept[(k + 1) % len(kept)]
        wu, ww = slot[-2], slot[-1]
        products_of_step(step, wu, ww)
        underflows = 0
        for i in range(images):
            x, norm = np.float64(wu[i]), np.float64(ww[i])
            if constraint:
                vanishes = norm < tiny
                margin, excess = softplus(x)
                c[i] = kind(0.0 if vanishes else (excess - 1) / norm)
                m[i] = 1.0 if vanishes else margin
                underflows |= (x < FLOOR) & (not vanishes)
            else:
                c[i] = kind(0)
                m[i] = 1 + x
        for s in range(samples):
            at = s * (latent + 1)
            source, a = slot[at : at + latent], slot[at + latent]
            target = end[s] if k + 1 == len(steps) else following[at : at + latent]
            for i in range(images):
                a[i] = step[2 * latent, i]
            dot(step[latent:-1], source, a)
            for i in range(images):
                slope, bend = tanh(np.float64(a[i]))
                t[i] = kind(slope)
                # Two forms of 1 + wᵀû sech²a: the first does not cancel near M = 0, the second is 1 at the identity.
                total[s, i] += log(slope * slope + bend * m[i] if constraint else abs(1 + bend * (m[i] - 1)))
            if underflows:
                for i in range(images):
                    # Where t² is nothing beside it, ln(sech²a M) = ln sech²a + wᵀu.
                    if wu[i] < FLOOR and ww[i] >= tiny and tanh(np.float64(a[i]))[0] ** 2 < exp(FLOOR):
                        total[s, i] += np.float64(wu[i]) - log(m[i])
            for d in range(latent):
                for i in range(images):
                    target[d, i] = source[d, i] + t[i] * (step[d, i] + c[i] * step[latent + d, i])
    for s in range(samples):
        for i in range(images):
            log_det[s, i] = kind(total[s, i])


@njit(**COMPILED)
def two_dots(g, step, gu, gw):
    """Fill gu and gw (B,) with gᵀu and gᵀw, g (D, B), of one step (2D + 1, B)."""
    latent, images = g.shape
    for i in range(images):
        gu[i], gw[i] = 0, 0
    whole = latent - latent % 4
    for d in range(0, whole, 4):
        for i in range(images):
            g0, g1, g2, g3 = g[d, i], g[d + 1, i], g[d + 2, i], g[d + 3, i]
            gu[i] += (g0 * step[d, i] + g1 * step[d + 1, i]) + (g2 * step[d + 2, i] + g3 * step[d + 3, i])
            gw[i] += (g0 * step[latent + d, i] + g1 * step[latent + d + 1, i]) + (
                g2 * step[latent + d + 2, i] + g3 * step[latent + d + 3, i]
            )
    for d in range(whole, latent):
        for i in range(images):
            gu[i] += g[d, i] * step[d, i]
            gw[i] += g[d, i] * step[latent + d, i]


@njit(**COMPILED)
def chain_backward(steps, kept, grad_end, grad_log_det, grad_z, grad_steps, constraint):
    """Fill grad_z (S, D, B) with the gradient of z_0 and grad_steps (K, 2D + 1, B), from those of the results."""
    samples, latent, images = grad_z.shape
    kind, tiny = grad_z.dtype.type, tiny_square(grad_z)
    gu, gw = np.empty(images, grad_z.dtype), np.empty(images, grad_z.dtype)
    t, c, grad_a = np.empty(images, grad_z.dtype), np.empty(images, grad_z.dtype), np.empty(images, grad_z.dtype)
    grad_wu, grad_ww = np.empty(images, grad_z.dtype), np.empty(images, grad_z.dtype)
    for s in range(samples):
        for d in range(latent):
            for i in range(images):
                grad_z[s, d, i] = grad_end[s, d, i]
    for k in range(len(steps) - 1, -1, -1):
        step, grad, slot = steps[k], grad_steps[k], kept[k]
        for s in range(samples):
            at = s * (latent + 1)
            z, g = slot[at : at + latent], grad_z[s]
            two_dots(g, step, gu, gw)
            for i in range(images):
                x, norm, a = np.float64(slot[-2, i]), np.float64(slot[-1, i]), np.float64(slot[at + latent, i])
                along_w = np.float64(gw[i])
                slope, bend = tanh(a)
                vanishes = norm < tiny
                if constraint:
                    (margin, excess), (rise, fall) = softplus(x), sigmoid(x)
                    m, dm = 1.0 if vanishes else margin, 0.0 if vanishes else rise
                    shift = 0.0 if vanishes else (excess - 1) / norm
                    shift_by_wu = 0.0 if vanishes else -fall / norm
                    shift_by_ww = 0.0 if vanishes else -shift / norm
                else:
                    shift, m, dm, shift_by_wu, shift_by_ww = 0.0, 1 + x, 1.0, 0.0, 0.0
                grad_m = np.float64(grad_log_det[s, i]) * bend / (slope * slope + bend * m)
                grad_t = np.float64(gu[i]) + shift * along_w
                grad_shift = slope * along_w
                grad_a[i] = kind(bend * grad_t + 2 * slope * (1 - m) * grad_m)
                grad_wu[i] = kind(grad_m * dm + grad_shift * shift_by_wu)
                grad_ww[i] = kind(2 * grad_shift * shift_by_ww)
                t[i] = kind(slope)
                c[i] = kind(shift)
            if s == 0:
                for i in range(images):
                    grad[2 * latent, i] = grad_a[i]
                for d in range(latent):
                    for i in range(images):
                        u, w, along = step[d, i], step[latent + d, i], t[i] * g[d, i]
                        grad[d, i] = along + grad_wu[i] * w
                        grad[latent + d, i] = (grad_a[i] * z[d, i] + c[i] * along) + (grad_wu[i] * u + grad_ww[i] * w)
                        g[d, i] += grad_a[i] * w
            else:
                for i in range(images):
                    grad[2 * latent, i] += grad_a[i]
                for d in range(latent):
                    for i in range(images):
                        u, w, along = step[d, i], step[latent + d, i], t[i] * g[d, i]
                        grad[d, i] += along + grad_wu[i] * w
                        grad[latent + d, i] += (grad_a[i] * z[d, i] + c[i] * along) + (grad_wu[i] * u + grad_ww[i] * w)
                        g[d, i] += grad_a[i] * w
