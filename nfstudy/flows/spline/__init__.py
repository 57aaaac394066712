"""Neural spline flows: rational-quadratic couplings (Durkan et al. 2019). Free of torch."""

from typing import Annotated

from pydantic import Field

from nfstudy.core.declarations import FlowFamily
from nfstudy.core.fields import Positive, Record
from nfstudy.flows.coupling_settings import CouplingSettings


class SplineSettings(Record):
    """The splines' own settings."""

    spline_bins: Annotated[int, Field(ge=2, le=500)] = 8
    """Bins of each spline, between whose ends it is a ratio of two parabolas."""
    spline_bound: Positive = 5.0
    """Where the splines end on both sides of 0; beyond, a variable passes unchanged."""


SPLINE = FlowFamily(
    name="spline",
    label="spline",
    implementation="nfstudy.flows.spline.flow:SplineFlow",
    settings=CouplingSettings,
    shared_settings=(SplineSettings,),
    least_latent=2,
    why_least="splits the latent variables in two",
    colour=20,
    examples=({}, {"coupling_layers": 2, "coupling_pass": 0.3, "spline_bins": 3, "spline_bound": 1.5}),
)
