"""Held-out numbers: the bound at β = 1, and −ln p(x) by importance sampling, with what says how far it is off."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nfstudy.core.seeds import derive_seed
from nfstudy.inference.models.importance import SeedSpread, effective_sizes, log_means, pareto_k, sample_numbers
from nfstudy.inference.models.objective import BoundTerms, LatentVariableModel, bound_terms, of_each_image, rows_of

IMAGES_AT_ONCE = 100
SAMPLES_AT_ONCE = 16
"""With `IMAGES_AT_ONCE`, bounds the memory of an evaluation. For every multiple of 16 the result is the same, because
torch's CPU generator makes normal draws in sixteens, and blocks are drawn whole."""
DRAWN_AT_ONCE = 8
"""Blocks of samples whose noise is drawn by one call for each image: the same numbers as by one for each block."""
WEIGHTS_AT_ONCE = 2**25
"""Log weights that are kept at once, in float64: with very many samples, fewer images are taken together."""
HIGH_K = 0.7
"""Of k̂: above it, an estimate from a practical number of samples is not to be relied on (Vehtari et al. 2024)."""


class PerImage(NamedTuple):
    """What the importance samples say of each image; arrays (N,) in float64."""

    elbo: np.ndarray
    """The mean log weight, in nats."""
    nll: np.ndarray
    """−ln (1/S) Σ w, in nats."""
    effective_size: np.ndarray
    """(Σ w)² / Σ w², from 1 to S."""
    pareto_k: np.ndarray
    """k̂ of the largest weights; NaN for too few samples."""


