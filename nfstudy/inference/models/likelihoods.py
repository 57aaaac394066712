"""p(x|z): what the pixels are given the last hidden layer h(z) of the generative network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfstudy.core.kernels.linear import Linear
from nfstudy.inference.models.maxout import draw_weights
from nfstudy.study.sections import ModelSpec

INITIAL_VARIANCE = 1.0
"""Of logit(x), beyond the floor: some of the 2 or so by which CIFAR-10's pixels vary; the rest is z's to explain."""
VARIANCE_GAIN = 0.1
"""Shrinks the initial weights of the variance head, so that training starts near that variance."""


class Likelihood(nn.Module, ABC):
    """A density or probability of the pixels that are independent given z.

    Arguments of every likelihood:
        pixels: N, how many numbers an image has.
        features: F, the width of the generative network's last hidden layer.
        model: what more there is to choose.

    Weights are meaningless until `initialise` has been called.
    """

    def __init__(self, pixels: int, features: int, model: ModelSpec) -> None:
        super().__init__()
        self.rule = model.initialisation

    @abstractmethod
    def initialise(self, generator: Callable[[str], torch.Generator]) -> None:
        """Draw all parameters anew; `generator` gives the stream of a part by its name."""

    @abstractmethod
    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """Return ln p(x|z) (..., B) in nats, for images x (B, N) and h(z) (..., B, F)."""

    @abstractmethod
    def picture(self, features: Tensor) -> Tensor:
        """Return a typical image (..., N), numbers from 0 to 1 for pictures, for h(z) (..., F)."""

    def encoder_input(self, x: Tensor) -> Tensor:
        """Return what the inference network is given of images x (B, N)."""
        return x


class Bernoulli(Likelihood):
    """p(x|z) = Π_i Bernoulli(x_i | σ(l_i)) of bits, with logits l = W h(z) + b; Section 6.2."""

    def __init__(self, pixels: int, features: int, model: ModelSpec) -> None:
        super().__init__(pixels, features, model)
        self.logits = Linear(features, pixels)

    def initialise(self, generator: Callable[[str], torch.Generator]) -> None:
        """Draw the logits' weights by `model.initialisation`."""
        draw_weights(self.logits, self.logits.out_features, self.rule, generator("logits"))

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """Return Σ_i ln σ((2 x_i − 1) l_i), finite and exact for logits of any size; x of zeros and ones."""
        return functional.logsigmoid((2 * x - 1) * self.logits(features)).sum(-1)

    def picture(self, features: Tensor) -> Tensor:
        """Return the means p(x_i = 1|z)."""
        return self.logits(features).sigmoid()


class LogitNormal(Likelihood):
    """A density of real numbers within (0, 1), whose logits are Gaussian; Rezende & Mohamed (2015), Section 6.2.

    p(x|z) = Π_i N(logit(x_i) | μ_i, α_i) / (x_i (1 − x_i)),  logit(x) = ln(x / (1 − x))

    with μ = W h(z) + b. The paper does not say what α is, nor where it comes from. Here it is a variance that the
    generative network gives, or one free number a pixel (`model.variance`: `network`, `shared`):

    α = floor + ln(1 + exp(a)),  a = V h(z) + c  or  a = c

    `model.variance_floor` bounds the density, which equal colours side by side would else drive to infinity.

    The inference network sees logit(x), in which the density is Gaussian.
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
        """Return −½ Σ_i [(logit(x_i) − μ_i)² / α_i + ln(2π α_i)] − Σ_i ln(x_i (1 − x_i)), for x within (0, 1)."""
        variance = self.variance(features)
        squares = (torch.logit(x) - self.location(features)).square() / variance
        gaussian = -0.5 * (squares + variance.log() + math.log(2 * math.pi)).sum(-1)
        return gaussian - (x.log() + torch.log1p(-x)).sum(-1)

    def variance(self, features: Tensor) -> Tensor:
        """Return α, at least the floor: (..., N), or (N,) if it is shared."""
        raw = self.excess_bias if self.excess is None else self.excess(features) + self.excess_bias
        return self.floor + functional.softplus(raw)

    def picture(self, features: Tensor) -> Tensor:
        """Return the medians σ(μ), where the means have no closed form."""
        return self.location(features).sigmoid()

    def encoder_input(self, x: Tensor) -> Tensor:
        """Return logit(x)."""
        return torch.logit(x)
