"""What all normalizing flows share: their contract, the amortised head, and logarithms that never underflow."""

from __future__ import annotations

import copy
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nfstudy.core import cuda, kernels
from nfstudy.core.kernels.linear import linear_batch_last

Generators = Callable[[str], torch.Generator]
"""The name of a part -> a CPU generator of its own; the same name always gives the same stream."""

HEAD_SCALE = 1e-3
"""Standard deviation of what an initial head adds to its biases, for features of mean square 1."""

LANES = 4096
"""Samples of one pass of a loop whose parameters depend on nothing, and so are copied for each sample."""


class Flow(nn.Module, ABC):
    """A chain z_K = f_K ∘ … ∘ f_1(z_0) whose parameters may depend on the image (Rezende & Mohamed 2015, eqs. 6, 7).

    A flow is used in two steps, so that many samples z_0 of one image share one set of parameters:

        parameters = flow.parameters_from(features)
        z_K, log_det = flow(z_0, parameters)

    Arguments of every family:
        latent: D, the number of latent variables.
        length: K, the number of steps.
        features: F, the width of the inference network's last hidden layer; 0 for parameters that depend on nothing.

    Weights are meaningless until `initialise` has been called.
    """

    def __init__(self, latent: int, length: int, features: int) -> None:
        super().__init__()
        self.latent = latent
        self.length = length
        self.features = features

    @abstractmethod
    def initialise(self, generator: Generators) -> None:
        """Set all weights so that the chain starts near the identity.

        Step k draws only from generators whose names hold k (1, 2, ..., K), so a longer chain begins with the same
        steps.
        """

    @torch.no_grad()
    def scale_heads(self, factor: float) -> None:
        """Multiply the weights, not the biases, of each `StepHead`: by so much more an image moves the parameters."""
        for module in self.modules():
            if isinstance(module, StepHead):
                module.weight.mul_(factor)

    @abstractmethod
    def parameters_from(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return the parameters of all K steps.

        A tensor of each image's own has B as its first axis; one that all images share does not depend on B, and what
        fits the posterior of a single image leaves it as it is.

        Arguments:
            features: the inference network's last hidden layer, (B, F); or (0,) for parameters without the axis B.
        """

    @abstractmethod
    def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., B, D), and Σ_k ln|det ∂f_k/∂z_{k−1}| in nats, (..., B), eq. (7).

        Arguments:
            z: z_0, (..., B, D); the leading axes are samples and share the parameters.
            parameters: what `parameters_from` returned for the B images.
        """

    def for_samples(self, parameters: tuple[Tensor, ...]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return what maps z_0, (S, B, D), to z_K and Σ_k ln|det|, as `forward` does but for the last bits.

        It is called many times without gradients, where −ln p(x) is estimated: what depends on the parameters alone can
        be done once. A family may be faster at that than training is.

        Arguments:
            parameters: what `parameters_from` returned for the B images.
        """
        return lambda z: self(z.contiguous(), parameters)

    def inverse(self, z: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Return z_0 for given z_K, (..., B, D); not made for gradients. The density there is that of eq. (7).

        A family whose declaration says `inverse=False` leaves it out.

        Arguments:
            z: z_K, (..., B, D).
            parameters: what `parameters_from` returned for the B images.
        """
        raise NotImplementedError(f"{type(self).__name__} has no inverse")

    def nearest(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the parameters nearest to these that `parameters_from` may give: where any will do, these.

        For what optimises an image's parameters themselves. A family whose `parameters_from` has a bounded range, and
        whose chain relies on it, says so here.
        """
        return parameters

    @property
    def shows_steps(self) -> bool:
        """Whether the family has `first_steps`."""
        return type(self).first_steps is not Flow.first_steps

    def first_steps(self, count: int, parameters: tuple[Tensor, ...]) -> tuple[Flow, tuple[Tensor, ...]]:
        """Return the chain f_count ∘ … ∘ f_1 with its parameters, which shares memory with this one or is a copy.

        A family may leave it out; then films show of its chains the start and the end alone.

        Arguments:
            count: from 1 to K − 1.
            parameters: what `parameters_from` returned for the B images.
        """
        raise NotImplementedError(f"{type(self).__name__} does not show its steps one by one")


class NoFlow(Flow):
    """K = 0: z_K = z_0, so that q_K is the diagonal Gaussian q_0 itself."""

    def initialise(self, generator: Generators) -> None:
        """Do nothing: there are no weights."""

    def parameters_from(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return no parameters."""
        return ()

    def for_samples(self, parameters: tuple[Tensor, ...]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return `forward`, which leaves z where it lies."""
        return lambda z: self(z, parameters)

    def forward(self, z: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return z, (..., B, D), and zeros, (..., B)."""
        return z, z.new_zeros(z.shape[:-1])

    def inverse(self, z: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """Return z."""
        return z


class StepHead(nn.Linear):
    """A linear layer from features h (B, F) to n numbers for each of the K steps, (B, K, n): W h / √F + b.

    The 1/√F stands outside the weights so that it also scales what an optimiser changes: with steps of one size for
    every weight, as Adam's and RMSprop's are, √F features would else move each of K n parameters √F times too fast,
    which throws long chains far from the identity within some updates. With F = 0, the numbers are b alone.
    """

    precision = torch.float32
    """Of the product, while it trains (`nn.Module.train`)."""

    def __init__(self, features: int, length: int, size: int) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            super().__init__(features, length * size)
        self.length = length
        self.size = size

    def forward(self, features: Tensor) -> Tensor:
        """Return the numbers of all steps, (B, K, n) of features (B, F), batch-last in memory; (K, n) of (0,)."""
        if features.dim() == 1:
            return super().forward(features).unflatten(-1, (self.length, self.size))
        scale = self.in_features**-0.5 if self.in_features else 1.0
        precision = self.precision if self.training else torch.float32
        numbers = linear_batch_last(features * scale, self.weight, self.bias, precision)
        return numbers.unflatten(0, (self.length, self.size)).permute(2, 0, 1)

    @torch.no_grad()
    def initialise_step(self, step: int, bias: Tensor, scale: float, generator: torch.Generator) -> None:
        """Set the biases of one step, and draw its weights from N(0, scale²).

        Arguments:
            step: k, counted from 1.
            bias: the numbers that this step has before it has learned from any feature, (n,).
            scale: standard deviation of the numbers about their bias, for features of mean square 1.
            generator: where the weights are drawn from.
        """
        rows = slice((step - 1) * self.size, step * self.size)
        self.bias[rows] = bias.to(self.bias)
        draw_normal(self.weight[rows], scale, generator)


@torch.no_grad()
def shortened(flow: Flow, count: int, names: Sequence[str]) -> Flow:
    """Return a copy of a chain whose weights of these names, a row a step or lists of such, hold the first steps only.

    The head is left as it was: what it gives is cut beside it.
    """
    shorter = copy.deepcopy(flow)
    for name in names:
        own = getattr(shorter, name)
        for rows in own if isinstance(own, nn.ParameterList) else [own]:
            rows.data = rows.data[:count]
    shorter.length = count
    return shorter


@torch.no_grad()
def draw_normal(weights: Tensor, deviation: float, generator: torch.Generator) -> None:
    """Fill `weights` in place from N(0, deviation²); drawn in float64 on the CPU, whatever their type and device."""
    weights.copy_(deviation * torch.randn(weights.shape, generator=generator, dtype=torch.float64))


def fits_lanes(z: Tensor, steps: Tensor) -> bool:
    """Return whether `over_lanes` takes these; of no samples, the plain formulas give none back."""
    return _belong_together(z, steps) and kernels.runs_here(z, steps)


def fits_samples(steps: Tensor) -> bool:
    """Return whether a family's `for_samples` may run loops of `kernels.vectors`, of numbers of each image's own."""
    return steps.dim() == 3 and steps.numel() > 0 and steps.dtype == torch.float32 and steps.is_cpu


def fits_cuda(z: Tensor, steps: Tensor) -> bool:
    """Return whether a chain's kernels for a GPU take z_0, (..., B, D), and the numbers (B, K, n) or (K, n)."""
    return _belong_together(z, steps) and cuda.runs_here(z, steps)


def _belong_together(z: Tensor, steps: Tensor) -> bool:
    fits = z.dim() > 1 and (steps.dim() == 2 or steps.shape[:-2] == z.shape[-2:-1])
    return fits and z.numel() > 0


def in_pieces(
    chain: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], z: Tensor, steps: Tensor
) -> tuple[Tensor, Tensor]:
    """Apply a chain that takes numbers of each image's own, giving all samples the same where there are no others.

    Arguments:
        chain: takes z_0 (..., B, D) and the numbers (B, K, n), and returns z_K (..., B, D) and log-determinants
            (..., B).
        z: z_0, (..., B, D).
        steps: the numbers of all steps, (B, K, n), or (K, n) for all samples.

    Returns:
        z_K, (..., B, D), and the log-determinants, (..., B).
    """
    if steps.dim() == 3:
        return chain(z, steps)
    pieces = [chain(piece, steps.expand(len(piece), -1, -1)) for piece in z.flatten(0, -2).split(LANES)]
    z_K, log_det = (torch.cat(ends) for ends in zip(*pieces, strict=True))
    return z_K.view(z.shape), log_det.view(z.shape[:-1])


def over_lanes(
    chain: Callable[[Tensor, Tensor], tuple[Tensor, ...]], z: Tensor, steps: Tensor
) -> tuple[Tensor, Tensor]:
    """Apply a loop of `kernels`, whose arrays are batch-last, to a chain's samples and numbers, by `in_pieces`.

    Arguments:
        chain: takes z_0 (S, D, B) and the numbers (K, n, B), and returns z_K (S, D, B) and log-determinants (S, B).
        z: z_0, (..., B, D).
        steps: the numbers of all steps, (B, K, n), or (K, n) for all samples.

    Returns:
        z_K, (..., B, D), and the log-determinants, (..., B).
    """

    def turned(z: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        z_K, log_det = chain(z.reshape(-1, *z.shape[-2:]).mT, steps.permute(1, 2, 0))
        return z_K.mT.reshape(z.shape), log_det.reshape(z.shape[:-1])

    return in_pieces(turned, z, steps)


def rows_by_image(z: Tensor, shared: bool) -> Tensor:
    """Return z (..., B, D) as (B, S, D), S samples of each image; as (1, S, D) where all rows share the parameters.

    Matrices of each image's own, (B, D, n), then multiply these by one product of batches.
    """
    images = 1 if shared else z.shape[-2]
    samples = math.prod(z.shape[:-1] if shared else z.shape[:-2])  # Of no images, −1 would be any number.
    return z.reshape(samples, images, z.shape[-1]).transpose(0, 1)


def rows_like(rows: Tensor, z: Tensor) -> Tensor:
    """Return what `rows_by_image` made of z, with other numbers, in the shape of z."""
    return rows.transpose(0, 1).reshape(z.shape)


def require_steps(length: int) -> None:
    """Raise ValueError unless a chain has at least one step."""
    if length < 1:
        raise ValueError(f"length {length}: expected: at least 1 (without steps, use NoFlow)")


def softplus(x: Tensor) -> Tensor:
    """Return ln(1 + eˣ), exact to rounding everywhere (torch's `softplus` turns linear above 20)."""
    return torch.logaddexp(x, torch.zeros_like(x))


def log_softplus(x: Tensor) -> Tensor:
    """Return ln ln(1 + eˣ), which is x − eˣ/2 + … and so x to rounding where eˣ would underflow."""
    linear = x < -40
    return torch.where(linear, x, softplus(torch.where(linear, 0, x)).log())


def log_nonnegative(x: Tensor) -> Tensor:
    """Return ln x for x ≥ 0: −∞ with gradient 0 at x = 0, as a term of `torch.logaddexp` there adds nothing."""
    zero = x == 0
    return torch.where(zero, -torch.inf, torch.where(zero, 1, x).log())
