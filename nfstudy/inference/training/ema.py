"""Which weights a training ends with: running means of them, and those of the best epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Averages:
    """Running means w̄ of weights: w̄ ← d_t w̄ + (1 − d_t) w after update t, d_t = min(d, (1 + t)/(10 + t)).

    The smaller decay at first makes w̄ forget where the weights began (as in TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, weights: Sequence[nn.Parameter], decay: float) -> None:
        self.weights = weights
        self.decay = decay
        self.means = [weight.detach().clone() for weight in weights]

    def follow(self, update: int) -> None:
        """Take in the weights after an update (1, 2, ...)."""
        get_ema_multi_avg_fn(self.decay_at(update))(self.means, [weight.detach() for weight in self.weights], update)

    def decay_at(self, update: int) -> float:
        """Return d_t after update t (1, 2, ...)."""
        return min(self.decay, (1 + update) / (10 + update))

    @torch.no_grad()
    def take(self, new: Tensor) -> None:
        """Take in the weights with 1 − d_t as a tensor beside them, for which nobody waits."""
        for mean, weight in zip(self.means, self.weights, strict=True):
            mean.lerp_(weight, new)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the means in the weights' place for a while."""
        live = [weight.detach().clone() for weight in self.weights]
        copy_into(self.means, self.weights)
        try:
            yield
        finally:
            copy_into(live, self.weights)


@torch.no_grad()
def copy_into(values: Sequence[Tensor], weights: Sequence[nn.Parameter]) -> None:
    """Copy values into the weights."""
    for value, weight in zip(values, weights, strict=True):
        weight.copy_(value)
