"""NICE: additive couplings, between which the variables are mixed (Dinh et al. 2014). Free of torch."""

from typing import Annotated

from pydantic import Field

from nfstudy.core.declarations import FlowFamily
from nfstudy.core.fields import Record


class NiceSettings(Record):
    """What the paper leaves open of NICE's coupling networks."""

    coupling_hidden: Annotated[int, Field(ge=1, le=100_000)] = 40
    """H, tanh units in each hidden layer of a coupling network."""
    coupling_layers: Annotated[int, Field(ge=1, le=10)] = 1
    """L, hidden layers of each coupling network."""
    coupling_amortised: bool = True
    """Whether the image moves the first hidden layer's biases, or they are shared by all images."""
    coupling_pass: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.5
    """Share of the variables that pass a step unchanged; d = ⌊share · D⌋, at least one on each side."""
    coupling_scaling: bool = False
    """Whether the chain ends with the learned scaling z_i exp(s_i) of Dinh et al. (2014), Section 3.3."""


def _family(name: str, label: str, implementation: str, colour: int) -> FlowFamily:
    return FlowFamily(
        name=name,
        label=label,
        implementation=f"nfstudy.flows.nice.flow:{implementation}",
        settings=NiceSettings,
        least_latent=2,
        why_least="splits the latent variables in two",
        colour=colour,
        examples=({}, {"coupling_layers": 2, "coupling_pass": 0.3, "coupling_scaling": True}),
    )


NICE_PERM = _family("nice-perm", "NICE-perm", "NicePermFlow", 1)
NICE_ORTH = _family("nice-orth", "NICE-orth", "NiceOrthFlow", 4)
