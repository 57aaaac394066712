"""The bound on held-out images by a CUDA graph: between two epochs, a training waits for little else."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nfstudy.core.cuda.capture import captured, capturing
from nfstudy.inference.models.evaluation import IMAGES_AT_ONCE
from nfstudy.inference.models.objective import BoundTerms, LatentVariableModel, bound_terms

AT_ONCE = 2000
"""Images."""


class CapturedBound:
    """`evaluation.evaluate_bound` of some images by a graph: the same numbers, but for the order of sums.

    Arguments:
        model: a `LatentVariableModel`, whose weights stay where they are.
        images: (N, pixels).
        seed: of the posterior noise.
        device: where the model's weights lie.
    """

    def __init__(self, model: LatentVariableModel, images: np.ndarray, seed: int, device: str) -> None:
        self.model, self.device = model, device
        kind = next(iter(model.parameters())).dtype
        self.x = torch.tensor(images, dtype=kind).to(device)
        self._seed = seed
        self.noise: Tensor | None = None
        self.sums = torch.zeros(len(BoundTerms._fields), dtype=torch.float64, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """Return the mean terms in nats, and elbo."""
        if self.noise is None:
            self.noise = self._draw()
            with capturing:
                self._add()  # Warms up.
                self.sums.zero_()
                with captured(self.device) as graph:
                    self.sums.zero_()
                    self._add()
            self.graph = graph
        assert self.graph is not None
        self.graph.replay()
        return BoundTerms(*(self.sums.cpu() / len(self.x))).numbers()

    def _add(self) -> None:
        assert self.noise is not None
        for x, noise in zip(self.x.split(AT_ONCE), self.noise.split(AT_ONCE), strict=True):
            self.sums += torch.stack(bound_terms(self.model, x, noise)).sum(-1, dtype=torch.float64)

    def _draw(self) -> Tensor:
        """Return the noise that `evaluate_bound` draws, block by block."""
        generator = torch.Generator().manual_seed(self._seed)
        size = self.model.infer(self.x[:1]).noise_size
        blocks = (
            torch.randn(len(x), size, generator=generator, dtype=self.x.dtype) for x in self.x.split(IMAGES_AT_ONCE)
        )
        return torch.cat([*blocks]).to(self.x.device)
