"""nfstudy's entries into a contest, through the classes that a study uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from benchmarks.contest import Contest, Contestant, torch_contestant
from nfstudy.core.seeds import derive_seed
from nfstudy.flows import make_flow
from nfstudy.flows.base import Flow, StepHead


def contestants(contest: Contest) -> Sequence[Contestant]:
    """Return the chain with parameters of each row's own, and with shared ones.

    The head that makes them is left out, as are the networks for them of the others.
    """
    return [amortised(contest), shared(contest)]


def amortised(contest: Contest) -> Contestant:
    """Return the chain with parameters of each row's own."""
    return _contestant(contest, True)


def shared(contest: Contest) -> Contestant:
    """Return the chain with parameters that all rows share."""
    return _contestant(contest, False)


def _contestant(contest: Contest, amortised: bool) -> Contestant:
    spec = contest.spec(amortised)
    # With a feature of its own for each row, a head can give each row any numbers.
    flow = make_flow(spec, contest.latent, contest.batch if amortised else 0)
    flow.initialise(_generator)
    numbers = _numbers_of_steps(contest, amortised)
    if numbers is not None:
        _give(flow, numbers)
    features = contest.batch**0.5 * torch.eye(contest.batch) if amortised else torch.empty(0)
    # What the head returns is kept as it lies in memory.
    parameters = tuple(x.detach().requires_grad_() for x in flow.parameters_from(features))
    leaves = [*parameters, *_weights_of_chain(flow, parameters, contest)]
    notes = [] if amortised else ["shared parameters"]
    if contest.family == "sylvester":
        notes.append(f"{min(spec.sylvester_columns, contest.latent)} directions")
    return torch_contestant(
        "nfstudy", amortised, lambda z: flow(z, parameters), leaves, contest, numbers is not None, "; ".join(notes)
    )


def _numbers_of_steps(contest: Contest, amortised: bool) -> Tensor | None:
    """Return what the head is to say of each step, (B, K, n) or (K, n); None where the contest draws no parameters."""
    if contest.family == "planar":
        u, w, b = map(torch.tensor, contest.planar(amortised))
        return torch.cat([u, w, b.unsqueeze(-1)], dim=-1)
    if contest.family == "radial":
        z0, alpha, beta = map(torch.tensor, contest.radial(amortised))
        return torch.cat([z0, torch.stack([alpha.expm1().log(), beta], dim=-1)], dim=-1)
    if contest.family == "householder":
        return torch.tensor(contest.householder(amortised)[0])
    if contest.family == "full-covariance":
        return torch.cat([*map(torch.tensor, contest.full_covariance(amortised))], dim=-1).unsqueeze(-2)
    return None


@torch.no_grad()
def _give(flow: Flow, numbers: Tensor) -> None:
    """Set the head so that it returns numbers of each row's own (B, K, n), for a feature of each row, or (K, n)."""
    head = cast(StepHead, flow.head)
    if numbers.dim() == 3:
        head.weight.copy_(numbers.flatten(1).T)
        head.bias.zero_()
    else:
        head.bias.copy_(numbers.flatten())


def _weights_of_chain(flow: Flow, parameters: tuple[Tensor, ...], contest: Contest) -> Sequence[Tensor]:
    """Return the weights that the chain itself has, such as those of a coupling network: those with a gradient."""
    z_K, log_det = flow(torch.tensor(contest.z_0()), parameters)
    weights = list(flow.parameters())
    gradients = torch.autograd.grad(z_K.sum() + log_det.sum(), weights, allow_unused=True)
    return [weight for weight, gradient in zip(weights, gradients, strict=True) if gradient is not None]


def _generator(part: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(0, "benchmark", part))
