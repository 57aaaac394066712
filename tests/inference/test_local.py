"""Inference gaps of models whose posteriors are known, and what the search for q* holds to."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from inference.test_evaluation import SCALE, LinearGaussian, images
from scipy.stats import multivariate_normal
from support.families import FAMILIES
from torch import nn

from nfstudy.flows import make_flow
from nfstudy.flows.base import Flow
from nfstudy.inference.models import evaluation, local
from nfstudy.inference.models.ais import AisEstimates
from nfstudy.inference.models.dlgm import DLGM, Posterior
from nfstudy.inference.models.local import fit_posteriors, inference_gaps
from nfstudy.report.exhibits import gaps as exhibit
from nfstudy.study.sections import FlowSpec, ModelSpec

SLANTED = np.array([[1.0, 0.9], [0.5, 0.6], [0.3, 0.7], [0.8, 0.2]])
"""Columns that are not orthogonal: the exact posterior is correlated."""
PRECISION = np.eye(2) + SLANTED.T @ SLANTED / SCALE**2
COVARIANCE = np.linalg.inv(PRECISION)


class Slanted(LinearGaussian):
    """z ~ N(0, I), x|z ~ N(W z, s² I), whose encoder is off; q is diagonal, or of a flow's family."""

    def __init__(self, family="none", shift=0.4, widening=2.0):
        super().__init__(shift, widening)
        self.weights = nn.Parameter(torch.tensor(SLANTED))
        self.flow = make_flow(FlowSpec(family=family, length=int(family != "none")), 2, 0).double()
        self.flow.initialise(lambda part: torch.Generator().manual_seed(0))

    def infer(self, x):
        mean = x @ torch.tensor(SLANTED @ COVARIANCE / SCALE**2) + self.shift
        variance = self.widening / torch.tensor(np.diag(PRECISION))
        own = self.flow.parameters_from(x.new_empty(0))
        return Posterior(mean, variance.log().expand_as(mean), tuple(p.expand(len(x), *p.shape) for p in own))

    def sample(self, posterior, noise):
        z_0 = posterior.mean + (posterior.log_variance / 2).exp() * noise
        log_q0 = -0.5 * (noise.square() + posterior.log_variance + math.log(2 * math.pi)).sum(-1)
        z, log_det = self.flow(z_0, posterior.flow_parameters)
        return z, log_q0, log_det


def slanted_images(count):
    rng = np.random.default_rng(1)
    return rng.normal(size=(count, 2)) @ SLANTED.T + SCALE * rng.normal(size=(count, 4))


def exact(x):
    return multivariate_normal(np.zeros(4), SLANTED @ SLANTED.T + SCALE**2 * np.eye(4)).logpdf(x)


# KL of the best diagonal Gaussian, whose precisions are the diagonal of Σ⁻¹: ½ ln Π diag(Σ⁻¹) det Σ.
DIAGONAL_GAP = 0.5 * math.log(np.diag(PRECISION).prod() * np.linalg.det(COVARIANCE))


def test_the_gaps_of_a_diagonal_gaussian_are_those_of_the_closed_form():
    x = slanted_images(24)
    found = inference_gaps(Slanted(), x, samples=2000, temperatures=40, updates=2000, seed=1)
    numbers = found.numbers()
    assert DIAGONAL_GAP > 0.1
    assert (exact(x) - found.elbo_local).mean() == pytest.approx(DIAGONAL_GAP, abs=0.008)
    error = 4 * numbers["approximation_gap_seed_se"]
    assert error < 0.1
    assert numbers["approximation_gap"] == pytest.approx(DIAGONAL_GAP, abs=error)
    # KL of the encoder's N(m + shift, widening/diag P): of quadratic forms in the precision.
    off = 0.4 * np.ones(2)
    encoder = 0.5 * (2 * 2.0 + off @ PRECISION @ off - 2 + math.log(np.linalg.det(COVARIANCE)))
    encoder -= 0.5 * np.log(2.0 / np.diag(PRECISION)).sum()
    error = 4 * numbers["amortisation_gap_seed_se"] + 0.01
    assert numbers["amortisation_gap"] == pytest.approx(encoder - DIAGONAL_GAP, abs=error)
    assert numbers["inference_gap"] == pytest.approx(encoder, abs=4 * numbers["inference_gap_seed_se"] + 0.01)
    assert numbers["nll"] == pytest.approx(-exact(x).mean(), abs=4 * numbers["nll_seed_se"] + 1e-3)
    parts = numbers["approximation_gap"] + numbers["amortisation_gap"]
    assert parts == pytest.approx(numbers["inference_gap"], abs=1e-9)
    assert -numbers["nll"] == numbers["log_p_ais" if numbers["annealed"] else "log_p_importance"]
    assert numbers["converged"] == 1


