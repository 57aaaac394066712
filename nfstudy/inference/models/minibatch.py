"""What an estimator of gradients asks of q and p: draws of q_K, its density's slope, the log joint, and dreams."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nfstudy.flows.base import Flow
from nfstudy.inference.models.dlgm import DLGM, Posterior
from nfstudy.inference.models.gaussian import log_normal
from nfstudy.inference.models.objective import BoundTerms

NUMBERS_AT_ONCE = 2**22
"""Of z in the rows of Jacobians that are found together."""


class Draws(NamedTuple):
    """S samples of each of B posteriors, with gradients through the path z_K = f(z_0(ε))."""

    z: Tensor
    """z_K, (S, B, D)."""
    log_q0: Tensor
    """ln q0(z_0|x) in nats, (S, B)."""
    log_det: Tensor
    """Σ_k ln|det ∂f_k/∂z_{k−1}| in nats, (S, B)."""

    @property
    def log_q(self) -> Tensor:
        """Return ln q_K(z_K|x) in nats, (S, B)."""
        return self.log_q0 - self.log_det


class Minibatch(Protocol):
    """B examples, and the noise of S samples of q for each; all that is random about an update."""

    samples: int
    """S."""
    latent: int
    """D."""

    @property
    def inputs(self) -> Tensor:
        """What q is given of the examples, (B, N); (B, 0) where there are none."""

    def terms(self) -> BoundTerms:
        """Return the terms of the bound along the path, (B,) where S is 1 and (S, B) else."""

    def draw(self) -> Draws:
        """Return the samples."""

    def slope(self) -> Tensor:
        """Return ∂ ln q_K(z|x)/∂z at the samples, (S, B, D) without gradients."""

    def log_joint(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln p(x|z) and ln p(z) in nats, (S, B) each, of z (S, B, D)."""

    def latent_kl(self) -> Tensor | None:
        """Return KL(q(z_d|x)‖p(z_d)) in nats, (B, D), with gradients; None with a flow, which leaves no closed form."""

    def dream(self) -> Tensor:
        """Return ln q_K(z|x) in nats, (B,), of z and x drawn from p(x|z) p(z); its gradient is that at these."""


