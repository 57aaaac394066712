"""The chain of `flows.planar.planar_flow` and `free_planar_flow` in one loop, with its backward pass derived by hand.

Names are those of `flows.planar`: a = wᵀz + b, t = tanh a, M = 1 + wᵀû, û = u + c w. Scalars of a lane are in float64,
which is what keeps determinants from underflowing where the plain formula takes their logarithm term by term. Sums over
the latent variables take four at a time, so that a sum is fetched and put back a quarter as often.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfstudy.core.kernels import COMPILED, ORDERED, PART, differentiable_once
from nfstudy.core.kernels.cache import compiled
from nfstudy.core.kernels.elementary import exp, log, sigmoid, softplus, tanh
from nfstudy.core.kernels.layout import aligned, from_lanes, lanes

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
    def forward(ctx: Any, z: Tensor, steps: Tensor, constraint: bool) -> tuple[Tensor, Tensor]:
        """Run the chain; where a gradient will be asked for, keep every z_{k−1} and the scalars of every step."""
        numbers, (*_, images, latent) = _batch_last(steps), z.shape
        start = z.numpy().reshape(-1, images, latent).transpose(0, 2, 1)
        # Two slots in turn, where nothing is kept: a loop that writes over what it reads is not vectorised.
        slots = len(numbers) if any(ctx.needs_input_grad) else 2
        path, scalars = np.empty((slots, *start.shape), start.dtype), np.empty((slots, 2 * len(start) + 4, images))
        path[0] = start
        end, log_det = np.empty_like(path[0]), np.empty((len(start), images), start.dtype)
        chain(numbers, path, scalars, end, log_det, constraint)
        ctx.save_for_backward(steps)
        ctx.kept = path, scalars, constraint
        return from_lanes(end, z.shape), torch.from_numpy(log_det.reshape(z.shape[:-1]))

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_z: Tensor, grad_log_det: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of z and steps."""
        path, scalars, constraint = ctx.kept
        numbers, g = _batch_last(*ctx.saved_tensors), lanes(grad_z, own=True)
        totals = np.ascontiguousarray(grad_log_det.numpy()).reshape(len(g), -1)
        grad_steps = np.empty_like(numbers)
        chain_backward(numbers, path, scalars, totals, g, grad_steps, constraint)
        return from_lanes(g, grad_z.shape), torch.from_numpy(grad_steps.transpose(2, 0, 1)), None


def _batch_last(steps: Tensor) -> np.ndarray:
    """Return steps (B, K, n) as (K, n, B) without gaps."""
    return np.ascontiguousarray(steps.numpy().transpose(1, 2, 0))


@compiled(**PART)
def tiny_square(x):
    """Return the ‖w‖² below which w counts as 0, in the type of x; see `flows.planar.constrain_u`."""
    return math.sqrt(np.float64(np.finfo(x.dtype).tiny))


@compiled(**PART)
def products_of_step(step, z, wu, ww, a):
    """Fill wu, ww and a (B,) with wᵀu, wᵀw and wᵀz + b of one step (2D + 1, B) and z (D, B), in one pass over w."""
    latent, images = len(step) // 2, step.shape[1]
    for i in range(images):
        wu[i], ww[i], a[i] = 0, 0, step[2 * latent, i]
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
            a[i] += (w0 * z[d, i] + w1 * z[d + 1, i]) + (w2 * z[d + 2, i] + w3 * z[d + 3, i])
    for d in range(whole, latent):
        for i in range(images):
            wu[i] += step[latent + d, i] * step[d, i]
            ww[i] += step[latent + d, i] * step[latent + d, i]
            a[i] += step[latent + d, i] * z[d, i]


@compiled(**PART)
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


@compiled(**PART)
def constrain(wu, ww, scalars, c, tiny, constraint):
    """Fill the first rows of scalars (4 or more, B) with wᵀu, wᵀw, M and c, and c (B,); return whether M underflows."""
    x, norm, m, shift = scalars[0], scalars[1], scalars[2], scalars[3]
    underflows = 0
    for i in range(len(c)):
        x[i], norm[i] = wu[i], ww[i]
        if constraint:
            vanishes = norm[i] < tiny
            margin, excess = softplus(x[i])
            shift[i] = 0.0 if vanishes else (excess - 1) / norm[i]
            m[i] = 1.0 if vanishes else margin
            underflows |= (x[i] < FLOOR) & (not vanishes)
        else:
            shift[i] = 0
            m[i] = 1 + x[i]
        c[i] = shift[i]
    return underflows


@compiled(**PART)
def bend_along(a, slope, bend, t):
    """Fill slope and t with tanh a and bend with sech² a, all (B,)."""
    for i in range(len(a)):
        slope[i], bend[i] = tanh(np.float64(a[i]))
        t[i] = slope[i]


@compiled(**PART)
def add_log(slope, bend, m, total, constraint):
    """Add ln|1 + wᵀû sech² a| to total (B,)."""
    for i in range(len(total)):
        # Two forms: the first does not cancel near M = 0, the second is 1 at the identity.
        total[i] += log(slope[i] * slope[i] + bend[i] * m[i] if constraint else abs(1 + bend[i] * (m[i] - 1)))


@compiled(**PART)
def mend_log(scalars, slope, total, tiny):
    """Put right what `add_log` added where M was no normal number and t² is nothing beside it: ln sech² a + wᵀu."""
    for i in range(len(total)):
        if scalars[0, i] < FLOOR and scalars[1, i] >= tiny and slope[i] ** 2 < exp(FLOOR):
            total[i] += scalars[0, i] - log(scalars[2, i])