def test_with_the_true_family_no_approximation_gap_is_left():
    x = slanted_images(16)
    numbers = inference_gaps(Slanted("full-covariance"), x, 1000, 20, 3000, seed=1).numbers()
    assert 0 <= numbers["approximation_gap"] < 0.01
    assert numbers["amortisation_gap"] > 0.5


def test_an_exact_posterior_is_left_as_it_is():
    x = images(12)
    model = LinearGaussian()
    found = inference_gaps(model, x, 200, 10, 1000, seed=1)
    numbers = found.numbers()
    assert numbers["amortisation_gap"] == pytest.approx(0, abs=1e-3)
    assert numbers["approximation_gap"] == pytest.approx(0, abs=1e-3)
    assert (found.elbo_local >= found.elbo - 1e-9).mean() > 0.9


def test_errors_over_seeds_are_those_of_many_seeds(monkeypatch):
    # A wide q without a search, whose weights have a light tail; and a search that has moved.
    for model, x, updates, gaps in (
        (LinearGaussian(0.3, 1.5), images(4), 0, ("approximation", "inference")),
        (Slanted(), slanted_images(4), 300, ("amortisation",)),
    ):
        found = fit_posteriors(model, x, updates, seed=1)
        with monkeypatch.context() as patch:
            patch.setattr(local, "fit_posteriors", lambda *_, found=found: found)
            known = [inference_gaps(model, x, 60, 2, updates, seed).numbers() for seed in range(60)]
        for gap in gaps:
            said = np.sqrt(np.mean([numbers[f"{gap}_gap_seed_se"] ** 2 for numbers in known]))
            assert np.std([numbers[f"{gap}_gap"] for numbers in known], ddof=1) == pytest.approx(said, rel=0.4)


def test_neighbours_and_blocks_do_not_matter_and_the_seed_does(monkeypatch):
    x = slanted_images(5)
    whole = fit_posteriors(Slanted(), x, 200, seed=3)
    monkeypatch.setattr(local, "IMAGES_AT_ONCE", 2)
    blocks = fit_posteriors(Slanted(), x, 200, seed=3)
    torch.testing.assert_close(whole.best.mean, blocks.best.mean, rtol=1e-9, atol=1e-9)
    assert np.array_equal(whole.updates, blocks.updates)
    alone = fit_posteriors(Slanted(), x[:1], 200, seed=3)
    torch.testing.assert_close(whole.best.mean[:1], alone.best.mean, rtol=1e-9, atol=1e-9)
    assert not torch.equal(whole.best.mean, fit_posteriors(Slanted(), x, 200, seed=4).best.mean)


def test_the_larger_estimate_is_taken_where_it_is_no_chance():
    def better(annealed, of_annealed, sampled, of_sampled):
        found = SimpleNamespace(log_p=np.array([sampled]), log_p_se=np.array([of_sampled]))
        return local._is_better(AisEstimates(np.array([-annealed]), np.array([of_annealed]), 1.0), found)

    assert better(-80, 0.1, -81, 0.1)
    assert not better(-81, 0.1, -80, 0.1)
    assert not better(-80, 1.0, -80.5, 0.1), "larger by chance, and the noisier one"
    assert better(-80.5, 0.1, -80, 1.0)


