"""pythae (Chadebec et al. 2022): parameters are shared by all rows, and nothing keeps its planar steps invertible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from pythae.models import VAE_LinNF, VAE_LinNF_Config
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.normalizing_flows import (
    IAF,
    IAFConfig,
    PlanarFlow,
    PlanarFlowConfig,
    RadialFlow,
    RadialFlowConfig,
)
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.contest import HIDDEN, Contest, Contestant, Outcome, torch_contestant
from nfstudy.flows.base import StepHead
from nfstudy.flows.planar.flow import constrain_u
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.inference.models.maxout import Maxout

BATCH = 1000
"""Samples in a batch of `get_nll`."""


def contestants(contest: Contest) -> Sequence[Contestant]:
    """Return its planar, radial or IAF chain."""
    torch.manual_seed(0)
    size = (contest.latent,)
    if contest.family == "planar":
        u, w, b = map(torch.tensor, contest.planar(amortised=False))
        layers = planar_layers(constrain_u(u, w)[0], w, b)
        note = "shared parameters; no constraint; 1e-4 inside the logarithm"
        return [_contestant(contest, layers, list(layers), True, note)]
    if contest.family == "radial":
        layers = nn.ModuleList()
        for z0, alpha, beta in zip(*map(torch.tensor, contest.radial(amortised=False)), strict=True):
            layer = RadialFlow(RadialFlowConfig(input_dim=size))
            layer.load_state_dict({"x0": z0[None], "log_alpha": alpha.log()[None], "beta": beta[None]})
            layers.append(layer)
        return [_contestant(contest, layers, list(layers), True, "shared parameters")]
    if contest.family == "iaf":
        made = {"n_made_blocks": contest.length, "n_hidden_in_made": 1, "hidden_size": HIDDEN["iaf"]}
        flow = IAF(IAFConfig(input_dim=size, **made))
        # Its `inverse` is the direction in which Kingma et al. (2016) sample; `forward` takes D passes a step.
        return [_contestant(contest, flow, [flow.inverse], False, "shared parameters; ReLU; no gate")]
    return []


def planar_layers(u: Tensor, w: Tensor, b: Tensor) -> nn.ModuleList:
    """Return layers f(z) = z + u tanh(wᵀz + b), as its `VAE_LinNF` holds them.

    Arguments:
        u: (K, D); taken as it is, without the constraint.
        w: (K, D).
        b: (K,).
    """
    layers = nn.ModuleList()
    for u_k, w_k, b_k in zip(u, w, b, strict=True):
        layer = PlanarFlow(PlanarFlowConfig(input_dim=tuple(u_k.shape), activation="tanh"))
        layer.load_state_dict({"u": u_k[None], "w": w_k[None], "b": b_k[None]})
        layers.append(layer)
    return layers


def _contestant(
    contest: Contest, weights: nn.Module, steps: Sequence[Callable[[Tensor], ModelOutput]], same: bool, note: str
) -> Contestant:
    def chain(z: Tensor) -> Outcome:
        log_det = z.new_zeros(len(z))
        for step in steps:
            output = step(z)
            z = output.out
            log_det = log_det + output.log_abs_det_jac
        return z, log_det

    return torch_contestant("pythae", False, chain, list(weights.parameters()), contest, same, note)


class _TorchLayer(nn.Module):
    """A layer of ours, with its weights, by torch's own functions; of those that do Maxout, pooling is the fastest."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.linear = layer.pieces if isinstance(layer, Maxout) else cast(nn.Linear, layer)
        self.window = layer.window if isinstance(layer, Maxout) else 1

    def forward(self, x: Tensor) -> Tensor:
        pieces = functional.linear(x, self.linear.weight, self.linear.bias)
        return functional.max_pool1d(pieces, self.window) if self.window > 1 else pieces


class _Encoder(BaseEncoder):
    """q0(z_0|x) of one of our models."""

    def __init__(self, model: DLGM, layer: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.hidden = nn.Sequential(*map(layer, model.encoder))
        self.mean, self.log_variance = layer(model.mean), layer(model.log_variance)

    def forward(self, x: Tensor) -> ModelOutput:
        features = self.hidden(x)
        return ModelOutput(embedding=self.mean(features), log_covariance=self.log_variance(features))


class _Decoder(BaseDecoder):
    """The means p(x_i = 1|z) of one of our models."""

    def __init__(self, model: DLGM, layer: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.logits = nn.Sequential(*map(layer, [*model.decoder, model.likelihood.logits]))

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.logits(z).sigmoid())


@torch.no_grad()
def wrap_model(model: DLGM, our_layers: bool = False) -> VAE_LinNF:
    """Return a `VAE_LinNF` with the networks and, if it has any, the planar steps of one of our models of bits.

    Arguments:
        model: whose steps' parameters are the same for all images: the biases of the head, whose weights are 0.
        our_layers: whether the networks are made of our own layers; else of torch's, as pythae's users make them.
    """
    logits = cast(nn.Linear, model.likelihood.logits)
    sizes = {"input_dim": (logits.out_features,), "latent_dim": model.mean.out_features}
    config = VAE_LinNF_Config(**sizes, reconstruction_loss="bce", flows=[])
    layer = _itself if our_layers else _TorchLayer
    peer = VAE_LinNF(config, encoder=_Encoder(model, layer), decoder=_Decoder(model, layer))
    if model.flow.length:
        numbers = cast(StepHead, model.flow.head).bias.unflatten(0, (model.flow.length, -1))
        u, w, b = numbers.split([model.flow.latent, model.flow.latent, 1], dim=-1)
        peer.net = planar_layers(constrain_u(u, w)[0], w, b.squeeze(-1))
    return peer.eval()


def _itself(layer: nn.Module) -> nn.Module:
    return layer


@torch.no_grad()
def log_likelihood(model: VAE_LinNF, images: np.ndarray, samples: int) -> float:
    """Return the mean of ln p(x) in nats, which is what `get_nll` returns in spite of its name.

    Its batches, by default of 100 samples, are as large as it is fastest with; it leaves out what fills no batch.

    Raises:
        ValueError: `samples` is more than a batch, and no multiple of one.
    """
    batch = min(samples, BATCH)
    if samples % batch:
        raise ValueError(f"{samples} samples; expected: at most {BATCH}, or a multiple")
    return float(model.get_nll(torch.tensor(images), n_samples=samples, batch_size=batch))
