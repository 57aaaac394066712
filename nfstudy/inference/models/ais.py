"""Annealed importance sampling: ln p(x) by another way than importance sampling (Neal 2001, Wu et al. 2017).

Every path begins at N(0, I) over some e, and is geometric, π_β(e) ∝ N(e|0, I) exp(β g(e)), 0 ≤ β ≤ 1:

    from the prior:  e = z,  g = ln p(x|z)
    from q:          z = f_K ∘ … ∘ f_1(mean + deviation · e),  g = ln p(x, z) − ln q_K(z|x)

Either way ∫ N(e|0, I) exp(g) de = p(x), where for q the chain must be invertible. A step anneals β, then moves e by one
Hamiltonian trajectory that leaves π_β as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nfstudy.core.seeds import derive_seed
from nfstudy.inference.models.objective import LatentVariableModel, bound_terms

Path = Literal["prior", "q"]

TARGET_RATE = 0.65
"""Share of trajectories that the step sizes are tuned to have accepted."""
FIRST_STEP = 0.1
LARGEST_STEP = 1.0
TUNING = 1.1
"""By what a step size grows or shrinks from one temperature to the next while it is tuned."""


@dataclass(frozen=True)
class Annealing:
    """How a path is gone along."""

    temperatures: int = 200
    """T, how often β is raised."""
    chains: int = 8
    """Of each image."""
    leapfrog: int = 5
    """Steps of a trajectory."""
    path: Path = "q"
    """Where it begins."""

    def betas(self) -> np.ndarray:
        """Return β_0 = 0, ..., β_T = 1, closest at both ends: σ(4 (2t/T − 1)), moved and scaled to these."""
        t = np.linspace(-4, 4, self.temperatures + 1)
        sigmoid = 1 / (1 + np.exp(-t))
        return (sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])


class AisEstimates(NamedTuple):
    """Of N images; arrays (N,) in nats."""

    nll: np.ndarray
    """−ln of the mean weight of an image's chains; in expectation an upper bound on −ln p(x)."""
    se: np.ndarray
    """Its standard deviation if the chains were run anew, by the delta method."""
    accepted: float
    """Share of the trajectories that were accepted."""

    @property
    def mean_se(self) -> float:
        """The standard deviation of the mean of `nll` over the images, if the chains were run anew."""
        return float(np.sqrt(np.square(self.se).sum()) / len(self.se))

    def numbers(self) -> dict[str, float]:
        """Return the mean, its errors over seeds and over images where there are any, and the share accepted."""
        images = float(self.nll.std(ddof=1) / math.sqrt(len(self.nll))) if len(self.nll) > 1 else math.nan
        found = {"nll": float(self.nll.mean()), "nll_seed_se": self.mean_se, "nll_image_se": images}
        return {name: value for name, value in (found | {"accepted": self.accepted}).items() if math.isfinite(value)}


class Bracket(NamedTuple):
    """Of images that were drawn from the model, so that −ln p(x) is bracketed (Grosse et al. 2015); nats, (N,)."""

    above: AisEstimates
    """From chains that begin at the prior: in expectation upper bounds."""
    below: AisEstimates
    """From the same chains gone back from the z that an image was drawn from, an exact sample of p(z|x): in expectation
    lower bounds."""

    def numbers(self) -> dict[str, float]:
        """Return the two means with their errors over seeds, and the gap between them."""
        ends = {"above": self.above.numbers(), "below": self.below.numbers()}
        found = {
            f"nll_{end}{name.removeprefix('nll')}": numbers[name]
            for end, numbers in ends.items()
            for name in ("nll", "nll_seed_se")
            if name in numbers
        }
        return found | {"gap": float(self.above.nll.mean() - self.below.nll.mean()), "accepted": self.above.accepted}


def ais_likelihood(
    model: LatentVariableModel, images: np.ndarray, annealing: Annealing, seed: int, posterior: Any = None
) -> AisEstimates:
    """Estimate −ln p(x) of images (N, pixels) by annealed importance sampling.

    Step sizes are tuned on chains of their own first, one for each temperature and image, and then stand, so that the
    mean weight is an unbiased estimate of p(x). A posterior of these images may be given in place of what the model
    infers, for paths that begin at q.
    """
    x = _as_input(model, images)
    target = _Target(model, x, annealing.path, posterior)
    shape = (annealing.chains, len(images), target.latent)
    steps = _tune(target, shape, annealing, torch.Generator().manual_seed(derive_seed(seed, "annealing", "steps")))
    stream = torch.Generator().manual_seed(derive_seed(seed, "annealing", "chains"))
    e = torch.randn(shape, generator=stream, dtype=x.dtype).to(x.device)
    return _estimates(*_anneal(target, e, annealing, steps, stream), sign=1)


def bracket_likelihood(model: Any, count: int, annealing: Annealing, seed: int) -> tuple[Bracket, np.ndarray]:
    """Draw images from a model, and bracket −ln p(x) of each between two estimates; bidirectional Monte Carlo.

    Arguments:
        model: a `DLGM`, or what has its `latent` number of variables, `log_likelihood` and `draw`.
        count: N, how many images.
        annealing: the path, which begins at the prior whatever it says.
        seed: of the images and of all noise.

    Returns:
        The bracket, and the images (N, pixels).
    """
    stream = torch.Generator().manual_seed(derive_seed(seed, "annealing", "images"))
    parameter = next(model.parameters())
    z = torch.randn(count, model.latent, generator=stream, dtype=parameter.dtype).to(parameter.device)
    with torch.no_grad():
        x = model.draw(z, stream)
    images = x.cpu().numpy()
    forward = Annealing(annealing.temperatures, annealing.chains, annealing.leapfrog, "prior")
    target = _Target(model, x, "prior")
    shape = (annealing.chains, count, target.latent)
    steps = _tune(target, shape, forward, torch.Generator().manual_seed(derive_seed(seed, "annealing", "steps")))
    stream = torch.Generator().manual_seed(derive_seed(seed, "annealing", "chains"))
    e = torch.randn(shape, generator=stream, dtype=x.dtype).to(x.device)
    above = _estimates(*_anneal(target, e, forward, steps, stream), sign=1)
    stream = torch.Generator().manual_seed(derive_seed(seed, "annealing", "back"))
    exact = z.expand(shape).clone()
    below = _estimates(*_anneal(target, exact, forward, steps, stream, back=True), sign=-1)
    return Bracket(above, below), images


