"""Gaussian numbers and their log-densities, row by row: the kernels of `models.gaussian`."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from nfstudy.core.cuda import launch, power_of_two

NUMBERS = 512
"""Of a program at once."""
LOG_2_PI = tl.constexpr(1.8378770664093453)


def start(mean: Tensor, log_variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return z = mean + exp(log_variance / 2) · noise (S, B, D), and ln q(z) (S, B), for noise (S, B, D).

    Mean and log_variance are (B, D); all may have any strides.
    """
    samples, images, latent = noise.shape
    z, log_q = noise.new_empty(noise.shape), noise.new_empty(samples, images)
    rows = samples * images
    shape = _shape(rows, latent)
    launch(
        _start,
        -(-rows // shape["ROWS"]),
        *(mean, log_variance, noise, z, log_q, rows, images, latent),
        *(*mean.stride(), *log_variance.stride(), *noise.stride()),
        **shape,
    )
    return z, log_q


def start_slopes(grad_z: Tensor, grad_log_q: Tensor, log_variance: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of mean and log-variance (B, D), for those of z (S, B, D) and ln q (S, B)."""
    samples, images, latent = noise.shape
    by_mean, by_log_variance = noise.new_empty(images, latent), noise.new_empty(images, latent)
    shape = _shape(images, latent)
    launch(
        _start_slopes,
        -(-images // shape["ROWS"]),
        *(grad_z, grad_log_q, log_variance, noise, by_mean, by_log_variance, samples, images, latent),
        *(*grad_z.stride(), *grad_log_q.stride(), *log_variance.stride(), *noise.stride()),
        **shape,
    )
    return by_mean, by_log_variance


def log_normal(z: Tensor) -> Tensor:
    """Return ln N(z; 0, I) (R,) of z (R, D), of any strides."""
    rows, latent = z.shape
    log_p = z.new_empty(rows)
    shape = _shape(rows, latent)
    launch(_log_normal, -(-rows // shape["ROWS"]), z, log_p, rows, latent, *z.stride(), **shape)
    return log_p


def log_normal_slope(grad: Tensor, z: Tensor) -> Tensor:
    """Return the gradient of z (R, D), for that of `log_normal` (R,): −z times it."""
    rows, latent = z.shape
    by_z = z.new_empty(rows, latent)
    shape = _shape(rows, latent)
    strides = grad.stride(0), *z.stride()
    launch(_log_normal_slope, -(-rows // shape["ROWS"]), grad, z, by_z, rows, latent, *strides, **shape)
    return by_z


def _shape(rows: int, latent: int) -> dict[str, int]:
    """Return what the kernels are compiled for: a program's rows, and D filled up."""
    width = power_of_two(latent, 16)
    return {"ROWS": max(1, NUMBERS // width), "WIDTH": width, "num_warps": 4 if width <= 2048 else 8}


@triton.jit(do_not_specialize=["R", "B", "m_b", "m_d", "v_b", "v_d", "n_s", "n_b", "n_d"])
def _start(
    mean_ptr, log_variance_ptr, noise_ptr, z_ptr, log_q_ptr, R, B, D,
    m_b, m_d, v_b, v_d, n_s, n_b, n_d, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = r[:, None]
    image, sample = row % B, row // B
    d = tl.arange(0, WIDTH)[None, :]
    has = (row < R) & (d < D)
    mean = tl.load(mean_ptr + image * m_b + d * m_d, mask=has, other=0.0)
    log_variance = tl.load(log_variance_ptr + image * v_b + d * v_d, mask=has, other=0.0)
    noise = tl.load(noise_ptr + sample * n_s + image * n_b + d * n_d, mask=has, other=0.0)
    tl.store(z_ptr + row * D + d, mean + tl.exp(0.5 * log_variance) * noise, mask=has)
    terms = tl.where(has, noise * noise + log_variance + LOG_2_PI, 0.0)
    tl.store(log_q_ptr + r, -0.5 * tl.sum(terms, axis=1), mask=r < R)


@triton.jit(do_not_specialize=["S", "B", "z_s", "z_b", "z_d", "q_s", "q_b", "v_b", "v_d", "n_s", "n_b", "n_d"])
def _start_slopes(
    grad_z_ptr, grad_log_q_ptr, log_variance_ptr, noise_ptr, by_mean_ptr, by_log_variance_ptr, S, B, D,
    z_s, z_b, z_d, q_s, q_b, v_b, v_d, n_s, n_b, n_d, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    d = tl.arange(0, WIDTH)[None, :]
    has = (image < B) & (d < D)
    log_variance = tl.load(log_variance_ptr + image * v_b + d * v_d, mask=has, other=0.0)
    by_mean = tl.zeros((ROWS, WIDTH), tl.float32)
    by_deviation = tl.zeros((ROWS, WIDTH), tl.float32)
    of_log_q = tl.zeros((ROWS, 1), tl.float32)
    grad_z_ptr += image * z_b + d * z_d
    noise_ptr += image * n_b + d * n_d
    grad_log_q_ptr += image * q_b
    for _ in range(S):
        grad = tl.load(grad_z_ptr, mask=has, other=0.0)
        by_mean += grad
        by_deviation += grad * tl.load(noise_ptr, mask=has, other=0.0)
        of_log_q += tl.load(grad_log_q_ptr, mask=image < B, other=0.0)
        grad_z_ptr += z_s
        noise_ptr += n_s
        grad_log_q_ptr += q_s
    tl.store(by_mean_ptr + image * D + d, by_mean, mask=has)
    by_log_variance = 0.5 * (tl.exp(0.5 * log_variance) * by_deviation - of_log_q)
    tl.store(by_log_variance_ptr + image * D + d, by_log_variance, mask=has)


@triton.jit(do_not_specialize=["R", "z_r", "z_d"])
def _log_normal(z_ptr, log_p_ptr, R, D, z_r, z_d, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    r = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = r[:, None]
    d = tl.arange(0, WIDTH)[None, :]
    has = (row < R) & (d < D)
    z = tl.load(z_ptr + row * z_r + d * z_d, mask=has, other=0.0)
    terms = tl.where(has, z * z + LOG_2_PI, 0.0)
    tl.store(log_p_ptr + r, -0.5 * tl.sum(terms, axis=1), mask=r < R)


@triton.jit(do_not_specialize=["R", "g_r", "z_r", "z_d"])
def _log_normal_slope(grad_ptr, z_ptr, by_z_ptr, R, D, g_r, z_r, z_d, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    d = tl.arange(0, WIDTH)[None, :]
    has = (row < R) & (d < D)
    z = tl.load(z_ptr + row * z_r + d * z_d, mask=has, other=0.0)
    grad = tl.load(grad_ptr + row * g_r, mask=row < R, other=0.0)
    tl.store(by_z_ptr + row * D + d, -grad * z, mask=has)
