"""A flow by itself, without a study around it: a torch module with learned parameters over a standard Gaussian."""

from __future__ import annotations

import hashlib
import math
from types import SimpleNamespace
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from nfstudy.core import registry
from nfstudy.core.declarations import FlowFamily
from nfstudy.core.errors import UserError
from nfstudy.core.fields import expected
from nfstudy.flows import NONE, make_flow
from nfstudy.flows.base import Flow


class StandaloneFlow(nn.Module):
    """A chain z_K = f_K ∘ … ∘ f_1(z_0) whose parameters depend on nothing; Rezende & Mohamed (2015), eqs. (6), (7).

    As a density it is q_K, the image of q_0 = N(0, I). Parameters are float32 until `module.double()`.

    Attributes:
        family: name of the family.
        dim: D, the number of variables.
        length: K, the number of steps.
    """

    def __init__(self, family: FlowFamily, dim: int, length: int, settings: dict[str, Any], seed: int) -> None:
        super().__init__()
        self.family, self.dim, self.length = family.name, dim, length
        self._no_inverse = _no_inverse(family, settings) if length else ""
        self.chain: Flow = make_flow(SimpleNamespace(family=family.name, length=length, **settings), dim, 0)

        def generator(part: str) -> torch.Generator:
            digest = hashlib.sha256(f"{seed} {part}".encode()).digest()
            return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

        self.chain.initialise(generator)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return z_K, (..., D), and Σ_k ln|det ∂f_k/∂z_{k−1}| in nats, (...), eq. (7).

        Arguments:
            z: z_0, (..., D).

        Raises:
            ValueError: the last axis of z is not D long.
        """
        flat = self._rows(z)
        z_K, log_det = self.chain(flat, self._steps(flat))
        return z_K.reshape(z.shape), log_det.reshape(z.shape[:-1])

    @torch.no_grad()
    def inverse(self, z: Tensor) -> Tensor:
        """Return z_0, (..., D), of z = z_K, (..., D); without gradients.

        Raises:
            NotImplementedError: the family has no inverse, or not with these settings.
            ValueError: the last axis of z is not D long.
        """
        if self._no_inverse:
            raise NotImplementedError(self._no_inverse)
        flat = self._rows(z)
        return self.chain.inverse(flat, self._steps(flat)).reshape(z.shape)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return ln q_K(z) = ln N(z_0; 0, I) − Σ_k ln|det ∂f_k/∂z_{k−1}| in nats, (...), with z_0 the inverse of z.

        It has gradients with respect to z and to all parameters, so that q_K can be fitted to samples: with J the
        Jacobian of the chain at z_0, and both held fixed, z_0 − J⁻¹ (f(z_0) − z) has the value of the inverse, and its
        derivatives by the implicit function theorem. J takes D backward passes.

        Arguments:
            z: (..., D), points in the space of z_K.

        Raises:
            NotImplementedError, ValueError: as `inverse` does.
        """
        target = self._rows(z)
        z_0 = self.inverse(target)
        if torch.is_grad_enabled() and (z.requires_grad or any(p.requires_grad for p in self.parameters())):
            z_0 = self._with_gradients(z_0, target)
        _, log_det = self.chain(z_0, self._steps(z_0))
        log_q0 = -0.5 * (z_0.square() + math.log(2 * math.pi)).sum(-1)
        return (log_q0 - log_det).reshape(z.shape[:-1])

    def sample(self, n: int, seed: int | None = None) -> Tensor:
        """Return draws z_K from q_K, (n, D); of one seed the same every time, by None of torch's own generator."""
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        like = next(self.parameters(), torch.empty(0))
        noise = torch.randn(n, self.dim, generator=generator, dtype=like.dtype).to(like.device)
        return self.forward(noise)[0]

    def extra_repr(self) -> str:
        """Return what the module's name does not say."""
        return f"{self.family!r}, dim={self.dim}, length={self.length}"

    def _rows(self, z: Tensor) -> Tensor:
        if z.dim() == 0 or z.shape[-1] != self.dim:
            raise ValueError(f"z of shape {tuple(z.shape)}: expected: (..., {self.dim})")
        return z.reshape(-1, self.dim)

    def _steps(self, z: Tensor) -> tuple[Tensor, ...]:
        return self.chain.parameters_from(z.new_empty(0))

    def _with_gradients(self, z_0: Tensor, target: Tensor) -> Tensor:
        with torch.enable_grad():
            start = z_0.detach().requires_grad_()
            image, _ = self.chain(start, self._steps(start))
            rows = [torch.autograd.grad(image[:, i].sum(), start, retain_graph=True)[0] for i in range(self.dim)]
            jacobian = torch.stack(rows, dim=1)
        z_K, _ = self.chain(z_0.detach(), self._steps(z_0))
        # Where a Jacobian is singular, that row alone has no finite gradient.
        step = torch.linalg.solve_ex(jacobian, (z_K - target).unsqueeze(-1))[0].squeeze(-1)
        return z_0.detach() - (step - step.detach())


