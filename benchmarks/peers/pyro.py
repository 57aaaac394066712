"""Pyro (Bingham et al. 2019): conditional transforms with parameters of each row's own, and others with shared ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from pyro.distributions import transforms
from pyro.distributions.transforms.householder import ConditionedHouseholder
from pyro.nn import ConditionalAutoRegressiveNN, ConditionalDenseNN, DenseNN
from torch import Tensor, nn

from benchmarks.contest import HIDDEN, Contest, Contestant, Outcome, torch_contestant
from nfstudy.flows.full_covariance.flow import cholesky_factor

CONTEXT = 1
"""Width of what moves each autoregressive network: the least, for the work of a wider one is that of our head."""


def contestants(contest: Contest) -> Sequence[Contestant]:
    """Return its chains of a family.

    Planar, radial and Householder steps are of both kinds, IAF and RealNVP are moved by a context, and Sylvester steps,
    splines and a triangular matrix are shared.
    """
    torch.manual_seed(0)
    given: Callable[[bool], Sequence]
    if contest.family == "planar":
        order, conditional, shared = (2, 0, 1), transforms.ConditionalPlanar, transforms.Planar
        given = contest.planar
    elif contest.family == "radial":
        order, conditional, shared = (0, 1, 2), transforms.ConditionalRadial, transforms.Radial

        def radial(amortised: bool) -> Sequence:
            z0, alpha, beta = contest.radial(amortised)
            return z0, torch.tensor(alpha).expm1().log().numpy(), beta

        given = radial

    elif contest.family == "iaf":
        return [_iaf(contest)]
    elif contest.family == "householder":
        return [_householder(contest, amortised) for amortised in (True, False)]
    elif contest.family == "full-covariance":
        return [_full_covariance(contest)]
    elif contest.family == "spline":
        return [_spline(contest)]
    elif contest.family == "realnvp":
        return [_realnvp(contest)]
    elif contest.family == "sylvester":
        return [_sylvester(contest)]
    else:
        return []
    return [
        _amortised(contest, conditional, given(True), order),
        _shared(contest, shared, given(False), order),
    ]


def _amortised(
    contest: Contest, kind: Callable[[Callable], Any], numbers: Sequence, order: Sequence[int]
) -> Contestant:
    """Return a conditional chain whose network gives the numbers as they are: it takes no time.

    Each step's are tensors of their own, so that their gradients need not be put together.
    """
    columns = [torch.tensor(x) for x in numbers]
    steps = []
    for k in range(contest.length):
        step = [columns[i][:, k] if columns[i].dim() == 3 else columns[i][:, k, None] for i in order]
        steps.append(tuple(x.contiguous().requires_grad_() for x in step))
    conditionals = [kind(_as_given) for _ in steps]

    def chain(z: Tensor) -> Outcome:
        return _through([flow.condition(step) for flow, step in zip(conditionals, steps, strict=True)], z)

    return torch_contestant("pyro", True, chain, [x for step in steps for x in step], contest)


def _as_given(context: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return context


def _shared(contest: Contest, kind: Callable[[int], nn.Module], numbers: Sequence, order: Sequence[int]) -> Contestant:
    flows = nn.ModuleList(kind(contest.latent) for _ in range(contest.length))
    names = [name for name, _ in flows[0].named_parameters()]
    columns = [torch.tensor(numbers[i]) for i in order]
    for k, flow in enumerate(flows):
        flow.load_state_dict({name: x[k].reshape(flow.get_parameter(name).shape) for name, x in _by(names, columns)})
    return torch_contestant(
        "pyro", False, lambda z: _through(flows, z), list(flows.parameters()), contest, note="shared parameters"
    )


def _by(names: Sequence[str], columns: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    return list(zip(names, columns, strict=True))


def _iaf(contest: Contest) -> Contestant:
    """Return the form with the gate σ, of eq. (14) in Kingma et al. (2016), each step with its own random order."""
    context = torch.randn(contest.batch, CONTEXT, requires_grad=True)
    networks = [ConditionalAutoRegressiveNN(contest.latent, CONTEXT, [HIDDEN["iaf"]]) for _ in range(contest.length)]
    flows: Any = nn.ModuleList(transforms.ConditionalAffineAutoregressive(network, stable=True) for network in networks)
    return torch_contestant(
        "pyro",
        True,
        lambda z: _through([flow.condition(context) for flow in flows], z),
        [context, *flows.parameters()],
        contest,
        same=False,
        note=f"ReLU; {CONTEXT} feature of the image enters each network",
    )


def _householder(contest: Contest, amortised: bool) -> Contestant:
    """Return reflections by vectors of each row's own, or shared ones; one transform has all K of them."""
    v = torch.tensor(contest.householder(amortised)[0], requires_grad=True)
    flow = ConditionedHouseholder(v)
    note = "" if amortised else "shared parameters"
    return torch_contestant("pyro", amortised, lambda z: _through([flow], z), [v], contest, note=note)


