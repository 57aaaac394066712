"""Two-dimensional densities beside what is fitted to them: draws by MCMC, the best Gaussians, and KLs by quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nfstudy.films.fits import PlaneFits
from nfstudy.inference.models.hmc import LogDensity, Sampling, r_hat, run_chains

CHAINS = 8
"""Of each target."""
COARSE = 320
"""Cells on each side, by which the mass of a target is found."""
CELLS = 240
"""Of the quadrature, on each side of the rectangle that holds the mass."""
PICTURED = 96
"""Of the densities that are kept, on each side of a target's window."""
DEEPEST = 30.0
"""Nats below a target's peak down to which its mass is integrated: e⁻³⁰."""
WIDE = 5.0
"""Standard deviations of a Gaussian that the quadrature reaches to."""
KEPT = 160
"""Draws of each chain that are kept, for pictures; R-hat is of all."""
POINTS_AT_ONCE = 8192
UPDATES, RATE = 200, 0.05
"""Of that minimisation by Adam, the rate falling to 0 by a cosine."""
STARTS = 4
"""Of it, at draws of as many chains, beside the forward Gaussian."""
NARROW = 0.5
"""Of the starts at single draws: their deviation, where the forward Gaussian's is 1."""
LOWEST = -1e4
"""Nats: ln q where the inverse of a flow gives no finite number."""


class Target(NamedTuple):
    """T densities, integrated; all in float64 on the CPU."""

    log_density: LogDensity
    """ln p (..., T) at z (..., T, 2), unnormalised."""
    box: Tensor
    """Rectangles that hold all mass down to `DEEPEST`: least z1 and z2, greatest z1 and z2, (T, 4)."""
    log_z: Tensor
    """ln Z, (T,)."""
    draws: Tensor
    """By MCMC, (draws, C, T, 2)."""
    accepted: Tensor
    """(T,)."""
    means: Tensor
    """Of the two Gaussians, (2, T, 2)."""
    factors: Tensor
    """Their Cholesky factors, (2, T, 2, 2)."""


@torch.no_grad()
def study_target(
    log_density: LogDensity,
    starts: Tensor,
    reach: tuple[float, float],
    sampling: Sampling,
    nodes: int,
    generator: torch.Generator,
) -> Target:
    """Draw from densities, and find the Gaussians that are nearest to them in both directions of KL.

    Of least KL(p‖q) is the one with p's own moments, here by quadrature; KL(q‖p) is minimised, from p's moments and
    from single draws, and the lowest of these ends is taken.

    Arguments:
        log_density: of T densities, see `models.hmc.LogDensity`.
        starts: of the chains, (C, T, 2).
        reach: all mass lies within (−reach[0], reach[0]) × (−reach[1], reach[1]).
        sampling: how the chains are run.
        nodes: of Gauss-Hermite quadrature along each axis, by which KL(q‖p) of a Gaussian is minimised.
        generator: of the chains.
    """
    targets = starts.shape[1]
    chains = run_chains(log_density, starts, sampling, generator)
    whole = torch.tensor([-reach[0], -reach[1], reach[0], reach[1]], dtype=torch.float64).expand(targets, 4)
    z, _ = cell_centres(whole, COARSE)
    log_p = evaluated(log_density, z)
    inside = log_p > log_p.amax(0) - DEEPEST
    margin = 2 * (whole[:, 2:] - whole[:, :2]) / COARSE
    low = torch.where(inside.unsqueeze(-1), z, math.inf).amin(0) - margin
    high = torch.where(inside.unsqueeze(-1), z, -math.inf).amax(0) + margin
    box = torch.cat([low, high], -1)
    z, area = cell_centres(box, CELLS)
    log_p = evaluated(log_density, z)
    log_z = torch.logsumexp(log_p, 0) + area.log()
    weights = torch.softmax(log_p, 0).unsqueeze(-1)
    mean = (weights * z).sum(0)
    off = z - mean
    covariance = torch.einsum("gta,gtb->tab", weights * off, off)
    factor = torch.linalg.cholesky(covariance)
    reverse = _least_reverse(log_density, mean, factor, chains.draws[-1, :STARTS], nodes, box)
    return Target(
        log_density,
        box,
        log_z,
        chains.draws,
        chains.accepted,
        torch.stack([reverse[0], mean]),
        torch.stack([reverse[1], factor]),
    )


