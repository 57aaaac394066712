"""What every flow owes its users, checked: `check-plugin` and the tests run it on every family that is declared."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from nfstudy.core.declarations import FlowFamily
from nfstudy.core.errors import UserError
from nfstudy.core.fields import first_mistake
from nfstudy.flows import load_flow
from nfstudy.flows.base import Flow, StepHead
from nfstudy.flows.guided import GuidedFlow

IMAGES, SAMPLES = 3, 2
ALL = slice(None)
"""Of the images."""
SPREADS = (0.0, 0.3, 1.5)
"""Standard deviations of what is added to every weight: the chain as it starts, after training, and far from both."""
WEIGHED = 4000
"""Samples whose mean importance weight is compared with 1, for each image."""
TOLERANCE = 1e-6
"""Of log-determinants, and of an image's numbers by other ways or alone; absolute and relative, in float64."""
SINGLE_TOLERANCE = 1e-3
"""Of float32 numbers against those of float64, absolute and relative; where the suite's own families meet 10⁻⁵."""


class ContractError(UserError):
    """A flow that is not what it says; the message names the family, its settings, and what is wrong."""


def check_family(family: FlowFamily, further: Sequence[Mapping[str, Any]] = ()) -> int:
    """Check a family's implementation at its examples and at further settings; return how many chains were looked at.

    For D = the least and three more variables, K = 1 and 3, with and without features, at weights near and far from
    where they start: shapes, the log-determinant against the Jacobian's by automatic differentiation, each image's
    numbers depending on that image alone and the same again, gradients that reach every weight, the same weights from
    the same generators, the inverse where the family has one, and of float32 finite float32 numbers, which near the
    start are those of float64, by `for_samples` too. Of a guided family, in place of log-determinant and inverse:
    importance weights of a known density, whose mean is 1.

    Raises:
        ContractError: something does not hold.
    """
    count = 0
    sizes = (family.least_latent, family.least_latent + 3)
    examples = [*family.examples, *(each for each in further if each not in family.examples)]
    for example, latent, length, features in product(examples, sizes, (1, 3), (0, 5)):
        where = f"flow {family.name} with D = {latent}, K = {length}, F = {features}, {dict(example) or 'defaults'}"
        try:
            flow = _make(family, example, latent, length, features)
            if drawn := _drawn_elsewhere(family, example, flow):
                raise ContractError(f"{where}: {drawn}")
            mistakes = _mistakes(family, flow, _settings(family, example))
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # Somebody else's code: it may raise anything.
            raise ContractError(f"{where}: {type(error).__name__}: {error}") from error
        for mistake in mistakes:
            raise ContractError(f"{where}: {mistake}")
        count += 1
    return count


def _settings(family: FlowFamily, example: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for record in family.records:
        given = {name: example[name] for name in record.model_fields if name in example}
        try:
            settings |= dict(record.model_validate(given))
        except ValidationError as error:
            raise ContractError(f"flow {family.name}: examples: {first_mistake(error)}") from None
    if unknown := sorted(example.keys() - settings.keys()):
        raise ContractError(f"flow {family.name}: examples: {unknown[0]}: no such setting; expected: one of its own")
    return settings


def _make(family: FlowFamily, example: Mapping[str, Any], latent: int, length: int, features: int) -> Flow:
    flow = load_flow(family)(latent, length, features, **_settings(family, example)).double()
    flow.initialise(_generator)
    return flow


def _drawn_elsewhere(family: FlowFamily, example: Mapping[str, Any], flow: Flow) -> str:
    """Return what differs in another chain that is made from the same generators; empty where nothing does."""
    torch.rand(1)  # What is left to torch's own generator comes out otherwise now.
    before = torch.get_rng_state()
    flow.initialise(_generator)
    if not torch.equal(torch.get_rng_state(), before):
        words = "it draws from torch's own generator; expected: draws from `generator(part)` alone"
        return f"initialise is not reproducible: {words}"
    other = _make(family, example, flow.latent, flow.length, flow.features).state_dict()
    changed = [name for name, value in flow.state_dict().items() if not _same(value, other[name])]
    words = "expected: every weight set by `initialise`, with draws from `generator(part)` alone"
    return f"initialise is not reproducible: {changed[0]} of another chain differs; {words}" if changed else ""


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _generator(part: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(part.encode()).digest()[:7], "big"))


def _mistakes(family: FlowFamily, flow: Flow, settings: Mapping[str, Any]) -> list[str]:
    """Return the first thing that does not hold of a chain, if any."""
    return next(([found] for found in _all_mistakes(family, flow, settings) if found), [])


