import hashlib
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from nfstudy.core.errors import UserError
from nfstudy.flows import make_flow
from nfstudy.flows.full_covariance.flow import cholesky_factor, full_covariance, invert_full_covariance
from nfstudy.inference.problems.plane import PlaneFlow
from nfstudy.study.reader import parse_study
from nfstudy.study.sections import FlowSpec, Q0Spec


def draw(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def stream(name):
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))


def parameters(*leading, latent, scale=1.0, dtype=torch.float64):
    shapes = [latent, latent * (latent - 1) // 2]
    return [draw(*leading, size, seed=seed, scale=scale, dtype=dtype) for seed, size in enumerate(shapes, 1)]


def test_the_factor_is_filled_row_by_row():
    factor = cholesky_factor(double(0, math.log(2), math.log(3)), double(4, 5, 6))
    torch.testing.assert_close(factor, double([1, 0, 0], [4, 2, 0], [5, 6, 3]))


def test_one_step_by_hand():
    z, log_det = full_covariance(double(10, 1)[None], double(math.log(2), math.log(3)), double(-1))
    torch.testing.assert_close(z, double(20, -7)[None])
    assert log_det.item() == pytest.approx(math.log(6), rel=1e-15)


@pytest.mark.parametrize("latent", [1, 2, 5, 40])
def test_the_density_is_that_of_the_gaussian(latent):
    """ln q_K = ln q0 − ln|det L| is MultivariateNormal's ln N(z; L m, L diag(σ²) Lᵀ)."""
    log_diagonal, below = parameters(latent=latent, scale=0.3)
    mean, deviation, noise = draw(latent, seed=8), draw(latent, seed=9).exp(), draw(7, latent)
    z, log_det = full_covariance(mean + deviation * noise, log_diagonal, below)
    log_q0 = -0.5 * noise.square().sum(-1) - deviation.log().sum() - 0.5 * latent * math.log(2 * math.pi)
    factor = cholesky_factor(log_diagonal, below)
    exact = MultivariateNormal(factor @ mean, scale_tril=factor * deviation).log_prob(z)
    torch.testing.assert_close(log_q0 - log_det, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("leading", [(), (3,)], ids=["shared", "amortised"])
def test_gradients_are_those_of_finite_differences(leading):
    inputs = [draw(2, 3, 4), *parameters(*leading, latent=4)]
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(full_covariance, inputs)


def test_the_inverse_at_large_parameters_is_off_by_no_more_than_rounding():
    """|L ẑ_0 − z| ≤ D ε |L| |ẑ_0|, number by number, is what substitution can do however ill-conditioned L is."""
    z, numbers = draw(2, 100, 20), parameters(100, latent=20, scale=2.0)
    back = invert_full_covariance(z, *numbers)
    size = (cholesky_factor(*numbers).abs() @ back.abs().unsqueeze(-1)).squeeze(-1)
    assert size.max() > 1e8
    assert ((full_covariance(back, *numbers)[0] - z).abs() <= 20 * torch.finfo(z.dtype).eps * size + 1e-14).all()


@pytest.mark.parametrize("features", [0, 16])
def test_it_starts_at_the_identity_and_has_one_step_whatever_the_length(features):
    flows = [make_flow(FlowSpec(family="full-covariance", length=length), 6, features).double() for length in (1, 9)]
    z, images = draw(5, 6), draw(5, features, seed=2) if features else torch.zeros(0, dtype=torch.float64)
    ends = []
    for flow in flows:
        flow.initialise(stream)
        ends.append(flow(z, flow.parameters_from(images)))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)
    torch.testing.assert_close(ends[0], (z, torch.zeros(5, dtype=torch.float64)), rtol=0, atol=0.02 if features else 0)
    assert flows[0].head.size == 21


STUDY = """\
study: one-step
title: One step
data: {name: digits}
grid: {flow.family: [planar, full-covariance], flow.length: [0, 2, 8]}
exhibits: [summary]
"""


def test_any_length_is_one_cell():
    cells = parse_study(STUDY, "one-step.yaml").under().cells
    assert [(cell.settings.flow.family, cell.settings.flow.length) for cell in cells] == [
        ("none", 0),
        ("planar", 2),
        ("planar", 8),
        ("full-covariance", 1),
    ]


def test_it_is_fitted_to_a_gaussian_with_correlations():
    """KL(q‖p) of the best diagonal Gaussian to one of correlation 0.9 is −½ ln(1 − 0.81) = 0.83 nats; here, 0."""
    model = PlaneFlow(FlowSpec(family="full-covariance", length=1), Q0Spec())
    model.initialise(1, 1)
    target = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        optimiser.zero_grad()
        z, log_q0, log_det = model.sample(torch.randn(200, 2, generator=generator))
        kl = (log_q0 - log_det - target.log_prob(z)).mean()
        kl.backward()
        optimiser.step()
    assert abs(kl.item()) < 0.01


def test_an_unknown_setting_is_refused():
    with pytest.raises(UserError, match=r"rank"):
        parse_study(STUDY + "flow: {rank: 2}\n", "one-step.yaml")
