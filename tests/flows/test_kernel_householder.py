"""The compiled chain of reflections against the plain formula, forward and backward."""

import math

import pytest
import torch

from nfstudy.flows.householder.flow import HouseholderFlow, householder_flow
from nfstudy.flows.householder.kernel import HouseholderChain


def draw(*shape, seed, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def by_loop(z, v):
    return HouseholderFlow(v.shape[-1], v.shape[-2], 1)(z, (v,))


def results_and_gradients(chain, z, v):
    """Return z_K, log det, and the gradients of a random function of z_K by z and v."""
    z, v = z.clone().requires_grad_(), v.clone().requires_grad_()
    z_k, log_det = chain(z, v)
    gradients = torch.autograd.grad((z_k * draw(*z_k.shape, seed=9, dtype=z.dtype)).sum(), [z, v])
    return z_k.detach(), log_det.detach(), *gradients


def largest_difference(ours, reference):
    """Of all results, relative to the largest number of each."""
    return max(
        ((a - b).abs().max() / b.abs().max().clamp(min=1e-300)).item() for a, b in zip(ours, reference, strict=True)
    )


@pytest.mark.parametrize("shape", [(1, 1, 2, 1), (2, 37, 5, 7), (3, 100, 40, 80)], ids=str)
@pytest.mark.parametrize("size", [1.0, 1e150, 1e-150], ids=lambda size: f"{size:g}")
def test_the_loop_is_the_plain_formula(monkeypatch, size, shape):
    samples, images, latent, length = shape
    z, v = draw(samples, images, latent, seed=0), draw(images, length, latent, seed=1, scale=size)
    with monkeypatch.context() as only_the_loop:
        only_the_loop.delattr("nfstudy.flows.householder.flow.householder_flow")
        ours = results_and_gradients(by_loop, z, v)
    # The gradient by v is 1/‖v‖ times what it is by the unit vector.
    assert largest_difference(ours, results_and_gradients(householder_flow, z, v)) < 1e-13


@pytest.mark.parametrize("size", [1.0, 1e30, 1e-30], ids=lambda size: f"{size:g}")
@pytest.mark.parametrize("length", [10, 80])
def test_in_float32_the_loop_is_as_exact_as_the_plain_formula(length, size):
    z, v = draw(1, 100, 40, seed=0).float(), draw(100, length, 40, seed=1, scale=size).float()
    exact = results_and_gradients(householder_flow, z.double(), v.double())
    rounded = largest_difference(results_and_gradients(householder_flow, z, v), exact)
    assert largest_difference(results_and_gradients(by_loop, z, v), exact) < 20 * rounded + 2e-6


def test_gradients_are_those_of_finite_differences():
    z, v = draw(2, 4, 3, seed=0).requires_grad_(), draw(4, 2, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda z, v: HouseholderChain.apply(z, v)[0], [z, v])


def test_where_a_vector_is_zero_the_step_is_the_identity_and_has_no_gradient():
    z, v = draw(1, 3, 5, seed=0), draw(3, 2, 5, seed=1)
    v[1] = 0
    z_k, _, grad_z, grad_v = results_and_gradients(by_loop, z, v)
    assert torch.equal(z_k[0, 1], z[0, 1])
    assert not grad_v[1].any()
    assert grad_v[[0, 2]].any(-1).all()
    assert torch.equal(grad_z[0, 1], draw(1, 3, 5, seed=9)[0, 1])


def test_a_vector_that_is_not_finite_spoils_its_image_alone():
    z, v = draw(4, 5, seed=0), draw(4, 3, 5, seed=1)
    v[2, 1, 0] = math.nan
    z_k, _ = by_loop(z, v)
    assert z_k[[0, 1, 3]].isfinite().all()
    assert z_k[2].isnan().all()
