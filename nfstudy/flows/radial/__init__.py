"""Radial flows: f(z) = z + β (z − z0) / (α + ‖z − z0‖), eq. (14) of Rezende & Mohamed (2015). Free of torch."""

from nfstudy.core.declarations import FlowFamily
from nfstudy.flows.constraint import ConstraintSettings

RADIAL = FlowFamily(
    name="radial",
    label="NF (radial)",
    implementation="nfstudy.flows.radial.flow:RadialFlow",
    settings=ConstraintSettings,
    inverse_needs={"constraint": True},
    drawn=True,
    matrix_biases=False,
    colour=2,
    examples=({}, {"constraint": False}),
)