@compiled(**PART)
def move(step, z, t, c, target):
    """Fill target (D, B) with z + û t."""
    latent, images = z.shape
    for d in range(latent):
        for i in range(images):
            target[d, i] = z[d, i] + t[i] * (step[d, i] + c[i] * step[latent + d, i])


@compiled(**COMPILED)
def chain(steps, path, scalars, end, log_det, constraint):
    """Fill end (S, D, B) with z_K and log_det (S, B) from the first slot of path (K, S, D, B), which is z_0.

    Fills path with z_{k−1}, and scalars (K, 2S + 4, B) with wᵀu, wᵀw, M and c of every step, then tanh a and sech² a of
    each sample. They may have fewer slots, which are then used in turn.
    """
    samples, latent, images = end.shape
    tiny, total = tiny_square(end), np.zeros((samples, images))
    rows = aligned(5, images, end)
    wu, ww, a = rows[0, :images], rows[1, :images], rows[2, :images]
    t, c = rows[3, :images], rows[4, :images]
    for k in range(len(steps)):
        step, scalar, source = steps[k], scalars[k % len(path)], path[k % len(path)]
        target = end if k + 1 == len(steps) else path[(k + 1) % len(path)]
        products_of_step(step, source[0], wu, ww, a)
        underflows = constrain(wu, ww, scalar, c, tiny, constraint)
        for s in range(samples):
            slope, bend = scalar[4 + 2 * s], scalar[5 + 2 * s]
            if s > 0:
                for i in range(images):
                    a[i] = step[2 * latent, i]
                dot(step[latent:-1], source[s], a)
            bend_along(a, slope, bend, t)
            add_log(slope, bend, scalar[2], total[s], constraint)
            if underflows:
                mend_log(scalar, slope, total[s], tiny)
            move(step, source[s], t, c, target[s])
    for s in range(samples):
        for i in range(images):
            log_det[s, i] = total[s, i]


@compiled(**PART)
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


@compiled(**ORDERED)
def move_back(step, z, t, c, grad_a, grad_wu, grad_ww, g, grad):
    """Turn g (D, B) from the gradient of z_k into that of z_{k−1}, and fill grad (2D + 1, B) with that of the step."""
    latent, images = z.shape
    for i in range(images):
        grad[2 * latent, i] = grad_a[i]
    for d in range(latent):
        for i in range(images):
            u, w, along = step[d, i], step[latent + d, i], t[i] * g[d, i]
            grad[d, i] = along + grad_wu[i] * w
            grad[latent + d, i] = (c[i] * along + grad_a[i] * z[d, i]) + grad_wu[i] * u + grad_ww[i] * w
            g[d, i] += grad_a[i] * w


@compiled(**ORDERED)
def move_back_adding(step, z, t, c, grad_a, grad_wu, grad_ww, g, grad):
    """Do the same, and add to grad what it is to be filled with."""
    latent, images = z.shape
    for i in range(images):
        grad[2 * latent, i] += grad_a[i]
    for d in range(latent):
        for i in range(images):
            u, w, along = step[d, i], step[latent + d, i], t[i] * g[d, i]
            grad[d, i] = (grad[d, i] + along) + grad_wu[i] * w
            so_far = grad[latent + d, i] + grad_a[i] * z[d, i]
            grad[latent + d, i] = (so_far + c[i] * along) + grad_wu[i] * u + grad_ww[i] * w
            g[d, i] += grad_a[i] * w


@compiled(**COMPILED)
def chain_backward(steps, path, scalars, grad_log_det, grad_z, grad_steps, constraint):
    """Turn grad_z (S, D, B) from the gradient of z_K into that of z_0, and fill grad_steps (K, 2D + 1, B)."""
    samples, _, images = grad_z.shape
    kind, tiny = grad_z.dtype.type, tiny_square(grad_z)
    rows = aligned(7, images, grad_z)
    gu, gw, t, c = rows[0, :images], rows[1, :images], rows[2, :images], rows[3, :images]
    grad_a, grad_wu, grad_ww = rows[4, :images], rows[5, :images], rows[6, :images]
    for k in range(len(steps) - 1, -1, -1):
        step, grad, scalar = steps[k], grad_steps[k], scalars[k]
        for s in range(samples):
            z, g = path[k, s], grad_z[s]
            two_dots(g, step, gu, gw)
            for i in range(images):
                x, norm, m, shift = scalar[0, i], scalar[1, i], scalar[2, i], scalar[3, i]
                slope, bend = scalar[4 + 2 * s, i], scalar[5 + 2 * s, i]
                along_w = np.float64(gw[i])
                vanishes = norm < tiny
                if constraint:
                    rise, fall = sigmoid(x)
                    dm = 0.0 if vanishes else rise
                    shift_by_wu = 0.0 if vanishes else -fall / norm
                    shift_by_ww = 0.0 if vanishes else -shift / norm
                else:
                    dm, shift_by_wu, shift_by_ww = 1.0, 0.0, 0.0
                grad_m = np.float64(grad_log_det[s, i]) * bend / (slope * slope + bend * m)
                grad_t = np.float64(gu[i]) + shift * along_w
                grad_shift = slope * along_w
                grad_a[i] = kind(bend * grad_t + 2 * slope * (1 - m) * grad_m)
                grad_wu[i] = kind(grad_m * dm + grad_shift * shift_by_wu)
                grad_ww[i] = kind(2 * grad_shift * shift_by_ww)
                t[i] = kind(slope)
                c[i] = kind(shift)
            if s == 0:
                move_back(step, z, t, c, grad_a, grad_wu, grad_ww, g, grad)
            else:
                move_back_adding(step, z, t, c, grad_a, grad_wu, grad_ww, g, grad)
