"""Hamiltonian variational inference: leapfrog steps by the model's gradient (Salimans et al. 2015). Free of torch."""

from nfstudy.core.declarations import FlowFamily
from nfstudy.flows.guided_settings import GuidedSettings

HAMILTONIAN = FlowFamily(
    name="hamiltonian",
    label="HVI",
    implementation="nfstudy.flows.hamiltonian.flow:HamiltonianFlow",
    settings=GuidedSettings,
    guided=True,
    inverse=False,
    matrix_biases=False,
    colour=23,
    examples=({}, {"leapfrog_step": 0.2}),
)