class ImageMinibatch:
    """A `Minibatch` of a `DLGM`.

    Arguments:
        model: of q and p.
        x: (B, N).
        noise: (S, B, n), n as `DLGM.noise_size` says.
        generator: of what is dreamt, a CPU generator that is made when it is first asked for; or `no_dreams`.
    """

    def __init__(self, model: DLGM, x: Tensor, noise: Tensor, generator: Callable[[], torch.Generator]) -> None:
        self.model, self.x, self.noise, self.generator = model, x, noise, generator
        self.samples, self.latent = len(noise), model.latent

    @property
    def inputs(self) -> Tensor:
        """What the inference network sees, (B, N)."""
        return self.model.likelihood.encoder_input(self.x)

    @cached_property
    def posterior(self) -> Posterior:
        """The examples' q."""
        return self.model.infer(self.x)

    def terms(self) -> BoundTerms:
        """Return the terms of the bound along the path, (B,) where S is 1 and (S, B) else."""
        noise = self.noise[0] if self.samples == 1 else self.noise
        return self._terms(*self.model.sample(self.posterior, noise))

    def draw(self) -> Draws:
        """Return the samples."""
        return Draws(*self.model.sample(self.posterior, self.noise))

    def slope(self) -> Tensor:
        """Return ∂ ln q_K(z|x)/∂z at the samples, (S, B, D) without gradients."""
        return _posterior_slope(self.model.flow, self.posterior, self._start(self.noise))

    def log_joint(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return ln p(x|z) and ln p(z) in nats, (S, B) each, of z (S, B, D)."""
        return self.model.log_likelihood(self.x, z), log_normal(z)

    def latent_kl(self) -> Tensor | None:
        """Return ½ (μ² + σ² − 1 − ln σ²) of each latent variable, (B, D); None with a flow."""
        if self.model.flow.length:
            return None
        mean, log_variance = self.posterior.mean, self.posterior.log_variance
        return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)

    def dream(self) -> Tensor:
        """Return ln q_K(z|x) in nats, (B,), of z ~ N(0, I) and x ~ p(x|z); its gradient is that at these."""
        model, x = self.model, self.x
        generator = self.generator()
        with torch.no_grad():
            z = torch.randn(len(x), self.latent, generator=generator, dtype=self.noise.dtype).to(x.device)
            dreamt = model.draw(z, generator)
        posterior = model.infer(dreamt)
        parameters = posterior.flow_parameters
        with torch.no_grad():
            z_0 = model.flow.inverse(z, parameters)
        offset = (z_0 - posterior.mean) * (-0.5 * posterior.log_variance).exp()
        log_q0 = log_normal(offset) - 0.5 * posterior.log_variance.sum(-1)
        z_K, log_det = model.flow(z_0, parameters)
        path = (_posterior_slope(model.flow, posterior, z_0) * z_K).sum(-1)
        # z_0 is held, so that z_K moves with the flow: what the density changes by that is no change of ln q at z.
        return log_q0 - log_det - (path - path.detach())

    def _start(self, noise: Tensor) -> Tensor:
        return self.posterior.mean + (0.5 * self.posterior.log_variance).exp() * noise

    def _terms(self, z: Tensor, log_q0: Tensor, log_det: Tensor) -> BoundTerms:
        log_likelihood, log_prior = self.log_joint(z)
        return BoundTerms(log_likelihood, log_prior, log_q0, log_det)


def no_dreams() -> torch.Generator:
    """Raise TypeError: dreams are drawn on the processor, by a stream of the update that a minibatch is of."""
    raise TypeError("a minibatch without an update has no dreams; expected: one of `Problem.minibatches`")


def _posterior_slope(flow: Flow, posterior: Posterior, z_0: Tensor) -> Tensor:
    with torch.no_grad():
        at_start = (posterior.mean - z_0) * (-posterior.log_variance).exp()
    return density_slope(flow, posterior.flow_parameters, z_0, at_start)


def density_slope(flow: Flow, parameters: tuple[Tensor, ...], z_0: Tensor, at_start: Tensor) -> Tensor:
    """Return s = ∂ ln q_K(z)/∂z at z_K = f(z_0), (..., B, D), all parameters held; without gradients.

    Of ln q_K(f(z_0)) = ln q0(z_0) − ln|det J(z_0)|, J = ∂f/∂z_0, the chain rule in z_0 says

        Jᵀ s = ∂/∂z_0 [ln q0(z_0) − ln|det J(z_0)|],

    D linear equations for each sample. So no inverse of the flow is needed; J's D rows cost one pass back through D
    copies of the chain, which is run alone, without the networks beside it.

    Arguments:
        flow: f.
        parameters: of the flow, for B images.
        z_0: (..., B, D).
        at_start: ∂ ln q0(z)/∂z at z_0, (..., B, D).
    """
    if not flow.length:
        return at_start.detach()
    held = tuple(each.detach() for each in parameters)
    size = z_0.shape[-1]
    with torch.enable_grad():
        start = z_0.detach().requires_grad_()
        _, log_det = flow(start, held)
        change = torch.zeros_like(start)
        if log_det.requires_grad:
            (found,) = torch.autograd.grad(log_det.sum(), start, allow_unused=True)
            change = change if found is None else found
        rows: list[Tensor] = []
        for units in torch.eye(size, dtype=z_0.dtype, device=z_0.device).split(
            max(1, NUMBERS_AT_ONCE // max(1, z_0.numel()))
        ):
            copies = z_0.detach().expand(len(units), *z_0.shape).contiguous().requires_grad_()
            z_K, _ = flow(copies, held)
            picked = units.view(len(units), *(1,) * (z_0.dim() - 1), size).expand_as(z_K)
            rows += torch.autograd.grad(z_K, copies, picked)
    transposed = torch.cat(rows).movedim(0, -1).double()  # Jᵀ: entry (j, i) is ∂z_K,i/∂z_0,j.
    right = (at_start.detach() - change).double()
    # Of a chain that is flat somewhere, J is singular: that is a gradient which is not finite, and told as such.
    solved, _ = torch.linalg.solve_ex(transposed, right.unsqueeze(-1))
    return solved.squeeze(-1).to(z_0.dtype)
