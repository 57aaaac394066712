"""What every p(x|z) is: a distribution of the pixels given the last hidden layer h(z) of the generative network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nfstudy.study.sections import ModelSpec


class Likelihood(nn.Module, ABC):
    """A density or probability of the pixels that are independent given z.

    Arguments of every likelihood:
        pixels: N, how many numbers an image has.
        features: F, the width of the generative network's last hidden layer.
        model: what more there is to choose.

    Weights are meaningless until `initialise` has been called.
    """

    levels: int | None = None
    """Of whole numbers x_i = 0 ... n − 1, each with a probability: n. None of numbers with a density."""

    def __init__(self, pixels: int, features: int, model: ModelSpec) -> None:
        super().__init__()
        self.rule = model.initialisation

    @abstractmethod
    def initialise(self, generator: Callable[[str], torch.Generator]) -> None:
        """Draw all parameters anew; `generator` gives the stream of a part by its name."""

    @abstractmethod
    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """Return ln p(x|z) (..., B) in nats, for images x (B, N) and h(z) (..., B, F)."""

    def of_samples(self, x: Tensor, features: Tensor) -> Tensor:
        """Return what `forward` does but for the last bits, (S, B), of h(z) (S, B, F): many samples an image.

        It is called without gradients, where −ln p(x) is estimated; a likelihood may be faster at that than training
        is. Training, its validation and all that is drawn by a likelihood go by `forward`.
        """
        return self(x, features)

    @abstractmethod
    def picture(self, features: Tensor) -> Tensor:
        """Return a typical image (..., N), on the scale of x, for h(z) (..., F)."""

    def draw(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Return images x (B, N) drawn from p(x|z), for h(z) (B, F); of a CPU generator.

        Only images that a model draws itself need it, on which estimates of ln p(x) can be held to the truth.
        """
        raise NotImplementedError(f"{type(self).__name__} draws no images; expected: a likelihood with `draw`")

    def probabilities(self, features: Tensor) -> Tensor:
        """Return p(x_i = v|z) for v = 0 ... n − 1, (..., N, n), for h(z) (..., F); where there are `levels`."""
        raise NotImplementedError(f"{type(self).__name__} has none; expected: a likelihood of whole numbers")

    def encoder_input(self, x: Tensor) -> Tensor:
        """Return what the inference network is given of images x (B, N)."""
        return x
