"""The likelihood of bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nfstudy.core import kernels
from nfstudy.core.kernels.bits import log_probability
from nfstudy.core.kernels.linear import Linear, product
from nfstudy.inference.likelihoods.base import Likelihood
from nfstudy.inference.weights import draw_weights
from nfstudy.study.sections import ModelSpec


class Bernoulli(Likelihood):
    """p(x|z) = Π_i Bernoulli(x_i | σ(l_i)) of bits, with logits l = W h(z) + b; Section 6.2."""

    levels = 2

    def __init__(self, pixels: int, features: int, model: ModelSpec) -> None:
        super().__init__(pixels, features, model)
        self.logits = Linear(features, pixels)

    def initialise(self, generator: Callable[[str], torch.Generator]) -> None:
        """Draw the logits' weights by `model.initialisation`."""
        draw_weights(self.logits, self.logits.out_features, self.rule, generator("logits"))

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """Return Σ_i ln σ((2 x_i − 1) l_i), finite and exact for logits of any size; x of zeros and ones."""
        return functional.logsigmoid((2 * x - 1) * self.logits(features)).sum(-1)

    def of_samples(self, x: Tensor, features: Tensor) -> Tensor:
        """Return the same by one loop over the logits, summed in float64."""
        weight, bias = self.logits.weight.detach(), self.logits.bias.detach()
        if not kernels.runs_here(x, features, weight):
            return self(x, features)
        samples, images, _ = features.shape
        logits = product(weight, features.flatten(0, -2))
        total = np.empty((samples, images))
        arrays = (logits.view(-1, samples, images), bias, x.contiguous())
        log_probability(*(tensor.numpy() for tensor in arrays), total)
        return torch.from_numpy(total).to(logits.dtype)

    def probabilities(self, features: Tensor) -> Tensor:
        """Return σ(−l) and σ(l)."""
        logits = self.logits(features)
        return torch.stack([(-logits).sigmoid(), logits.sigmoid()], -1)

    def draw(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Return bits, as floats."""
        means = self.picture(features)
        return (torch.rand(means.shape, generator=generator).to(means.device) < means).to(means)

    def picture(self, features: Tensor) -> Tensor:
        """Return the means p(x_i = 1|z)."""
        return self.logits(features).sigmoid()
