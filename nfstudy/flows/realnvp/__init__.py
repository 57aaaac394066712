"""RealNVP: affine couplings, between which the variables are permuted (Dinh et al. 2017). Free of torch."""

from nfstudy.core.declarations import FlowFamily
from nfstudy.flows.coupling_settings import AffineSettings, CouplingSettings

REALNVP = FlowFamily(
    name="realnvp",
    label="RealNVP",
    implementation="nfstudy.flows.realnvp.flow:RealNvpFlow",
    settings=CouplingSettings,
    shared_settings=(AffineSettings,),
    least_latent=2,
    why_least="splits the latent variables in two",
    colour=9,
    examples=({}, {"coupling_layers": 2, "coupling_pass": 0.3, "coupling_log_scale": 0.5}),
)
