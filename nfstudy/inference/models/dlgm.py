"""The deep latent Gaussian model: Maxout inference and generative networks around one amortised flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from nfstudy.core.kernels.linear import Linear
from nfstudy.core.seeds import derive_seed
from nfstudy.flows import make_flow
from nfstudy.flows.guided import GuidedFlow
from nfstudy.inference.likelihoods.base import Likelihood
from nfstudy.inference.likelihoods.bernoulli import Bernoulli
from nfstudy.inference.models.maxout import Maxout
from nfstudy.inference.weights import draw_weights
from nfstudy.study.sections import FlowSpec, ModelSpec

LOG_VARIANCE_GAIN = 0.1
"""Shrinks the initial weights of the log-variance head, so that training starts near q0 = N(mean, I)."""


class Posterior(NamedTuple):
    """What the inference network says of each image: q0(z_0|x) = N(mean, diag(exp(log_variance))) and the flow."""

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
    """One layer of Gaussian latent variables under independent pixels; Rezende & Mohamed (2015), Section 4.2, Alg. 1.

    Inference: x -> L Maxout layers -> mean and log-variance of q0(z_0|x), and the parameters of the flow z_0 -> z_K.
    Generation: p(z) = N(0, I), z -> L Maxout layers -> p(x|z).

    Arguments:
        pixels: N, how many numbers an image has.
        model: sizes of the latent space (D) and of the networks.
        flow: family and length of the normalizing flow.
        likelihood: makes p(x|z) of N, the features and the section `model`: its class.
        precision: of the Maxout layers' matrix products while training; all else is in float32.
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
        self.latent = model.latent
        self.encoder = _maxout_layers(pixels, units, model, precision)
        self.mean = Linear(units, model.latent)
        self.log_variance = Linear(units, model.latent)
        self.flow = make_flow(flow, model.latent, units)
        self.flow_scale = flow.initial_scale
        self.decoder = _maxout_layers(model.latent, units, model, precision)
        self.likelihood = likelihood(pixels, units, model)

    def initialise(self, base_seed: int, repetition: int) -> None:
        """Draw all parameters anew, each part from a stream of its own.

        Linear weights follow `model.initialisation` (see `inference.weights`), biases are 0. The networks' initial
        weights are the same whatever the flow.

        Arguments:
            base_seed: the study's `seed`.
            repetition: the axis over which initialisations differ.
        """

        def generator(part: str) -> torch.Generator:
            return torch.Generator().manual_seed(derive_seed(base_seed, "initialisation", repetition, part))

        for part, layers in (("encoder", self.encoder), ("decoder", self.decoder)):
            for number, layer in enumerate(layers, start=1):
                cast(Maxout, layer).initialise(self.rule, generator(f"{part} {number}"))
        for part, linear in (("mean", self.mean), ("log_variance", self.log_variance)):
            draw_weights(linear, linear.out_features, self.rule, generator(part))
        with torch.no_grad():
            self.log_variance.weight.mul_(LOG_VARIANCE_GAIN)
        self.likelihood.initialise(generator)
        self.flow.initialise(lambda part: generator(f"flow {part}"))
        self.flow.scale_heads(self.flow_scale)

    def infer(self, x: Tensor) -> Posterior:
        """Return the posterior's parameters for images (B, N)."""
        features = self.encoder(self.likelihood.encoder_input(x))
        posterior = Posterior(self.mean(features), self.log_variance(features), self.flow.parameters_from(features))
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
        z_0 = mean + (0.5 * log_variance).exp() * noise
        log_q0 = -0.5 * (noise.square() + log_variance + math.log(2 * math.pi)).sum(-1)
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
        return self.likelihood(x, self.decoder(z))

    def draw(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """Return images (B, N) drawn from p(x|z), for z (B, D); by a CPU generator."""
        return self.likelihood.draw(self.decoder(z), generator)

    def decode(self, z: Tensor) -> Tensor:
        """Return the image (..., N) that z (..., D) is most plainly of, on the scale of x; `Likelihood.picture`."""
        return self.likelihood.picture(self.decoder(z))


def _maxout_layers(inputs: int, units: int, model: ModelSpec, precision: torch.dtype) -> nn.Sequential:
    sizes = [inputs] + [units] * model.layers
    return nn.Sequential(*(Maxout(sizes[i], sizes[i + 1], model.maxout, precision) for i in range(model.layers)))
