"""The deep latent Gaussian model: Maxout networks up and down, and an amortised flow for each stochastic layer.

With stochastic layers z_1, ..., z_L, from the image up, it is the hierarchy of Rezende & Mohamed (2015), where each
p(z_l|f_l(z_{l+1})) is a Gaussian; here f_l is a Maxout network with two linear heads, μ_l and ln σ_l²:

    p(x, z) = p(x|z_1) Π_{l<L} N(z_l | μ_l(z_{l+1}), diag σ_l²(z_{l+1})) · N(z_L | 0, I)

This module works with ξ = (ξ_1, ..., ξ_L), the noise that the layers are made from, top down, as in Rezende, Mohamed &
Wierstra (2014):

    z_L = ξ_L,   z_l = μ_l(z_{l+1}) + σ_l(z_{l+1}) ⊙ ξ_l,   p(ξ) = N(0, I) over all D = Σ_l D_l numbers.

ξ ↦ z is one to one, its Jacobian triangular by layers, with Π_{l,d} σ_{l,d} > 0 as determinant. So densities of prior
and posterior change by the same factor, p(z) / q(z|x) = p(ξ) / q(ξ|x), and every bound, importance weight and KL
divergence is the same number in ξ as in z; what knows only a prior N(0, I) and ln p(x|ξ) needs to know nothing of
layers. With one layer, ξ is z. The model of 2014 has T_l(z_{l+1}) + G_l ξ_l with a constant matrix G_l: where that is
invertible, the linear layers around z_l take it in, and it is the case σ_l = 1 here.

The posterior factorises over the layers of ξ, as in 2014 and not of z, each factor from its own level of the bottom-up
inference network, and with a flow of its own (Section 4.2, Algorithm 1) where 2014 has a Gaussian a layer:

    h^(1) = encoder(x), h^(l) = encoder_l(h^(l−1)),   q(ξ|x) = Π_l q_l,K(ξ_l|x),   ξ_l = f_l,K ∘ … ∘ f_l,1(ξ_l,0),
    ξ_l,0 ~ N(mean_l(h^(l)), diag exp(log_variance_l(h^(l)))).

Given z_{l+1}, z_l is then by μ_l + σ_l ⊙ ξ_l what the generative network says above and the image below. A guided flow
(`flows.guided`) is one chain on all of ξ, since ln p(x, ξ) does not factorise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from nfstudy.core.kernels.linear import Linear
from nfstudy.core.seeds import derive_seed
from nfstudy.flows.base import StepHead
from nfstudy.flows.guided import GuidedFlow
from nfstudy.flows.layered import make_layered_flow
from nfstudy.inference.likelihoods.base import Likelihood
from nfstudy.inference.likelihoods.bernoulli import Bernoulli
from nfstudy.inference.models.gaussian import log_normal_of_samples, start, start_of_samples
from nfstudy.inference.models.maxout import Maxout
from nfstudy.inference.models.objective import BoundTerms, bound_terms
from nfstudy.inference.models.upper_layers import GaussianHeads, draw_heads, maxout_layers
from nfstudy.study.sections import FlowSpec, ModelSpec

LOG_VARIANCE_GAIN = 0.1
"""Shrinks the initial weights of the log-variance heads, so that training starts near variances of 1."""


class Posterior(NamedTuple):
    """What the inference network says of each image: q0(z_0|x) = N(mean, diag(exp(log_variance))) and the flow.

    With several stochastic layers, z_0 stands for ξ_0, and D numbers are those of all layers side by side.
    """

    mean: Tensor
    """(B, D)."""
    log_variance: Tensor
    """(B, D)."""
    flow_parameters: tuple[Tensor, ...]
    """The flow's parameters λ(x), each (B, ...); empty without a flow."""
    images: Tensor | None = None
    """(B, N), where the flow follows the gradient of ln p(x, z)."""
    further_noise: int = 0
    """How many numbers of noise the flow itself takes."""

    @property
    def noise_size(self) -> int:
        """How many numbers of noise `DLGM.sample` takes: D, and those of the flow."""
        return self.mean.shape[-1] + self.further_noise


