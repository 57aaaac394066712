"""Bits-back coding: images of whole numbers as one stream of bits whose length is the bound, F / ln 2 bits an image.

An image x is coded with a latent z that the stream itself decides (Townsend et al. 2019, BB-ANS):

    pop z under q(z|x),  push x under p(x|z),  push z under p(z)

which takes E_q[−log2 p(x|z) − log2 p(z) + log2 q(z|x)] bits. Decoding undoes each step in the opposite order, and gives
back the bits that z was popped from, so that images are chained. z is of bins:

    K = 0: bins of equal mass under the prior; q's mass of each is exact.
    a flow z = g(ε), g(ε) = f_K ∘ … ∘ f_1(mean + deviation · ε): fine bins of ε and of z, and local bits-back coding
    (Ho et al. 2019). "Pop z under q" is then three steps,

        pop ε under N(0, I),  pop z under N(g(ε), σ² J Jᵀ),  push ε under N(g⁻¹(z), σ² I),   J = ∂g/∂ε.

    As g is near linear within σ, they come to −log2 q(z|x) and the bins' width. Neither g nor g⁻¹ has to be exact:
    nothing is lost as long as they give the same numbers again, which they do one image at a time in one process.

Bits that were pushed before are not random where the model is not of the images, and z would then be no draw from q. So
those that z is popped from are changed by pseudo-random bits, of a seed that the decoder has too: the rate is F's.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from nfstudy.core.seeds import derive_seed
from nfstudy.flows.base import Flow
from nfstudy.inference.models.ans import LEAST_STATE, TOTAL, WORD_BITS, CodingError, Masses, Stack, mass_table
from nfstudy.inference.models.dlgm import DLGM

LOCAL_DEVIATION = 2.0**-7
"""σ of local bits-back coding, in deviations of q0: so near, flows are all but linear, and it is 128 bins of ε."""
LEAST_DEVIATION = 1e-9
"""Of z given ε along one axis, where a flow is flat."""


class Bins(ABC):
    """Intervals of the real line, each with a code 0 ... n − 1 and a point that stands for it."""

    size: int
    """n."""

    @abstractmethod
    def edge(self, code: int) -> float:
        """Return where a bin begins."""

    @abstractmethod
    def point(self, code: int) -> float:
        """Return the point within a bin."""

    def gaussian(self, mean: float, deviation: float) -> Masses:
        """Return the masses of the bins under N(mean, deviation²)."""
        scale = deviation * math.sqrt(2)
        return Masses(self.size, lambda code: 0.5 * math.erfc((mean - self.edge(code)) / scale))


class EqualMass(Bins):
    """2^bits bins of equal mass under N(0, 1), and their medians."""

    def __init__(self, bits: int) -> None:
        self.size = 1 << bits
        self._edges: list[float] = ndtri(np.arange(self.size + 1) / self.size).tolist()
        self._points: list[float] = ndtri((np.arange(self.size) + 0.5) / self.size).tolist()

    def edge(self, code: int) -> float:
        """Return the quantile of code / n."""
        return self._edges[code]

    def point(self, code: int) -> float:
        """Return the quantile of (code + ½) / n."""
        return self._points[code]


class EqualWidth(Bins):
    """2^bits bins of equal width from −8 to 8; the outermost hold what lies beyond."""

    def __init__(self, bits: int) -> None:
        self.size = 1 << bits
        self.width = 16 / self.size

    def edge(self, code: int) -> float:
        """Return code · width − 8."""
        return code * self.width - 8

    def point(self, code: int) -> float:
        """Return the middle."""
        return (code + 0.5) * self.width - 8


PRIOR_BINS = EqualMass(16)
"""Of z at K = 0: each code takes 16 bits under the prior."""
LATENT_BINS = EqualWidth(20)
"""Of z under a flow, 2^−16 wide."""
NOISE_BINS = EqualWidth(18)
"""Of ε, 2^−14 wide."""


class LatentCode(ABC):
    """q(z|x) of one image on bins of z."""

    @abstractmethod
    def pop(self, stack: Stack) -> list[int]:
        """Draw z by popping, and return its D codes."""

    @abstractmethod
    def push(self, stack: Stack, codes: Sequence[int]) -> None:
        """Undo `pop`."""

    @abstractmethod
    def log_density(self, codes: Sequence[int]) -> float:
        """Return ln q(z|x) in nats at the bins' points."""