def _all_mistakes(family: FlowFamily, flow: Flow, settings: Mapping[str, Any]) -> Iterator[str]:
    start = {name: value.clone() for name, value in flow.state_dict().items()}
    flow.initialise(_generator)
    changed = [name for name, value in flow.state_dict().items() if not torch.equal(value, start[name])]
    if changed:
        yield f"initialise is not reproducible: {changed[0]}; expected: draws from `generator(part)` alone"
    generator = torch.Generator().manual_seed(0)
    features = torch.randn((IMAGES, flow.features) if flow.features else 0, generator=generator, dtype=torch.float64)
    z = torch.randn(SAMPLES, IMAGES, flow.latent, generator=generator, dtype=torch.float64)
    if isinstance(flow, GuidedFlow) != family.guided:
        yield f"is {'no' if family.guided else 'a'} GuidedFlow; expected: what `guided` of the declaration says"
        return
    if other := _other_than_tensors(flow.parameters_from(features)):
        yield f"parameters_from: got {other}; expected: a tuple of tensors, or of such tuples"
        return
    if family.drawn and not isinstance(getattr(flow, "head", None), StepHead):
        yield "got no `head` that is a StepHead; expected: one, with `drawn`: steps are drawn by its biases"
        return
    has_inverse = family.inverse and all(settings.get(name) == value for name, value in family.inverse_needs.items())
    near = list[tuple[str, dict[str, Tensor], tuple[Tensor, Tensor]]]()
    for spread in SPREADS:
        with torch.no_grad():
            for name, weights in flow.named_parameters():
                noise = torch.randn(weights.shape, generator=generator, dtype=torch.float64)
                weights.copy_(start[name] + spread * noise)
        at = f"at weights {spread:g} from their start: " if spread else ""
        checked = (
            _guided_at_weights(flow, features, generator, spread < 1)
            if isinstance(flow, GuidedFlow)
            else _at_weights(flow, z, features, has_inverse and spread < 1)
        )
        yield from (f"{at}{found}" for found in checked if found)
        with torch.no_grad():
            exact = _outcome(flow, z, features)
        if found := _alone(flow, z, features, exact):
            yield f"{at}{found}"
        if spread < 1:  # Far from the start, a chain may be too ill-conditioned for float32.
            near.append((at, {name: value.clone() for name, value in flow.state_dict().items()}, exact))
    if spread and (found := _gradients(flow, z, features)):
        yield found
    single = flow.float()
    for at, state, exact in near:
        single.load_state_dict(state)
        if found := _in_float32(single, z.float(), features.float(), exact):
            yield f"{at}float32: {found}"


def _other_than_tensors(found: object) -> str:
    """Return the type of what is neither tensor nor tuple in a flow's parameters; empty where there is nothing else."""
    if isinstance(found, tuple):
        return next((other for part in found if (other := _of_other_type(part))), "")
    return type(found).__name__


def _of_other_type(part: object) -> str:
    return "" if isinstance(part, Tensor) else _other_than_tensors(part)


def _outcome(flow: Flow, z: Tensor, features: Tensor, images: slice = ALL) -> tuple[Tensor, Tensor]:
    """Return z_K and log-determinants of a minibatch of these images; of a guided flow, of `_log_density` and noise."""
    parameters = flow.parameters_from(features[images] if flow.features else features)
    z_0 = z[:, images].contiguous()
    if not isinstance(flow, GuidedFlow):
        return flow(z_0, parameters)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(*z.shape[:-1], flow.further_noise, generator=generator, dtype=torch.float64).to(z)
    return flow.guided(z_0, parameters, noise[:, images].contiguous(), partial(_log_density, images=images))


def _log_density(z: Tensor, images: slice = ALL) -> Tensor:
    """Return ln N(z; m, 0.8² I), (..., B), of z (..., B, D) of these images; of all, m = 0, ½, 1, ..."""
    off = (z - 0.5 * torch.arange(IMAGES, dtype=z.dtype)[images].unsqueeze(-1)) / 0.8
    return -0.5 * (off.square() + math.log(2 * math.pi * 0.64)).sum(-1)


@torch.no_grad()
def _alone(flow: Flow, z: Tensor, features: Tensor, together: tuple[Tensor, Tensor]) -> str:
    """Return which image has other numbers in a minibatch of its own; empty where none has."""
    for image in range(IMAGES):
        own = slice(image, image + 1)
        for found, among in zip(_outcome(flow, z, features, own), together, strict=True):
            if not _apart(found, among[:, own]) <= TOLERANCE:
                words = "expected: the same, of its own z_0 and features"
                return f"image {image}: got other numbers without the other images of its minibatch; {words}"
    return ""


