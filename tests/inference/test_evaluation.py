import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from support.families import FAMILIES
from torch import nn
from torch.distributions import Normal

from nfstudy.inference.models import evaluation
from nfstudy.inference.models.dlgm import DLGM, Posterior
from nfstudy.inference.models.evaluation import evaluate_bound, evaluate_likelihood
from nfstudy.inference.models.objective import bound_terms
from nfstudy.study.sections import FlowSpec, ModelSpec

SCALE = 0.7
WEIGHTS = np.array([[1.0, 0.5], [-0.5, 1.0], [0.3, 0.6], [0.4, -0.45]])
"""Columns are orthogonal, so the exact posterior has a diagonal covariance."""


class LinearGaussian(nn.Module):
    """z ~ N(0, I), x|z ~ N(W z, s² I): ln p(x) is known; the posterior is exact unless shifted or widened."""

    def __init__(self, shift=0.0, widening=1.0):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(WEIGHTS))
        self.shift, self.widening = shift, widening

    def infer(self, x):
        variance = 1 / (1 + self.weights.square().sum(0) / SCALE**2)
        mean = variance * (x @ self.weights) / SCALE**2 + self.shift
        return Posterior(mean, (self.widening * variance).log().expand_as(mean), ())

    def sample(self, posterior, noise):
        q0 = Normal(posterior.mean, (posterior.log_variance / 2).exp())
        z = q0.loc + q0.scale * noise
        return z, q0.log_prob(z).sum(-1), z.new_zeros(z.shape[:-1])

    def log_likelihood(self, x, z):
        return Normal(z @ self.weights.T, SCALE).log_prob(x).sum(-1)


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 2)) @ WEIGHTS.T + SCALE * rng.normal(size=(count, 4))


def exact_nll(x):
    return -multivariate_normal(np.zeros(4), WEIGHTS @ WEIGHTS.T + SCALE**2 * np.eye(4)).logpdf(x).mean()


def test_exact_posterior_gives_ln_p_without_error():
    x = images(150)
    estimates = evaluate_likelihood(LinearGaussian(), x, 50, seed=1)
    assert estimates.nll == pytest.approx(exact_nll(x), abs=1e-9)
    assert estimates.elbo == pytest.approx(-exact_nll(x), abs=1e-9)
    assert estimates.kl == pytest.approx(0, abs=1e-9)
    assert estimates.nll_mc_se == pytest.approx(0, abs=1e-8)
    assert evaluate_bound(LinearGaussian(), x, seed=1)["elbo"] == pytest.approx(-exact_nll(x), abs=1e-9)


WRONG = {"shifted": (0.3, 1.0), "wide": (0.0, 1.5), "both": (0.2, 2.0)}
wrong_posteriors = pytest.mark.parametrize(("shift", "widening"), WRONG.values(), ids=WRONG.keys())


@wrong_posteriors
def test_wrong_posterior_bounds_ln_p_and_importance_sampling_meets_it(shift, widening):
    x = images(120)
    estimates = evaluate_likelihood(LinearGaussian(shift, widening), x, 2000, seed=1)
    assert abs(estimates.nll - exact_nll(x)) < 4 * estimates.nll_mc_se
    assert 0 < estimates.nll_mc_se < 0.01
    assert estimates.elbo < -exact_nll(x) - 10 * estimates.nll_mc_se


@wrong_posteriors
def test_kl_is_the_closed_form_gap(shift, widening):
    # KL of two diagonal Gaussians with the same axes, exact posterior variance v_d.
    variance = 1 / (1 + (WEIGHTS**2).sum(0) / SCALE**2)
    exact = (0.5 * (widening + shift**2 / variance - 1 - math.log(widening))).sum()
    assert evaluate_likelihood(LinearGaussian(shift, widening), images(120), 4000, 1).kl == pytest.approx(
        exact, rel=0.03
    )


def test_two_samples_by_hand():
    class TwoWeights(LinearGaussian):
        """Log weights ln 1 and ln 3, whatever is drawn."""

        def sample(self, posterior, noise):
            z = torch.zeros_like(noise)
            return z, torch.zeros(z.shape[:-1], dtype=z.dtype), z.sum(-1)

        def log_likelihood(self, x, z):
            log_prior = -math.log(2 * math.pi)
            return torch.tensor([0.0, math.log(3)], dtype=z.dtype)[:, None] - log_prior + 0 * z.sum(-1)

    estimates = evaluate_likelihood(TwoWeights(), images(4), 2, seed=1)
    assert estimates.nll == pytest.approx(-math.log(2))
    assert estimates.elbo == pytest.approx(math.log(3) / 2)
    # sd(w) = √2, so se of one image = √2 / (√2 · 2) = 1/2, and of the mean of four 1/4.
    assert estimates.nll_mc_se == pytest.approx(0.25)
    assert estimates.kl == pytest.approx(math.log(2) - math.log(3) / 2)


@pytest.mark.parametrize("offset", [-2000.0, 2000.0])
def test_weights_beyond_the_range_of_exp(offset):
    class Offset(LinearGaussian):
        def log_likelihood(self, x, z):
            return super().log_likelihood(x, z) + offset

    x = images(20)
    plain = evaluate_likelihood(LinearGaussian(0.3), x, 100, seed=1)
    moved = evaluate_likelihood(Offset(0.3), x, 100, seed=1)
    assert moved.nll == pytest.approx(plain.nll - offset, abs=1e-9)
    assert moved.nll_mc_se == pytest.approx(plain.nll_mc_se, rel=1e-6)


