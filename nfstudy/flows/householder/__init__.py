"""Householder flows: f(z) = z − 2 v vᵀz/‖v‖² (Tomczak & Welling 2016). Free of torch."""

from nfstudy.core.declarations import FlowFamily

HOUSEHOLDER = FlowFamily(
    name="householder",
    label="Householder",
    implementation="nfstudy.flows.householder.flow:HouseholderFlow",
    least_latent=2,
    why_least="turns space, and a line has no room for that",
    matrix_biases=False,
    colour=22,
)