def _in_float32(flow: Flow, z: Tensor, features: Tensor, exact: tuple[Tensor, Tensor]) -> str:
    """Return what is wrong with a chain's numbers in float32, `exact` being those of float64; empty where nothing is.

    Faster ways through a chain are often of float32 alone, and so are not what has been checked in float64.
    """
    ways = {"": _outcome(flow, z, features)}
    if not isinstance(flow, GuidedFlow):
        flow.eval()
        with torch.no_grad():
            ways["for_samples: "] = flow.for_samples(flow.parameters_from(features))(z.clone())
        flow.train()
    for name, found in ways.items():
        if kinds := {str(each.dtype) for each in found} - {"torch.float32"}:
            return f"{name}got {', '.join(sorted(kinds))} of float32 z_0; expected: torch.float32"
        if not all(each.isfinite().all() for each in found):
            return f"{name}non-finite numbers; expected: finite ones, as in float64"
        apart = max(_apart(each.detach(), own) for each, own in zip(found, exact, strict=True))
        if not apart <= SINGLE_TOLERANCE:
            return f"{name}got numbers {apart:.2g} from those in float64; expected: within {SINGLE_TOLERANCE:g}"
    return ""


def _apart(found: Tensor, own: Tensor) -> float:
    """Return the largest difference over 1 + the largest of a chain's own numbers; infinite where the shapes differ."""
    if found.shape != own.shape:
        return math.inf
    return ((found - own).abs().max() / (1 + own.abs().max())).item()