def _full_covariance(contest: Contest) -> Contestant:
    """Return the product with a Cholesky factor, a square matrix: its log-determinant allows none of each row's own."""
    factor = cholesky_factor(*map(torch.tensor, contest.full_covariance(False))).requires_grad_()
    flow = transforms.LowerCholeskyAffine(torch.zeros(contest.latent), factor)
    return torch_contestant("pyro", False, lambda z: _through([flow], z), [factor], contest, note="shared parameters")


def _spline(contest: Contest) -> Contestant:
    half, bins = contest.latent // 2, 8
    rest = contest.latent - half
    sizes = [rest * bins, rest * bins, rest * (bins - 1)]
    flows: Any = nn.ModuleList(
        transforms.SplineCoupling(
            contest.latent,
            half,
            DenseNN(half, [HIDDEN["spline"]], sizes),
            count_bins=bins,
            bound=5.0,
            order="quadratic",
            identity=True,
        )
        for _ in range(contest.length)
    )
    orders = [transforms.Permute(torch.randperm(contest.latent)) for _ in flows]
    steps = [each for step in zip(orders, flows, strict=True) for each in step]
    # The spline of what passes unchanged has weights that are not used.
    used = [weight for flow in flows for weight in flow.upper_spline.parameters()]
    note = "shared parameters; ReLU"
    return torch_contestant("pyro", False, lambda z: _through(steps, z), used, contest, same=False, note=note)


def _realnvp(contest: Contest) -> Contestant:
    half, context = contest.latent // 2, torch.randn(contest.batch, CONTEXT, requires_grad=True)
    sizes = [contest.latent - half] * 2
    networks = [ConditionalDenseNN(half, CONTEXT, [HIDDEN["realnvp"]], sizes) for _ in range(contest.length)]
    flows: Any = nn.ModuleList(transforms.ConditionalAffineCoupling(half, network) for network in networks)
    orders = [transforms.Permute(torch.randperm(contest.latent)) for _ in flows]

    def chain(z: Tensor) -> Outcome:
        steps = zip(orders, (flow.condition(context) for flow in flows), strict=True)
        return _through([each for step in steps for each in step], z)

    note = f"ReLU; {CONTEXT} feature of the image enters each network"
    return torch_contestant("pyro", True, chain, [context, *flows.parameters()], contest, same=False, note=note)


def _sylvester(contest: Contest) -> Contestant:
    flows = nn.ModuleList(transforms.sylvester(contest.latent) for _ in range(contest.length))
    return torch_contestant(
        "pyro",
        False,
        lambda z: _through(flows, z),
        list(flows.parameters()),
        contest,
        same=False,
        note=f"shared parameters; {contest.latent // 2 + 1} reflections; its log-determinant is wrong",
    )


def _through(flows: Iterable[Any], z: Tensor) -> Outcome:
    # Transforms remember what they last made of a tensor by its identity: a new one has them compute again.
    z = z.view_as(z)
    log_det = z.new_zeros(z.shape[:-1])
    for flow in flows:
        out = flow(z)
        log_det = log_det + flow.log_abs_det_jacobian(z, out)
        z = out
    return z, log_det
