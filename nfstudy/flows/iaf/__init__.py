"""Inverse autoregressive flows (Kingma et al. 2016). Free of torch."""

from typing import Annotated

from pydantic import Field

from nfstudy.core.declarations import FlowFamily
from nfstudy.core.fields import Record


class IafSettings(Record):
    """Width and depth of the autoregressive networks."""

    autoregressive_hidden: Annotated[int, Field(ge=1, le=100_000)] = 120
    """Tanh units in each hidden layer of an autoregressive network; three a variable at the paper's D."""
    autoregressive_layers: Annotated[int, Field(ge=1, le=10)] = 1
    """Hidden layers of each autoregressive network."""


IAF = FlowFamily(
    name="iaf",
    label="IAF",
    implementation="nfstudy.flows.iaf.flow:IafFlow",
    settings=IafSettings,
    least_latent=2,
    why_least="lets a latent variable depend on those before it",
    colour=5,
    examples=({}, {"autoregressive_layers": 2}),
)
