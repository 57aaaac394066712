"""NICE: additive couplings, between which the variables are mixed (Dinh et al. 2014). Free of torch."""

from nfstudy.core.declarations import FlowFamily
from nfstudy.core.fields import Record
from nfstudy.flows.coupling_settings import CouplingSettings


class NiceSettings(Record):
    """What is NICE's own."""

    coupling_scaling: bool = False
    """Whether the chain ends with the learned scaling z_i exp(s_i) of Dinh et al. (2014), Section 3.3."""


def _family(name: str, label: str, implementation: str, colour: int) -> FlowFamily:
    return FlowFamily(
        name=name,
        label=label,
        implementation=f"nfstudy.flows.nice.flow:{implementation}",
        settings=CouplingSettings,
        shared_settings=(NiceSettings,),
        least_latent=2,
        why_least="splits the latent variables in two",
        colour=colour,
        examples=({}, {"coupling_layers": 2, "coupling_pass": 0.3, "coupling_scaling": True}),
    )


NICE_PERM = _family("nice-perm", "NICE-perm", "NicePermFlow", 1)
NICE_ORTH = _family("nice-orth", "NICE-orth", "NiceOrthFlow", 4)
