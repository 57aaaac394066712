"""Inference gaps: what q loses by its family, and by amortisation (Cremer, Li & Duvenaud 2018, arXiv:1801.03558).

    ln p(x) − L[q]  =  (ln p(x) − L[q*])  +  (L[q*] − L[q])
    inference gap      approximation gap     amortisation gap

L is the bound, q the amortised posterior of an image, and q* the best member of its family for this image alone, with
the generative model as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nfstudy.core.seeds import derive_seed
from nfstudy.inference.models.ais import AisEstimates, Annealing, ais_likelihood
from nfstudy.inference.models.evaluation import IMAGES_AT_ONCE, SAMPLES_AT_ONCE, weights_by_block
from nfstudy.inference.models.importance import effective_sizes, pareto_k
from nfstudy.inference.models.objective import (
    LatentVariableModel,
    bound_terms,
    map_tensors,
    of_each_image,
    rows_of,
    tensors_of,
)

SAMPLES = 32
"""Of q for each image and update."""
ROUND = 50
"""Updates between two judgements."""
JUDGED = 128
"""Samples of q by which a round is judged: the same ones each time, which no update has."""
CONFIRMED = 1024
"""Samples of q, new ones again, by which what was found is held to the amortised posterior at the end."""
SURE = 2.0
"""Standard errors by which it must be the better of the two there; else q* is the amortised posterior itself. By so
many must two estimates of ln p(x) differ for the larger one to be preferred."""
RATE = 0.01
"""Adam's first learning rate."""
LOWER = 3.0
"""By what an image's rate is divided after a round that gained less than `TOLERANCE`."""
REDUCTIONS = 4
"""An image has converged after so many: rounds at RATE, RATE/3, RATE/9 and RATE/27 gained too little."""
TOLERANCE = 0.003
"""Nats that a round must gain."""
BETAS, EPSILON = (0.9, 0.99), 1e-8
"""Of Adam."""


class LocalPosteriors(NamedTuple):
    """The best posterior of each of N images."""

    start: Any
    """The amortised ones, as `infer` gives them."""
    best: Any
    """As many, each surely better than the amortised one, or that itself."""
    updates: np.ndarray
    """How many each image took, (N,)."""
    converged: np.ndarray
    """Whether it had converged before there were no more, (N,)."""


class InferenceGaps(NamedTuple):
    """Of N images; arrays (N,) in nats and float64, by samples that no optimisation has seen."""

    elbo: np.ndarray
    """L[q]."""
    elbo_local: np.ndarray
    """L[q*]."""
    log_p: np.ndarray
    """ln p(x), by the better one of two estimators, see `_is_better`; in expectation lower bounds."""
    approximation_se: np.ndarray
    """Standard deviation of ln p(x) − L[q*] if the samples were drawn anew."""
    amortisation_se: np.ndarray
    """Of L[q*] − L[q], on the same noise."""
    inference_se: np.ndarray
    """Of ln p(x) − L[q]."""
    log_p_se: np.ndarray
    """Of ln p(x)."""
    means: dict[str, float]
    """What is said of all images together: `annealed`, 1 where ln p(x) is by annealing; log_p_importance and log_p_ais,
    the means of ln p(x) by importance samples of q* and by annealing from q*; of the former the median effective size
    `ess` and `pareto_k`; the share of trajectories `accepted`; the share of images that have `converged`, and the mean
    number of `updates`."""

    def numbers(self) -> dict[str, float]:
        """Return what is logged: means over the images, errors over seeds, and over images where there are several."""
        gaps = {
            "approximation_gap": (self.log_p - self.elbo_local, self.approximation_se),
            "amortisation_gap": (self.elbo_local - self.elbo, self.amortisation_se),
            "inference_gap": (self.log_p - self.elbo, self.inference_se),
            "nll": (-self.log_p, self.log_p_se),
        }
        found = {"elbo": float(self.elbo.mean()), "elbo_local": float(self.elbo_local.mean())} | self.means
        for name, (values, errors) in gaps.items():
            found[name] = float(values.mean())
            found[f"{name}_seed_se"] = float(np.sqrt(np.square(errors).sum()) / len(errors))
            if len(values) > 1:
                found[f"{name}_image_se"] = float(values.std(ddof=1) / math.sqrt(len(values)))
        return {name: value for name, value in found.items() if math.isfinite(value)}


