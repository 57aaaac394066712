import hashlib

import pytest
import torch

from nfstudy.flows import make_flow
from nfstudy.flows.householder.flow import householder_flow, invert_householder_flow
from nfstudy.study.sections import FlowSpec


def draw(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def stream(name):
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))


def flow_of(latent, features=16, length=4):
    flow = make_flow(FlowSpec(family="householder", length=length), latent, features).double()
    flow.initialise(stream)
    return flow


def one_by_one(z, v):
    """Tomczak & Welling's eq. (9) as printed, one matrix after another: shared v (K, D), z (B, D)."""
    for v_k in v:
        z = z @ (torch.eye(len(v_k), dtype=v.dtype) - 2 * torch.outer(v_k, v_k) / v_k.dot(v_k))
    return z


def test_two_reflections_by_hand():
    # (1, 0) reflects (3, 4) to (−3, 4); (1, 1) swaps and negates: (−4, 3). Together a quarter turn.
    z, log_det = householder_flow(double(3, 4)[None], double([2, 0], [5, 5]))
    torch.testing.assert_close(z, double(-4, 3)[None], rtol=0, atol=1e-14)
    assert log_det.tolist() == [0]


@pytest.mark.parametrize(("latent", "length"), [(2, 1), (2, 9), (5, 3), (40, 80)])
def test_values_and_gradients_are_those_of_one_reflection_after_another(latent, length):
    inputs = [draw(7, latent), draw(length, latent, seed=1, scale=3.0)]
    for tensor in inputs:
        tensor.requires_grad_()
    ours, plain = householder_flow(*inputs)[0], one_by_one(*inputs)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(z.sin().sum(), inputs) for z in (ours, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("leading", [(), (3,)], ids=["shared", "amortised"])
def test_gradients_are_those_of_finite_differences(leading):
    inputs = [draw(2, 3, 4).requires_grad_(), draw(*leading, 2, 4, seed=1).requires_grad_()]
    assert torch.autograd.gradcheck(lambda z, v: householder_flow(z, v)[0], inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e6, 1e30], ids=lambda scale: f"{scale:g}")
@pytest.mark.parametrize("alike", [False, True], ids=["any", "alike"])
def test_lengths_are_kept_whatever_the_vectors(scale, alike, dtype):
    v = draw(20, 80, 40, seed=1)
    v = (v[:, :1].expand(-1, 80, -1) + 1e-3 * v) if alike else v
    z = draw(20, 40, dtype=dtype)
    z_k, _ = householder_flow(z, (scale * v).to(dtype))
    error = (z_k.norm(dim=1) / z.norm(dim=1) - 1).abs().max().item()
    assert error < 500 * torch.finfo(dtype).eps
    back = invert_householder_flow(z_k, (scale * v).to(dtype))
    torch.testing.assert_close(back, z, rtol=0, atol=5000 * torch.finfo(dtype).eps)


def test_a_vector_of_nothing_is_the_identity_with_finite_gradients():
    z, v = draw(6, 5, dtype=torch.float32), torch.zeros(6, 3, 5, requires_grad=True)
    z_k, _ = householder_flow(z, v)
    assert torch.equal(z_k, z)
    (gradient,) = torch.autograd.grad(z_k.sum(), v)
    assert gradient.isfinite().all()


def test_the_posterior_has_the_covariance_of_the_paper():
    """Q diag(σ²) Qᵀ for z_0 ~ N(0, diag σ²), with Q = H_K ⋯ H_1 (Tomczak & Welling 2016, Section 3)."""
    v, deviation = draw(3, 4, seed=1), double(0.1, 0.5, 1, 3)
    q = one_by_one(torch.eye(4, dtype=torch.float64), v).T
    z, _ = householder_flow(deviation * draw(200_000, 4), v)
    torch.testing.assert_close(z.T.cov(), q @ torch.diag(deviation**2) @ q.T, rtol=0, atol=0.1)


@pytest.mark.parametrize("features", [0, 16])
def test_it_starts_with_reflections_of_its_own_that_hardly_depend_on_the_image(features):
    flow = flow_of(10, features)
    images = draw(6, features, seed=3).abs() if features else torch.zeros(0, dtype=torch.float64)
    (v,) = flow.parameters_from(images)
    directions = v.reshape(-1, 4, 10) / 10**0.5
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(len(directions), 4).double(), rtol=0, atol=0.01)
    assert (directions * directions[:1]).sum(-1).min() > 0.99
    assert (directions[0] @ directions[0].T).tril(-1).abs().max() < 0.99
