"""Each estimator's mean, by quadrature over its noise, is the exact gradient of what it says it minimises."""

import math

import pytest
import torch
from support.linear_model import LinearModel, example, gradient, minibatch, quadrature

from nfstudy.inference.models.objective import bound_terms, free_energy
from nfstudy.inference.objectives import make_estimator
from nfstudy.study.sections import ObjectiveSpec

FLOWS = {"K=0": (1, "none", 0), "planar": (1, "planar", 2), "NICE": (2, "nice-perm", 2)}
flows = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
NODES = {1: 60, 2: 40, 4: 13}
"""Numbers of noise -> nodes of each."""
TOLERANCE = {1: 1e-5, 2: 1e-4, 4: 2e-3}
"""Of the largest number of the gradient: what the rule leaves."""


def estimator(name, annealing="none", samples=1, **settings):
    spec = ObjectiveSpec(estimator=name, annealing=annealing, samples=samples, **settings)
    return make_estimator(spec, example().shape[1], "cpu")


def mean_and_value(made, model, latent, samples, beta):
    noise, weights = quadrature(samples, latent, NODES[samples * latent])
    estimate = made(minibatch(model, noise), beta)
    value = (weights * estimate.objective).sum()
    return gradient(value, model), value.item()


def exact(model, latent, samples, beta, annealing, bound):
    """Return gradient and value of E[bound(F of each sample)] from the definition of F, by quadrature."""
    noise, weights = quadrature(samples, latent, NODES[samples * latent])
    energies = free_energy(bound_terms(model, example().expand(noise.shape[1], -1), noise), beta, annealing)
    value = (weights * bound(energies)).sum()
    return gradient(value, model), value.item()


def mean_energy(energies):
    return energies.mean(0)


def importance(energies):
    return -(torch.logsumexp(-energies, 0) - math.log(len(energies)))


CASES = [
    ("pathwise", 1, mean_energy, {}),
    ("pathwise", 2, mean_energy, {}),
    ("sticking-the-landing", 1, mean_energy, {}),
    ("score-function", 1, mean_energy, {"baseline": "none"}),
    ("score-function", 1, mean_energy, {"baseline": "running"}),
    ("score-function", 1, mean_energy, {"baseline": "input"}),
    ("score-function", 2, mean_energy, {"baseline": "leave-one-out"}),
    ("iwae", 2, importance, {}),
    ("dreg", 1, mean_energy, {}),
    ("dreg", 2, importance, {}),
]


@flows
@pytest.mark.parametrize(("annealing", "beta"), [("none", 1.0), ("energy", 0.3), ("kl", 0.3)])
@pytest.mark.parametrize(
    ("name", "samples", "bound", "settings"),
    CASES,
    ids=["-".join((name, str(samples), *settings.values())) for name, samples, _, settings in CASES],
)
def test_the_mean_of_the_estimate_is_the_exact_gradient(name, samples, bound, settings, annealing, beta, flow):
    latent, family, length = flow
    model = LinearModel(latent, family, length)
    made = estimator(name, annealing, samples, **settings)
    if made.state:  # A baseline that has learned something.
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(samples, 5, latent, generator=generator, dtype=torch.float64)
            made(minibatch(model, noise), beta)
        assert made.state["mean"] != 0
    found, value = mean_and_value(made, model, latent, samples, beta)
    true, true_value = exact(model, latent, samples, beta, annealing, bound)
    scale = true.abs().max()
    assert value == pytest.approx(true_value, rel=1e-10)
    assert (found - true).abs().max() < TOLERANCE[samples * latent] * scale
    assert scale > 0.1


def test_the_gradient_of_F_by_hand():
    """Of one latent variable without a flow: F = E_q[−ln p(x|z)] + KL, with closed forms for both."""
    model = LinearModel(1)
    x, mean = example(), example() @ model.A.T + model.a
    variance = model.r.exp()
    off = x - mean @ model.W.T - model.b
    squares = off.square().sum() + variance * model.W.square().sum()
    nats = 0.5 * (squares / 0.64 + 3 * math.log(2 * math.pi * 0.64))
    kl = 0.5 * (mean.square() + variance - 1 - model.r).sum()
    by_hand = gradient((nats + kl).sum(), model)
    for name in ("pathwise", "sticking-the-landing", "score-function"):
        found, value = mean_and_value(estimator(name), model, 1, 1, 1.0)
        assert torch.allclose(found, by_hand, atol=1e-9)
        assert value == pytest.approx((nats + kl).item(), rel=1e-12)


@flows
def test_no_estimator_leaves_a_parameter_out(flow):
    latent, family, length = flow
    model = LinearModel(latent, family, length)
    noise = torch.randn(3, 8, latent, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name in (
        *("pathwise", "sticking-the-landing", "score-function", "iwae", "dreg"),
        *("wake-sleep", "reweighted-wake-sleep"),
    ):
        loss = estimator(name, samples=3)(minibatch(model, noise), 1.0).objective.mean()
        loss.backward()
        missed = [part for part, weight in model.named_parameters() if weight.numel() and not weight.grad.any()]
        assert not missed, name
        model.zero_grad()


@flows
def test_the_importance_weighted_bound_rises_with_the_samples_and_begins_at_the_elbo(flow):
    latent, family, length = flow
    model = LinearModel(latent, family, length)
    noise = torch.randn(64, 4000, latent, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        bounds = [
            estimator("iwae", samples=s)(minibatch(model, noise[:s]), 1.0).objective.mean().item()
            for s in (1, 2, 8, 64)
        ]
        elbo = estimator("pathwise")(minibatch(model, noise[:1]), 1.0).objective.mean().item()
    assert bounds[0] == elbo
    assert bounds == sorted(bounds, reverse=True)
    covariance = model.W @ model.W.T + 0.64 * torch.eye(3)
    true = -torch.distributions.MultivariateNormal(model.b, covariance).log_prob(example()).item()
    assert bounds[-1] > true - 0.02
    assert bounds[-1] < bounds[0]