def inference_gaps(
    model: LatentVariableModel,
    images: np.ndarray,
    samples: int,
    temperatures: int,
    updates: int,
    seed: int,
    nearest: Callable[[Any], Any] = lambda posterior: posterior,
) -> InferenceGaps:
    """Estimate the gaps of images (N, pixels).

    Arguments:
        model: a `LatentVariableModel`, which stays as it is.
        images: numbers that the model's dtype can hold.
        samples: fresh ones of q and of q* for each image, for L and for ln p(x) by importance sampling; at least 2.
        temperatures: of annealed importance sampling from q*.
        updates: at most so many an image, in rounds of `ROUND`.
        seed: of all noise; each image has streams of its own.
        nearest: posterior -> the nearest one that is of the family, such as `DLGM.nearest`.
    """
    local = fit_posteriors(model, images, updates, seed, nearest)
    fresh = derive_seed(seed, "local", "fresh")
    with torch.inference_mode():
        pairs = (weights_by_block(model, images, samples, fresh, each) for each in (local.start, local.best))
        blocks = zip(*pairs, strict=True)
        parts = [_of_weights(ours.logs.cpu().numpy(), best.logs.cpu().numpy()) for ours, best in blocks]
    found = _OfWeights(*map(np.concatenate, zip(*parts, strict=True)))
    annealing = derive_seed(seed, "local", "annealing")
    annealed = ais_likelihood(model, images, Annealing(temperatures), annealing, local.best)
    means = {
        "annealed": float(_is_better(annealed, found)),
        "log_p_importance": float(found.log_p.mean()),
        "log_p_ais": float(-annealed.nll.mean()),
        "ess": float(np.median(found.ess)),
        "pareto_k": float(np.median(found.pareto_k)),
        "accepted": annealed.accepted,
        "converged": float(local.converged.mean()),
        "updates": float(local.updates.mean()),
    }
    log_p, log_p_se = found.log_p, found.log_p_se
    approximation_se, inference_se = found.approximation_se, found.inference_se
    if means["annealed"]:
        log_p, log_p_se = -annealed.nll, annealed.se
        approximation_se, inference_se = np.hypot(log_p_se, found.local_se), np.hypot(log_p_se, found.elbo_se)
    return InferenceGaps(
        found.elbo, found.elbo_local, log_p, approximation_se, found.amortisation_se, inference_se, log_p_se, means
    )


def _is_better(annealed: AisEstimates, found: _OfWeights) -> bool:
    """Say whether ln p(x) is to be that of annealing: chosen once for all images, as the larger of each were biased.

    Both are lower bounds in expectation. The larger mean is the better one where their errors can tell them apart;
    where not, the larger is so by chance, and that with the smaller error is taken.
    """
    difference = float((-annealed.nll - found.log_p).mean())
    errors = [float(np.sqrt(np.square(each).sum()) / len(each)) for each in (annealed.se, found.log_p_se)]
    if abs(difference) > SURE * math.hypot(*errors):
        return difference > 0
    return errors[0] < errors[1]


class _OfWeights(NamedTuple):
    """What log weights of q and of q* on the same noise say of each image, (B,); errors over draws of the noise."""

    elbo: np.ndarray
    elbo_se: np.ndarray
    elbo_local: np.ndarray
    local_se: np.ndarray
    log_p: np.ndarray
    log_p_se: np.ndarray
    approximation_se: np.ndarray
    amortisation_se: np.ndarray
    inference_se: np.ndarray
    ess: np.ndarray
    pareto_k: np.ndarray


def _of_weights(ours: np.ndarray, best: np.ndarray) -> _OfWeights:
    """Summarise log weights (S, B) of q and q*: ln p(x) by those of q*, its error by w/w̄ − 1 (delta method)."""
    largest = best.max(0)
    weights = np.exp(best - largest)
    relative = weights / weights.mean(0)

    def error(of_sample: np.ndarray) -> np.ndarray:
        found: np.ndarray = of_sample.std(0, ddof=1) / math.sqrt(len(of_sample))
        return found

    return _OfWeights(
        ours.mean(0),
        error(ours),
        best.mean(0),
        error(best),
        largest + np.log(weights.mean(0)),
        error(relative),
        error(relative - best),
        error(best - ours),
        error(relative - ours),
        effective_sizes(best),
        pareto_k(best),
    )


