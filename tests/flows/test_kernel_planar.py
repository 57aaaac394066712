"""The compiled planar chain against the plain formulas, forward and backward."""

import pytest
import torch

from nfstudy.flows.planar.flow import PlanarFlow, free_planar_flow, planar_flow
from nfstudy.flows.planar.kernel import PlanarChain


def draw(*shape, scale=1.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def plain(z, steps, constraint):
    latent = z.shape[-1]
    u, w, b = steps.split([latent, latent, 1], -1)
    return (planar_flow if constraint else free_planar_flow)(z, u, w, b.squeeze(-1))


def results_and_gradients(chain, z, steps, seed=9):
    """Return z_K, Σ log det, and the gradients of a random function of both."""
    z_k, log_det = chain(z, steps)
    weights = draw(*z_k.shape, seed=seed, dtype=z.dtype).detach(), draw(*log_det.shape, seed=seed + 1, dtype=z.dtype)
    loss = (z_k * weights[0]).sum() + (log_det * weights[1].detach()).sum()
    return z_k.detach(), log_det.detach(), *torch.autograd.grad(loss, [z, steps])


def assert_alike(ours, reference, tolerance):
    for mine, theirs in zip(ours, reference, strict=True):
        assert torch.isfinite(mine).all()
        size = theirs.abs().max().item() + 1e-30
        torch.testing.assert_close(mine / size, theirs / size, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("constraint", [True, False], ids=["constrained", "free"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0], ids=lambda scale: f"scale={scale:g}")
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 37, 5, 7), (3, 100, 40, 10), (1, 100, 2, 32), (2, 33, 40, 80)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_loop_is_the_plain_formula(dtype, shape, scale, constraint):
    samples, images, latent, length = shape
    z = draw(samples, images, latent, dtype=dtype)
    steps = draw(images, length, 2 * latent + 1, scale=scale / latent**0.5, dtype=dtype, seed=1)
    flow = PlanarFlow(latent, length, 4, constraint)
    ours = results_and_gradients(lambda z, steps: flow(z, (steps,)), z, steps)
    exact = results_and_gradients(
        lambda z, steps: plain(z, steps, constraint),
        z.detach().double().requires_grad_(),
        steps.detach().double().requires_grad_(),
    )
    if dtype == torch.float32:
        # Long chains of large steps amplify rounding: the plain formula in float32 sets what can be asked.
        rounded = results_and_gradients(lambda z, steps: plain(z, steps, constraint), z, steps)
        slack = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(rounded, exact, strict=True))
        assert_alike([x.double() for x in ours], exact, 20 * slack + 1e-6)
    else:
        assert_alike(ours, exact, 1e-10)


@pytest.mark.parametrize("constraint", [True, False], ids=["constrained", "free"])
def test_shared_steps_are_those_of_every_sample(constraint):
    flow, z, steps = PlanarFlow(5, 4, 0, constraint), draw(3, 20, 5), draw(4, 11, seed=1)
    ours = results_and_gradients(lambda z, steps: flow(z, (steps,)), z, steps)
    assert_alike(ours, results_and_gradients(lambda z, steps: plain(z, steps, constraint), z, steps), 1e-11)


def test_many_samples_of_shared_steps_are_done_in_pieces(monkeypatch):
    flow, z, steps = PlanarFlow(2, 3, 0), draw(50, 2), draw(3, 5, seed=1)
    whole = flow(z, (steps,))
    monkeypatch.setattr("nfstudy.flows.base.LANES", 16)
    torch.testing.assert_close(flow(z, (steps,)), whole, rtol=0, atol=0)


@pytest.mark.parametrize("constraint", [True, False], ids=["constrained", "free"])
def test_gradients_are_those_of_finite_differences(constraint):
    z, steps = draw(2, 4, 3), draw(4, 5, 7, seed=1)
    assert torch.autograd.gradcheck(lambda *inputs: PlanarChain.apply(*inputs, constraint), (z, steps))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("wu", [-1000.0, -690.5, -100.0, 80.0])
@pytest.mark.parametrize("a", [0.0, 1e-30, 3.0, 400.0])
def test_determinants_that_underflow_keep_their_logarithm(a, wu, dtype):
    w = torch.tensor([2.0, -1.0], dtype=dtype)
    steps = (
        torch.cat([wu * w / (w @ w), w, torch.tensor([a], dtype=dtype)]).expand(1, 1, 5).contiguous().requires_grad_()
    )
    z = torch.zeros(1, 1, 2, dtype=dtype, requires_grad=True)
    ours = results_and_gradients(lambda z, steps: PlanarFlow(2, 1, 3)(z, (steps,)), z, steps)
    reference = results_and_gradients(lambda z, steps: plain(z, steps, True), z, steps)
    assert_alike(ours, reference, 1e-9 if dtype == torch.float64 else 1e-5)


def test_a_step_whose_w_vanishes_is_a_shift():
    steps = torch.zeros(1, 1, 7, dtype=torch.float64)
    steps[0, 0, :3], steps[0, 0, 6] = torch.tensor([1.0, 2.0, 3.0]), 0.5
    z_k, log_det = PlanarFlow(3, 1, 4)(torch.zeros(1, 3, dtype=torch.float64), (steps,))
    torch.testing.assert_close(z_k[0], torch.tensor([1.0, 2.0, 3.0]).double() * torch.tensor(0.5).double().tanh())
    assert log_det.item() == 0


def test_what_is_not_finite_stays_so():
    steps = torch.ones(2, 3, 5)
    steps[1, 2, 0] = torch.nan
    z_k, log_det = PlanarFlow(2, 3, 4)(torch.zeros(2, 2), (steps,))
    assert torch.isfinite(z_k[0]).all()
    assert z_k[1].isnan().any()
    assert log_det[1].isnan()
