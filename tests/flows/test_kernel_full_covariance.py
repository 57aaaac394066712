"""The compiled product with triangular matrices against the plain formula, forward and backward."""

import pytest
import torch

from nfstudy.flows.full_covariance.flow import FullCovarianceFlow, full_covariance
from nfstudy.flows.full_covariance.kernel import TriangularProduct


def draw(*shape, seed, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def arguments(samples, images, latent, scale, dtype=torch.float64):
    return [
        draw(samples, images, latent, seed=0, dtype=dtype),
        draw(images, latent, seed=1, scale=scale, dtype=dtype),
        draw(images, latent * (latent - 1) // 2, seed=2, scale=scale, dtype=dtype),
    ]


def by_loop(z, log_diagonal, below):
    return FullCovarianceFlow(z.shape[-1], 1, 1)(z, (log_diagonal, below))


def results_and_gradients(function, tensors):
    """Return L z, log det, and the gradients of a random function of both."""
    leaves = [x.clone().requires_grad_() for x in tensors]
    z_k, log_det = function(*leaves)
    kind = z_k.dtype
    loss = (z_k * draw(*z_k.shape, seed=9, dtype=kind)).sum() + (
        log_det * draw(*log_det.shape, seed=8, dtype=kind)
    ).sum()
    return z_k.detach(), log_det.detach(), *torch.autograd.grad(loss, leaves)


def largest_difference(ours, reference):
    """Of all results, relative to the largest number of each."""
    pairs = [(a, b) for a, b in zip(ours, reference, strict=True) if b.numel()]
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 2), (2, 37, 5), (3, 100, 40)], ids=str)
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0], ids=lambda scale: f"scale={scale:g}")
def test_the_loop_is_the_plain_formula(monkeypatch, scale, shape):
    tensors = arguments(*shape, scale)
    with monkeypatch.context() as only_the_loop:
        only_the_loop.delattr("nfstudy.flows.full_covariance.flow.full_covariance")
        ours = results_and_gradients(by_loop, tensors)
    assert largest_difference(ours, results_and_gradients(full_covariance, tensors)) < 1e-13


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0], ids=lambda scale: f"scale={scale:g}")
def test_in_float32_the_loop_is_as_exact_as_the_plain_formula(scale):
    tensors = arguments(2, 100, 40, scale, torch.float32)
    exact = results_and_gradients(full_covariance, [x.double() for x in tensors])
    rounded = largest_difference(results_and_gradients(full_covariance, tensors), exact)
    assert largest_difference(results_and_gradients(by_loop, tensors), exact) < 20 * rounded + 2e-6


def test_gradients_are_those_of_finite_differences():
    tensors = [x.requires_grad_() for x in arguments(2, 3, 4, 0.5)]
    assert torch.autograd.gradcheck(TriangularProduct.apply, tensors)


def test_what_enters_is_left_as_it_was():
    tensors = arguments(2, 3, 4, 0.5)
    before = [x.clone() for x in tensors]
    results_and_gradients(by_loop, tensors)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))


@pytest.mark.parametrize("log", [708.0, 712.0, 720.0, 1e30])
def test_a_factor_beyond_float64_is_infinite_and_no_small_number(log):
    z, log_diagonal = torch.full((1, 3, 1), 2.0, dtype=torch.float64), torch.full((3, 1), log, dtype=torch.float64)
    end, log_det = by_loop(z, log_diagonal, torch.empty(3, 0, dtype=torch.float64))
    assert (log_det == log).all()
    assert (end > 1e307).all()
    assert end.isinf().all() == (log > 709)
