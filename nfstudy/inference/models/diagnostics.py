"""What a variational fit looks like from inside: latent variables in use, how far a flow moves, noise of gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nfstudy.flows.layered import LayeredFlow
from nfstudy.inference.models.dlgm import DLGM, Posterior

SAMPLES = 32
"""Of q_K(z|x) for each image: a flow has no closed form for its moments."""
NUMBERS_AT_ONCE = 2**22
"""Of z, for as many images as fit, but for at least one."""
ACTIVE = 0.01
"""Burda et al. (2016): a latent variable is active if its posterior mean varies over the images by more than this."""


class PosteriorSummary(NamedTuple):
    """Posteriors q_K(z|x) of N images, each by S samples."""

    active: int
    """How many latent variables have Var_x(E_q[z_d]) > `ACTIVE`."""
    kl: np.ndarray
    """(D,), nats: E_x KL(N(m_d, v_d)‖N(0, 1)), m_d and v_d being the moments of q_K(z_d|x); without a flow, where q is
    that Gaussian, the KL of each latent variable."""
    log_det: np.ndarray
    """(N,), nats: E_q[Σ_k ln|det ∂f_k/∂z_{k−1}|] of each image."""
    displacement: np.ndarray
    """(N,): E_q‖z_K − z_0‖ of each image."""
    active_by_layer: tuple[int, ...]
    """The same as `active`, of each stochastic layer's own variables ξ_l."""
    kl_by_layer: tuple[float, ...]
    """Nats: E_x KL(q_l,K(ξ_l|x)‖N(0, I)) of each stochastic layer, whose sum is the bound's KL term; empty where one
    guided chain spans several layers, whose posterior is no product of theirs."""


@torch.inference_mode()
def summarise_posteriors(model: DLGM, images: np.ndarray, seed: int) -> PosteriorSummary:
    """Summarise the posteriors of images (N, pixels).

    From S samples an image: the variance of a mean over them is too large by v/S, which is taken off, and so is it off
    a mean's square; of a Gaussian, E[ln v̂] = ln v + ψ((S − 1)/2) − ln((S − 1)/2), which is put right as well.
    """
    generator = torch.Generator().manual_seed(seed)
    parameter = next(model.parameters())
    means, variances, log_dets, displacements, kls = [], [], [], [], []
    at_once = max(1, NUMBERS_AT_ONCE // (SAMPLES * model.latent))
    for start in range(0, len(images), at_once):
        x = torch.tensor(images[start : start + at_once], dtype=parameter.dtype, device=parameter.device)
        posterior = model.infer(x)
        shape = (SAMPLES, len(x), posterior.noise_size)
        noise = torch.randn(shape, generator=generator, dtype=x.dtype).to(x.device)
        z_0 = posterior.mean + (0.5 * posterior.log_variance).exp() * noise[..., : model.latent]
        z_K, _, log_det = model.sample(posterior, noise)
        means.append(z_K.double().mean(0))
        variances.append(z_K.double().var(0))
        log_dets.append(log_det.double().mean(0))
        displacements.append(torch.linalg.vector_norm((z_K - z_0).double(), dim=-1).mean(0))
        kls.append(_kl_by_layer(model, posterior, z_0, z_K, log_det))
    mean, variance = torch.cat(means), torch.cat(variances)
    from scipy.special import digamma  # As it takes a third as long to load as all that training needs.

    half = (SAMPLES - 1) / 2
    log_variance = variance.clamp(min=torch.finfo(torch.float64).tiny).log() - (float(digamma(half)) - math.log(half))
    kl = 0.5 * (mean.square() - variance / SAMPLES + variance - 1 - log_variance).mean(0)
    activity = mean.var(0) - variance.mean(0) / SAMPLES if len(mean) > 1 else torch.zeros_like(kl)
    return PosteriorSummary(
        int((activity > ACTIVE).sum()),
        kl.cpu().numpy(),
        torch.cat(log_dets).cpu().numpy(),
        torch.cat(displacements).cpu().numpy(),
        tuple(int((own > ACTIVE).sum()) for own in activity.split(model.sizes)),
        tuple(torch.cat(kls).mean(0).tolist()),
    )


def _kl_by_layer(model: DLGM, posterior: Posterior, z_0: Tensor, z_K: Tensor, log_det: Tensor) -> Tensor:
    """Return the mean over samples of ln q_l,K − ln p(ξ_l) of each layer, (B, L), of what `DLGM.sample` returned."""
    if len(model.sizes) == 1:
        log_dets = log_det.unsqueeze(-1)
    elif isinstance(model.flow, LayeredFlow):
        _, log_dets = model.flow.by_layer(z_0, posterior.flow_parameters)
    else:
        return z_0.new_empty(z_0.shape[-2], 0, dtype=torch.float64)
    standard = (z_0 - posterior.mean) * (-0.5 * posterior.log_variance).exp()
    each = 0.5 * (z_K.double().square() - standard.double().square() - posterior.log_variance.double())
    by_layer = [own.sum(-1) for own in each.split(model.sizes, dim=-1)]
    return (torch.stack(by_layer, dim=-1) - log_dets.double()).mean(0)


class GradientMoments(NamedTuple):
    """What R draws of a gradient g say of it, over all of some weights together."""

    mean_square: float
    """‖ḡ‖², of the mean of the draws; too large by `variance` / R."""
    variance: float
    """tr Cov[g], estimated without bias."""
    draws: int
    """R."""

    @property
    def snr(self) -> float:
        """‖E[g]‖ / √tr Cov[g]; NaN where the draws do not differ.

        ‖E[g]‖² is estimated without bias, and is 0 where that is negative: R draws do not tell it from 0.
        """
        if not self.variance > 0:
            return math.nan
        return math.sqrt(max(0.0, self.mean_square - self.variance / self.draws) / self.variance)


def gradient_moments(losses: Iterable[Tensor], weights: list[nn.Parameter]) -> GradientMoments:
    """Return the moments of the gradient of a loss over some weights.

    Arguments:
        losses: R ≥ 2 scalars, whose gradients are draws of g, such as of one minibatch with other noise.
        weights: over which the gradient is taken; those that it does not reach have the gradient 0.
    """
    total = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    squares, count = 0.0, 0
    for loss in losses:
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        found: list[Tensor | None] = [None if gradient is None else gradient.double() for gradient in gradients]
        for whole, part in zip(total, found, strict=True):
            if part is not None:
                whole += part
                squares += part.square().sum().item()
        count += 1
    mean_square = sum(whole.square().sum().item() for whole in total) / count**2
    return GradientMoments(mean_square, (squares - count * mean_square) / (count - 1), count)
