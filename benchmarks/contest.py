"""What is timed: one chain's forward and backward pass, with parameters that every library can be given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from nfstudy.core.seeds import derive_seed
from nfstudy.study.sections import FlowSpec

HIDDEN = {"nice-perm": 40, "iaf": 120, "realnvp": 40, "glow": 40, "spline": 40}
"""Units of the one hidden layer of a step's network, the same for all libraries."""

Outcome = tuple[Tensor, Tensor]
"""z_K, (B, D), and Σ_k ln|det|, (B,)."""


@dataclass(frozen=True)
class Contest:
    """A chain of K steps on B × D standard Gaussian numbers, in float32."""

    family: str
    length: int
    batch: int = 100
    latent: int = 40

    def spec(self, amortised: bool) -> FlowSpec:
        """Return our settings of the chain, of the same sizes as the others'.

        A Sylvester step of Pyro's bends space along all D directions. So do our shared steps; with parameters of each
        row's own, which Pyro does not have, ours bend along as many as our default says.
        """
        sizes: dict[str, int] = {}
        if self.family == "iaf":
            sizes = {"autoregressive_hidden": HIDDEN["iaf"]}
        elif self.family in HIDDEN:
            sizes = {"coupling_hidden": HIDDEN[self.family]}
        elif self.family == "sylvester" and not amortised:
            sizes = {"sylvester_columns": self.latent}
        return FlowSpec.model_validate({"family": self.family, "length": self.length, **sizes})

    def z_0(self) -> np.ndarray:
        """Return what enters the chain, (B, D)."""
        return self._draw("z_0", self.batch, self.latent)

    def planar(self, amortised: bool) -> tuple[np.ndarray, ...]:
        """Return u and w, (B, K, D) or (K, D), and b, (B, K) or (K,), for `nfstudy.flows.planar.flow.planar_flow`."""
        steps = self._steps(amortised)
        size = self.latent**-0.5
        return (
            size * self._draw("u", *steps, self.latent),
            size * self._draw("w", *steps, self.latent),
            self._draw("b", *steps),
        )

    def radial(self, amortised: bool) -> tuple[np.ndarray, ...]:
        """Return z0, (B, K, D) or (K, D), α > 0 and β, (B, K) or (K,), for `nfstudy.flows.radial.flow.radial_flow`."""
        steps = self._steps(amortised)
        alpha = np.exp(0.5 * self._draw("alpha", *steps)) * np.float32(self.latent**0.5)
        return self._draw("z0", *steps, self.latent), alpha, self._draw("beta", *steps)

    def householder(self, amortised: bool) -> tuple[np.ndarray, ...]:
        """Return v, (B, K, D) or (K, D), for `nfstudy.flows.householder.flow.householder_flow`."""
        return (self._draw("v", *self._steps(amortised), self.latent),)

    def full_covariance(self, amortised: bool) -> tuple[np.ndarray, ...]:
        """Return l, (B, D) or (D,), and L below its diagonal, (B, D (D − 1)/2) or (D (D − 1)/2,), row by row.

        They are for `nfstudy.flows.full_covariance.flow.full_covariance`, which has one step whatever K.
        """
        rows = (self.batch,) if amortised else ()
        size = np.float32(self.latent**-0.5)
        below = self._draw("below", *rows, self.latent * (self.latent - 1) // 2)
        return size * self._draw("log_diagonal", *rows, self.latent), size * below

    def _steps(self, amortised: bool) -> tuple[int, ...]:
        return (self.batch, self.length) if amortised else (self.length,)

    def _draw(self, name: str, *shape: int) -> np.ndarray:
        return np.random.default_rng(derive_seed(0, "benchmark", name)).standard_normal(shape, dtype=np.float32)


@dataclass(frozen=True)
class Contestant:
    """One library's way through a contest."""

    name: str
    amortised: bool
    """Whether each of the B rows has parameters of its own; else all share one set, which is less work."""
    step: Callable[[], object]
    """Once forward and backward: gradients of Σ (‖z_K‖²/2 − Σ_k ln|det|) by z_0 and by all parameters."""
    outcome: Callable[[], tuple[np.ndarray, np.ndarray]]
    """z_K, (B, D), and the summed log-determinants, (B,), of the contest's own parameters, if `same`."""
    same: bool = True
    """Whether the map is the one that the contest's parameters define; else the networks have weights of their own."""
    note: str = ""
    """In what it differs from ours."""


def torch_contestant(
    name: str,
    amortised: bool,
    chain: Callable[[Tensor], Outcome],
    leaves: Sequence[Tensor],
    contest: Contest,
    same: bool = True,
    note: str = "",
) -> Contestant:
    """Return a contestant that computes with torch.

    Arguments:
        name: of the library.
        amortised: see `Contestant`.
        chain: z_0 -> z_K and summed log-determinants.
        leaves: the parameters by which gradients are taken, beside z_0.
        contest: what the chain was made for.
        same: see `Contestant`.
        note: see `Contestant`.
    """
    z_0 = torch.tensor(contest.z_0(), requires_grad=True)
    return Contestant(
        name,
        amortised,
        partial(_gradients, chain, z_0, [z_0, *leaves]),
        partial(_outcome, chain, z_0),
        same,
        note,
    )


def _gradients(chain: Callable[[Tensor], Outcome], z_0: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    z_K, log_det = chain(z_0)
    return torch.autograd.grad(0.5 * z_K.square().sum() - log_det.sum(), leaves)


def _outcome(chain: Callable[[Tensor], Outcome], z_0: Tensor) -> tuple[np.ndarray, np.ndarray]:
    z_K, log_det = chain(z_0)
    return z_K.detach().numpy(), log_det.detach().numpy()
