"""A Gaussian with full covariance: f(z) = L z, L lower triangular. Free of torch."""

from nfstudy.core.declarations import FlowFamily

FULL_COVARIANCE = FlowFamily(
    name="full-covariance",
    label="full covariance",
    implementation="nfstudy.flows.full_covariance.flow:FullCovarianceFlow",
    one_step=True,
    matrix_biases=False,
    colour=18,
)
