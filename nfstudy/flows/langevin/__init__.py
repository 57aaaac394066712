"""Langevin flows in finite steps: drift by the model's gradient, and noise (Rezende & Mohamed 2015). Free of torch."""

from nfstudy.core.declarations import FlowFamily
from nfstudy.flows.guided_settings import GuidedSettings

LANGEVIN = FlowFamily(
    name="langevin",
    label="Langevin",
    implementation="nfstudy.flows.langevin.flow:LangevinFlow",
    settings=GuidedSettings,
    guided=True,
    inverse=False,
    matrix_biases=False,
    colour=24,
    examples=({}, {"leapfrog_step": 0.2}),
)
