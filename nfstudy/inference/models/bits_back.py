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
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nfstudy.core.seeds import derive_seed
from nfstudy.inference.models.ans import LEAST_STATE, TOTAL, WORD_BITS, CodingError, Stack, mass_table
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.inference.models.latent_codes import (
    LATENT_BINS,
    PRIOR_BINS,
    FlowCode,
    GaussianCode,
    LatentCode,
    log_normal,
    points_of,
    pop_all,
    push_all,
)


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

    @torch.no_grad()
    def push(self, stack: Stack, image: np.ndarray, place: int) -> float:
        """Push an image of whole numbers (N,), and return F in nats at the z that it was coded with.

        Arguments:
            stack: where.
            image: (N,), integers.
            place: of the image in its chain, which the decoder counts too.
        """
        code = self._posterior(image, place)
        codes = code.pop(stack)
        features = self._features(codes)
        stack.push_row(image, self._masses(features))
        push_all(stack, codes, self.prior)
        # Of the likelihood itself: a probability may be too small for a float, and its logarithm is not.
        log_likelihood = self.model.likelihood(torch.from_numpy(image[None]).float(), features).item()
        return float(code.log_density(codes) - log_likelihood - log_normal(points_of(self.bins, codes)))

    @torch.no_grad()
    def pop(self, stack: Stack, place: int) -> np.ndarray:
        """Return the image (N,) that was pushed last, and take it away."""
        codes = pop_all(stack, self.prior)
        image = stack.pop_row(self._masses(self._features(codes)))
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

    def _features(self, codes: Sequence[int]) -> Tensor:
        """Return h(z), (1, F)."""
        return self.model.features(torch.from_numpy(points_of(self.bins, codes)).float()[None])

    def _masses(self, features: Tensor) -> np.ndarray:
        """Return the masses of each pixel's levels under p(x|z), (N, n + 1)."""
        probabilities: np.ndarray = self.model.likelihood.probabilities(features)[0].double().numpy()
        if not np.isfinite(probabilities).all():
            raise CodingError("p(x|z) is not finite; expected: probabilities")
        return mass_table(probabilities)


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