@pytest.mark.parametrize(("images_at_once", "samples_at_once"), [(7, 16), (1000, 16), (100, 48), (100, 1024)])
def test_blocks_do_not_change_the_estimate(monkeypatch, images_at_once, samples_at_once):
    model, x = LinearGaussian(0.3, 1.5), images(130)
    expected = evaluate_likelihood(model, x, 100, seed=5)
    monkeypatch.setattr(evaluation, "IMAGES_AT_ONCE", images_at_once)
    monkeypatch.setattr(evaluation, "SAMPLES_AT_ONCE", samples_at_once)
    found = evaluate_likelihood(model, x, 100, seed=5)
    assert found.numbers() == pytest.approx(expected.numbers(), rel=1e-9)
    assert found.curve == pytest.approx(expected.curve, rel=1e-9)


def test_seed_alone_decides_the_draws():
    model, x = LinearGaussian(0.3), images(30)
    assert evaluate_likelihood(model, x, 20, 1).numbers() == evaluate_likelihood(model, x, 20, 1).numbers()
    assert evaluate_likelihood(model, x, 20, 1).numbers() != evaluate_likelihood(model, x, 20, 2).numbers()
    assert evaluate_bound(model, x, seed=1) == evaluate_bound(model, x, seed=1)
    assert evaluate_bound(model, x, seed=1) != evaluate_bound(model, x, seed=2)


def test_bound_terms_have_their_closed_form_means():
    x = images(20_000)
    model = LinearGaussian(0.2, 1.5)
    with torch.no_grad():
        posterior = model.infer(torch.tensor(x))
        variance = posterior.log_variance.exp()
        second_moment = posterior.mean.square() + variance
        log_prior = (-0.5 * (second_moment + math.log(2 * math.pi))).sum(-1).mean().item()
        log_q0 = (-0.5 * (1 + posterior.log_variance + math.log(2 * math.pi))).sum(-1).mean().item()
    bound = evaluate_bound(model, x, seed=3)
    assert bound["log_prior"] == pytest.approx(log_prior, abs=0.04)
    assert bound["log_q0"] == pytest.approx(log_q0, abs=0.04)
    assert bound["log_det"] == 0
    terms = bound["log_likelihood"] + bound["log_prior"] - bound["log_q0"] + bound["log_det"]
    assert bound["elbo"] == pytest.approx(terms, abs=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_flow_posterior_meets_the_exact_ln_p_of_a_blind_decoder(family):
    # With all logits 0, ln p(x) = −N ln 2 whatever the flow, so a wrong log-determinant shows; a wide q0 keeps the
    # variance of the importance weights finite, and so does, in families that scale by much, a chain near its start.
    flow = FlowSpec(family=family, length=4, autoregressive_hidden=8)
    spread = 0.05 if family in ("glow", "spline") else 0.2
    model = DLGM(6, ModelSpec(latent=2, hidden=8, layers=1, maxout=2), flow).double()
    model.initialise(1, 1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.flow.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
        model.likelihood.logits.weight.zero_()
        model.mean.weight.zero_()
        model.log_variance.bias.fill_(0.3)
    x = np.random.default_rng(0).integers(2, size=(20, 6), dtype=np.uint8)
    estimates = evaluate_likelihood(model, x, 4000, seed=1)
    assert estimates.nll_mc_se < 0.05
    assert abs(estimates.nll - 6 * math.log(2)) < 4 * estimates.nll_mc_se
    assert estimates.kl > 5 * estimates.nll_mc_se


def test_read_only_images_of_bits_are_accepted():
    model = DLGM(6, ModelSpec(latent=2, hidden=4, layers=1, maxout=2), FlowSpec())
    model.initialise(1, 1)
    x = np.ones((3, 6), dtype=np.uint8)
    x.setflags(write=False)
    assert math.isfinite(evaluate_bound(model, x, seed=1)["elbo"])
    assert model.likelihood.logits.weight.grad is None


def plain(model):
    """Return the model with its training's formulas where −ln p(x) is estimated."""
    model.weigh_samples = lambda x, posterior: lambda noise: bound_terms(model, x, noise.contiguous(), posterior).elbo
    return model


@pytest.mark.parametrize(("kind", "within"), [(torch.float32, 2e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(("family", "length"), [("none", 0), ("planar", 3), ("nice-perm", 3), ("iaf", 2)])
def test_estimates_by_the_loop_are_those_by_the_formula(family, length, kind, within):
    x = np.random.default_rng(0).integers(0, 2, (7, 30)).astype(np.float32)

    def model():
        made = DLGM(30, ModelSpec(latent=5, hidden=12, maxout=2), FlowSpec(family=family, length=length))
        made.initialise(0, 1)
        return made.to(kind)

    assert evaluate_bound(model(), x, 3) == evaluate_bound(plain(model()), x, 3), "as training's validation has it"
    ours, theirs = (evaluate_likelihood(each, x, 100, 3) for each in (model(), plain(model())))
    np.testing.assert_allclose(ours.images.nll, theirs.images.nll, rtol=0, atol=within)
    assert ours.elbo == pytest.approx(theirs.elbo, abs=within)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [2, 16, 17, 128, 129, 300])
@pytest.mark.parametrize("size", [1, 3, 40])
def test_noise_drawn_in_large_pieces_is_that_of_blocks_of_16(samples, size, kind):
    def streams():
        return [torch.Generator().manual_seed(seed) for seed in range(3)]

    blocks = []
    theirs = streams()
    for start in range(0, samples, 16):
        draws = [torch.randn(16, size, generator=stream, dtype=kind) for stream in theirs]
        blocks.append(torch.stack(draws, dim=1)[: samples - start])
    # Later draws go to the memory of earlier ones.
    ours = [block.clone() for block in evaluation._noise_by_block(samples, size, streams(), kind, 16)]
    assert [len(block) for block in ours] == [len(block) for block in blocks]
    assert torch.equal(torch.cat(ours), torch.cat(blocks))
