"""Gaussian numbers of many samples of each image, which lie side by side in memory: loops of `models.gaussian`."""

from __future__ import annotations

from nfstudy.core.kernels import COMPILED
from nfstudy.core.kernels.cache import compiled


@compiled(**COMPILED)
def start(noise, mean, deviation, constant, z, log_q0):
    """Fill z (D, B, S) with mean + deviation · noise, and log_q0 (B, S) with constant − ½ Σ_d noise².

    noise is (B, S, D), mean and deviation are (B, D), and constant is (B,).
    """
    images, samples, latent = noise.shape
    half = log_q0.dtype.type(0.5)
    for i in range(images):
        for s in range(samples):
            total = log_q0.dtype.type(0)
            for d in range(latent):
                total += noise[i, s, d] * noise[i, s, d]
            log_q0[i, s] = constant[i] - half * total
            for d in range(latent):
                z[d, i, s] = mean[i, d] + deviation[i, d] * noise[i, s, d]


@compiled(**COMPILED)
def log_normal(z, constant, log_p):
    """Fill log_p (n,) with constant − ½ Σ_d z², z (D, n)."""
    latent, samples = z.shape
    kind = log_p.dtype.type
    half = kind(0.5)
    for n in range(samples):
        log_p[n] = kind(constant)
    for d in range(latent):
        for n in range(samples):
            log_p[n] -= half * z[d, n] * z[d, n]