def _guided_at_weights(flow: GuidedFlow, features: Tensor, generator: torch.Generator, weighed: bool) -> Iterator[str]:
    """Check a guided flow; `weighed` says whether the weights' mean too, which has no error far from the start."""
    z = torch.randn(WEIGHED, IMAGES, flow.latent, generator=generator, dtype=torch.float64)
    noise = torch.randn(WEIGHED, IMAGES, flow.further_noise, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        z_K, c = flow.guided(z, flow.parameters_from(features), noise, _log_density)
        if z_K.shape != z.shape or c.shape != z.shape[:-1]:
            yield f"of z_0 {tuple(z.shape)} came z_K {tuple(z_K.shape)} and c {tuple(c.shape)}; expected: one of each"
            return
        if not (z_K.isfinite().all() and c.isfinite().all()):
            yield "non-finite numbers; expected: finite ones"
            return
        log_q0 = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
        weights = (_log_density(z_K) - log_q0 + c).exp()
        error = weights.std(0) / WEIGHED**0.5
        for image in range(IMAGES if weighed else 0):
            if not abs(weights[:, image].mean() - 1) <= 5 * error[image] + TOLERANCE:
                yield f"mean weight: {weights[:, image].mean():.4g} ± {error[image]:.2g}; expected: 1"
    few, few_noise = z[:SAMPLES].requires_grad_(), noise[:SAMPLES]
    jacobian = torch.autograd.functional.jacobian(
        lambda z: flow.guided(z, flow.parameters_from(features), few_noise, _log_density)[0], few
    )
    for s, image in product(range(SAMPLES), range(IMAGES)):
        own = jacobian[s, image, :, s, image].abs().sum()
        if jacobian[s, image].abs().sum() - own > TOLERANCE * (1 + own):
            yield f"sample {s} of image {image} depends on others; expected: on its own z_0 and features"


def _at_weights(flow: Flow, z: Tensor, features: Tensor, has_inverse: bool) -> Iterator[str]:
    parameters = flow.parameters_from(features)
    given = z.clone()
    z_K, log_det = flow(z, parameters)
    if not torch.equal(z, given):
        yield "changes its z_0; expected: other tensors for z_K"
        return
    if z_K.shape != z.shape or log_det.shape != z.shape[:-1]:
        yield (
            f"of z_0 {tuple(z.shape)} came z_K {tuple(z_K.shape)} and log-determinants {tuple(log_det.shape)}; "
            f"expected: {tuple(z.shape)} and {tuple(z.shape[:-1])}"
        )
        return
    if not (z_K.isfinite().all() and log_det.isfinite().all()):
        yield "non-finite numbers; expected: finite ones"
        return
    again = flow(z, flow.parameters_from(features))
    if not (torch.equal(again[0], z_K) and torch.equal(again[1], log_det)):
        yield "other numbers of the same z_0 and features; expected: the same, without draws or counts of its own"
        return
    if said := _other_ways(flow, z, features, z_K, log_det):
        yield said
        return
    jacobian = torch.autograd.functional.jacobian(lambda z: flow(z, flow.parameters_from(features))[0], z)
    for s, image in product(range(SAMPLES), range(IMAGES)):
        own = jacobian[s, image, :, s, image]
        others = jacobian[s, image].abs().sum() - own.abs().sum()
        if others > TOLERANCE * (1 + own.abs().sum()):
            yield f"sample {s} of image {image} depends on others; expected: on its own z_0 and features"
        true = torch.linalg.slogdet(own).logabsdet
        # What the Jacobian itself says is as uncertain as it is ill-conditioned.
        uncertain = torch.linalg.cond(own) * torch.finfo(own.dtype).eps
        if not abs(log_det[s, image] - true) <= TOLERANCE * (1 + abs(true)) + 10 * flow.latent * uncertain:
            yield (
                f"log-determinant: got {log_det[s, image]:.9g} nats, and the Jacobian's is {true:.9g}; "
                "expected: ln|det ∂z_K/∂z_0|"
            )
    yield _steps_one_by_one(flow, z, parameters)
    if has_inverse:
        with torch.no_grad():
            error = (flow.inverse(z_K, parameters) - z).abs().amax(-1)
        for s, image in product(range(SAMPLES), range(IMAGES)):
            # z_K is known to rounding only, which the inverse makes larger where the chain is all but flat.
            least = torch.linalg.svdvals(jacobian[s, image, :, s, image]).min()
            rounding = torch.finfo(z.dtype).eps * (1 + z_K[s, image].abs().max())
            if not error[s, image] <= TOLERANCE + 10 * flow.latent * rounding / least:
                yield (
                    f"inverse: error in z_0 of {error[s, image]:.3g}; expected: the z_0 that z_K came from, to rounding"
                )


@torch.no_grad()
def _other_ways(flow: Flow, z: Tensor, features: Tensor, z_K: Tensor, log_det: Tensor) -> str:
    """Return which other way through the chain leads elsewhere: by other axes, when evaluated, of many samples."""
    parameters = flow.parameters_from(features)
    for axes, of_these in (("(B, D)", z[0]), ("(R, S, B, D)", z.unsqueeze(0))):
        for found, own in zip(flow(of_these, parameters), (z_K, log_det), strict=True):
            own = own[0] if of_these.dim() == 2 else own.unsqueeze(0)
            if not _apart(found, own) <= TOLERANCE:
                return f"of z_0 {axes}: gives other numbers; expected: those of (S, B, D), for any axes before (B, D)"
    flow.eval()
    parameters = flow.parameters_from(features)
    ways = {"eval()": flow(z, parameters), "for_samples": flow.for_samples(parameters)(z.clone())}
    flow.train()
    for name, (end, determinant) in ways.items():
        for found, own in ((end, z_K), (determinant, log_det)):
            if found.shape != own.shape or not torch.allclose(found, own, TOLERANCE, TOLERANCE, equal_nan=True):
                return f"{name}: gives other numbers than `forward` in training; expected: the same of the same z_0"
    return ""


@torch.no_grad()
def _steps_one_by_one(flow: Flow, z: Tensor, parameters: tuple[Tensor, ...]) -> str:
    """Return what is wrong with the chain's beginning, if it shows one: its log-determinant is its Jacobian's."""
    if flow.length < 2 or not flow.shows_steps:
        return ""
    first, own = flow.first_steps(flow.length - 1, parameters)
    z_k, log_det = first(z, own)
    with torch.enable_grad():
        jacobian = torch.autograd.functional.jacobian(lambda z: first(z, own)[0], z)
    if z_k.shape != z.shape or log_det.shape != z.shape[:-1]:
        return f"first_steps: z_k {tuple(z_k.shape)}; expected: {tuple(z.shape)}"
    for s, image in product(range(SAMPLES), range(IMAGES)):
        within = jacobian[s, image, :, s, image]
        true = torch.linalg.slogdet(within).logabsdet
        uncertain = torch.linalg.cond(within) * torch.finfo(within.dtype).eps
        if not abs(log_det[s, image] - true) <= TOLERANCE * (1 + abs(true)) + 10 * flow.latent * uncertain:
            return (
                f"first_steps: log-determinant: got {log_det[s, image]:.9g} nats, and the Jacobian's is {true:.9g}; "
                "expected: those of the first steps"
            )
    return ""


def _gradients(flow: Flow, z: Tensor, features: Tensor) -> str:
    flow.zero_grad()
    z_K, log_det = _outcome(flow, z, features)
    loss = z_K.sin().sum() + (z_K.square().sum(-1) * log_det + log_det).sum()
    if loss.requires_grad:
        loss.backward()
    for name, weights in flow.named_parameters():
        if not weights.numel():
            continue
        if weights.grad is None or not weights.grad.isfinite().all():
            return f"gradient of {name}: none, or not finite; expected: a finite one"
        if not weights.grad.any():
            return f"gradient of {name}: 0 everywhere; expected: one that reaches every weight"
    return ""
