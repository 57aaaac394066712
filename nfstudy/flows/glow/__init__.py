"""Glow for vectors: actnorm, a learned linear map, an affine coupling (Kingma & Dhariwal 2018). Free of torch."""

from nfstudy.core.declarations import FlowFamily
from nfstudy.flows.coupling_settings import AffineSettings, CouplingSettings

GLOW = FlowFamily(
    name="glow",
    label="Glow",
    implementation="nfstudy.flows.glow.flow:GlowFlow",
    settings=CouplingSettings,
    shared_settings=(AffineSettings,),
    least_latent=2,
    why_least="splits the latent variables in two",
    colour=21,
    examples=({}, {"coupling_layers": 2, "coupling_pass": 0.3, "coupling_log_scale": 0.5}),
)
