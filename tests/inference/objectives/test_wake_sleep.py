"""The sleep phase's gradient is that of ln q at what was dreamt; the reweighted one's limit is that of KL(p(z|x)‖q)."""

import pytest
import torch
from support.linear_model import DEVIATION, LinearModel, example, gradient, minibatch

from nfstudy.inference.objectives import make_estimator
from nfstudy.study.sections import ObjectiveSpec

FLOWS = {"K=0": (1, "none", 0), "planar": (2, "planar", 2), "NICE": (2, "nice-perm", 2), "IAF": (2, "iaf", 2)}
STEP = 1e-5


def log_q(model, x, z):
    """Return ln q_K(z|x) by the inverse, from the definition."""
    with torch.no_grad():
        posterior = model.infer(x)
        z_0 = model.flow.inverse(z, posterior.flow_parameters)
        _, log_det = model.flow(z_0, posterior.flow_parameters)
        q0 = torch.distributions.Normal(posterior.mean, (posterior.log_variance / 2).exp())
        return q0.log_prob(z_0).sum(-1) - log_det


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
def test_dreams_have_the_density_of_q_and_its_gradient(flow):
    model = LinearModel(*flow)
    noise = torch.zeros(1, 6, flow[0], dtype=torch.float64)
    dreamt = minibatch(model, noise, seed=5).dream()
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(6, flow[0], generator=generator, dtype=torch.float64)
    x = model.draw(z, generator).detach()
    assert torch.allclose(dreamt, log_q(model, x, z), atol=1e-9)
    found = torch.autograd.grad(dreamt.sum(), model.variational())
    for weight, slope in zip(model.variational(), found, strict=True):
        for place in range(min(weight.numel(), 4)):
            with torch.no_grad():
                flat = weight.view(-1)
                kept = flat[place].item()
                ends = []
                for side in (STEP, -STEP):
                    flat[place] = kept + side
                    ends.append(log_q(model, x, z).sum().item())
                flat[place] = kept
            by_difference = (ends[0] - ends[1]) / (2 * STEP)
            assert slope.view(-1)[place].item() == pytest.approx(by_difference, rel=1e-4, abs=1e-5)


def test_the_sleep_phase_descends_the_mean_over_p_of_minus_ln_q():
    """K = 0: E_p[−ln q(z|x)] has a closed form, z and x being jointly Gaussian; p has no gradient of it."""
    model = LinearModel(1)
    count = 200_000
    noise = torch.zeros(1, count, 1, dtype=torch.float64)
    estimate = -minibatch(model, noise, seed=1).dream()
    found = torch.autograd.grad(estimate.mean(), [model.A, model.a, model.r])
    W, b = model.W.detach(), model.b.detach()
    # z − A x − a = (1 − A W) z − A b − a − s A ε, of p(x, z).
    spread = (1 - model.A @ W).square() + DEVIATION**2 * model.A.square().sum()
    offset = (model.A @ b + model.a).square()
    exact = 0.5 * (model.r + (spread + offset) * (-model.r).exp()).sum()
    true = torch.autograd.grad(exact, [model.A, model.a, model.r])
    for ours, theirs in zip(found, true, strict=True):
        assert torch.allclose(ours, theirs, atol=0.03)
    assert torch.autograd.grad(-minibatch(model, noise).dream().sum(), [model.A, model.W], allow_unused=True)[1] is None


def test_wake_and_sleep_touch_their_own_parameters_only():
    model = LinearModel(2, "planar", 2)
    noise = torch.randn(1, 50, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    made = make_estimator(ObjectiveSpec(estimator="wake-sleep", annealing="none"), 3, "cpu")
    loss = made(minibatch(model, noise), 1.0).objective.mean()
    found = gradient(loss, model)
    batch = minibatch(model, noise)
    with torch.no_grad():
        z = batch.draw().z
    apart = gradient(-sum(batch.log_joint(z)).mean(), model) + gradient(-minibatch(model, noise).dream().mean(), model)
    assert torch.allclose(found, apart)


def test_many_weighted_samples_give_the_gradient_of_the_inclusive_divergence():
    """K = 0: −E_{p(z|x)}[∇ ln q(z|x)] has a closed form; p's gradient is then that of −ln p(x)."""
    model = LinearModel(1)
    with torch.no_grad():
        model.r.fill_(0.4)  # Wider than the posterior, so that no weight is large.
    samples = 400_000
    noise = torch.randn(samples, 1, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    spec = ObjectiveSpec(estimator="reweighted-wake-sleep", annealing="none", samples=2, q_update="wake")
    estimate = make_estimator(spec, 3, "cpu")(minibatch(model, noise), 1.0)
    found = gradient(estimate.objective.mean(), model)
    x = example()
    W, b = model.W, model.b
    precision = 1 + W.square().sum() / DEVIATION**2
    center = ((x - b) @ W / DEVIATION**2 / precision).detach()
    mean = x @ model.A.T + model.a
    inclusive = 0.5 * (model.r + ((mean - center).square() + (1 / precision).detach()) * (-model.r).exp()).sum()
    covariance = W @ W.T + DEVIATION**2 * torch.eye(3)
    nll = -torch.distributions.MultivariateNormal(b, covariance).log_prob(x).sum()
    true = gradient(inclusive + nll, model)
    assert torch.allclose(found, true, atol=0.03)
    assert estimate.objective.item() == pytest.approx(
        (nll + inclusive).item() + 0.5 * torch.log(torch.tensor(2 * torch.pi)).item(), abs=0.03
    )


def test_both_is_the_mean_of_wake_and_sleep_in_q_and_the_same_in_p():
    model = LinearModel(2, "nice-perm", 2)
    noise = torch.randn(3, 10, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def found(update):
        spec = ObjectiveSpec(estimator="reweighted-wake-sleep", annealing="none", samples=3, q_update=update)
        return gradient(make_estimator(spec, 3, "cpu")(minibatch(model, noise), 1.0).objective.mean(), model)

    wake, sleep, both = map(found, ("wake", "sleep", "both"))
    assert torch.allclose(both, (wake + sleep) / 2)
    assert not torch.allclose(wake, sleep)
