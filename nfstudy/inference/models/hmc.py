"""Hamiltonian Monte Carlo of several densities at once, and R-hat, which says whether its chains have mixed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]
"""z (..., T, D) -> ln p_t(z) (..., T) in nats, up to a constant, of T densities side by side."""

TARGET_RATE = 0.8
"""Mean probability of acceptance that step sizes are adapted to."""
JITTER = 0.2
"""A trajectory's step size is drawn from so much about its own, as equal ones may come back to where they began."""
ADAPTED = 0.6
"""The t-th adaptation of a step size is by t to the power −0.6, which sums to infinity while its square does not."""
MIXED = 1.01
"""R-hat up to which chains count as mixed (Vehtari et al. 2021)."""


@dataclass(frozen=True)
class Sampling:
    """How chains are run."""

    burn_in: int = 500
    """Trajectories that are dropped, in which step sizes are adapted."""
    draws: int = 1500
    """Trajectories that are kept."""
    leapfrog: int = 12
    """Steps of a trajectory."""
    first_step: float = 0.1


class Chains(NamedTuple):
    """Draws from T densities by C chains each."""

    draws: Tensor
    """(draws, C, T, D)."""
    accepted: Tensor
    """Mean probability of acceptance after the burn-in, (T,)."""
    step: Tensor
    """Step size after the burn-in, (T,)."""


def run_chains(log_density: LogDensity, starts: Tensor, sampling: Sampling, generator: torch.Generator) -> Chains:
    """Draw by Hamiltonian Monte Carlo with unit masses and a Metropolis correction (Duane et al. 1987; Neal 2011).

    H(z, ω) = −ln p(z) + ½ ‖ω‖²; a trajectory of leapfrog steps from ω ~ N(0, I) is accepted with the probability
    min(1, exp(H_before − H_after)). Of each density, ln ε moves by t^−0.6 (rate − 0.8) after the t-th trajectory of
    the burn-in, rate being the mean probability over its chains (Robbins & Monro), and then stands.

    Arguments:
        log_density: of T densities, differentiable.
        starts: where C chains begin, (C, T, D), best further apart than the densities are wide.
        sampling: how many trajectories, and how long.
        generator: on the CPU.
    """
    z = starts
    log_p, slope = _with_slope(log_density, z)
    log_step = torch.full(z.shape[1:2], sampling.first_step, dtype=z.dtype, device=z.device).log()
    kept, accepted = [], torch.zeros_like(log_step)
    for number in range(1 - sampling.burn_in, sampling.draws + 1):
        momentum = torch.randn(z.shape, generator=generator, dtype=z.dtype).to(z.device)
        spread = torch.rand(z.shape[:2], generator=generator, dtype=z.dtype).to(z.device)
        coin = torch.rand(z.shape[:2], generator=generator, dtype=z.dtype).to(z.device)
        step = (log_step.exp() * (1 + JITTER * (2 * spread - 1))).unsqueeze(-1)
        before = log_p - 0.5 * momentum.square().sum(-1)
        new, new_slope = z, slope
        momentum = momentum + 0.5 * step * slope
        for place in range(sampling.leapfrog):
            new = new + step * momentum
            new_log_p, new_slope = _with_slope(log_density, new)
            momentum = momentum + (1.0 if place < sampling.leapfrog - 1 else 0.5) * step * new_slope
        change = new_log_p - 0.5 * momentum.square().sum(-1) - before
        probability = torch.where(change.isnan(), 0.0, change.clamp(max=0).exp())
        moved = coin < probability
        z = torch.where(moved.unsqueeze(-1), new, z)
        slope = torch.where(moved.unsqueeze(-1), new_slope, slope)
        log_p = torch.where(moved, new_log_p, log_p)
        if number > 0:
            kept.append(z)
            accepted += probability.mean(0) / sampling.draws
        else:
            log_step = log_step + (number + sampling.burn_in) ** -ADAPTED * (probability.mean(0) - TARGET_RATE)
    return Chains(torch.stack(kept), accepted, log_step.exp())


def _with_slope(log_density: LogDensity, z: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        log_p = log_density(z)
        (slope,) = torch.autograd.grad(log_p.sum(), z)
    return log_p.detach(), slope


def r_hat(draws: np.ndarray) -> float:
    """Return R-hat of a number's chains, rank-normalised, split and folded; Vehtari et al. (2021), Section 4.

    √(var⁺ / W), where W is the mean variance within half chains and var⁺ = (n − 1)/n W + B/n, B/n being the variance
    of their means: 1 for chains that agree. It is of normal scores of the ranks, once of the draws and once of their
    distances from the median, and the greater of the two.

    Arguments:
        draws: (draws, C), at least 4 draws of one chain or more; it is infinite where chains stand still apart.
    """
    half = len(draws) // 2
    split = np.concatenate([draws[:half], draws[-half:]], axis=1)
    return max(_of_scores(split), _of_scores(np.abs(split - np.median(split))))


def _of_scores(split: np.ndarray) -> float:
    from scipy.special import ndtri  # See `diagnostics`.
    from scipy.stats import rankdata

    ranks = rankdata(split).reshape(split.shape)
    scores = ndtri((ranks - 0.375) / (split.size + 0.25))
    n = len(scores)
    within, between = scores.var(0, ddof=1).mean(), scores.mean(0).var(ddof=1)
    if within == 0:
        return 1.0 if between == 0 else float("inf")
    return float(np.sqrt((n - 1) / n + between / within))