def test_too_few_updates_are_said_and_the_model_stays_as_it_was():
    model = Slanted()
    model.weights.requires_grad_(True)
    before = model.weights.detach().clone()
    found = fit_posteriors(model, slanted_images(3), 50, seed=1)
    assert found.converged.tolist() == [False] * 3
    assert found.updates.tolist() == [50] * 3
    assert model.weights.requires_grad
    assert torch.equal(model.weights, before)
    none = fit_posteriors(model, slanted_images(3), 20, seed=1)
    assert none.updates.tolist() == [0] * 3
    assert torch.equal(none.best.mean, none.start.mean)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_searched_within_itself(family):
    spec = FlowSpec(family=family, length=2, autoregressive_hidden=8)
    model = DLGM(6, ModelSpec(latent=2, hidden=8, layers=1, maxout=2), spec)
    model.initialise(1, 1)
    model.eval()
    with torch.no_grad():
        model.mean.bias.fill_(1.5)  # An encoder that is off.
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    x = np.random.default_rng(0).integers(2, size=(6, 6), dtype=np.uint8)
    found = inference_gaps(model, x, 400, 10, 400, 1, model.nearest)
    numbers = found.numbers()
    assert numbers["amortisation_gap"] > 0.3
    assert (found.elbo_local > found.elbo - 0.02).all()
    assert numbers["approximation_gap"] > -4 * numbers["approximation_gap_seed_se"]
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


class HalfShared(Flow):
    """z ← e^s z + t for K steps, t of each image's own; all images share s, a row a step, and a number beside."""

    def initialise(self, generator):
        self.s = nn.Parameter(torch.zeros(self.length, self.latent))

    def parameters_from(self, features):
        return self.s, torch.zeros(len(features), self.length, self.latent) + 0.0 * features[:, :1, None], self.s.sum()

    def forward(self, z, parameters):
        s, t, total = parameters
        assert s.shape == (self.length, self.latent), "shared by all images"
        for step in range(self.length):
            z = s[step].exp() * z + t[..., step, :]
        return z, total.expand(z.shape[:-1])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_parameters_that_images_share_stay_as_they_are(count, monkeypatch):
    monkeypatch.setattr(local, "IMAGES_AT_ONCE", 2)
    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", 2)
    model = DLGM(6, ModelSpec(latent=3, hidden=8, layers=1, maxout=2), FlowSpec())
    model.initialise(1, 1)
    model.flow = HalfShared(3, 2, 8)
    model.flow.initialise(None)
    model.eval()
    with torch.no_grad():
        model.mean.bias.fill_(1.5)
        model.flow.s.copy_(torch.linspace(-0.2, 0.3, 6).view(2, 3))
    x = np.random.default_rng(0).integers(2, size=(count, 6), dtype=np.uint8)
    found = fit_posteriors(model, x, 100, 1, model.nearest)
    (s, t, total), first = found.best.flow_parameters, found.start.flow_parameters
    assert torch.equal(s, model.flow.s)
    assert torch.equal(total, model.flow.s.sum())
    assert t.shape == (count, 2, 3)
    assert (t != first[1]).any(dim=-1).any(dim=-1).all()
    assert inference_gaps(model, x, 50, 5, 100, 1, model.nearest).numbers()["amortisation_gap"] > 0.2


@pytest.mark.parametrize("family", ["hamiltonian", "langevin"])
def test_step_sizes_stay_within_what_the_family_has(family):
    model = DLGM(6, ModelSpec(latent=2, hidden=8, layers=1, maxout=2), FlowSpec(family=family, length=2))
    model.initialise(1, 1)
    posterior = model.infer(torch.zeros(3, 6))
    step, *others = posterior.flow_parameters
    first = model.flow.first_step
    moved = posterior._replace(flow_parameters=(step - 1, *(other + 9 for other in others)))
    small, *same = model.nearest(moved).flow_parameters
    assert (small == small.new_tensor(first * math.exp(-2))).all()
    assert all(torch.equal(one, other + 9) for one, other in zip(same, others, strict=True))
    inside, *_ = model.nearest(posterior).flow_parameters
    assert torch.equal(inside, step)


def test_the_exhibit_says_how_the_search_ends():
    assert (exhibit.ROUND, exhibit.TOLERANCE) == (local.ROUND, local.TOLERANCE)
    assert local.REDUCTIONS == 4, "four rounds, the caption says"
