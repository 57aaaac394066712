"""The compiled radial chain against the plain formulas, forward and backward."""

import math

import pytest
import torch

from nfstudy.flows.base import softplus
from nfstudy.flows.radial.flow import RadialFlow, free_radial_flow, radial_flow
from nfstudy.flows.radial.kernel import RadialChain


def draw(*shape, scale=1.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def plain(z, steps, constraint):
    z0, alpha, beta = steps.split([z.shape[-1], 1, 1], -1)
    return (radial_flow if constraint else free_radial_flow)(z, z0, softplus(alpha.squeeze(-1)), beta.squeeze(-1))


def results_and_gradients(chain, z, steps, seed=9):
    """Return z_K, Σ log det, and the gradients of a random function of both."""
    z_k, log_det = chain(z, steps)
    weights = (draw(*x.shape, seed=seed + i, dtype=z.dtype).detach() for i, x in enumerate((z_k, log_det)))
    loss = sum((x * weight).sum() for x, weight in zip((z_k, log_det), weights, strict=True))
    return z_k.detach(), log_det.detach(), *torch.autograd.grad(loss, [z, steps])


def in_double(*tensors):
    return [x.detach().double().requires_grad_() for x in tensors]


def largest_difference(ours, reference):
    """Of all results, relative to the largest number of each; where ours are finite."""
    return max(((a - b)[a.isfinite()].abs().max() / b.abs().max()).item() for a, b in zip(ours, reference, strict=True))


@pytest.mark.parametrize("constraint", [True, False], ids=["constrained", "free"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 30.0], ids=lambda scale: f"scale={scale:g}")
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (1, 37, 5, 7), (3, 100, 40, 7), (1, 100, 2, 80), (2, 37, 40, 80), (3, 1, 5, 1)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_loop_is_the_plain_formula(dtype, shape, scale, constraint):
    samples, images, latent, length = shape
    z = draw(samples, images, latent, dtype=dtype)
    steps = draw(images, length, latent + 2, scale=scale, dtype=dtype, seed=1)
    flow = RadialFlow(latent, length, 4, constraint)
    ours = results_and_gradients(lambda z, steps: flow(z, (steps,)), z, steps)
    assert all(x.isfinite().all() for x in ours)
    exact = results_and_gradients(lambda z, steps: plain(z, steps, constraint), *in_double(z, steps))
    if dtype == torch.float32:
        # Long chains of large steps amplify rounding: the plain formula in float32 sets what can be asked. Where it
        # rounds α to 0, it has gradients that are no numbers.
        rounded = results_and_gradients(lambda z, steps: plain(z, steps, constraint), z, steps)
        assert largest_difference(ours, exact) < 20 * largest_difference(rounded, exact) + 2e-6
    else:
        assert largest_difference(ours, exact) < 1e-10


@pytest.mark.parametrize("constraint", [True, False], ids=["constrained", "free"])
def test_shared_steps_are_those_of_every_sample(constraint):
    flow, z, steps = RadialFlow(5, 4, 0, constraint), draw(2, 3, 20, 5), draw(4, 7, seed=1)
    ours = results_and_gradients(lambda z, steps: flow(z, (steps,)), z, steps)
    reference = results_and_gradients(lambda z, steps: plain(z, steps, constraint), z, steps)
    assert largest_difference(ours, reference) < 1e-11


@pytest.mark.parametrize("constraint", [True, False], ids=["constrained", "free"])
def test_the_module_runs_the_loop_and_its_head_gets_the_gradients_of_the_plain_formula(monkeypatch, constraint):
    flow = RadialFlow(5, 4, 16, constraint).double()
    flow.initialise(lambda name: torch.Generator().manual_seed(int(name.removeprefix("step "))))
    z, features = draw(2, 3, 6, 5), draw(6, 16, seed=1)

    def gradients():
        z_k, log_det = flow(z, flow.parameters_from(features))
        return torch.autograd.grad(z_k.sin().sum() + log_det.square().sum(), [z, features, *flow.parameters()])

    with monkeypatch.context() as only_the_loop:
        for formula in ("radial_flow", "free_radial_flow"):
            only_the_loop.delattr(f"nfstudy.flows.radial.flow.{formula}")
        ours = gradients()
    monkeypatch.setattr("nfstudy.flows.radial.flow.fits_lanes", lambda z, steps: False)
    torch.testing.assert_close(ours, gradients(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("constraint", [True, False], ids=["constrained", "free"])
@pytest.mark.parametrize("latent", [1, 2, 5])
def test_gradients_are_those_of_finite_differences(latent, constraint):
    z, steps = draw(2, latent, 4), draw(3, latent + 2, 4, seed=1)
    assert torch.autograd.gradcheck(lambda *inputs: RadialChain.apply(*inputs, constraint), (z, steps))


# ln|det| = D (ln ln(1 + e^β) − ln α) at z0; below −37, ln ln(1 + e^β) = β to rounding.
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("alpha", [1e-6, 0.8, 1e4], ids=lambda alpha: f"alpha={alpha:g}")
@pytest.mark.parametrize(
    ("beta", "log_p"),
    [
        (-1000, -1000),
        (-708.5, -708.5),
        (-601, -601),
        (-599, -599),
        (0, -0.36651292058166433),
        (1000, 6.9077552789821371),
    ],
)
def test_the_log_det_at_the_reference_point_and_its_gradient(beta, log_p, alpha, dtype):
    z0 = torch.tensor([0.5, -1.0, 2.0], dtype=dtype)
    raw = torch.tensor([math.log(math.expm1(alpha)) if alpha < 100 else alpha, beta], dtype=dtype)
    steps = torch.cat([z0, raw]).expand(2, 1, 5).contiguous().requires_grad_()
    z = z0.expand(2, 3).contiguous().requires_grad_()
    z_k, log_det = RadialFlow(3, 1, 4)(z, (steps,))
    assert torch.equal(z_k, z)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    assert log_det.tolist() == pytest.approx([3 * (log_p - math.log(alpha))] * 2, rel=tolerance)
    grad_z, grad_steps = torch.autograd.grad(log_det.sum(), [z, steps])
    assert not grad_z.any()
    by_beta = 3 / (1 + math.exp(-beta)) / math.log1p(math.exp(beta)) if abs(beta) < 500 else 3 if beta < 0 else 3 / beta
    assert grad_steps[0, 0, 4].item() == pytest.approx(by_beta, rel=tolerance)
    assert grad_steps[0, 0, 3].item() == pytest.approx(3 * math.expm1(-alpha) / alpha, rel=tolerance)


@pytest.mark.parametrize("distance", [0.0, 1e-25, 1e-21, 1.0, 1e4], ids=lambda distance: f"r={distance:g}")
@pytest.mark.parametrize("beta", [-1000.0, -120.0, 0.0, 120.0], ids=lambda beta: f"beta={beta:g}")
@pytest.mark.parametrize("raw", [-15.0, 1.0, 1e4], ids=lambda raw: f"a={raw:g}")
@pytest.mark.parametrize("latent", [1, 3])
def test_values_and_gradients_are_finite_in_float32(latent, raw, beta, distance):
    z = torch.full((2, latent), distance, requires_grad=True)
    steps = torch.cat([torch.zeros(2, 2, latent), torch.tensor([raw, beta]).expand(2, 2, 2)], -1).requires_grad_()
    ours = results_and_gradients(lambda z, steps: RadialFlow(latent, 2, 4)(z, (steps,)), z, steps)
    assert all(x.isfinite().all() for x in ours)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 3, 4], ids=["z0", "alpha", "beta"])
@pytest.mark.parametrize("constraint", [True, False], ids=["constrained", "free"])
def test_what_is_not_finite_stays_so(constraint, place, wrong):
    steps = torch.ones(2, 3, 5)
    steps[1, 2, place] = wrong
    z_k, log_det = RadialFlow(3, 3, 4, constraint)(torch.zeros(2, 3), (steps,))
    assert z_k[0].isfinite().all()
    assert log_det[0].isfinite()
    reference, _ = plain(torch.zeros(2, 3), steps, constraint)
    assert reference[1].isfinite().all() or not z_k[1].isfinite().all()