class DLGM(nn.Module):
    """Layers of Gaussian latent variables under independent pixels; Rezende & Mohamed (2015), Section 4.2, Alg. 1.

    With one stochastic layer:
    Inference: x -> Maxout layers -> mean and log-variance of q0(z_0|x), and the parameters of the flow z_0 -> z_K.
    Generation: p(z) = N(0, I), z -> Maxout layers -> p(x|z).

    With several, every z and D of its methods is ξ and Σ_l D_l of the module's docstring, layer 1 first.

    Arguments:
        pixels: N, how many numbers an image has.
        model: number and sizes (D_l) of the stochastic layers, and sizes of the networks.
        flow: family and length of the normalizing flow.
        likelihood: makes p(x|z) of N, the features and the section `model`: its class.
        precision: of the Maxout layers' matrix products while training; all else is in float32, or see `round_heads`.
    """

    def __init__(
        self,
        pixels: int,
        model: ModelSpec,
        flow: FlowSpec,
        likelihood: Callable[..., Likelihood] = Bernoulli,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        units = model.hidden // model.maxout if model.hidden_counts == "pieces" else model.hidden
        self.rule = model.initialisation
        self.sizes = model.latent_sizes
        self.latent = sum(self.sizes)
        lowest, *upper = self.sizes
        self.encoder = maxout_layers(pixels, units, model, precision)
        self.mean = Linear(units, lowest)
        self.log_variance = Linear(units, lowest)
        self.upper_encoders = nn.ModuleList(GaussianHeads(units, units, size, model, precision) for size in upper)
        self.flow = make_layered_flow(flow, self.sizes, units)
        self.flow_scale = flow.initial_scale
        self.upper_decoders = nn.ModuleList(
            GaussianHeads(above, units, size, model, precision) for size, above in pairwise(self.sizes)
        )
        self.decoder = maxout_layers(lowest, units, model, precision)
        self.likelihood = likelihood(pixels, units, model)

    def round_heads(self, precision: torch.dtype) -> None:
        """Have the products of q0's, the flow's and the likelihood's heads in a precision as well, while training."""
        for part in self.modules():
            if isinstance(part, Linear | StepHead):
                part.precision = precision

    def initialise(self, base_seed: int, repetition: int) -> None:
        """Draw all parameters anew, each part from a stream of its own.

        Linear weights follow `model.initialisation` (see `inference.weights`), biases are 0. The networks' initial
        weights are the same whatever the flow, and those of a layer the same however many there are above it.

        Arguments:
            base_seed: the study's `seed`.
            repetition: the axis over which initialisations differ.
        """

        def generator(part: str) -> torch.Generator:
            return torch.Generator().manual_seed(derive_seed(base_seed, "initialisation", repetition, part))

        for part, layers in (("encoder", self.encoder), ("decoder", self.decoder)):
            for number, layer in enumerate(layers, start=1):
                cast(Maxout, layer).initialise(self.rule, generator(f"{part} {number}"))
        draw_heads(self.mean, self.log_variance, self.rule, LOG_VARIANCE_GAIN, generator)
        for way, networks in (("up to", self.upper_encoders), ("down from", self.upper_decoders)):
            for above, network in enumerate(networks, start=2):
                streams = partial(_with_prefix, generator, f"{way} layer {above}, ")
                cast(GaussianHeads, network).initialise(self.rule, LOG_VARIANCE_GAIN, streams)
        self.likelihood.initialise(generator)
        self.flow.initialise(lambda part: generator(f"flow {part}"))
        self.flow.scale_heads(self.flow_scale)

    def infer(self, x: Tensor) -> Posterior:
        """Return the posterior's parameters for images (B, N)."""
        features = self.encoder(self.likelihood.encoder_input(x))
        levels = [(features, self.mean(features), self.log_variance(features))]
        for encoder in self.upper_encoders:
            levels.append(encoder(levels[-1][0]))
        sides = zip(*levels, strict=True)
        features, mean, log_variance = (side[0] if len(side) == 1 else torch.cat(side, dim=-1) for side in sides)
        posterior = Posterior(mean, log_variance, self.flow.parameters_from(features))
        if isinstance(self.flow, GuidedFlow):
            return posterior._replace(images=x, further_noise=self.flow.further_noise)
        return posterior

    def sample(self, posterior: Posterior, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Push standard Gaussian noise through q0 and the flow; eqs. (6), (7).

        z_0 = mean + exp(log_variance / 2) · noise,  z_K = f_K ∘ … ∘ f_1(z_0)

        Arguments:
            posterior: of B images.
            noise: (..., B, n) draws from N(0, I), n as `noise_size` says: D, and more for a `GuidedFlow`.

        Returns:
            z_K (..., B, D); ln q0(z_0|x) (..., B) and Σ_k ln|det ∂f_k/∂z_{k−1}| (..., B), both in nats; of a
            `GuidedFlow`, what stands in the place of the latter in the bound.
        """
        mean, log_variance = posterior.mean, posterior.log_variance
        noise, further = noise.split([self.latent, noise.shape[-1] - self.latent], dim=-1)
        z_0, log_q0 = start(mean, log_variance, noise)
        if isinstance(self.flow, GuidedFlow):
            assert posterior.images is not None
            log_joint = partial(self.log_joint, posterior.images)
            z_K, log_det = self.flow.guided(z_0, posterior.flow_parameters, further, log_joint)
        else:
            z_K, log_det = self.flow(z_0, posterior.flow_parameters)
        return z_K, log_q0, log_det

    def nearest(self, posterior: Posterior) -> Posterior:
        """Return the posterior of the flow's family that is nearest to this one; see `Flow.nearest`."""
        return posterior._replace(flow_parameters=self.flow.nearest(posterior.flow_parameters))

    @torch.no_grad()
    def log_density(self, posterior: Posterior, z: Tensor) -> Tensor:
        """Return ln q_K(z|x) (..., B) in nats at any points z (..., B, D), by the inverse of the flow; eq. (7).

        Raises:
            NotImplementedError: the flow has no inverse.
        """
        z_0 = self.flow.inverse(z, posterior.flow_parameters)
        _, log_det = self.flow(z_0, posterior.flow_parameters)
        noise = (z_0 - posterior.mean) * (-0.5 * posterior.log_variance).exp()
        log_q0 = -0.5 * (noise.square() + posterior.log_variance + math.log(2 * math.pi)).sum(-1)
        return log_q0 - log_det

    @property
    def noise_size(self) -> int:
        """How many numbers of noise `sample` takes for one draw: D, and those of the flow."""
        return self.latent + (self.flow.further_noise if isinstance(self.flow, GuidedFlow) else 0)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """Return ln p(x|z) + ln p(z) + (D/2) ln 2π (..., B) in nats, for images x (B, N) and z (..., B, D)."""
        x = x.clone() if x.is_inference() else x  # Which autograd could not keep.
        return self.log_likelihood(x, z) - 0.5 * z.square().sum(-1)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """Return ln p(x|z) (..., B) in nats, for images x (B, N) and z (..., B, D)."""
        return self.likelihood(x, self.features(z))

    def log_likelihood_of_samples(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the same but for the last bits, without gradients, of z (S, B, D); see `Likelihood.of_samples`."""
        if z.is_cpu:  # Where loops have the samples of one image side by side.
            return self.likelihood.of_samples(x, self.features(z.transpose(0, 1)).transpose(0, 1))
        return self.likelihood.of_samples(x, self.features(z))

    @torch.no_grad()
    def weigh_samples(self, x: Tensor, posterior: Posterior) -> Callable[[Tensor], Tensor]:
        """Return what maps noise (S, B, n) to log weights (S, B), `BoundTerms.elbo` but for the last bits.

        It is called many times without gradients, where −ln p(x) is estimated; see `Flow.for_samples`.

        Arguments:
            x: images (B, N).
            posterior: theirs.
        """
        if isinstance(self.flow, GuidedFlow):
            return lambda noise: (
                bound_terms(self, x, noise.contiguous(), posterior, self.log_likelihood_of_samples).elbo
            )
        chain = self.flow.for_samples(posterior.flow_parameters)

        def weigh(noise: Tensor) -> Tensor:
            z_0, log_q0 = start_of_samples(posterior.mean, posterior.log_variance, noise)
            z, log_det = chain(z_0)
            return BoundTerms(self.log_likelihood_of_samples(x, z), log_normal_of_samples(z), log_q0, log_det).elbo

        return weigh

    def draw(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Return images (B, N) drawn from p(x|z), for z (B, D); by a CPU generator."""
        return self.likelihood.draw(self.features(z), generator)

    def decode(self, z: Tensor) -> Tensor:
        """Return the image (..., N) that z (..., D) is most plainly of, on the scale of x; `Likelihood.picture`."""
        return self.likelihood.picture(self.features(z))

    def layers_of(self, xi: Tensor) -> list[Tensor]:
        """Return z_1, ..., z_L, each (..., D_l), of the noise ξ (..., D) that they are made from, top down.

        z_L = ξ_L,  z_l = μ_l(z_{l+1}) + σ_l(z_{l+1}) ⊙ ξ_l; with one layer, z_1 is ξ itself.
        """
        *lower, z = xi.split(self.sizes, dim=-1) if len(self.sizes) > 1 else (xi,)
        layers = [z]
        for noise, decoder in zip(reversed(lower), reversed(self.upper_decoders), strict=True):
            _, mean, log_variance = decoder(layers[0])
            layers.insert(0, mean + (0.5 * log_variance).exp() * noise)
        return layers

    def features(self, z: Tensor) -> Tensor:
        """Return the last hidden layer (..., F) of the generative network, which p(x|z) is made from."""
        return self.decoder(self.layers_of(z)[0])


def _with_prefix(generator: Callable[[str], torch.Generator], prefix: str, part: str) -> torch.Generator:
    return generator(prefix + part)
