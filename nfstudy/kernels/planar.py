"""The chain of `flows.planar.planar_flow` and `free_planar_flow` in one loop, with its backward pass derived by hand.

Names are those of `flows.planar`: a = wᵀz + b, t = tanh a, M = 1 + wᵀû, û = u + c w. Scalars of a lane are in float64,
which is what keeps determinants from underflowing where the plain formula takes their logarithm term by term.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from nfstudy.kernels import COMPILED
from nfstudy.kernels.elementary import exp, log, sigmoid, softplus, tanh

FLOOR = -690.0
"""Below such a wᵀu, M = ln(1 + exp(wᵀu)) is no longer a normal number, and ln M = wᵀu to rounding."""


class PlanarChain(torch.autograd.Function):
    """Apply K planar steps.

    Arguments:
        z: z_0, (S, D, B).
        steps: u, w and b one below the other, (K, 2D + 1, B).
        constraint: whether u is constrained to û.

    Returns:
        z_K, (S, D, B), and Σ_k ln|det ∂f_k/∂z_{k−1}| in nats, (S, B).
    """

    @staticmethod
    def forward(ctx: FunctionCtx, z: Tensor, steps: Tensor, constraint: bool) -> tuple[Tensor, Tensor]:
        """Run the chain; where a gradient will be asked for, keep every z_k."""
        z, steps = z.contiguous(), steps.contiguous()
        kept = len(steps) if any(ctx.needs_input_grad) else 0
        path = z.new_empty(kept, *z.shape)
        end, log_det = torch.empty_like(z), z.new_empty(z.shape[0], z.shape[2])
        chain(z.numpy(), steps.numpy(), constraint, _tiny(z), path.numpy(), end.numpy(), log_det.numpy())
        ctx.save_for_backward(path, steps)
        ctx.constraint = constraint
        return end, log_det

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_z: Tensor, grad_log_det: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of z and steps."""
        path, steps = ctx.saved_tensors
        grad_z = grad_z.clone(memory_format=torch.contiguous_format)
        grad_steps = torch.zeros_like(steps)
        arrays = (x.numpy() for x in (path, steps, grad_z, grad_log_det.contiguous(), grad_steps))
        chain_backward(*arrays, ctx.constraint, _tiny(steps))
        return grad_z, grad_steps, None


def _tiny(x: Tensor) -> float:
    """Return the ‖w‖² below which w counts as 0; see `flows.planar.constrain_u`."""
    return torch.finfo(x.dtype).tiny ** 0.5


@njit(**COMPILED)
def chain(z, steps, constraint, tiny, path, end, log_det):
    """Fill path (K or 0, S, D, B) with every z_{k−1}, end (S, D, B) and log_det (S, B)."""
    samples, latent, images = z.shape
    kind = z.dtype.type
    a, c, m = np.empty(images), np.empty(images, z.dtype), np.empty(images)
    wu, ww, wz = np.empty(images, z.dtype), np.empty(images, z.dtype), np.empty(images, z.dtype)
    t = np.empty(images, z.dtype)
    u_hat = np.empty((latent, images), z.dtype)
    total = np.empty((samples, images))
    total[:] = 0
    for s in range(samples):
        for d in range(latent):
            for i in range(images):
                end[s, d, i] = z[s, d, i]
    for k in range(len(steps)):
        wu[:] = 0
        ww[:] = 0
        for d in range(latent):
            for i in range(images):
                wu[i] += steps[k, latent + d, i] * steps[k, d, i]
                ww[i] += steps[k, latent + d, i] * steps[k, latent + d, i]
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
        for d in range(latent):
            for i in range(images):
                u_hat[d, i] = steps[k, d, i] + c[i] * steps[k, latent + d, i]
        for s in range(samples):
            if len(path):
                for d in range(latent):
                    for i in range(images):
                        path[k, s, d, i] = end[s, d, i]
            wz[:] = 0
            for d in range(latent):
                for i in range(images):
                    wz[i] += steps[k, latent + d, i] * end[s, d, i]
            for i in range(images):
                a[i] = np.float64(wz[i] + steps[k, 2 * latent, i])
                slope, bend = tanh(a[i])
                t[i] = kind(slope)
                # Two forms of 1 + wᵀû sech²a: the first does not cancel near M = 0, the second is 1 at the identity.
                total[s, i] += log(slope * slope + bend * m[i] if constraint else abs(1 + bend * (m[i] - 1)))
            if underflows:
                for i in range(images):
                    # Where t² is nothing beside it, ln(sech²a M) = ln sech²a + wᵀu.
                    if wu[i] < FLOOR and ww[i] >= tiny and tanh(a[i])[0] ** 2 < exp(FLOOR):
                        total[s, i] += np.float64(wu[i]) - log(m[i])
            for d in range(latent):
                for i in range(images):
                    end[s, d, i] += t[i] * u_hat[d, i]
    for s in range(samples):
        for i in range(images):
            log_det[s, i] = kind(total[s, i])


@njit(**COMPILED)
def chain_backward(path, steps, grad_z, grad_log_det, grad_steps, constraint, tiny):
    """Turn grad_z (S, D, B) from the gradient of z_K into that of z_0, and add to grad_steps (K, 2D + 1, B)."""
    samples, latent, images = grad_z.shape
    kind = grad_z.dtype.type
    sums = np.empty((5, images), grad_z.dtype)
    wu, ww, wz, gu, gw = sums[0], sums[1], sums[2], sums[3], sums[4]
    t, c, grad_a = np.empty(images, grad_z.dtype), np.empty(images, grad_z.dtype), np.empty(images, grad_z.dtype)
    grad_wu, grad_ww = np.empty(images, grad_z.dtype), np.empty(images, grad_z.dtype)
    for k in range(len(steps) - 1, -1, -1):
        for s in range(samples):
            sums[:] = 0
            for d in range(latent):
                for i in range(images):
                    wu[i] += steps[k, latent + d, i] * steps[k, d, i]
                    ww[i] += steps[k, latent + d, i] * steps[k, latent + d, i]
                    wz[i] += steps[k, latent + d, i] * path[k, s, d, i]
                    gu[i] += grad_z[s, d, i] * steps[k, d, i]
                    gw[i] += grad_z[s, d, i] * steps[k, latent + d, i]
            for i in range(images):
                x, norm, along_w = np.float64(wu[i]), np.float64(ww[i]), np.float64(gw[i])
                a = np.float64(wz[i] + steps[k, 2 * latent, i])
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
                grad_steps[k, 2 * latent, i] += grad_a[i]
            for d in range(latent):
                for i in range(images):
                    along = t[i] * grad_z[s, d, i]
                    grad_steps[k, d, i] += along + grad_wu[i] * steps[k, latent + d, i]
                    grad_steps[k, latent + d, i] += (
                        grad_a[i] * path[k, s, d, i]
                        + c[i] * along
                        + grad_wu[i] * steps[k, d, i]
                        + grad_ww[i] * steps[k, latent + d, i]
                    )
                    grad_z[s, d, i] += grad_a[i] * steps[k, latent + d, i]
