"""The likelihood of whole levels, such as the 256 of a grey pixel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from nfstudy.core.kernels.linear import Linear
from nfstudy.inference.likelihoods.base import Likelihood
from nfstudy.inference.weights import draw_weights
from nfstudy.study.sections import ModelSpec

LOGITS_AT_ONCE = 2**25
"""Logits that are held at once, 128 MB in float32: 167 samples of 784 pixels with 256 levels. More samples are gone
through in blocks, whose logits are computed again where a gradient is asked for."""


class Categorical(Likelihood):
    """p(x|z) = Π_i Cat(x_i | softmax(W_i h(z) + b_i)) of levels x_i = 0 ... n − 1.

    Each pixel has logits of its own, n rows of W: N n (F + 1) numbers in all, 80 million at N = 784, n = 256, F = 400,
    whose products are then nearly all of a training step.

    The inference network sees x / (n − 1), from 0 to 1.

    Arguments:
        levels: n, at least 2.
    """

    levels: int

    def __init__(self, pixels: int, features: int, model: ModelSpec, levels: int) -> None:
        super().__init__(pixels, features, model)
        if levels < 2:
            raise ValueError(f"levels {levels}: expected: at least 2")
        self.levels = levels
        self.pixels = pixels
        self.logits = Linear(features, pixels * levels)

    def initialise(self, generator: Callable[[str], torch.Generator]) -> None:
        """Draw the logits' weights by `model.initialisation`."""
        draw_weights(self.logits, self.logits.out_features, self.rule, generator("logits"))

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """Return Σ_i ln softmax(l_i)[x_i], finite for logits of any size; x of whole numbers 0 ... n − 1, as floats."""
        levels = x.long().expand(*features.shape[:-1], -1)
        return self._in_blocks(self._log_mass, features, levels)

    def probabilities(self, features: Tensor) -> Tensor:
        """Return softmax(l)."""
        return self._of_pixels(features).softmax(-1)

    def draw(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Return levels, as floats, each by one uniform number u: how many of the cumulated probabilities are ≤ u."""
        uniform = torch.rand(*features.shape[:-1], self.pixels, generator=generator).to(features)
        return self._in_blocks(self._reached, features, uniform)

    def picture(self, features: Tensor) -> Tensor:
        """Return the means Σ_v v p(x_i = v|z), from 0 to n − 1."""
        return self._in_blocks(lambda rows: self.probabilities(rows) @ torch.arange(self.levels).to(rows), features)

    def encoder_input(self, x: Tensor) -> Tensor:
        """Return x / (n − 1)."""
        return x / (self.levels - 1)

    def _in_blocks(self, function: Callable[..., Tensor], features: Tensor, *of_pixels: Tensor) -> Tensor:
        """Return a function of h(z) (R, F) and arrays (R, N), block by block, for such of any leading axes."""
        rows = [each.reshape(-1, each.shape[-1]) for each in (features, *of_pixels)]
        size = max(LOGITS_AT_ONCE // (self.pixels * self.levels), 1)
        if len(rows[0]) <= size:
            found = function(*rows)
        else:
            blocks = zip(*(each.split(size) for each in rows), strict=True)
            again = torch.is_grad_enabled()  # Then a block's logits are not kept for the gradient.
            found = torch.cat(
                [
                    checkpoint(function, *block, use_reentrant=False, preserve_rng_state=False)
                    if again
                    else function(*block)
                    for block in blocks
                ]
            )
        return found.unflatten(0, features.shape[:-1])

    def _of_pixels(self, features: Tensor) -> Tensor:
        """Return the logits (..., N, n) of h(z) (..., F)."""
        logits: Tensor = self.logits(features)
        return logits.unflatten(-1, (self.pixels, self.levels))

    def _reached(self, rows: Tensor, uniform: Tensor) -> Tensor:
        below = self.probabilities(rows).cumsum(-1)[..., :-1] <= uniform.unsqueeze(-1)
        return below.sum(-1).to(rows)

    def _log_mass(self, rows: Tensor, levels: Tensor) -> Tensor:
        """Return ln p(x|z) (R,) for h(z) (R, F) and levels (R, N)."""
        logits = self._of_pixels(rows).flatten(0, 1)
        # Logarithm of the softmax and choice in one: the gradient needs no second array of this size.
        return -functional.cross_entropy(logits, levels.flatten(), reduction="none").view(levels.shape).sum(-1)
