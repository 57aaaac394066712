"""Normalizing flows: each family a folder that declares it, a pure function, and a module that amortises it.

Free of torch until a flow is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from nfstudy.core import registry
from nfstudy.core.declarations import FlowFamily, load
from nfstudy.core.errors import UserError

if TYPE_CHECKING:
    from nfstudy.flows.base import Flow

NONE = FlowFamily(
    name="none", label="diagonal Gaussian", implementation="nfstudy.flows.base:NoFlow", matrix_biases=False, colour=7
)
"""K = 0, whatever the family."""


class FlowSettings(Protocol):
    """Which flow: what `study.sections.FlowSpec` says, with the family's own settings as further attributes."""

    @property
    def family(self) -> str:
        """Its name."""

    @property
    def length(self) -> int:
        """K."""


def make_flow(spec: FlowSettings, latent: int, features: int) -> Flow:
    """Return a flow whose weights are still to be set by `Flow.initialise`; of length 0, it is `NoFlow`.

    Arguments:
        spec: family, length K, and what the family leaves open.
        latent: D, the number of latent variables.
        features: F, the width of the inference network's last hidden layer; 0 without one.

    Raises:
        SpecError: the family is unknown.
        UserError: its implementation cannot be loaded.
        ValueError: it needs more latent variables.
    """
    family: FlowFamily = registry.find("flows", spec.family)
    if family is NONE or spec.length == 0:
        return load_flow(NONE)(latent, 0, features)
    return load_flow(family)(latent, spec.length, features, **family_settings(family, spec))


def family_settings(family: FlowFamily, spec: FlowSettings) -> dict[str, Any]:
    """Return field -> value of the settings that are a family's own."""
    return {name: getattr(spec, name) for name in family.fields}


def has_inverse(spec: FlowSettings) -> bool:
    """Say whether a chain has an inverse, as its family's declaration has it; one of length 0 has."""
    family: FlowFamily = registry.find("flows", spec.family)
    return not spec.length or (
        family.inverse and all(getattr(spec, name) == value for name, value in family.inverse_needs.items())
    )


def load_flow(family: FlowFamily) -> type[Flow]:
    """Return the class of a family; raises UserError where it cannot be loaded."""
    try:
        return load(family.implementation)
    except (ImportError, AttributeError) as error:
        origin = registry.origin_of("flows", family.name)
        raise UserError(f"flow {family.name}: cannot be loaded: {error} (declared by {origin})") from error