def fit_posteriors(
    model: LatentVariableModel,
    images: np.ndarray,
    updates: int,
    seed: int,
    nearest: Callable[[Any], Any] = lambda posterior: posterior,
) -> LocalPosteriors:
    """Maximise the bound of each image over the tensors of its own posterior, from the amortised ones.

    Adam on L by `SAMPLES` fresh samples an update. After each `ROUND` of updates, L is estimated by `JUDGED` samples,
    the same each time: an image keeps its best posterior so far, the amortised one among them, and where the round
    gained less than `TOLERANCE`, goes back to it and on with a third of the rate. After `REDUCTIONS` of these it has
    converged. Rates and judgements are of each image alone, so that neither its neighbours nor their number matter. At
    the end `CONFIRMED` new samples must show that its best is better than the amortised posterior, by `SURE` standard
    errors of the difference on the same noise, or it keeps that.

    What is optimised is what `infer` gives for an image: mean, log-variance, and the flow's parameters λ(x). Weights of
    a flow that are the same for all images stay as they are.

    Arguments: as of `inference_gaps`.
    """
    parameter = next(model.parameters())
    x = torch.tensor(images, dtype=parameter.dtype, device=parameter.device)
    blocks = [
        _fit_block(model, x[start : start + IMAGES_AT_ONCE], start, updates, seed, nearest)
        for start in range(0, len(x), IMAGES_AT_ONCE)
    ]
    starts, bests, counts, converged = zip(*blocks, strict=True)
    with torch.no_grad():
        own = of_each_image(model, x)
    return LocalPosteriors(_joined(starts, own), _joined(bests, own), np.concatenate(counts), np.concatenate(converged))


def _fit_block(
    model: LatentVariableModel, x: Tensor, first: int, updates: int, seed: int, nearest: Callable[[Any], Any]
) -> LocalPosteriors:
    """Fit the posteriors of some images (B, N), of which the first has this place among all."""

    def streams(purpose: str, places: list[int]) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(derive_seed(seed, "local", purpose, first + place)) for place in places]

    with torch.no_grad(), _fixed(model):
        start = map_tensors(lambda tensor: tensor.contiguous().clone(), model.infer(x))
        whole, own = [*range(len(x))], of_each_image(model, x)
        best, best_elbo = start, _judged(model, x, start, streams("judged", whole))
        count, converged = np.zeros(len(x), int), np.zeros(len(x), bool)
        open_, noise = whole, streams("updates", whole)
        current, moments = start, _Adam(start, own)
        rates, reductions = best_elbo.new_full((len(x),), RATE), torch.zeros(len(x), dtype=torch.long, device=x.device)
        while open_ and count.max() + ROUND <= updates:
            for _ in range(ROUND):
                current = nearest(_update(model, x[open_], current, own, moments, rates, noise))
            count[open_] += ROUND
            elbo = _judged(model, x[open_], current, streams("judged", open_))
            gain = (elbo - best_elbo[open_]).nan_to_num(-math.inf)
            better, enough = gain > 0, gain >= TOLERANCE
            best_elbo[open_] = torch.where(better, elbo, best_elbo[open_])
            best = _merged(best, current, own, open_, better)
            current = rows_of(best, own, open_)
            rates = torch.where(enough, rates, rates / LOWER)
            reductions = reductions + ~enough
            done = reductions >= REDUCTIONS
            converged[[place for place, ends in zip(open_, done.tolist(), strict=True) if ends]] = True
            keep = [row for row, ends in enumerate(done.tolist()) if not ends]
            open_, noise = [open_[row] for row in keep], [noise[row] for row in keep]
            current = rows_of(current, own, keep)
            moments.keep(keep)
            rates, reductions = rates[keep], reductions[keep]
        ours, found = (_elbos(model, x, each, streams("confirmed", whole), CONFIRMED) for each in (start, best))
        change = found - ours
        sure = change.mean(0) > SURE * change.std(0) / math.sqrt(CONFIRMED)
        best = _merged(start, best, own, whole, sure)
    return LocalPosteriors(start, best, count, converged)