def _least_reverse(
    log_density: LogDensity, mean: Tensor, factor: Tensor, draws: Tensor, nodes: int, box: Tensor
) -> tuple[Tensor, Tensor]:
    """Return mean (T, 2) and Cholesky factor (T, 2, 2) of the Gaussian of least KL(q‖p), in whitened coordinates.

    With z = m + L (a + A ξ), KL is −ln|det A| − E[ln p(z)] up to a constant. E is by Gauss-Hermite quadrature in ξ at
    first, wherever that leads; and where it has led, and from the forward Gaussian, by the midpoint rule over the box,
    which is exact also where ln p has the kinks of a Maxout network.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    xi = torch.tensor(np.stack(np.meshgrid(points, points), -1).reshape(-1, 1, 1, 2))
    weight = torch.tensor(np.outer(weights, weights).reshape(-1, 1, 1) / (2 * math.pi))
    z, area = cell_centres(box, CELLS // 2)
    log_p = evaluated(log_density, z)
    inside = torch.linalg.solve_triangular(factor, (z - mean).unsqueeze(-1), upper=False).squeeze(-1).unsqueeze(1)
    cell = area / factor.diagonal(dim1=-2, dim2=-1).prod(-1)

    def by_nodes(a: Tensor, square: Tensor) -> Tensor:
        z = mean + (factor @ (a.unsqueeze(-1) + square @ xi.unsqueeze(-1))).squeeze(-1)
        return (weight * log_density(z)).sum(0)

    def by_cells(a: Tensor, square: Tensor) -> Tensor:
        return ((cell.log() + _log_gaussian(a, square)(inside)).exp() * log_p.unsqueeze(1)).sum(0)

    places = torch.linalg.solve_triangular(factor, (draws - mean).unsqueeze(-1), upper=False).squeeze(-1)
    forward = torch.cat([torch.zeros_like(mean), torch.zeros_like(mean), torch.zeros_like(mean[:, :1])], -1)
    single = torch.cat([places, torch.full_like(places, math.log(NARROW)), torch.zeros_like(places[..., :1])], -1)
    ends, _ = _descend(by_nodes, torch.cat([forward.unsqueeze(0), single]), RATE)
    ends, kl = _descend(by_cells, torch.cat([forward.unsqueeze(0), ends]), RATE / 5)
    best = ends[kl.argmin(0), torch.arange(len(mean))]
    a, square = _unpacked(best)
    return mean + (factor @ a.unsqueeze(-1)).squeeze(-1), factor @ square


def _unpacked(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return a (..., 2) and the lower triangular A (..., 2, 2) of (..., 5): a, the diagonal's logarithm, and below."""
    a, log_scale, below = numbers.split([2, 2, 1], dim=-1)
    return a, torch.diag_embed(log_scale.exp()) + torch.nn.functional.pad(below.unsqueeze(-1), (0, 1, 1, 0))


