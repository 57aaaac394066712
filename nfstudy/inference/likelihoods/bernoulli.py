"""The likelihood of bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nfstudy.core import cuda, kernels
from nfstudy.core.kernels.bits import GROUP, log_probability
from nfstudy.core.kernels.linear import Linear, linear, product
from nfstudy.inference.likelihoods.base import Likelihood
from nfstudy.inference.weights import draw_weights
from nfstudy.study.sections import ModelSpec

CHUNK = 5 * 2**18
"""Logits of one product, 5 MiB in float32; see `models.maxout.CHUNK`."""


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
        layer = self.logits
        alike = x.dim() == 2 and features.dim() > 1 and len(x) in (1, features.shape[-2]) and not x.requires_grad
        if alike and cuda.runs_here(x, features, layer.weight):
            precision = layer.precision if layer.training else torch.float32  # As the layer itself has it.
            rows = linear(features.flatten(0, -2), layer.weight, None, precision)
            log_mass: Tensor = _LogMassOnGPU.apply(rows, layer.bias, x).view(features.shape[:-1])
            return log_mass
        return plain_log_mass(layer(features), x)

    def of_samples(self, x: Tensor, features: Tensor) -> Tensor:
        """Return the same in float32 by one loop over the logits, summed in float64."""
        weight, bias = self.logits.weight.detach(), self.logits.bias.detach()
        alike = features.dim() == 3 and x.shape == (features.shape[1], len(weight))  # The loop would not notice.
        if not (alike and kernels.runs_here(x, features, weight) and x.dtype == torch.float32):
            return self(x, features)
        samples, images, _ = features.shape
        rows, bits = features.transpose(0, 1).flatten(0, 1), x.contiguous().numpy()
        total = np.zeros((images, samples))
        for first in range(0, len(weight), at_once := pixels_at_once(len(weight), len(rows))):
            part = slice(first, first + at_once)
            logits = product(weight[part], rows).view(-1, images, samples)
            log_probability(logits.numpy(), bias[part].numpy(), bits, first, total)
        return torch.from_numpy(total).to(weight.dtype).T

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


def pixels_at_once(pixels: int, rows: int) -> int:
    """Return of how many pixels the logits are found and summed at once, in parts of about one size."""
    parts = max(1, -(-pixels * rows // CHUNK))
    return max(1, -(-pixels // (parts * GROUP)) * GROUP)


def plain_log_mass(logits: Tensor, x: Tensor) -> Tensor:
    """Return Σ_i ln σ((2 x_i − 1) l_i), (...), of logits (..., B, N) and bits x (B, N), without the kernels."""
    return functional.logsigmoid((2 * x - 1) * logits).sum(-1)


class _LogMassOnGPU(torch.autograd.Function):
    """`plain_log_mass` of logits (R, N) and a bias (N,), in one kernel each way; row r is of image r mod B."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        from nfstudy.core.cuda import log_mass  # It imports Triton, which few machines have.

        ctx.save_for_backward(logits, bias)
        ctx.x = x  # Without a gradient, it may be of inference mode, and nothing that autograd could save.
        return log_mass.log_mass(logits, bias, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from nfstudy.core.cuda import log_mass

        logits, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # A derivative of this is asked for, as of flows that follow a gradient.
            signs = (2 * ctx.x - 1).repeat(len(logits) // len(ctx.x), 1)
            slopes = grad.unsqueeze(-1) * signs * (-signs * (logits + bias)).sigmoid()
        else:
            slopes = log_mass.slope(grad, logits, bias, ctx.x)
        return slopes, slopes.sum(0) if ctx.needs_input_grad[1] else None, None
