"""The test energies of Table 1, confined where they must be, and their normalising constants by quadrature."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from nfstudy.study.sections import EnergySpec

UNCONFINED = ("u2", "u3", "u4")
"""Those that nothing confines along z1, so that exp(−U) has no finite integral over the plane."""
WINDOW = 4.0
"""Pictures show (−4, 4)², as Figure 3 does."""
FARTHEST = 8.0
"""Beyond this distance from 0 along a confined axis, exp(−U) is below e⁻⁶⁰ of its peak."""
STEP = 0.05
"""Of the quadrature, at most: a seventh of the narrowest width, 0.35, where the rule is exact to rounding."""


def energy(name: str, z: Tensor) -> Tensor:
    """Return U(z) (...), up to an additive constant in nats, at z (..., 2); Table 1, with w3 to the power 1.

    w1 = sin(2π z1 / 4), w2 = 3 exp(−½ ((z1 − 1)/0.6)²), w3 = 3 σ((z1 − 1)/0.3)

    u1: ½ ((‖z‖ − 2)/0.4)² − ln(exp(−½ ((z1 − 2)/0.6)²) + exp(−½ ((z1 + 2)/0.6)²))
    u2: ½ ((z2 − w1)/0.4)²
    u3: −ln(exp(−½ ((z2 − w1)/0.35)²) + exp(−½ ((z2 − w1 + w2)/0.35)²))
    u4: −ln(exp(−½ ((z2 − w1)/0.4)²) + exp(−½ ((z2 − w1 + w3)/0.35)²))

    Raises:
        ValueError: the name is unknown.
    """
    z1, z2 = z.unbind(-1)
    if name == "u1":
        ring = _bump(torch.linalg.vector_norm(z, dim=-1) - 2, 0.4)
        return -ring - torch.logaddexp(_bump(z1 - 2, 0.6), _bump(z1 + 2, 0.6))
    w1 = torch.sin(2 * math.pi * z1 / 4)
    if name == "u2":
        return -_bump(z2 - w1, 0.4)
    if name == "u3":
        w2 = 3 * _bump(z1 - 1, 0.6).exp()
        return -torch.logaddexp(_bump(z2 - w1, 0.35), _bump(z2 - w1 + w2, 0.35))
    if name == "u4":
        w3 = 3 * torch.sigmoid((z1 - 1) / 0.3)
        return -torch.logaddexp(_bump(z2 - w1, 0.4), _bump(z2 - w1 + w3, 0.35))
    raise ValueError(f"energy {name}: expected: u1, u2, u3, u4")


def _bump(x: Tensor, width: float) -> Tensor:
    return -0.5 * (x / width).square()


def log_density(spec: EnergySpec, z: Tensor) -> Tensor:
    """Return ln of the confined, unnormalised density (...) at z (..., 2), in nats.

    u1: −U(z). Others: −U(z) + ln σ((L + z1)/s) + ln σ((L − z1)/s), with L = `half_width` and s = `edge`: a factor that
    is 1 for |z1| < L but near its smooth edges, and falls like exp(−(|z1| − L)/s) beyond them.
    """
    found = -energy(spec.name, z)
    if spec.name in UNCONFINED:
        for distance in (spec.half_width + z[..., 0], spec.half_width - z[..., 0]):
            found = found + functional.logsigmoid(distance / spec.edge)
    return found


def reach_of(spec: EnergySpec) -> tuple[float, float]:
    """Return the half sides of a rectangle about 0 with all mass: beyond it, exp(−U) is below e⁻⁴⁰ of its peak."""
    return (spec.half_width + 40 * spec.edge if spec.name in UNCONFINED else FARTHEST), FARTHEST


@lru_cache
def log_normaliser(spec: EnergySpec) -> float:
    """Return ln Z, Z = ∫ exp(log_density) dz, in nats, by the trapezoidal rule in float64.

    The rule converges exponentially for smooth functions that vanish at the ends of the grid. The grid reaches 40 edges
    beyond ±L along z1, where the factor is e⁻⁴⁰, and is as fine as the narrowest width and the edge need.
    """
    reach, _ = reach_of(spec)
    step = min(STEP, spec.edge / 4) if spec.name in UNCONFINED else STEP
    z1 = torch.linspace(-reach, reach, 2 * math.ceil(reach / step) + 1, dtype=torch.float64)
    z2 = torch.linspace(-FARTHEST, FARTHEST, 2 * math.ceil(FARTHEST / STEP) + 1, dtype=torch.float64)
    rows = [torch.logsumexp(log_density(spec, torch.cartesian_prod(part, z2)), 0) for part in z1.split(1000)]
    return (torch.logsumexp(torch.stack(rows), 0) + ((z1[1] - z1[0]) * (z2[1] - z2[0])).log()).item()


def window_grid(cells: int) -> Tensor:
    """Return the centres of cells × cells equal cells of the window, (cells, cells, 2) in float64.

    The first axis is z2, from the top (+4) down, as an image's rows are; the second is z1, from −4.
    """
    centres = (torch.arange(cells, dtype=torch.float64) + 0.5) * (2 * WINDOW / cells) - WINDOW
    z2, z1 = torch.meshgrid(centres.flip(0), centres, indexing="ij")
    return torch.stack([z1, z2], dim=-1)
