"""What stands above the first stochastic layer: further levels of the inference network, and p(z_l|z_{l+1})."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from nfstudy.core.kernels.linear import Linear
from nfstudy.inference.models.maxout import Maxout
from nfstudy.inference.weights import draw_weights
from nfstudy.study.sections import Initialisation, ModelSpec


class GaussianHeads(nn.Module):
    """Maxout layers h(y) and two linear heads: N(mean(y), diag(exp(log_variance(y)))) given y.

    On the way up, y are the features of the level below, and it is q0(ξ_l|x); on the way down, y is z_{l+1}, and it is
    p(z_l|z_{l+1}).

    Arguments:
        inputs: how many numbers y has.
        units: F, the width of each Maxout layer.
        latent: D_l.
        model: how many Maxout layers there are, and of what window.
        precision: of their matrix products while training.
    """

    def __init__(
        self, inputs: int, units: int, latent: int, model: ModelSpec, precision: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.layers = maxout_layers(inputs, units, model, precision)
        self.mean = Linear(units, latent)
        self.log_variance = Linear(units, latent)

    def initialise(self, rule: Initialisation, gain: float, generator: Callable[[str], torch.Generator]) -> None:
        """Draw all parameters anew, each part from a stream of its own; `gain` is that of `draw_heads`."""
        for number, layer in enumerate(self.layers, start=1):
            cast(Maxout, layer).initialise(rule, generator(f"layers {number}"))
        draw_heads(self.mean, self.log_variance, rule, gain, generator)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features h(y), (..., F), the mean and the log-variance, each (..., D_l)."""
        features = self.layers(y)
        return features, self.mean(features), self.log_variance(features)


def maxout_layers(inputs: int, units: int, model: ModelSpec, precision: torch.dtype) -> nn.Sequential:
    """Return the Maxout layers of one network."""
    sizes = [inputs] + [units] * model.layers
    return nn.Sequential(*(Maxout(sizes[i], sizes[i + 1], model.maxout, precision) for i in range(model.layers)))


def draw_heads(
    mean: Linear, log_variance: Linear, rule: Initialisation, gain: float, generator: Callable[[str], torch.Generator]
) -> None:
    """Draw the weights of the two heads of a Gaussian, those of the log-variance times `gain`."""
    for part, linear in (("mean", mean), ("log_variance", log_variance)):
        draw_weights(linear, linear.out_features, rule, generator(part))
    with torch.no_grad():
        log_variance.weight.mul_(gain)
