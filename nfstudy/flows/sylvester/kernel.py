"""The chain of `flows.sylvester.sylvester_flow` in one loop, with its backward pass derived by hand.

Names are those of `flows.sylvester`: c = Qᵀz, a = R̃c + b, t = tanh a, and a step moves z by w = Q R t. No Q is formed:
c is the beginning of y = H_M ⋯ H_1 z, and w is H_1 ⋯ H_M of R t with zeros below. A reflection x' = H_j x has the
gradients, barred, of

    x̄ = H_j x̄'    and    v̄_j = 2/‖v_j‖² [(vᵀx') x̄' − (vᵀx̄') x'],

and undoes itself, so that nothing between reflections is kept. Scalars of a lane are in float64, which is what keeps
determinants from underflowing where the plain formula takes their logarithm term by term.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfstudy.core.kernels import COMPILED, ORDERED, PART, differentiable_once
from nfstudy.core.kernels.cache import compiled
from nfstudy.core.kernels.elementary import SMALLEST, exp, log, tanh
from nfstudy.core.kernels.path import apply_chain, gradients_of_chain

FLOOR = 1e-300
"""Below such a margin a determinant may have underflowed; a tanh²a below it is nothing."""


class SylvesterChain(torch.autograd.Function):
    """Apply K orthogonal Sylvester steps.

    Arguments:
        z: z_0, (S, D, B).
        steps: `packed` and the upper triangle of `r_tilde`, each row by row, and b, one below the other,
            (K, D M + M (M + 1)/2 + M, B).
        columns: M.

    Returns:
        z_K, (S, D, B), and Σ_k ln|det ∂f_k/∂z_{k−1}| in nats, (S, B).
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, steps: Tensor, columns: int) -> tuple[Tensor, Tensor]:
        """Run the chain; where a gradient will be asked for, keep every z_k."""
        return apply_chain(ctx, chain, z, steps, columns)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_z: Tensor, grad_log_det: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of z and steps."""
        return gradients_of_chain(ctx, chain_backward, grad_z, grad_log_det)


@compiled(**ORDERED)
def margin(p, q):
    """Return m = 1 + tanh p tanh q, at least the smallest normal number or so, sech²p and sech²q.

    With P = exp(−2|p|) and Q = exp(−2|q|), m = 2 (1 + PQ)/[(1 + P)(1 + Q)], or 2 (P + Q)/[...] where p and q differ in
    sign. The larger of P and Q is taken out of both: so sech²p/m is exact where m is not.
    """
    size_p, size_q = abs(p), abs(q)
    larger = exp(-2 * (size_p if size_p < size_q else size_q))
    smaller = larger * exp(-2 * abs(size_p - size_q))
    e_p, e_q = (larger, smaller) if size_p < size_q else (smaller, larger)
    inverse_p, inverse_q = 1 / (1 + e_p), 1 / (1 + e_q)
    m = 2 * (e_p + e_q if p * q < 0 else 1 + e_p * e_q) * inverse_p * inverse_q
    return m, 4 * e_p * inverse_p * inverse_p, 4 * e_q * inverse_q * inverse_q


@compiled(**PART)
def triangle_row(step, columns, row):
    """Return where R̃'s diagonal element of a row stands among a step's numbers; those right of it follow."""
    return len(step) - columns - (columns - row) * (columns - row + 1) // 2


@compiled(**PART)
def set_up(step, latent, scale, diagonals):
    """Fill scale (M, B) with 2/‖v_j‖², and diagonals (5, M, B) with tanh p, tanh q, m, sech²p and sech²q.

    Returns:
        Whether some m may have underflowed.
    """
    columns, images = scale.shape
    underflows = 0
    for j in range(columns):
        for i in range(images):
            scale[j, i] = 1
        for d in range(j + 1, latent):
            for i in range(images):
                scale[j, i] += step[d * columns + j, i] * step[d * columns + j, i]
        at_p, at_q = j * columns + j, triangle_row(step, columns, j)
        for i in range(images):
            p, q = np.float64(step[at_p, i]), np.float64(step[at_q, i])
            m, slope_p, slope_q = margin(p, q)
            scale[j, i] = 2 / scale[j, i]
            diagonals[0, j, i] = tanh(p)[0]
            diagonals[1, j, i] = tanh(q)[0]
            diagonals[2, j, i] = m
            diagonals[3, j, i] = slope_p
            diagonals[4, j, i] = slope_q
            underflows |= m < FLOOR
    return underflows


@compiled(**PART)
def reflect(x, step, j, scale, along):
    """Apply H_j to x (D, B); along (B,) is overwritten."""
    latent, images = x.shape
    columns = len(scale)
    for i in range(images):
        along[i] = x[j, i]
    for d in range(j + 1, latent):
        for i in range(images):
            along[i] += step[d * columns + j, i] * x[d, i]
    for i in range(images):
        along[i] *= scale[j, i]
        x[j, i] -= along[i]
    for d in range(j + 1, latent):
        for i in range(images):
            x[d, i] -= along[i] * step[d * columns + j, i]


@compiled(**PART)
def pre_activate(y, step, tanh_q, a):
    """Fill a (M, B) with R̃c + b, where c is the beginning of y (D, B)."""
    columns, images = a.shape
    for row in range(columns):
        at, at_b = triangle_row(step, columns, row) - row, len(step) - columns + row
        for i in range(images):
            a[row, i] = step[at_b, i] + a.dtype.type(tanh_q[row, i]) * y[row, i]
        for column in range(row + 1, columns):
            for i in range(images):
                a[row, i] += step[at + column, i] * y[column, i]


@compiled(**PART)
def turn_out(t, step, tanh_p, w):
    """Fill w (D, B) with R t, of t (M, B), and zeros below."""
    columns, images = t.shape
    for row in range(columns):
        for i in range(images):
            w[row, i] = w.dtype.type(tanh_p[row, i]) * t[row, i]
        for column in range(row + 1, columns):
            for i in range(images):
                w[row, i] += step[row * columns + column, i] * t[column, i]
    w[columns:] = 0


@compiled(**COMPILED)
def chain(steps, columns, path, end, log_det):
    """Turn end (S, D, B) from z_0 into z_K, and fill path (K or 0, S, D, B) with every z_{k−1} and log_det (S, B)."""
    samples, latent, images = end.shape
    kind = end.dtype.type
    y, w = np.empty((latent, images), end.dtype), np.empty((latent, images), end.dtype)
    scale, a = np.empty((columns, images), end.dtype), np.empty((columns, images), end.dtype)
    along, diagonals, total = np.empty(images, end.dtype), np.empty((5, columns, images)), np.zeros((samples, images))
    tanh_p, tanh_q, m = diagonals[0], diagonals[1], diagonals[2]
    for k in range(len(steps)):
        step = steps[k]
        underflows = set_up(step, latent, scale, diagonals)
        for s in range(samples):
            z = end[s]
            if len(path):
                path[k, s] = z
            y[:] = z
            for j in range(columns):
                reflect(y, step, j, scale, along)
            pre_activate(y, step, tanh_q, a)
            if underflows:
                add_underflows(a, step, total[s])
            for j in range(columns):
                for i in range(images):
                    t, slope = tanh(np.float64(a[j, i]))
                    total[s, i] += log(t * t + slope * m[j, i])
                    a[j, i] = kind(t)
            turn_out(a, step, tanh_p, w)
            for j in range(columns - 1, -1, -1):
                reflect(w, step, j, scale, along)
            for d in range(latent):
                for i in range(images):
                    z[d, i] += w[d, i]
    for s in range(samples):
        for i in range(images):
            log_det[s, i] = kind(total[s, i])


@compiled(**PART)
def add_underflows(a, step, total):
    """Add to total (B,) what logarithms of determinants will lack where a (M, B) is 0 and exp(−2|p|) underflowed."""
    columns, images = a.shape
    for j in range(columns):
        at_p, at_q = j * columns + j, triangle_row(step, columns, j)
        for i in range(images):
            p, q = np.float64(step[at_p, i]), np.float64(step[at_q, i])
            lacking = -2 * min(abs(p), abs(q)) - SMALLEST
            if p * q < 0 and lacking < 0 and tanh(np.float64(a[j, i]))[0] ** 2 < FLOOR:
                total[i] += lacking


@compiled(**COMPILED)
def chain_backward(path, steps, grad_z, grad_log_det, grad_steps, columns):
    """Turn grad_z (S, D, B) from the gradient of z_K into that of z_0, and fill grad_steps (K, n, B)."""
    samples, latent, images = grad_z.shape
    wide = np.empty((4, latent, images), grad_z.dtype)
    y, grad_y, w, grad_w = wide[0], wide[1], wide[2], wide[3]
    scale, a = np.empty((columns, images), grad_z.dtype), np.empty((columns, images), grad_z.dtype)
    grad_a, along = np.empty((columns, images), grad_z.dtype), np.empty((2, images), grad_z.dtype)
    diagonals, slope, grad_m = np.empty((5, columns, images)), np.empty(images), np.empty(images)
    tanh_p, tanh_q = diagonals[0], diagonals[1]
    for k in range(len(steps) - 1, -1, -1):
        step, grad = steps[k], grad_steps[k]
        set_up(step, latent, scale, diagonals)
        grad[:] = 0
        for s in range(samples):
            y[:] = path[k, s]
            grad_w[:] = grad_z[s]
            for j in range(columns):
                reflect(y, step, j, scale, along[0])
                reflect(grad_w, step, j, scale, along[0])
            pre_activate(y, step, tanh_q, a)
            activate_back(a, grad_w, grad_log_det[s], step, diagonals, grad_a, grad, slope, grad_m)
            turn_out(a, step, tanh_p, w)
            turn_back(y, a, grad_a, grad_w, step, diagonals, grad_y, grad)
            for j in range(columns - 1, -1, -1):
                reflect_back(y, grad_y, step, j, scale, along, grad)
                # On the way out w has yet to be reflected where y had been: its part has the other sign.
                reflect_back(grad_w, w, step, j, scale, along, grad)
            for d in range(latent):
                for i in range(images):
                    grad_z[s, d, i] += grad_y[d, i]


@compiled(**PART)
def activate_back(a, grad_e, grad_log_det, step, diagonals, grad_a, grad, slope, grad_m):
    """Turn a (M, B) into t = tanh a, fill grad_a (M, B), and add the gradients of R's and R̃'s diagonals to grad (n, B).

    The first M rows of grad_e are the gradient of R t. What slope and grad_m, (B,), hold is overwritten. Loops are
    short: LLVM gives up on one with many arrays to write to, as any of them might overlap with the rest.
    """
    columns, images = a.shape
    kind = a.dtype.type
    tanh_p, tanh_q, m, slope_p, slope_q = diagonals[0], diagonals[1], diagonals[2], diagonals[3], diagonals[4]
    for j in range(columns):
        at_p, at_q = j * columns + j, triangle_row(step, columns, j)
        for i in range(images):
            grad_a[j, i] = kind(tanh_p[j, i]) * grad_e[j, i]
        for row in range(j):
            for i in range(images):
                grad_a[j, i] += step[row * columns + j, i] * grad_e[row, i]
        for i in range(images):
            t, sech2 = tanh(np.float64(a[j, i]))
            a[j, i] = kind(t)
            slope[i] = sech2
        for i in range(images):
            t = np.float64(a[j, i])
            grad_m[i] = np.float64(grad_log_det[i]) * slope[i] / (t * t + slope[i] * m[j, i])
        for i in range(images):
            t = np.float64(a[j, i])
            grad_a[j, i] = kind(slope[i] * np.float64(grad_a[j, i]) + 2 * t * (1 - m[j, i]) * grad_m[i])
        for i in range(images):
            grad_r = np.float64(grad_e[j, i]) * np.float64(a[j, i])
            grad[at_p, i] += kind((grad_r + grad_m[i] * tanh_q[j, i]) * slope_p[j, i])
        for i in range(images):
            grad[at_q, i] += kind(grad_m[i] * tanh_p[j, i] * slope_q[j, i])


@compiled(**PART)
def turn_back(y, t, grad_a, grad_w, step, diagonals, grad_y, grad):
    """Fill grad_y (D, B) with the gradient of y, zeros below c, and add those of R, R̃ and b to grad (n, B)."""
    columns, images = t.shape
    kind = t.dtype.type
    tanh_q, slope_q = diagonals[1], diagonals[4]
    grad_y[:] = 0
    for row in range(columns):
        at, at_b = triangle_row(step, columns, row) - row, len(step) - columns + row
        for i in range(images):
            grad[at_b, i] += grad_a[row, i]
            grad[at + row, i] += grad_a[row, i] * y[row, i] * kind(slope_q[row, i])
            grad_y[row, i] += kind(tanh_q[row, i]) * grad_a[row, i]
        for column in range(row + 1, columns):
            for i in range(images):
                grad[row * columns + column, i] += grad_w[row, i] * t[column, i]
                grad[at + column, i] += grad_a[row, i] * y[column, i]
                grad_y[column, i] += step[at + column, i] * grad_a[row, i]


@compiled(**PART)
def reflect_back(x, grad_x, step, j, scale, along, grad):
    """Apply H_j to x and grad_x, both (D, B), and add the gradient of v_j below its 1 to grad (n, B).

    What along (2, B) holds is overwritten.
    """
    latent, images = x.shape
    columns = len(scale)
    for i in range(images):
        along[0, i] = x[j, i]
        along[1, i] = grad_x[j, i]
    for d in range(j + 1, latent):
        at = d * columns + j
        for i in range(images):
            along[0, i] += step[at, i] * x[d, i]
            along[1, i] += step[at, i] * grad_x[d, i]
    for i in range(images):
        along[0, i] *= scale[j, i]
        along[1, i] *= scale[j, i]
        x[j, i] -= along[0, i]
        grad_x[j, i] -= along[1, i]
    for d in range(j + 1, latent):
        at = d * columns + j
        for i in range(images):
            grad[at, i] += along[0, i] * grad_x[d, i] - along[1, i] * x[d, i]
        for i in range(images):
            x[d, i] -= along[0, i] * step[at, i]
            grad_x[d, i] -= along[1, i] * step[at, i]