class LikelihoodEstimates(NamedTuple):
    """Estimates on held-out images, means over the images in nats."""

    elbo: float
    """−F, over the same samples as `nll`."""
    nll: float
    """−ln p(x), importance-sampled; in expectation an upper bound on it."""
    nll_mc_se: float
    """`nll_seed_se` by the delta method, which is too small where the weights have a heavy tail."""
    kl: float
    """KL(q_K‖p(z|x)) = −elbo − nll."""
    nll_seed_se: float
    """Standard deviation of `nll` over seeds of the evaluation: its error if the samples, not the images, were drawn
    anew; by `importance.SeedSpread`."""
    curve: dict[int, float]
    """Number of samples n -> E[−ln (1/n) Σ w], averaged over the images and over disjoint blocks of the samples."""
    images: PerImage
    """Of each image."""

    def numbers(self) -> dict[str, float]:
        """Return what is logged, by name; what cannot be said of so few images or samples is left out.

        Beside those above: `nll_image_se`, the standard error of `nll` if other images were drawn, sd / √N; `ess`, the
        median effective sample size; `pareto_k`, the median k̂; `pareto_k_high`, the share of images with k̂ > 0.7; and
        `nll_drop`, by how much the last doubling of the samples lowered `nll`, about as much as is left where the
        bias falls as 1/S, and less than that where it falls more slowly.
        """
        found = {name: getattr(self, name) for name in ("elbo", "nll", "nll_mc_se", "kl")}
        half = self.curve[max(max(self.curve) // 2, 1)]  # Of the curve, a round number may lie between S/2 and S.
        k = self.images.pareto_k
        further = {
            "nll_seed_se": self.nll_seed_se,
            "nll_image_se": _standard_error(self.images.nll),
            "nll_drop": half - self.nll,
            "ess": float(np.median(self.images.effective_size)),
            "pareto_k": float(np.median(k)),
            "pareto_k_high": float(np.where(np.isnan(k), k, k > HIGH_K).mean()),
        }
        return found | {name: value for name, value in further.items() if not math.isnan(value)}


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


@torch.inference_mode()
def evaluate_bound(model: LatentVariableModel, images: np.ndarray, seed: int) -> dict[str, float]:
    """Return the bound and its terms at β = 1, one posterior sample an image; eq. (15).

    Arguments:
        model: a `LatentVariableModel`.
        images: (N, pixels), numbers that the model's dtype can hold.
        seed: of the posterior noise; models with as many latent variables meet the same noise.

    Returns:
        elbo, log_likelihood, log_prior, log_q0, log_det: means over the images, in nats.

    Raises:
        ValueError: there are no images, of which there is no mean.
    """
    if not len(images):
        raise ValueError("0 images: expected: at least 1")
    generator = torch.Generator().manual_seed(seed)
    sums = torch.zeros(len(BoundTerms._fields), dtype=torch.float64)
    for start in range(0, len(images), IMAGES_AT_ONCE):
        x = _as_input(images[start : start + IMAGES_AT_ONCE], model)
        posterior = model.infer(x)
        noise = torch.randn(len(x), posterior.noise_size, generator=generator, dtype=x.dtype).to(x.device)
        terms = bound_terms(model, x, noise, posterior)
        sums += torch.stack(terms).sum(-1, dtype=torch.float64).cpu()
    return BoundTerms(*(sums / len(images))).numbers()


@torch.inference_mode()
def evaluate_likelihood(model: LatentVariableModel, images: np.ndarray, samples: int, seed: int) -> LikelihoodEstimates:
    """Estimate −ln p(x) from S importance samples of q_K an image (Rezende et al. 2014, Appendix E).

    w_s = p(x|z_s) p(z_s) / q_K(z_s|x),  z_s ~ q_K(·|x),  −ln p(x) ≈ −ln (1/S) Σ_s w_s

    By the delta method, the standard deviation of one image's estimate is sd(w) / (√S · mean(w)), and the mean's
    √(Σ se²) / N, the images' samples being independent.

    Arguments:
        model: a `LatentVariableModel`.
        images: (N, pixels), numbers that the model's dtype can hold.
        samples: S, at least 2.
        seed: of the posterior noise; each image has a stream of its own, so that neither its neighbours nor the sizes
            of the blocks change its estimate.

    Raises:
        ValueError: there are no images, of which there is no mean, or fewer than 2 samples, which have no spread.
    """
    if not len(images) or samples < 2:
        raise ValueError(f"{len(images)} images, {samples} samples: expected: at least 1 and at least 2")
    elbo = nll = variance = 0.0
    sizes = sample_numbers(samples)
    curve, spread, parts = np.zeros(len(sizes)), SeedSpread(samples), list[PerImage]()
    for weights in weights_by_block(model, images, samples, seed):
        elbo += weights.mean.sum().item()
        nll -= weights.log_mean.sum().item()
        variance += weights.log_mean_variance.sum().item()
        logs = weights.logs.cpu().numpy()
        spread.add(logs)
        curve -= [log_means(logs, size).mean(axis=0).sum() for size in sizes]
        ours = (weights.mean.cpu().numpy(), -weights.log_mean.cpu().numpy())
        parts.append(PerImage(*ours, effective_sizes(logs), pareto_k(logs)))
    count = len(images)
    return LikelihoodEstimates(
        elbo / count,
        nll / count,
        math.sqrt(variance) / count,
        -(elbo + nll) / count,
        math.sqrt(spread.variance() / count),
        dict(zip(sizes, (curve / count).tolist(), strict=True)),
        PerImage(*map(np.concatenate, zip(*parts, strict=True))),
    )


@torch.inference_mode()
def log_likelihoods(model: LatentVariableModel, images: np.ndarray, samples: int, seed: int) -> Tensor:
    """Estimate ln p(x) of each image, (N,) in nats and float64; −its mean is the `nll` of `evaluate_likelihood`.

    The arguments are those of `evaluate_likelihood`; the estimate is in expectation a lower bound.
    """
    blocks = [weights.log_mean for weights in weights_by_block(model, images, samples, seed)]
    return torch.cat(blocks) if blocks else torch.zeros(0, dtype=torch.float64)


def weights_by_block(
    model: LatentVariableModel, images: np.ndarray, samples: int, seed: int, posteriors: Any = None
) -> Iterator[LogWeights]:
    """Yield S log weights of each image, of so many images at once; to be drawn from without gradients.

    Arguments:
        model: a `LatentVariableModel`.
        images: (N, pixels).
        samples: S.
        seed: each image has a stream of its own.
        posteriors: of these images, in place of what the model infers.
    """
    at_once = min(IMAGES_AT_ONCE, max(1, WEIGHTS_AT_ONCE // samples))
    for start in range(0, len(images), at_once):
        x = _as_input(images[start : start + at_once], model)
        streams = [
            torch.Generator().manual_seed(derive_seed(seed, "importance samples", start + i)) for i in range(len(x))
        ]
        if posteriors is None:
            posterior = model.infer(x)
        else:
            posterior = rows_of(posteriors, of_each_image(model, x), slice(start, start + at_once))
        yield _log_weights(model, x, samples, streams, posterior)


class LogWeights(NamedTuple):
    """S log weights l_s = ln w_s an image, and what they come to, each (B,) in float64."""

    logs: Tensor
    """l_s, (S, B)."""
    mean: Tensor
    """(1/S) Σ l_s."""
    log_mean: Tensor
    """ln (1/S) Σ w_s."""
    log_mean_variance: Tensor
    """var(w) / (S mean(w)²)."""


def _log_weights(
    model: LatentVariableModel, x: Tensor, samples: int, streams: list[torch.Generator], posterior: Any
) -> LogWeights:
    """Weigh all samples in blocks, and sum weights relative to the largest, so that none overflows."""
    weigh = getattr(model, "weigh_samples", partial(_by_the_formula, model))(x, posterior)
    logs = torch.empty(samples, len(x), dtype=torch.float64, device=x.device)
    at_once = SAMPLES_AT_ONCE * (DRAWN_AT_ONCE if x.is_cuda else 1)  # A small block leaves a GPU idle.
    done = 0
    for noise in _noise_by_block(samples, posterior.noise_size, streams, x.dtype, at_once):
        logs[done : done + len(noise)] = weigh(noise.contiguous().to(x.device) if x.is_cuda else noise)
        done += len(noise)
    largest = logs.amax(0)
    weights = (logs - largest).exp_()
    first = weights.sum(0)
    second = weights.square_().sum(0)
    # var(w) / (S mean(w)²) = (S Σw² / (Σw)² − 1) / (S − 1); equal weights may round below 0.
    relative_variance = ((samples * second / first**2 - 1) / (samples - 1)).clamp(min=0)
    return LogWeights(logs, logs.mean(0), largest + (first / samples).log(), relative_variance)


def _by_the_formula(model: LatentVariableModel, x: Tensor, posterior: Any) -> Callable[[Tensor], Tensor]:
    return lambda noise: bound_terms(model, x, noise.contiguous(), posterior).elbo


def _noise_by_block(
    samples: int, size: int, streams: list[torch.Generator], kind: torch.dtype, at_once: int
) -> Iterator[Tensor]:
    """Yield S draws from N(0, I) an image, each of `size` numbers, in blocks (`at_once`, B, size), the last smaller.

    A block is part of a memory that later draws go to, and an image's samples lie side by side there.
    """
    blocks = -(-samples // SAMPLES_AT_ONCE)
    drawn = torch.empty(len(streams), min(blocks, DRAWN_AT_ONCE) * SAMPLES_AT_ONCE, size, dtype=kind)
    for start in range(0, blocks * SAMPLES_AT_ONCE, drawn.shape[1]):
        many = min(drawn.shape[1], blocks * SAMPLES_AT_ONCE - start)
        for image, stream in zip(drawn, streams, strict=True):
            torch.randn(many, size, generator=stream, out=image[:many])
        for block in drawn[:, : min(many, samples - start)].split(at_once, dim=1):
            yield block.transpose(0, 1)


def _as_input(images: np.ndarray, model: LatentVariableModel) -> Tensor:
    parameter = next(model.parameters())
    return torch.tensor(images, dtype=parameter.dtype, device=parameter.device)
