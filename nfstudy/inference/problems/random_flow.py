"""A density on the plane pushed through a flow whose parameters are drawn and not learned: a panel of Figure 1."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn

from nfstudy.core.seeds import derive_seed
from nfstudy.films.arrays import PlaneFilm
from nfstudy.flows import make_flow
from nfstudy.flows.base import StepHead
from nfstudy.inference.models.minibatch import Minibatch
from nfstudy.inference.problems.base import Diagnosis
from nfstudy.inference.problems.density_grid import CELLS, array_file, window_mass
from nfstudy.inference.problems.energies import window_grid
from nfstudy.inference.problems.films import SAMPLES, plane_film
from nfstudy.inference.problems.image_grid import image_grid
from nfstudy.study.settings import Settings

HALF_SIDE = 2.0
"""The uniform density is 1/16 on [−2, 2]²."""


class DrawnProblem:
    """A `Problem` without parameters to train.

    Step k has the parameters θ_k + strength · ε_k, ε_k ~ N(0, I), where θ_k alone would be the identity. Both come from
    the repetition and k alone, so a longer chain begins with the steps of a shorter one. The paper gives none.
    """

    epoch_updates = 1

    def __init__(self, settings: Settings, repetition: int, device: str) -> None:
        self.settings = settings
        self.repetition = repetition
        self.device = device
        self.flow = make_flow(settings.flow, 2, 0).double()
        self.flow.initialise(lambda part: self._generator("initialisation", part))
        if settings.flow.length:
            self._draw_steps()

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return none."""
        return {}

    def parameters(self) -> list[nn.Parameter]:
        """Return none."""
        return []

    @property
    def inputs(self) -> int:
        """0: there are no examples."""
        return 0

    def minibatches(self, epoch: int, updates: int, start: int = 0) -> Iterator[Minibatch]:
        """Yield nothing."""
        return iter(())

    def draws(self, epoch: int, updates: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield nothing."""
        return iter(())

    def blocks(self, epoch: int, updates: int, at_once: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield nothing."""
        return iter(())

    def minibatch(self, drawn: tuple[Tensor, ...]) -> Minibatch:
        """Raise TypeError: nothing is trained."""
        raise TypeError("a chain that is drawn has no minibatches; expected: a problem with parameters")

    def repeated_minibatch(self, count: int, samples: int) -> Iterator[Minibatch]:
        """Yield nothing."""
        return iter(())

    def validate(self) -> dict[str, float]:
        """Return nothing."""
        return {}

    def held_out(self) -> dict[str, float]:
        """Return nothing."""
        return {}

    def test(self) -> dict[str, float]:
        """Return the integral of q_K over the window, `window_mass`."""
        return {"window_mass": window_mass(self._density)}

    def diagnose(self) -> Diagnosis:
        """Return nothing: `test` says it all."""
        return Diagnosis()

    def files(self) -> dict[str, bytes]:
        """Return q_K(z) on the window's grid, per unit area, as an array and as a picture."""
        q = self._density
        return {"density.npy": array_file(q), "density.png": image_grid((q / q.max()).numpy()[None], columns=1)}

    def film(self) -> PlaneFilm:
        """Return what the flow does step by step; the grid is of [−2.5, 2.5]², and there is no target."""
        assert self.settings.drawn is not None
        draw = torch.randn if self.settings.drawn.density == "normal" else torch.rand
        samples = draw(SAMPLES, 2, generator=self._generator("film", "samples"), dtype=torch.float64)
        if self.settings.drawn.density == "uniform":
            samples = 2 * HALF_SIDE * (samples - 0.5)
        parameters = self.flow.parameters_from(samples.new_empty(0))
        return plane_film(self.flow, parameters, self._log_q0, lambda z: z, samples, None)

    def fits(self) -> None:
        """Return None: nothing is approximated."""

    @torch.no_grad()
    def _draw_steps(self) -> None:
        assert self.settings.drawn is not None
        head = cast(StepHead, self.flow.head)
        for step in range(1, head.length + 1):
            noise = torch.randn(head.size, generator=self._generator("drawn", f"step {step}"), dtype=torch.float64)
            head.bias[(step - 1) * head.size : step * head.size] += self.settings.drawn.strength * noise

    @cached_property
    @torch.no_grad()
    def _density(self) -> Tensor:
        """q_K at `window_grid`."""
        z = window_grid(CELLS)
        parameters = self.flow.parameters_from(z.new_empty(0))
        z_0 = self.flow.inverse(z, parameters)
        _, log_det = self.flow(z_0, parameters)
        return (self._log_q0(z_0) - log_det).exp()

    def _log_q0(self, z: Tensor) -> Tensor:
        assert self.settings.drawn is not None
        if self.settings.drawn.density == "normal":
            return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
        inside = (z.abs() <= HALF_SIDE).all(-1)
        return torch.where(inside, -2 * math.log(2 * HALF_SIDE), -torch.inf).to(z)

    def _generator(self, purpose: str, part: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.settings.seed, purpose, self.repetition, part))
