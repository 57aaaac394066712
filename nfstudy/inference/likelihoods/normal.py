"""Densities of real numbers: Gaussian, and Gaussian in the logits of numbers within (0, 1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfstudy.core.kernels.linear import Linear
from nfstudy.inference.likelihoods.base import Likelihood
from nfstudy.inference.weights import draw_weights
from nfstudy.study.sections import ModelSpec

INITIAL_VARIANCE = 1.0
"""Beyond the floor. Of logit(x), it is some of the 2 or so by which CIFAR-10's pixels vary; the rest is z's to explain.
Of real numbers, it is theirs where they are standardised."""
VARIANCE_GAIN = 0.1
"""Shrinks the initial weights of the variance head, so that training starts near that variance."""


class Gaussian(Likelihood):
    """A density of real numbers: p(x|z) = Π_i N(x_i | μ_i, α_i), with μ = W h(z) + b.

    α is a variance that the generative network gives, or one free number a pixel (`model.variance`: `network`,
    `shared`):

    α = floor + ln(1 + exp(a)),  a = V h(z) + c  or  a = c

    `model.variance_floor` bounds the density, which numbers that repeat would else drive to infinity.
    """

    def __init__(self, pixels: int, features: int, model: ModelSpec) -> None:
        super().__init__(pixels, features, model)
        self.floor = model.variance_floor
        self.location = Linear(features, pixels)
        self.excess_bias = nn.Parameter(torch.empty(pixels))
        self.excess = Linear(features, pixels, bias=False) if model.variance == "network" else None

    def initialise(self, generator: Callable[[str], torch.Generator]) -> None:
        """Draw μ's weights by `model.initialisation`, and start with α near `INITIAL_VARIANCE` + floor."""
        draw_weights(self.location, self.location.out_features, self.rule, generator("location"))
        nn.init.constant_(self.excess_bias, math.log(math.expm1(INITIAL_VARIANCE)))
        if self.excess is not None:
            draw_weights(self.excess, self.excess.out_features, self.rule, generator("variance"))
            with torch.no_grad():
                self.excess.weight.mul_(VARIANCE_GAIN)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """Return −½ Σ_i [(x_i − μ_i)² / α_i + ln(2π α_i)]."""
        variance = self.variance(features)
        squares = (x - self.location(features)).square() / variance
        return -0.5 * (squares + variance.log() + math.log(2 * math.pi)).sum(-1)

    def of_samples(self, x: Tensor, features: Tensor) -> Tensor:
        """Return what `forward` does; on the CPU image by image: so the samples lie, and no head has to copy h(z)."""
        if not features.is_cpu:
            return self(x, features)
        return self(x.unsqueeze(1), features.transpose(0, 1)).T

    def variance(self, features: Tensor) -> Tensor:
        """Return α, at least the floor: (..., N), or (N,) if it is shared."""
        raw = self.excess_bias if self.excess is None else self.excess(features) + self.excess_bias
        return self.floor + functional.softplus(raw)

    def draw(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Return μ + √α ε, ε from N(0, I)."""
        location = self.location(features)
        noise = torch.randn(location.shape, generator=generator, dtype=location.dtype).to(location.device)
        return location + self.variance(features).sqrt() * noise

    def picture(self, features: Tensor) -> Tensor:
        """Return the means μ."""
        return self.location(features)


class LogitNormal(Gaussian):
    """A density of real numbers within (0, 1), whose logits are Gaussian; Rezende & Mohamed (2015), Section 6.2.

    p(x|z) = Π_i N(logit(x_i) | μ_i, α_i) / (x_i (1 − x_i)),  logit(x) = ln(x / (1 − x))

    The paper does not say what α is, nor where it comes from. Here it is as of `Gaussian`, in units of logit(x).

    The inference network sees logit(x), in which the density is Gaussian.
    """

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """Return −½ Σ_i [(logit(x_i) − μ_i)² / α_i + ln(2π α_i)] − Σ_i ln(x_i (1 − x_i)), for x within (0, 1)."""
        gaussian = super().forward(torch.logit(x), features)
        return gaussian - (x.log() + torch.log1p(-x)).sum(-1)

    def draw(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Return numbers within (0, 1), whose logits are μ + √α ε; those that would round to 0 or 1 stay within."""
        least = torch.finfo(features.dtype).eps
        return super().draw(features, generator).sigmoid().clamp(least, 1 - least)

    def picture(self, features: Tensor) -> Tensor:
        """Return the medians σ(μ), where the means have no closed form."""
        return self.location(features).sigmoid()

    def encoder_input(self, x: Tensor) -> Tensor:
        """Return logit(x)."""
        return torch.logit(x)
