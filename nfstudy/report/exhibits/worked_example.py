"""Variances of gradients in one dimension, worked by hand, and simulated beside it.

q_φ = N(φ, 1) and p_θ = N(θ, 1), at φ = θ; minimised over φ is

    KL(q_φ‖p_θ) = E_q[ln q_φ(z) − ln p_θ(z)] = (φ − θ)²/2.

With z = φ + ε, ε ~ N(0, 1), and c = ½ ln 2π, both −ln q_φ(z) and −ln p_θ(z) are ε²/2 + c, and the score
∂ ln q_φ(z)/∂φ is ε, z held. The entropy of q does not depend on φ, so that E_q[−ln p_θ(z)] alone has the same gradient,
which is 0 here. Of the moments of ε, E ε² = 1, E ε⁴ = 3 and E ε⁶ = 15 are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

C = 0.5 * math.log(2 * math.pi)
"""c, in nats."""
SAMPLES = 5
"""S, where an estimator takes several."""
DRAWS = 200_000
"""Of each estimator, by the generator of `SEED`."""
SEED = 1


@dataclass(frozen=True)
class Worked:
    """An estimator in the example."""

    name: str
    gradient: str
    """Its estimate, in ε."""
    exact: float
    """Its variance, in nats²."""
    how: str
    """Where that comes from."""
    estimate: Callable[[np.ndarray], np.ndarray]
    """Noise (draws, S) -> estimates (draws,), of the first sample where there is one."""


def _energy(noise: np.ndarray) -> np.ndarray:
    """Return −ln p_θ(z)."""
    found: np.ndarray = 0.5 * noise**2 + C
    return found


def _leave_one_out(noise: np.ndarray) -> np.ndarray:
    energy, count = _energy(noise), noise.shape[1]
    others = (energy.sum(1, keepdims=True) - energy) / (count - 1)
    found: np.ndarray = ((energy - others) * noise).mean(1)
    return found


WORKED = (
    Worked("pathwise", "ε", 1.0, "E ε²; ln q_φ(z_K(ε)) does not depend on φ", lambda e: e[:, 0]),
    Worked(
        "score function of −ln p, b = 0",
        "(ε²/2 + c) ε",
        C**2 + 3 * C + 3.75,
        "E ε⁶/4 + c E ε⁴ + c² E ε² = c² + 3c + 15/4",
        lambda e: _energy(e[:, 0]) * e[:, 0],
    ),
    Worked(
        "score function of −ln p, b the mean of −ln p",
        "(ε²/2 − 1/2) ε",
        2.5,
        "b = c + 1/2, which a running mean learns: (15 − 2 · 3 + 1)/4",
        lambda e: (_energy(e[:, 0]) - C - 0.5) * e[:, 0],
    ),
    Worked(
        "score function of −ln p, best constant b",
        "(ε²/2 − 3/2) ε",
        1.5,
        "b = E[(ε²/2 + c) ε²]/E ε² = c + 3/2: (15 − 6 · 3 + 9)/4",
        lambda e: (_energy(e[:, 0]) - C - 1.5) * e[:, 0],
    ),
    Worked(
        f"score function of −ln p, leave-one-out, S = {SAMPLES}",
        "Σ (ε_s² − mean ε²) ε_s / (2 (S − 1))",
        2.5 / SAMPLES + 0.5 / (SAMPLES * (SAMPLES - 1)),
        "of a sample covariance of ε²/2 and ε: 5/(2S) + 1/(2S(S − 1))",
        _leave_one_out,
    ),
    Worked(
        "score function of ln q − ln p",
        "0 · ε",
        0.0,
        "the signal ln q − ln p is 0 at q = p; the suite's score function takes F whole, and is this",
        lambda e: 0 * e[:, 0],
    ),
    Worked("sticking the landing", "−ε + ε", 0.0, "∂(ln q − ln p)/∂z = 0, φ in ln q held", lambda e: e[:, 0] - e[:, 0]),
    Worked(f"IWAE, S = {SAMPLES}", "mean of ε_s", 1 / SAMPLES, "all w_s are 1: E ε²/S", lambda e: e.mean(1)),
    Worked(
        f"DReG, S = {SAMPLES}",
        "Σ (−ε_s + ε_s)/S²",
        0.0,
        "∂ ln w/∂z = 0 for each sample",
        lambda e: (e - e).sum(1) / e.shape[1] ** 2,
    ),
    Worked("wake-sleep, of q", "−ε, z ~ p", 1.0, "−∂ ln q_φ(z)/∂φ: E ε²", lambda e: -e[:, 0]),
    Worked(
        f"reweighted wake-sleep, of q awake, S = {SAMPLES}",
        "−mean of ε_s",
        1 / SAMPLES,
        "all w̃_s are 1/S: E ε²/S",
        lambda e: -e.mean(1),
    ),
)
"""All of them."""


def simulated(worked: Worked) -> tuple[float, float]:
    """Return the variance of an estimator's draws, and its standard error, both in nats²."""
    found = worked.estimate(np.random.default_rng(SEED).standard_normal((DRAWS, SAMPLES)))
    squares = (found - found.mean()) ** 2
    return float(squares.sum() / (DRAWS - 1)), float(squares.std() / math.sqrt(DRAWS))
