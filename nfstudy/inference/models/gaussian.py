"""Where a chain starts, and the prior at its end: Gaussian numbers and their densities, in nats."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nfstudy.core import cuda, kernels
from nfstudy.core.kernels import gaussian as loops


def start(mean: Tensor, log_variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return z_0 = mean + exp(log_variance / 2) · noise, (..., B, D), and ln q0(z_0), (..., B).

    Arguments:
        mean: (B, D).
        log_variance: (B, D).
        noise: (..., B, D) draws from N(0, I).
    """
    alike = mean.shape == log_variance.shape == noise.shape[-2:]
    if alike and noise.numel() and not noise.requires_grad and cuda.runs_here(mean, log_variance, noise):
        z_0, log_q0 = _StartOnGPU.apply(mean, log_variance, noise.reshape(-1, *mean.shape))
        return z_0.view(noise.shape), log_q0.view(noise.shape[:-1])
    return plain_start(mean, log_variance, noise)


def plain_start(mean: Tensor, log_variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `start` does, without the kernels."""
    z_0 = mean + (0.5 * log_variance).exp() * noise
    log_q0 = -0.5 * (noise.square() + log_variance + math.log(2 * math.pi)).sum(-1)
    return z_0, log_q0


def log_normal(z: Tensor) -> Tensor:
    """Return ln N(z; 0, I) over the last axis, (...) of z (..., D)."""
    if z.dim() > 1 and z.numel() and cuda.runs_here(z):
        log_p: Tensor = _LogNormalOnGPU.apply(z.reshape(-1, z.shape[-1])).view(z.shape[:-1])
        return log_p
    return plain_log_normal(z)


def plain_log_normal(z: Tensor) -> Tensor:
    """Return what `log_normal` does, without the kernels."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


def start_of_samples(mean: Tensor, log_variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `start` does of noise (S, B, D) but for the last bits, without gradients.

    On the CPU, the samples of one image then lie side by side in memory, as loops over many samples want them.
    """
    alike = mean.shape == log_variance.shape == noise.shape[-2:]
    if not (alike and noise.dim() == 3 and kernels.runs_here(mean, log_variance, noise)):
        return start(mean, log_variance, noise)
    samples, images, latent = noise.shape
    constant = -0.5 * (log_variance + math.log(2 * math.pi)).sum(-1)
    z, log_q0 = noise.new_empty(latent, images, samples), noise.new_empty(images, samples)
    inputs = (noise.transpose(0, 1), mean.contiguous(), (0.5 * log_variance).exp().contiguous(), constant, z, log_q0)
    loops.start(*(x.detach().numpy() for x in inputs))
    return z.permute(2, 1, 0), log_q0.T


def log_normal_of_samples(z: Tensor) -> Tensor:
    """Return what `log_normal` does of z (S, B, D), but for the last bits and without gradients."""
    by_image = z.permute(2, 1, 0)
    if not (kernels.runs_here(z) and by_image.is_contiguous()):
        return log_normal(z)
    latent, images, samples = by_image.shape
    log_p = z.new_empty(images, samples)
    constant = -0.5 * latent * math.log(2 * math.pi)
    loops.log_normal(by_image.detach().numpy().reshape(latent, -1), constant, log_p.numpy().reshape(-1))
    return log_p.T


class _StartOnGPU(torch.autograd.Function):
    """`plain_start` of noise (S, B, D), which has no gradient, in one kernel each way."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        from nfstudy.core.cuda import gaussian  # It imports Triton, which few machines have.

        ctx.save_for_backward(log_variance, noise)
        return gaussian.start(mean, log_variance, noise)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor, grad_log_q: Tensor) -> tuple[Tensor, Tensor, None]:
        from nfstudy.core.cuda import gaussian

        log_variance, noise = ctx.saved_tensors
        if torch.is_grad_enabled():  # A derivative of this is asked for.
            by_deviation = (grad_z * noise).sum(0) * (0.5 * log_variance).exp()
            return grad_z.sum(0), 0.5 * (by_deviation - grad_log_q.sum(0).unsqueeze(-1)), None
        return *gaussian.start_slopes(grad_z, grad_log_q, log_variance, noise), None


class _LogNormalOnGPU(torch.autograd.Function):
    """`plain_log_normal` of z (R, D), in one kernel each way."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        from nfstudy.core.cuda import gaussian

        ctx.save_for_backward(z)
        return gaussian.log_normal(z)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        from nfstudy.core.cuda import gaussian

        (z,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # A derivative of this is asked for, as of flows that follow a gradient.
            return -grad.unsqueeze(-1) * z
        return gaussian.log_normal_slope(grad, z)
