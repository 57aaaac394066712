"""A flow by itself: its density against a Jacobian's, its gradients against differences, and messages."""

import math

import pytest
import torch
from support.families import WITH_STEPS

import nfstudy
from nfstudy.core.errors import UserError


def away_from_the_identity(family, dim=3, length=2, **settings):
    flow = nfstudy.flow(family, dim=dim, length=length, **settings).double()
    generator = torch.Generator().manual_seed(1)
    # Splines of numbers any larger are too steep and too flat for differences.
    spread = 0.1 if family == "spline" else 0.3
    with torch.no_grad():
        for weights in flow.parameters():
            weights.add_(spread * torch.randn(weights.shape, generator=generator, dtype=torch.float64))
    return flow


def draws(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("family", WITH_STEPS)
def test_the_density_is_that_of_the_jacobian_and_has_its_gradients(family):
    flow = away_from_the_identity(family)
    z = draws(4, 2, 3)
    z_K, log_det = flow(z)
    assert (z_K.shape, log_det.shape) == (z.shape, z.shape[:-1])
    torch.testing.assert_close(flow.inverse(z_K), z, atol=1e-9, rtol=0)
    jacobian = torch.autograd.functional.jacobian(lambda point: flow(point)[0], z[1, 1])
    exact = torch.distributions.Normal(0, 1).log_prob(z[1, 1]).sum() - torch.linalg.slogdet(jacobian).logabsdet
    # The orthogonal matrices of nice-orth are so to the rounding of float32, in which they were made.
    torch.testing.assert_close(flow.log_prob(z_K[1, 1]), exact.double(), atol=1e-6, rtol=0)

    points = z_K.detach().requires_grad_()
    flow.log_prob(points).sum().backward()
    weights = max(flow.parameters(), key=lambda each: each.grad.abs().max() if each.numel() else torch.tensor(-1.0))
    place = int(weights.grad.abs().argmax())
    for values, gradient, at in ((points.data, points.grad, 0), (weights.data, weights.grad, place)):
        ends = []
        for step in (1e-6, -2e-6):
            values.view(-1)[at] += step
            with torch.no_grad():
                ends.append(flow.log_prob(points).sum())
        values.view(-1)[at] += 1e-6
        difference = float(ends[0] - ends[1]) / 2e-6
        assert float(gradient.view(-1)[at]) == pytest.approx(difference, rel=1e-5, abs=1e-7)


def test_length_0_is_the_standard_gaussian():
    for flow in (nfstudy.flow("planar", dim=2, length=0), nfstudy.flow("none", dim=2, length=5)):
        assert flow.length == 0
        assert flow.log_prob(torch.zeros(1, 2)).item() == pytest.approx(-math.log(2 * math.pi))


def test_a_flow_is_fitted_to_samples_by_its_density():
    """Samples of N((2, −1), ¼ I), of entropy ln(2πe/4) = 1.45 nats: q0 itself is at ln(2π) + (5 + ½)/2 = 4.59."""
    x = torch.tensor([2.0, -1.0]) + 0.5 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    flow = nfstudy.flow("planar", dim=2, length=3)
    start = -flow.log_prob(x).mean().item()
    optimiser = torch.optim.Adam(flow.parameters(), lr=0.1)
    for _ in range(40):
        optimiser.zero_grad()
        (-flow.log_prob(x).mean()).backward()
        optimiser.step()
    assert start == pytest.approx(4.59, abs=0.2)
    assert 1.3 < -flow.log_prob(x).mean().item() < 2


def test_seeds_give_the_same_flow_and_the_same_draws():
    one, same, other = (nfstudy.flow("nice-perm", dim=4, length=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.sample(5, seed=3), same.sample(5, seed=3))
    assert not torch.equal(one.sample(5, seed=3), other.sample(5, seed=3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    {
        "no such family": ({"family": "plannar"}, "planar"),
        "no such setting": ({"constrain": True}, "flow planar: constrain: no such setting; expected: constraint"),
        "a wrong value": ({"constraint": "yes"}, "flow planar: constraint: got 'yes'; expected:"),
        "too few variables": (
            {"family": "nice-perm", "dim": 1},
            "at least 2, as it splits the latent variables in two",
        ),
        "no variables": ({"dim": 0}, "dim: got 0; expected: a whole number from 1"),
        "half a step": ({"length": 0.5}, "length: got 0.5; expected: a whole number from 0"),
    }.values(),
)
def test_mistakes_are_told(arguments, message):
    with pytest.raises(UserError, match=message):
        nfstudy.flow(**{"family": "planar", "dim": 2, "length": 2} | arguments)


def test_a_flow_without_an_inverse_says_what_has_one():
    flow = nfstudy.flow("planar", dim=2, length=2, constraint=False)
    assert flow(torch.zeros(3, 2))[0].shape == (3, 2)
    for ask in (flow.inverse, flow.log_prob):
        with pytest.raises(NotImplementedError, match="constraint=False: has no inverse; expected: constraint=True"):
            ask(torch.zeros(3, 2))


def test_points_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3, 4\): expected: \(\.\.\., 2\)"):
        nfstudy.flow("planar", dim=2, length=2)(torch.zeros(3, 4))


def test_a_point_where_the_chain_is_flat_has_no_gradient_and_the_others_have():
    flow = nfstudy.flow("planar", dim=2, length=1)
    with torch.no_grad():  # ŵᵀu is −1 but for rounding: flat where tanh is steepest.
        flow.chain.head.bias.copy_(torch.tensor([-200.0, 0.0, 1.0, 0.0, 0.0]))
    z = torch.tensor([[0.0, 0.0], [1.0, 1.0]], requires_grad=True)
    flow.log_prob(z)[1].backward()
    assert z.grad[1].isfinite().all()
