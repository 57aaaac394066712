"""A linear model with Gaussian noise, a linear posterior and any flow, in float64: exact gradients by quadrature."""

import math

import numpy as np
import torch
from torch import nn

from nfstudy.core.seeds import derive_seed
from nfstudy.flows import make_flow
from nfstudy.inference.models.dlgm import DLGM, Posterior
from nfstudy.inference.models.minibatch import ImageMinibatch
from nfstudy.study.sections import FlowSpec

PIXELS = 3
DEVIATION = 0.8
"""Of x given z."""
SPREAD = 0.08
"""Of the flow's weights about their start: its steps are not the identity, and smooth enough for quadrature."""


class _Likelihood:
    def encoder_input(self, x):
        return x


class LinearModel(nn.Module):
    """z ~ N(0, I_D), x|z ~ N(W z + b, s² I); q0(z_0|x) = N(A x + a, diag exp(r)), then a flow with parameters of x."""

    sample = DLGM.sample
    noise_size = DLGM.noise_size

    def __init__(self, latent, flow="none", length=0):
        super().__init__()
        self.latent = latent
        self.flow = make_flow(FlowSpec(family=flow, length=length), latent, PIXELS).double()
        self.flow.initialise(lambda part: torch.Generator().manual_seed(derive_seed(3, part)))
        generator = torch.Generator().manual_seed(1)

        def weights(*shape):
            return nn.Parameter(0.4 * torch.randn(shape, generator=generator, dtype=torch.float64))

        self.W, self.b = weights(PIXELS, latent), weights(PIXELS)
        self.A, self.a, self.r = weights(latent, PIXELS), weights(latent), weights(latent)
        self.likelihood = _Likelihood()
        with torch.no_grad():
            for weight in self.flow.parameters():
                weight.add_(SPREAD * torch.randn(weight.shape, generator=generator, dtype=torch.float64))

    def infer(self, x):
        mean = x @ self.A.T + self.a
        return Posterior(mean, self.r.expand_as(mean), self.flow.parameters_from(x))

    def log_likelihood(self, x, z):
        squares = ((x - z @ self.W.T - self.b) / DEVIATION).square() + math.log(2 * math.pi * DEVIATION**2)
        return -0.5 * squares.sum(-1)

    def draw(self, z, generator):
        noise = torch.randn(len(z), PIXELS, generator=generator, dtype=z.dtype)
        return z @ self.W.T + self.b + DEVIATION * noise

    def variational(self):
        return [self.A, self.a, self.r, *self.flow.parameters()]


def example():
    """Return an example x, (1, PIXELS)."""
    return torch.tensor([[0.9, -0.4, 1.3]], dtype=torch.float64)


def quadrature(samples, latent, nodes):
    """Return noise (S, B, D) and weights (B,) of the Gauss-Hermite rule for E over S D standard normal numbers."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    dimensions = samples * latent
    grid = np.stack(np.meshgrid(*[points] * dimensions, indexing="ij")).reshape(dimensions, -1)
    each = np.prod(np.stack(np.meshgrid(*[weights / weights.sum()] * dimensions, indexing="ij")), axis=0).reshape(-1)
    noise = grid.reshape(samples, latent, -1).transpose(0, 2, 1)
    return torch.tensor(noise.copy()), torch.tensor(each)


def minibatch(model, noise, seed=0):
    """Return the example, once for each of B places of the noise (S, B, D)."""
    x = example().expand(noise.shape[1], -1).contiguous()
    return ImageMinibatch(model, x, noise, lambda: torch.Generator().manual_seed(seed))


def gradient(value, model):
    """Return the gradient of a scalar over all parameters, one flat tensor."""
    weights = list(model.parameters())
    found = torch.autograd.grad(value, weights, allow_unused=True)
    pairs = zip(weights, found, strict=True)
    return torch.cat([torch.zeros_like(w).flatten() if g is None else g.flatten() for w, g in pairs])