class GaussianCode(LatentCode):
    """q(z|x) = N(mean, diag(deviation²)), on `PRIOR_BINS`.

    Arguments:
        mean, deviation: (D,).
        masks: D numbers below 2^P; see `Stack.pop_symbol`.
    """

    def __init__(self, mean: np.ndarray, deviation: np.ndarray, masks: Sequence[int]) -> None:
        self.mean, self.deviation, self.masks = mean, deviation, masks
        each = zip(mean.tolist(), deviation.tolist(), strict=True)
        self.masses = [PRIOR_BINS.gaussian(*parameters) for parameters in each]

    def pop(self, stack: Stack) -> list[int]:
        """Pop each variable on its own."""
        return _pop(stack, self.masses, self.masks)

    def push(self, stack: Stack, codes: Sequence[int]) -> None:
        """Push them, the last one first."""
        _push(stack, codes, self.masses, self.masks)

    def log_density(self, codes: Sequence[int]) -> float:
        """Return Σ ln N(z_d|mean_d, deviation_d²)."""
        noise = (_points(PRIOR_BINS, codes) - self.mean) / self.deviation
        return _log_normal(noise) - float(np.log(self.deviation).sum())


class FlowCode(LatentCode):
    """q(z|x) of a flow z = g(ε), on `LATENT_BINS`, by local bits-back coding.

    Arguments:
        mean, deviation: of q0(z_0|x), (D,).
        flow: invertible, in float64.
        parameters: of the flow for the image, each (1, ...), in float64.
        masks: 2D, as of `GaussianCode`.
    """

    def __init__(
        self,
        mean: np.ndarray,
        deviation: np.ndarray,
        flow: Flow,
        parameters: tuple[Tensor, ...],
        masks: Sequence[int],
    ) -> None:
        self.mean, self.deviation, self.flow, self.parameters = mean, deviation, flow, parameters
        self.masks, self.further_masks = masks[: len(mean)], masks[len(mean) :]
        self.base = [NOISE_BINS.gaussian(0.0, 1.0)] * len(mean)

    def pop(self, stack: Stack) -> list[int]:
        """Pop ε and z, and push ε given z."""
        noise = _pop(stack, self.base, self.masks)
        local = _Local(*self._forward(noise))
        codes = []
        for variable in range(len(noise)):
            codes.append(stack.pop_symbol(local.masses(variable), self.further_masks[variable]))
            local.set(variable, codes[-1])
        _push(stack, noise, self._noise_given(codes))
        return codes

    def push(self, stack: Stack, codes: Sequence[int]) -> None:
        """Pop ε given z, and push z and ε."""
        noise = _pop(stack, self._noise_given(codes))
        local = _Local(*self._forward(noise))
        masses = []
        for variable, code in enumerate(codes):
            masses.append(local.masses(variable))
            local.set(variable, code)
        _push(stack, codes, masses, self.further_masks)
        _push(stack, noise, self.base, self.masks)

    def log_density(self, codes: Sequence[int]) -> float:
        """Return ln N(ε|0, I) − Σ ln deviation − Σ_k ln|det ∂f_k/∂z_{k−1}| at ε = g⁻¹(z), eq. (7)."""
        noise = self._backward(codes)
        _, log_det = self.flow(self._start(noise), self.parameters)
        return _log_normal(noise) - float(np.log(self.deviation).sum()) - log_det.item()

    def _noise_given(self, codes: Sequence[int]) -> list[Masses]:
        return [NOISE_BINS.gaussian(mean, LOCAL_DEVIATION) for mean in self._backward(codes).tolist()]

    def _start(self, noise: np.ndarray) -> Tensor:
        return torch.from_numpy(self.mean + self.deviation * noise)[None]

    def _forward(self, noise: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return g(ε) (D,) and J (D, D), row d the gradient of g_d."""
        z_0 = self._start(_points(NOISE_BINS, noise))
        latent = len(noise)
        with torch.enable_grad():
            # A copy for each output: the diagonal's gradient by the d-th copy is the d-th row.
            copies = z_0.expand(latent, 1, latent).clone().requires_grad_()
            ends, _ = self.flow(copies, self.parameters)
            (rows,) = torch.autograd.grad(ends[:, 0].diagonal().sum(), copies)
        return ends[0, 0].detach().numpy(), rows[:, 0].numpy() * self.deviation

    def _backward(self, codes: Sequence[int]) -> np.ndarray:
        """Return g⁻¹(z) (D,)."""
        z = torch.from_numpy(_points(LATENT_BINS, codes))[None]
        z_0 = self.flow.inverse(z, self.parameters)[0].numpy()
        noise: np.ndarray = (z_0 - self.mean) / self.deviation
        if not np.isfinite(noise).all():
            raise CodingError(f"the flow's inverse of {z.tolist()} is {z_0}; expected: finite numbers")
        return noise


class _Local:
    """N(g, σ² J Jᵀ) of z, one variable after another: J Jᵀ = L Lᵀ with L = Rᵀ, Jᵀ = Q R."""

    def __init__(self, centre: np.ndarray, jacobian: np.ndarray) -> None:
        if not np.isfinite(jacobian).all() or not np.isfinite(centre).all():
            raise CodingError("the flow's values or Jacobian are not finite; expected: finite numbers")
        _, upper = np.linalg.qr(jacobian.T)
        factor = LOCAL_DEVIATION * upper.T
        self.factor = factor * np.where(factor.diagonal() < 0, -1, 1)
        self.centre, self.steps = centre, np.zeros(len(centre))

    def masses(self, variable: int) -> Masses:
        """Return those of a variable given the ones before it."""
        return LATENT_BINS.gaussian(self._mean(variable), self._deviation(variable))

    def set(self, variable: int, code: int) -> None:
        """Take in the bin of a variable."""
        self.steps[variable] = (LATENT_BINS.point(code) - self._mean(variable)) / self._deviation(variable)

    def _mean(self, variable: int) -> float:
        return float(self.centre[variable] + self.factor[variable, :variable] @ self.steps[:variable])

    def _deviation(self, variable: int) -> float:
        return max(float(self.factor[variable, variable]), LEAST_DEVIATION)


def _pop(stack: Stack, masses: Sequence[Masses], masks: Sequence[int] | None = None) -> list[int]:
    pairs = zip(masses, masks or [0] * len(masses), strict=True)
    return [stack.pop_symbol(each, mask) for each, mask in pairs]


def _push(stack: Stack, codes: Sequence[int], masses: Sequence[Masses], masks: Sequence[int] | None = None) -> None:
    """Undo `_pop`."""
    for code, each, mask in reversed([*zip(codes, masses, masks or [0] * len(masses), strict=True)]):
        stack.push_symbol(code, each, mask)


def _points(bins: Bins, codes: Sequence[int]) -> np.ndarray:
    return np.array([bins.point(code) for code in codes])


def _log_normal(noise: np.ndarray) -> float:
    """Return ln N(noise|0, I)."""
    return float(-0.5 * (np.square(noise) + math.log(2 * math.pi)).sum())


class Coder:
    """Bits-back coding of images by a model, one after another onto a stack; on the CPU, whatever the model is on.

    Arguments:
        model: with a likelihood of whole numbers, and no flow or one with an inverse.
        seed: of the bits that change those which latents are drawn from.
    """

    def __init__(self, model: DLGM, seed: int) -> None:
        self.seed = seed
        self.model = copy.deepcopy(model).cpu().eval()
        # The chain's own arithmetic in double precision, so that g and g⁻¹ agree to less than a bin.
        self.flow = copy.deepcopy(self.model.flow).double() if self.model.flow.length else None
        self.bins = LATENT_BINS if self.flow else PRIOR_BINS
        self.prior = [self.bins.gaussian(0.0, 1.0)] * self.model.latent

    def push(self, stack: Stack, image: np.ndarray, place: int) -> float:
        """Push an image of whole numbers (N,), and return F in nats at the z that it was coded with.

        Arguments:
            stack: where.
            image: (N,), integers.
            place: of the image in its chain, which the decoder counts too.
        """
        code = self._posterior(image, place)
        codes = code.pop(stack)
        probabilities = self._pixels(codes)
        stack.push_row(image, mass_table(probabilities))
        _push(stack, codes, self.prior)
        log_likelihood = np.log(probabilities[np.arange(len(image)), image]).sum()
        return float(code.log_density(codes) - log_likelihood - _log_normal(_points(self.bins, codes)))

    def pop(self, stack: Stack, place: int) -> np.ndarray:
        """Return the image (N,) that was pushed last, and take it away."""
        codes = _pop(stack, self.prior)
        image = stack.pop_row(mass_table(self._pixels(codes)))
        self._posterior(image, place).push(stack, codes)
        return image

    @torch.no_grad()
    def _posterior(self, image: np.ndarray, place: int) -> LatentCode:
        posterior = self.model.infer(torch.from_numpy(image[None]).float())
        mean = posterior.mean[0].double().numpy()
        deviation = np.exp(0.5 * posterior.log_variance[0].double().numpy())
        if not (np.isfinite(mean).all() and np.isfinite(deviation).all() and (deviation > 0).all()):
            raise CodingError("q0's parameters are not finite; expected: finite numbers")
        stream = np.random.Generator(np.random.PCG64(derive_seed(self.seed, "masks", place)))
        masks = stream.integers(TOTAL, size=2 * len(mean)).tolist()
        if self.flow is None:
            return GaussianCode(mean, deviation, masks[: len(mean)])
        return FlowCode(mean, deviation, self.flow, tuple(each.double() for each in posterior.flow_parameters), masks)

    @torch.no_grad()
    def _pixels(self, codes: Sequence[int]) -> np.ndarray:
        """Return p(x_i = v|z), (N, n)."""
        z = torch.from_numpy(_points(self.bins, codes)).float()[None]
        found: np.ndarray = self.model.likelihood.probabilities(self.model.features(z))[0].double().numpy()
        return found


class RoundTrip(NamedTuple):
    """What coding some images and decoding them again took; of N numbers each."""

    images: int
    pixels: int
    """N."""
    message_bits: int
    """Of the whole stream, with the bits that the first latents were drawn from."""
    initial_bits: float
    """Of those bits."""
    net_bits: float
    """By how much the images made the stream longer, which its last word is not rounded up for."""
    free_energy: float
    """F in nats an image at the z that they were coded with, of densities: what `net_bits` would be without bins and
    whole masses."""

    def numbers(self) -> dict[str, float]:
        """Return what is kept: bits for each number of an image, and the bits that the chain began with."""
        total = self.images * self.pixels
        return {
            "bits_per_pixel": self.message_bits / total,
            "bits_per_pixel_net": self.net_bits / total,
            "bits_per_pixel_drawn": self.free_energy / (self.pixels * math.log(2)),
            "initial_bits": self.initial_bits,
            "message_bytes": self.message_bits / 8,
            "pixels": self.pixels,
        }


def encode(model: DLGM, images: np.ndarray, seed: int) -> tuple[bytes, Stack, float]:
    """Return the message of images (M, N), the stack that begins it, and F in nats an image at the z drawn.

    Arguments:
        model: with a likelihood of whole numbers.
        images: whole numbers that the likelihood has probabilities of.
        seed: of the bits that the first latents are drawn from, as many words as they need and no more; and of those
            that the others are changed by.
    """
    words = np.random.Generator(np.random.PCG64(seed))
    stack = Stack(LEAST_STATE + int(words.integers(2**63)), supply=lambda: int(words.integers(2**WORD_BITS)))
    beginning, coder = stack.state, Coder(model, seed)
    energies = [coder.push(stack, image.astype(np.int64), place) for place, image in enumerate(images)]
    return stack.message(), Stack(beginning, stack.drawn[::-1]), sum(energies) / len(energies)


def decode(model: DLGM, message: bytes, count: int, seed: int) -> tuple[np.ndarray, Stack]:
    """Return the images (M, N) of a message, in the order they were coded in, and what is left of the stack.

    Arguments:
        model: that of `encode`.
        message: what `encode` returned.
        count: M.
        seed: that of `encode`.

    Raises:
        CodingError: it is no message of so many images.
    """
    stack, coder = Stack.of_message(message), Coder(model, seed)
    images = [coder.pop(stack, place) for place in reversed(range(count))]
    return np.stack(images[::-1]), stack


def round_trip(model: DLGM, images: np.ndarray, seed: int) -> RoundTrip:
    """Code images (M, N), decode them from the bytes alone, and return what it took.

    Raises:
        CodingError: an image, or the bits that the chain began with, did not come back as they were.
    """
    message, beginning, free_energy = encode(model, images, seed)
    decoded, rest = decode(model, message, len(images), seed)
    wrong = np.flatnonzero((decoded != images).any(axis=1))
    if len(wrong):
        raise CodingError(f"{len(wrong)} of {len(images)} images were decoded to others, the first in place {wrong[0]}")
    if (rest.state, rest.words) != (beginning.state, beginning.words):
        raise CodingError("the bits that the chain began with did not come back")
    end = Stack.of_message(message)
    return RoundTrip(
        len(images),
        images.shape[1],
        8 * len(message),
        beginning.bits,
        end.bits - beginning.bits,
        free_energy,
    )
