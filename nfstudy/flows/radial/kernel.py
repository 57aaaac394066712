"""The chain of `flows.radial.radial_flow` and `free_radial_flow` in one loop, with its backward pass derived by hand.

Names are those of `flows.radial`: r = ‖z − z0‖, p = ln(1 + e^β) or, without the constraint, p = α + β. With q = α + r
and the step's scale c = β̂h = (p − α)/q, the factors of the determinant are

    across = 1 + c = (r + p)/q,    along = 1 + c + β̂h′r = 1 + c α/q = across − c r/q,

of whose two forms the one is taken that adds positive terms. Scalars of a lane are in float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nfstudy.core.kernels import COMPILED, PART, differentiable_once
from nfstudy.core.kernels.cache import compiled
from nfstudy.core.kernels.elementary import log, sigmoid, softplus
from nfstudy.core.kernels.path import apply_chain, gradients_of_chain

FLOOR = -600.0
"""Below such a β, p = e^β to rounding, and a step's scaling p/α at its reference point may be no normal number."""
LEAST_ALPHA = 1e-290
"""α and, for gradients, p below it count as it: so quotients by them stay within the range of float64."""
LARGEST_SCALE = 1e18
"""Of |β̂h|: beyond it z is at z0 but for its rounding, and stays there; float32 would overflow."""


class RadialChain(torch.autograd.Function):
    """Apply K radial steps.

    Arguments:
        z: z_0, (S, D, B).
        steps: z0, the a of α = ln(1 + e^a), and β, one below the other, (K, D + 2, B).
        constraint: whether β is constrained to β̂.

    Returns:
        z_K, (S, D, B), and Σ_k ln|det ∂f_k/∂z_{k−1}| in nats, (S, B).
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, steps: Tensor, constraint: bool) -> tuple[Tensor, Tensor]:
        """Run the chain; where a gradient will be asked for, keep every z_k."""
        return apply_chain(ctx, chain, z, steps, constraint)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad_z: Tensor, grad_log_det: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of z and steps."""
        return gradients_of_chain(ctx, chain_backward, grad_z, grad_log_det)


@compiled(**PART)
def capped(scale):
    """Return a step's scale within ±`LARGEST_SCALE`; one that is not finite stays so, and shows."""
    return min(max(scale, -LARGEST_SCALE), LARGEST_SCALE) if abs(scale) < math.inf else scale


@compiled(**COMPILED)
def chain(steps, constraint, path, end, log_det):
    """Turn end (S, D, B) from z_0 into z_K, and fill path (K or 0, S, D, B) with every z_{k−1} and log_det (S, B)."""
    samples, latent, images = end.shape
    kind = end.dtype.type
    alpha, p = np.empty(images), np.empty(images)
    square, c = np.empty(images, end.dtype), np.empty(images, end.dtype)
    log_step, total = np.empty(images), np.zeros((samples, images))
    for k in range(len(steps)):
        underflows = 0
        for i in range(images):
            alpha[i] = max(softplus(np.float64(steps[k, latent, i]))[0], LEAST_ALPHA)
            beta = np.float64(steps[k, latent + 1, i])
            p[i] = softplus(beta)[0] if constraint else alpha[i] + beta
            underflows |= constraint & (beta < FLOOR)
        for s in range(samples):
            if len(path):
                for d in range(latent):
                    for i in range(images):
                        path[k, s, d, i] = end[s, d, i]
            square[:] = 0
            for d in range(latent):
                for i in range(images):
                    offset = end[s, d, i] - steps[k, d, i]
                    square[i] += offset * offset
            for i in range(images):
                r = math.sqrt(np.float64(square[i]))
                q = alpha[i] + r
                scale, across = (p[i] - alpha[i]) / q, (r + p[i]) / q
                along = across - scale * (r / q) if scale < 0 else 1 + scale * (alpha[i] / q)
                log_step[i] = (latent - 1) * log(abs(across)) + log(abs(along))
                c[i] = kind(capped(scale))
            if underflows:
                for i in range(images):
                    if steps[k, latent + 1, i] < FLOOR and square[i] == 0:
                        log_step[i] = latent * (np.float64(steps[k, latent + 1, i]) - log(alpha[i]))
            for i in range(images):
                total[s, i] += log_step[i]
            for d in range(latent):
                for i in range(images):
                    end[s, d, i] += c[i] * (end[s, d, i] - steps[k, d, i])
    for s in range(samples):
        for i in range(images):
            log_det[s, i] = kind(total[s, i])


@compiled(**COMPILED)
def chain_backward(path, steps, grad_z, grad_log_det, grad_steps, constraint):
    """Turn grad_z (S, D, B) from the gradient of z_K into that of z_0, and add to grad_steps (K, D + 2, B)."""
    samples, latent, images = grad_z.shape
    kind = grad_z.dtype.type
    rows = np.empty((5, images), grad_z.dtype)
    square, pulled, c, grad_r, inverse_r = rows[0], rows[1], rows[2], rows[3], rows[4]
    for k in range(len(steps) - 1, -1, -1):
        for s in range(samples):
            square[:] = 0
            pulled[:] = 0
            for d in range(latent):
                for i in range(images):
                    offset = path[k, s, d, i] - steps[k, d, i]
                    square[i] += offset * offset
                    pulled[i] += offset * grad_z[s, d, i]
            for i in range(images):
                x, beta = np.float64(steps[k, latent, i]), np.float64(steps[k, latent + 1, i])
                grad_c, grad_total = np.float64(pulled[i]), np.float64(grad_log_det[s, i])
                alpha, alpha_by_x = max(softplus(x)[0], LEAST_ALPHA), sigmoid(x)[0]
                p = max(softplus(beta)[0], LEAST_ALPHA) if constraint else alpha + beta
                p_by_beta = max(sigmoid(beta)[0], LEAST_ALPHA) if constraint else 1.0
                p_by_alpha = 0.0 if constraint else 1.0
                r = math.sqrt(np.float64(square[i]))
                q = alpha + r
                share, scale, across = alpha / q, (p - alpha) / q, (r + p) / q
                n = r + (r + p) * share  # along times q, which is at least p
                # Slopes come before quotients, which p or α next to nothing would make infinite.
                grad_beta = grad_c * (p_by_beta / q) + grad_total * (
                    (latent - 1) * (p_by_beta / (r + p)) + share * (p_by_beta / n)
                )
                grad_x = (alpha_by_x / q) * (grad_total * (across * (r / n) - latent) - grad_c * across)
                slope = grad_total * ((latent - 1) / (r + p) + (1 - share * scale) / n - latent / q)
                slope -= grad_c * (scale / q)
                at_z0 = r == 0
                inverse_r[i] = kind(0.0 if at_z0 else 1 / r)
                grad_r[i] = kind(0.0 if at_z0 else slope)
                c[i] = kind(capped(scale))
                grad_steps[k, latent, i] += kind(grad_x + p_by_alpha * alpha_by_x * grad_beta)
                grad_steps[k, latent + 1, i] += kind(grad_beta)
            for d in range(latent):
                for i in range(images):
                    unit = inverse_r[i] * (path[k, s, d, i] - steps[k, d, i])
                    pull = c[i] * grad_z[s, d, i] + grad_r[i] * unit
                    grad_steps[k, d, i] -= pull
                    grad_z[s, d, i] += pull