class _Adam:
    """First and second moments of the gradients of a posterior's tensors; all images have had equally many updates."""

    def __init__(self, posterior: Any, own: Sequence[bool]) -> None:
        self.first = [torch.zeros_like(tensor) for tensor in _local_tensors(posterior, own)]
        self.second = [torch.zeros_like(tensor) for tensor in self.first]
        self.updates = 0

    def steps(self, gradients: list[Tensor], rates: Tensor) -> list[Tensor]:
        """Take gradients (B, ...) in, and return by how much each tensor is to move uphill, at rates (B,)."""
        self.updates += 1
        found = []
        for first, second, gradient in zip(self.first, self.second, gradients, strict=True):
            first.lerp_(gradient, 1 - BETAS[0])
            second.lerp_(gradient.square(), 1 - BETAS[1])
            deviation = (second / (1 - BETAS[1] ** self.updates)).sqrt() + EPSILON
            rate = rates.view(-1, *[1] * (first.dim() - 1)).to(first)
            found.append(rate * first / (1 - BETAS[0] ** self.updates) / deviation)
        return found

    def keep(self, rows: list[int]) -> None:
        """Drop the other images."""
        self.first, self.second = ([tensor[rows] for tensor in each] for each in (self.first, self.second))


def _update(
    model: LatentVariableModel,
    x: Tensor,
    posterior: Any,
    own: Sequence[bool],
    moments: _Adam,
    rates: Tensor,
    noise: list[torch.Generator],
) -> Any:
    """Return the posteriors of images (B, N) after one more update."""
    draws = _draw(SAMPLES, posterior, noise, x)
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in _local_tensors(posterior, own)]
        elbo = bound_terms(model, x, draws, _with_local(posterior, own, leaves)).elbo.mean(0).sum()
        gradients = torch.autograd.grad(elbo, leaves, allow_unused=True)
    known = [
        torch.zeros_like(leaf) if found is None else found.nan_to_num(0, 0, 0)
        for leaf, found in zip(leaves, gradients, strict=True)
    ]
    steps = moments.steps(known, rates)
    return _with_local(posterior, own, [leaf.detach() + step for leaf, step in zip(leaves, steps, strict=True)])


def _judged(model: LatentVariableModel, x: Tensor, posterior: Any, noise: list[torch.Generator]) -> Tensor:
    """Return L of each image (B,), in float64, by `JUDGED` samples."""
    return _elbos(model, x, posterior, noise, JUDGED).mean(0)


def _elbos(model: LatentVariableModel, x: Tensor, posterior: Any, noise: list[torch.Generator], samples: int) -> Tensor:
    """Return the bound at single samples, (samples, B) in float64."""
    blocks = (_draw(SAMPLES_AT_ONCE, posterior, noise, x) for _ in range(samples // SAMPLES_AT_ONCE))
    return torch.cat([bound_terms(model, x, draws, posterior).elbo.double() for draws in blocks])


def _draw(samples: int, posterior: Any, noise: list[torch.Generator], x: Tensor) -> Tensor:
    """Return draws from N(0, I), (samples, B, n), each image's from a stream of its own."""
    size = posterior.noise_size
    draws = [torch.randn(samples, size, generator=stream, dtype=x.dtype) for stream in noise]
    return torch.stack(draws, dim=1).to(x.device)


def _local_tensors(posterior: Any, own: Sequence[bool]) -> list[Tensor]:
    """Return what is an image's own in a posterior, each (B, ...): all that is not shared, but for the images."""
    images = getattr(posterior, "images", None)
    each = zip(tensors_of(posterior), own, strict=True)
    return [tensor for tensor, is_own in each if is_own and tensor is not images]


def _with_local(posterior: Any, own: Sequence[bool], tensors: list[Tensor]) -> Any:
    """Return a posterior with other tensors in the place of `_local_tensors`."""
    images, each, new = getattr(posterior, "images", None), iter(own), iter(tensors)
    return map_tensors(lambda tensor: next(new) if next(each) and tensor is not images else tensor, posterior)


def _merged(best: Any, current: Any, own: Sequence[bool], places: list[int], better: Tensor) -> Any:
    """Return the posteriors of all images, with those of `current` at the places where these are better."""
    rows = torch.tensor(places, device=better.device)[better]
    news = []
    for old, new in zip(_local_tensors(best, own), _local_tensors(current, own), strict=True):
        merged = old.clone()
        merged[rows] = new[better]
        news.append(merged)
    return _with_local(best, own, news)


def _joined(posteriors: tuple[Any, ...], own: Sequence[bool]) -> Any:
    """Return the posteriors of several blocks of images as one."""
    parts = zip(*map(tensors_of, posteriors), strict=True)
    whole = iter([torch.cat(each) if is_own else each[0] for each, is_own in zip(parts, own, strict=True)])
    return map_tensors(lambda _: next(whole), posteriors[0])


@contextmanager
def _fixed(model: LatentVariableModel) -> Iterator[None]:
    """Spare the gradients of a model's weights."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_()
