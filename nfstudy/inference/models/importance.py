"""What log importance weights say of ln p(x), and how far that can be trusted. Arrays are float64, in nats.

Of S samples z_s ~ q(z|x), l_s = ln w_s = ln p(x, z_s) − ln q(z_s|x), and −ln (1/S) Σ_s w_s is in expectation an upper
bound on −ln p(x) (Burda et al. 2016), which comes down as S grows.
"""

from __future__ import annotations

import math

import numpy as np

OCTAVES = 4
"""How often the samples are halved to see how the spread of an estimate falls with their number."""
LEAST_FOR_PARETO = 25
"""Samples below which the largest fifth are too few to fit a tail to."""
EQUAL = 1e-9
"""Nats within which weights are equal but for rounding."""


def log_means(log_weights: np.ndarray, size: int) -> np.ndarray:
    """Return ln (1/n) Σ w of each whole block of n = `size` samples, (S // n, B), of log weights (S, B)."""
    count = len(log_weights) // size
    blocks = log_weights[: count * size].reshape(count, size, -1)
    largest = blocks.max(axis=1)
    with np.errstate(invalid="ignore"):  # −∞ − (−∞): then so is the mean.
        means = np.exp(blocks - largest[:, None]).mean(axis=1)
    return np.where(np.isneginf(largest), largest, largest + np.log(means))


def sample_numbers(samples: int) -> tuple[int, ...]:
    """Return the numbers of samples of a convergence curve: 1, 2, 5, 10, 20, ... below S, half of S, and S itself."""
    steps = (digit * 10**power for power in range(len(str(samples))) for digit in (1, 2, 5))
    return tuple(sorted({*(n for n in steps if n < samples), max(samples // 2, 1), samples}))


def effective_sizes(log_weights: np.ndarray) -> np.ndarray:
    """Return the effective sample size (Σ w)² / Σ w² of each image, (B,), from 1 to S, of log weights (S, B)."""
    weights = np.exp(log_weights - log_weights.max(axis=0))
    return weights.sum(axis=0) ** 2 / np.square(weights).sum(axis=0)


def pareto_k(log_weights: np.ndarray) -> np.ndarray:
    """Return k̂ of each image, (B,): the shape of a generalised Pareto tail of its largest weights.

    It is the diagnostic of Pareto-smoothed importance sampling (Vehtari et al. 2024, arXiv:1507.02646).

    Above 0.7, practical numbers of samples do not suffice; above 0.5 the weights have no variance, and above 1 no mean.
    Where the largest weights are all equal there is no tail, and k̂ is 0; where three quarters of them are equal and
    the others larger, none can be fitted, and it is infinite.

    The M = ⌈min(S/5, 3 √S)⌉ largest weights less the next one, y, are fitted by Zhang & Stephens (2009): k(b) is the
    mean of ln(1 − b y), and k̂ = k(E[b]) under b's approximate posterior, drawn a little towards ½ by 10 observations'
    worth. All of it is in logarithms, as weights here may differ by more than a float's range, where other
    implementations silently take a tail of zeros for a light one.

    Arguments:
        log_weights: (S, B); k̂ is NaN where S is less than `LEAST_FOR_PARETO`.
    """
    samples = len(log_weights)
    if samples < LEAST_FOR_PARETO:
        return np.full(log_weights.shape[1], np.nan)
    count = math.ceil(min(samples / 5, 3 * math.sqrt(samples)))
    *_, largest = np.split(np.sort(log_weights, axis=0), [samples - count - 1])
    cutoff, tail = largest[0], largest[1:]
    tied = tail[-1] - cutoff < EQUAL
    with np.errstate(divide="ignore", invalid="ignore"):
        log_y = np.where(tail > cutoff, tail + np.log(-np.expm1(cutoff - tail)), -np.inf)
    quartile, top = log_y[int(count / 4 + 0.5) - 1], log_y[-1]
    lumped = np.isneginf(quartile) & ~tied
    quartile, top = (np.where(tied | lumped, 0.0, each) for each in (quartile, top))
    log_u = np.where(tied | lumped, 0.0, log_y) - top
    grid = 30 + int(math.sqrt(count))
    factors = np.sqrt(grid / (np.arange(1, grid + 1) - 0.5)) - 1
    # b y_max = 1 − e^t, where t may be hundreds.
    t = np.log(factors / 3)[:, None] + (top - quartile)
    k = np.stack([_mean_log(each, log_u) for each in t])
    with np.errstate(divide="ignore", invalid="ignore"):
        fit = count * (_log_abs_b(t) - np.log(np.abs(k)) - k - 1)
    fit = np.where(np.isnan(fit), -np.inf, fit)
    log_posterior = fit - np.logaddexp.reduce(fit, axis=0)
    found = _mean_log(np.logaddexp.reduce(log_posterior + t, axis=0), log_u)
    return np.where(tied, 0.0, np.where(lumped, np.inf, (count * found + 10 * 0.5) / (count + 10)))


def _mean_log(t: np.ndarray, log_u: np.ndarray) -> np.ndarray:
    """Return the mean over u (M, B) of ln(1 − b u), (B,), with b = 1 − e^t, t (B,): ln((1 − u) + u e^t)."""
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log(-np.expm1(log_u)), log_u + t).mean(axis=0)


def _log_abs_b(t: np.ndarray) -> np.ndarray:
    """Return ln |1 − e^t|."""
    return np.maximum(t, 0) + np.log(-np.expm1(-np.abs(t)))


class SeedSpread:
    """The variance that an estimate of −ln p(x) would have over draws of its samples, from those of many images.

    The delta method, var(w) / (S mean(w)²), takes the variance of the weights from the samples: where their tail is
    heavy, it is too small, as the samples lack the tail. Here estimates are made from disjoint blocks of S/2, S/4, ...
    samples, of which there are several; V(n), their variance about each image's mean, is averaged over the images. The
    line of ln V over ln n, fitted with weights of the degrees of freedom, is followed by one octave, to n = S. Its
    slope is −1 where the delta method holds, and not as steep where the tail is heavy.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.sizes = [samples >> octave for octave in range(1, OCTAVES + 1) if samples >> octave]
        self.sums = np.zeros(len(self.sizes))
        self.images = 0

    def add(self, log_weights: np.ndarray) -> None:
        """Take in the log weights (S, B) of some images."""
        self.images += log_weights.shape[1]
        for place, size in enumerate(self.sizes):
            self.sums[place] += log_means(log_weights, size).var(axis=0, ddof=1).sum()

    def variance(self) -> float:
        """Return the variance of one image's estimate, in squared nats, averaged over the images."""
        found = self.sums / self.images
        if not (np.isfinite(found).all() and (found > 0).all()):
            return 0.0 if not found.any() else math.nan
        sizes = np.array(self.sizes, dtype=float)
        freedom = self.samples // sizes - 1
        slope = -1.0
        if len(sizes) > 1:
            slope = float(np.clip(np.polyfit(np.log(sizes), np.log(found), 1, w=np.sqrt(freedom))[0], -1, 0))
        level = np.average(np.log(found) - slope * np.log(sizes), weights=freedom)
        return math.exp(level + slope * math.log(self.samples))