def standalone_flow(family: str, dim: int, length: int, seed: int = 0, **settings: Any) -> StandaloneFlow:
    """Return a flow with initialised parameters, near the identity; of length 0 it is the diagonal Gaussian.

    Arguments:
        family: `planar`, `radial`, `nice-perm`, `nice-orth`, `iaf`, `sylvester`, `householder`, `full-covariance`,
            `realnvp`, `glow`, `spline`, or one that an installed distribution
            declares.
        dim: D, the number of variables.
        length: K, the number of steps.
        seed: of the initial parameters.
        settings: the family's own, such as `constraint=False`; those of a study's section `flow`.

    Raises:
        UserError: there is no such family or setting, a value is not allowed, or D is too small for it.
    """
    for name, value, least in (("dim", dim, 1), ("length", length, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"flow {family}: {name}: got {value!r}; expected: a whole number from {least}")
    found: FlowFamily = registry.find("flows", family)
    if length and found.guided:
        others = ", ".join(name for name, other in registry.all_of("flows").items() if not other.guided)
        raise UserError(f"flow {family}: follows the gradient of a model of images; expected: one of {others}")
    if length and found is not NONE and dim < found.least_latent:
        raise UserError(
            f"flow {family}: dim: got {dim}; expected: at least {found.least_latent}, as it {found.why_least}".rstrip()
        )
    return StandaloneFlow(found, dim, 0 if found is NONE else length, _checked(found, settings), seed)


def _checked(family: FlowFamily, settings: dict[str, Any]) -> dict[str, Any]:
    """Return all of a family's settings, the defaults of those that are not given."""
    if unknown := sorted(settings.keys() - set(family.fields)):
        allowed = ", ".join(family.fields) or "none"
        raise UserError(f"flow {family.name}: {unknown[0]}: no such setting; expected: {allowed}")
    values: dict[str, Any] = {}
    for record in family.records:
        own = {name: settings[name] for name in record.model_fields if name in settings}
        try:
            checked = record.model_validate(own)
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            name = ".".join(map(str, wrong["loc"]))
            raise UserError(
                f"flow {family.name}: {name}: got {wrong['input']!r}; expected: {expected(wrong)}"
            ) from None
        values |= {name: getattr(checked, name) for name in record.model_fields}
    return values


def _no_inverse(family: FlowFamily, settings: dict[str, Any]) -> str:
    """Return why a family has no inverse under these settings; empty where it has one."""
    if not family.inverse:
        return f"flow {family.name}: has no inverse; expected: a family that has one, such as planar"
    for name, value in family.inverse_needs.items():
        if settings.get(name) != value:
            return f"flow {family.name} with {name}={settings.get(name)}: has no inverse; expected: {name}={value}"
    return ""
