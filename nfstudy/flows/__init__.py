"""Normalizing flows: each family a pure function of its parameters, and a small module that amortises them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfstudy.flows.base import Flow, NoFlow
from nfstudy.flows.iaf.flow import IafFlow
from nfstudy.flows.nice.flow import NiceFlow, NiceOrthFlow, NicePermFlow
from nfstudy.flows.planar.flow import PlanarFlow
from nfstudy.flows.radial.flow import RadialFlow
from nfstudy.flows.sylvester.flow import SylvesterFlow

if TYPE_CHECKING:
    from nfstudy.study.sections import FlowSpec

FLOWS: dict[str, type[Flow]] = {
    "none": NoFlow,
    "planar": PlanarFlow,
    "radial": RadialFlow,
    "nice-perm": NicePermFlow,
    "nice-orth": NiceOrthFlow,
    "iaf": IafFlow,
    "sylvester": SylvesterFlow,
}
"""Family name -> class."""


def make_flow(spec: FlowSpec, latent: int, features: int) -> Flow:
    """Return a flow whose weights are still to be set by `Flow.initialise`; of length 0, it is `NoFlow`.

    Arguments:
        spec: family, length K, and what the family leaves open.
        latent: D, the number of latent variables.
        features: F, the width of the inference network's last hidden layer; 0 without one.

    Raises:
        ValueError: the family is unknown, or needs more latent variables.
    """
    if spec.family not in FLOWS:
        raise ValueError(f"flow.family {spec.family}: allowed: {', '.join(FLOWS)}")
    family = FLOWS[spec.family]
    if family is NoFlow or spec.length == 0:
        return NoFlow(latent, 0, features)
    if issubclass(family, NiceFlow):
        return family(
            latent,
            spec.length,
            features,
            spec.coupling_hidden,
            spec.coupling_amortised,
            spec.coupling_layers,
            spec.coupling_pass,
            spec.coupling_scaling,
        )
    if issubclass(family, IafFlow):
        return family(latent, spec.length, features, spec.autoregressive_hidden, spec.autoregressive_layers)
    if issubclass(family, SylvesterFlow):
        return family(latent, spec.length, features, spec.sylvester_columns)
    return family(latent, spec.length, features, spec.constraint)