def _descend(mean_log_p: Callable[[Tensor, Tensor], Tensor], starts: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """Minimise KL(q‖p) of Gaussians (S, T, 5) by Adam; return where it ends, and KL there up to a constant, (S, T)."""
    numbers = starts.clone().requires_grad_()
    optimiser = torch.optim.Adam([numbers], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, UPDATES)
    with torch.enable_grad():
        for _ in range(UPDATES):
            optimiser.zero_grad()
            (-numbers[..., 2:4].sum(-1) - mean_log_p(*_unpacked(numbers))).sum().backward()
            optimiser.step()
            schedule.step()
    found = numbers.detach()
    return found, -found[..., 2:4].sum(-1) - mean_log_p(*_unpacked(found))


@torch.no_grad()
def plane_fits(
    target: Target,
    log_flow: LogDensity | None,
    samples: Tensor,
    windows: Tensor | None = None,
    images: np.ndarray | None = None,
) -> PlaneFits:
    """Return densities with what is fitted to them, and both KLs of each fit by quadrature.

    The midpoint rule over a rectangle that holds p's mass, both Gaussians and all given samples of q_K.

    Arguments:
        target: the densities p, with their draws and Gaussians.
        log_flow: ln q_K (..., T) at z (..., T, 2); None where the flow has no inverse.
        samples: of q_K, (S, T, 2).
        windows: centre and half side of the square that is pictured, (T, 3); None for those about draws and samples.
        images: the images whose posteriors these are, (T, height, width, channels).
    """
    far = WIDE * target.factors.square().sum(-1).sqrt()  # Of each Gaussian, so many deviations along each axis.
    low = torch.stack([target.box[:, :2], samples.amin(0), *(target.means - far)]).amin(0)
    high = torch.stack([target.box[:, 2:], samples.amax(0), *(target.means + far)]).amax(0)
    z, area = cell_centres(torch.cat([low, high], -1), CELLS)
    log_p = evaluated(target.log_density, z) - target.log_z
    fits = [_log_gaussian(mean, factor) for mean, factor in zip(target.means, target.factors, strict=True)]
    fits += [] if log_flow is None else [log_flow]
    kl, mass = [], []
    for fit in fits:
        log_q = evaluated(fit, z).nan_to_num(LOWEST).clamp(min=LOWEST)
        q, p, difference = log_q.exp() * area, log_p.exp() * area, log_q - log_p
        kl.append(torch.stack([(q * difference).sum(0), -(p * difference).sum(0)], -1))
        mass.append(q.sum(0))
    shown = windows if windows is not None else _windows(torch.cat([target.draws.flatten(0, 1), samples]))
    pictured, _ = cell_centres(torch.cat([shown[:, :2] - shown[:, 2:], shown[:, :2] + shown[:, 2:]], -1), PICTURED)
    square = (len(shown), PICTURED, PICTURED)
    log_target = (evaluated(target.log_density, pictured) - target.log_z).T.reshape(square)
    drawn = np.empty((0, 0, 0))
    if log_flow is not None:
        drawn = evaluated(log_flow, pictured).nan_to_num(LOWEST).clamp(min=LOWEST).T.reshape(square).numpy()
    draws = target.draws.permute(2, 1, 0, 3)
    rates = [[r_hat(each[..., axis].T.numpy()) for axis in (0, 1)] for each in draws]
    return PlaneFits(
        windows=shown.numpy(),
        log_target=log_target.numpy(),
        log_flow=drawn,
        means=target.means.transpose(0, 1).numpy(),
        covariances=(target.factors @ target.factors.mT).transpose(0, 1).numpy(),
        kl=torch.stack(kl, 1).numpy(),
        mass=torch.stack(mass, 1).numpy(),
        draws=draws[:, :, :: max(1, draws.shape[2] // KEPT)][:, :, :KEPT].numpy(),
        r_hat=np.minimum(np.array(rates), -LOWEST),  # Chains that stand still apart have no finite one.
        accepted=target.accepted.numpy(),
        images=np.empty((0, 0, 0, 0), np.uint8) if images is None else images,
    )


def cell_centres(box: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Return the centres of cells × cells equal cells of T rectangles, rows from the top, (cells², T, 2); areas (T,).

    Arguments:
        box: least z1 and z2, greatest z1 and z2, (T, 4).
        cells: on each side.
    """
    unit = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    z2, z1 = torch.meshgrid(unit.flip(0), unit, indexing="ij")
    sides = box[:, 2:] - box[:, :2]
    return box[:, :2] + sides * torch.stack([z1, z2], -1).reshape(-1, 1, 2), sides.prod(-1) / cells**2


def evaluated(log_density: LogDensity, z: Tensor) -> Tensor:
    """Return a density's logarithm at z (G, T, 2), so many points at once, (G, T)."""
    parts = [log_density(part).detach() for part in z.split(max(1, POINTS_AT_ONCE // z.shape[1]))]
    return torch.cat(parts)


def _log_gaussian(mean: Tensor, factor: Tensor) -> Callable[[Tensor], Tensor]:
    """Return ln N(z; mean, factor factorᵀ), of T Gaussians."""
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    inverse = torch.linalg.inv(factor)

    def log_density(z: Tensor) -> Tensor:
        off = (inverse @ (z - mean).unsqueeze(-1)).squeeze(-1)
        return -0.5 * off.square().sum(-1) - log_det - math.log(2 * math.pi)

    return log_density


def _windows(points: Tensor) -> Tensor:
    """Return centre and half side of squares that hold nearly all points (S, T, 2), (T, 3)."""
    low, high = (np.quantile(points.numpy(), share, axis=0) for share in (0.002, 0.998))
    half = 0.7 * (high - low).max(-1, keepdims=True)
    return torch.tensor(np.concatenate([(low + high) / 2, np.maximum(half, 1e-3)], -1))
