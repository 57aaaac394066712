"""Planar flows: f(z) = z + u h(wᵀz + b), eq. (10) of Rezende & Mohamed (2015). Free of torch."""

from nfstudy.core.declarations import FlowFamily
from nfstudy.flows.constraint import ConstraintSettings

PLANAR = FlowFamily(
    name="planar",
    label="NF (planar)",
    implementation="nfstudy.flows.planar.flow:PlanarFlow",
    settings=ConstraintSettings,
    inverse_needs={"constraint": True},
    drawn=True,
    matrix_biases=False,
    colour=0,
    examples=({}, {"constraint": False}),
)