class _Target:
    """g(e) of images x (B, N), with its gradient."""

    def __init__(self, model: Any, x: Tensor, path: Path, posterior: Any = None) -> None:
        self.model, self.x, self.path = model, x, path
        with torch.no_grad():
            self.posterior = model.infer(x) if posterior is None else posterior
        self.latent = self.posterior.noise_size if path == "q" else self.posterior.mean.shape[-1]

    def __call__(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """Return g (S, B) in float64 and ∂g/∂e (S, B, D), for e (S, B, D)."""
        with torch.enable_grad():
            e = e.detach().requires_grad_()
            if self.path == "q":
                g = bound_terms(self.model, self.x, e, self.posterior).elbo
            else:
                g = self.model.log_likelihood(self.x, e)
            (slope,) = torch.autograd.grad(g.sum(), e)
        return g.detach().double(), slope


def _anneal(
    target: _Target,
    e: Tensor,
    annealing: Annealing,
    steps: list[Tensor],
    stream: torch.Generator,
    back: bool = False,
) -> tuple[Tensor, float]:
    """Go along the path, from β = 0 to 1, or back; return Σ_t (β_t − β_{t−1}) g(e_t) (S, B), and the share accepted.

    Forward, e_t is where a chain is before it moves under β_t; back, where it is after it has moved under β_t, for the
    last β as well, which leaves an exact sample as it is.
    """
    betas = annealing.betas()
    g, slope = target(e)
    total, accepted = torch.zeros_like(g), 0.0
    order = range(1, len(betas))
    for t in reversed(order) if back else order:
        if not back:
            total += (betas[t] - betas[t - 1]) * g
        e, g, slope, moved = _move(target, e, g, slope, betas[t], steps[t - 1], annealing.leapfrog, stream)
        if back:
            total += (betas[t] - betas[t - 1]) * g
        accepted += moved.double().mean().item() / len(order)
    return total, accepted


def _move(
    target: _Target,
    e: Tensor,
    g: Tensor,
    slope: Tensor,
    beta: float,
    step: Tensor,
    leapfrog: int,
    stream: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Move e (S, B, D) by one trajectory under ln π = −‖e‖²/2 + β g; return e, g and its slope there, and who moved."""
    momentum = torch.randn(e.shape, generator=stream, dtype=e.dtype).to(e.device)
    coin = torch.rand(g.shape, generator=stream, dtype=torch.float64).to(e.device).log()
    size = step.unsqueeze(-1)
    before = _energy(e, g, momentum, beta)
    new, new_g, new_slope = e, g, slope
    momentum = momentum + 0.5 * size * (beta * slope - e)
    for number in range(leapfrog):
        new = new + size * momentum
        new_g, new_slope = target(new)
        momentum = momentum + (1.0 if number < leapfrog - 1 else 0.5) * size * (beta * new_slope - new)
    change = before - _energy(new, new_g, momentum, beta)
    moved = coin < torch.where(change.isnan(), -torch.inf, change)
    here = moved.unsqueeze(-1)
    return torch.where(here, new, e), torch.where(moved, new_g, g), torch.where(here, new_slope, slope), moved


def _energy(e: Tensor, g: Tensor, momentum: Tensor, beta: float) -> Tensor:
    return 0.5 * (e.double().square().sum(-1) + momentum.double().square().sum(-1)) - beta * g


def _tune(target: _Target, shape: tuple[int, int, int], annealing: Annealing, stream: torch.Generator) -> list[Tensor]:
    """Return a step size of each image (B,), for each temperature, by chains that change it as they go along."""
    e = torch.randn(shape, generator=stream, dtype=target.x.dtype).to(target.x.device)
    g, slope = target(e)
    step = torch.full((shape[1],), FIRST_STEP, dtype=e.dtype, device=e.device)
    steps = []
    for beta in annealing.betas()[1:]:
        steps.append(step)
        e, g, slope, moved = _move(target, e, g, slope, beta, step, annealing.leapfrog, stream)
        rate = moved.double().mean(0)
        step = torch.where(rate > TARGET_RATE, step * TUNING, step / TUNING).clamp(max=LARGEST_STEP)
    return steps


def _estimates(log_weights: Tensor, accepted: float, sign: Literal[1, -1]) -> AisEstimates:
    """Return −sign · ln mean exp(sign · l) over the chains, with its error; −1 for chains that were gone back."""
    logs = sign * log_weights.cpu().numpy()
    chains, largest = len(logs), logs.max(0)
    weights = np.exp(logs - largest)
    mean = weights.mean(0)
    se = weights.std(0, ddof=1) / (math.sqrt(chains) * mean) if chains > 1 else np.full_like(mean, math.nan)
    return AisEstimates(-sign * (largest + np.log(mean)), se, accepted)


def _as_input(model: LatentVariableModel, images: np.ndarray) -> Tensor:
    parameter = next(model.parameters())
    return torch.tensor(images, dtype=parameter.dtype, device=parameter.device)
