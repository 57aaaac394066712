"""p(x|z): densities that integrate to one, known answers, and what bounds them."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from nfstudy.inference.likelihoods.bernoulli import Bernoulli, plain_log_mass
from nfstudy.inference.likelihoods.categorical import Categorical
from nfstudy.inference.likelihoods.normal import INITIAL_VARIANCE, Gaussian, LogitNormal
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.inference.models.evaluation import evaluate_likelihood
from nfstudy.study.sections import FlowSpec, ModelSpec

FLOOR = 1e-3
PIXELS, FEATURES = 5, 7


def logit_normal(variance="network", floor=FLOOR, pixels=PIXELS, features=FEATURES):
    model = ModelSpec(variance=variance, variance_floor=floor)
    likelihood = LogitNormal(pixels, features, model)
    likelihood.initialise(lambda part: torch.Generator().manual_seed(len(part)))
    return likelihood.double()


def of_parameters(mu, alpha):
    """Return the density of one pixel with given μ and α, whatever z."""
    likelihood = logit_normal("shared", pixels=1, features=1)
    with torch.no_grad():
        likelihood.location.weight.zero_()
        likelihood.location.bias.fill_(mu)
        likelihood.excess_bias.fill_(math.log(math.expm1(alpha - FLOOR)))
    return lambda x: likelihood(torch.tensor([[x]], dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)).item()


def features(*shape, scale=1.0):
    return scale * torch.randn(*shape, FEATURES, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def numbers(*shape):
    return 0.02 + 0.96 * torch.rand(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize(
    ("mu", "alpha"),
    [(0.0, 1.0), (0.0, 0.002), (-2.5, 0.3), (4.0, 0.05), (-9.2, 0.01), (9.2, 0.01), (-7.0, 4.0), (1.0, 12.0)],
)
def test_the_density_integrates_to_one(mu, alpha):
    log_density = of_parameters(mu, alpha)
    # Pieces of one standard deviation of logit(x) each: in x, they are of very different lengths.
    edges = np.unique(special.expit(mu + math.sqrt(alpha) * np.arange(-9, 10)))
    total = sum(
        integrate.quad(lambda x: math.exp(log_density(x)), low, high, epsabs=1e-10)[0]
        for low, high in itertools.pairwise(edges)
    )
    assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("variance", ["network", "shared"])
def test_the_density_is_the_gaussian_of_the_logit_times_its_slope(variance):
    likelihood, x, h = logit_normal(variance), numbers(4, PIXELS), features(3, 4)
    mu, alpha = likelihood.location(h).detach().numpy(), likelihood.variance(h).detach().numpy()
    gaussian = stats.norm.logpdf(special.logit(x.numpy()), mu, np.sqrt(alpha))
    slope = np.log(x.numpy()) + np.log(1 - x.numpy())
    assert likelihood(x, h).detach().numpy() == pytest.approx((gaussian - slope).sum(-1), rel=1e-12)


def test_a_value_by_hand():
    # logit(0.8) = ln 4; with μ = 0, α = 2: −(ln 4)² / 4 − ½ ln 4π − ln 0.16.
    expected = -(math.log(4) ** 2) / 4 - 0.5 * math.log(4 * math.pi) - math.log(0.16)
    assert of_parameters(0.0, 2.0)(0.8) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("variance", ["network", "shared"])
def test_gradients_are_those_of_finite_differences(variance):
    likelihood, x, h = logit_normal(variance), numbers(2, PIXELS), features(2).requires_grad_()
    inputs = (h, *likelihood.parameters())
    assert torch.autograd.gradcheck(lambda *_: likelihood(x, h), inputs)


def test_single_precision_is_enough_between_epsilon_and_its_complement():
    likelihood, h = logit_normal(), features(1)
    x = torch.tensor([[1e-4, 0.001, 0.5, 0.999, 1 - 1e-4]], dtype=torch.float32)
    exact = likelihood(x.double(), h)
    assert likelihood.float()(x, h.float()).item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("floor", [1e-3, 0.5])
@pytest.mark.parametrize("variance", ["network", "shared"])
def test_no_features_bring_the_variance_below_its_floor(variance, floor):
    likelihood = logit_normal(variance, floor)
    with torch.no_grad():
        likelihood.excess_bias.fill_(-1000)
    assert (likelihood.variance(features(100, scale=100.0)) >= floor).all()
    assert likelihood.variance(features(1, scale=0.0)).min().item() == floor
    # At the median the density is largest: (2π floor)^(−½) / (x (1 − x)) a pixel.
    x = likelihood.picture(features(1, scale=0.0))
    greatest = -0.5 * PIXELS * math.log(2 * math.pi * floor) - (x.log() + (1 - x).log()).sum()
    assert likelihood(x, features(1, scale=0.0)).item() == pytest.approx(greatest.item(), rel=1e-12)


def test_a_shared_variance_does_not_depend_on_z_and_the_networks_does():
    h = features(10)
    assert logit_normal("shared").variance(h).shape == (PIXELS,)
    assert (logit_normal("network").variance(h).std(0) > 0).all()
    counts = [sum(p.numel() for p in logit_normal(variance).parameters()) for variance in ("shared", "network")]
    assert counts == [PIXELS * FEATURES + 2 * PIXELS, 2 * (PIXELS * FEATURES + PIXELS)]


@pytest.mark.parametrize("variance", ["network", "shared"])
def test_training_starts_near_the_initial_variance(variance):
    alpha = logit_normal(variance, pixels=200).variance(features(1000))
    assert alpha.mean().item() == pytest.approx(INITIAL_VARIANCE + FLOOR, rel=0.02)
    assert alpha.std() < 0.1


def test_the_picture_is_the_median():
    mu, alpha = 1.3, 4.0
    likelihood = logit_normal("shared", pixels=1, features=1)
    with torch.no_grad():
        likelihood.location.weight.zero_()
        likelihood.location.bias.fill_(mu)
    median = likelihood.picture(torch.zeros(1, 1, dtype=torch.float64)).item()
    log_density = of_parameters(mu, alpha)
    below, _ = integrate.quad(lambda x: math.exp(log_density(x)), 0, median)
    assert below == pytest.approx(0.5, abs=1e-7)


def test_the_inference_network_sees_bits_as_they_are_and_numbers_as_logits():
    bits, x = torch.tensor([[0.0, 1.0]]), numbers(1, 3)
    assert torch.equal(Bernoulli(2, 1, ModelSpec()).encoder_input(bits), bits)
    assert logit_normal().encoder_input(x).numpy() == pytest.approx(special.logit(x.numpy()), rel=1e-12)


# --- in a model -----------------------------------------------------------------------------------------------------


def tiny_model(flow=None, **values):
    model = DLGM(3, ModelSpec(latent=1, hidden=8, layers=1, maxout=2, **values), flow or FlowSpec(), LogitNormal)
    model.initialise(1, 1)
    return model.double()


@pytest.mark.parametrize("variance", ["network", "shared"])
def test_importance_samples_give_ln_p_of_one_latent_variable_as_quadrature_does(variance):
    model, x = tiny_model(variance=variance), numbers(4, 3)
    with torch.no_grad():
        # A q0 as wide as the prior keeps the weights' variance finite.
        model.mean.weight.zero_()
        model.log_variance.bias.fill_(0.3)
    z = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    with torch.no_grad():
        log_joint = model.log_likelihood(x, z[:, None, None].expand(-1, 4, 1)) - z[:, None].square() / 2
    exact = -np.log(integrate.simpson(log_joint.exp().numpy(), x=z.numpy(), axis=0) / math.sqrt(2 * math.pi)).mean()
    found = evaluate_likelihood(model, x.numpy(), 20_000, seed=1)
    assert found.nll_mc_se < 0.01
    assert abs(found.nll - exact) < 4 * found.nll_mc_se
    assert found.kl > 0


@pytest.mark.parametrize("family", ["none", "planar"])
def test_a_decoder_blind_to_z_has_the_density_of_its_biases(family):
    model, x = tiny_model(FlowSpec(family=family, length=0 if family == "none" else 4)), numbers(6, 3)
    with torch.no_grad():
        model.likelihood.location.weight.zero_()
        model.likelihood.excess.weight.zero_()
        model.mean.weight.zero_()
        model.log_variance.bias.fill_(0.3)
    alpha = INITIAL_VARIANCE + model.likelihood.floor
    logits = special.logit(x.numpy())
    exact = -(stats.norm.logpdf(logits, 0, math.sqrt(alpha)) - np.log(x.numpy() * (1 - x.numpy()))).sum(-1).mean()
    found = evaluate_likelihood(model, x.numpy(), 4000, seed=1)
    assert found.nll_mc_se < 0.05
    assert abs(found.nll - exact) < 4 * found.nll_mc_se


@pytest.mark.parametrize("variance", ["network", "shared"])
def test_gradient_reaches_every_parameter_of_a_model_of_numbers(variance):
    model, x = tiny_model(FlowSpec(family="planar", length=2), variance=variance), numbers(20, 3)
    noise = torch.randn(20, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z, log_q0, log_det = model.sample(model.infer(x), noise)
    (model.log_likelihood(x, z) - z.square().sum(-1) / 2 - log_q0 + log_det).mean().backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


# --- real numbers ---------------------------------------------------------------------------------------------------


def gaussian(variance="network", pixels=PIXELS):
    likelihood = Gaussian(pixels, FEATURES, ModelSpec(variance=variance, variance_floor=FLOOR))
    likelihood.initialise(lambda part: torch.Generator().manual_seed(len(part)))
    return likelihood.double()


@pytest.mark.parametrize("variance", ["network", "shared"])
def test_the_density_of_real_numbers_is_the_gaussian(variance):
    likelihood, h = gaussian(variance), features(3, 4)
    x = 3 * torch.randn(4, PIXELS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    mu, alpha = likelihood.location(h).detach().numpy(), likelihood.variance(h).detach().numpy()
    assert likelihood(x, h).detach().numpy() == pytest.approx(
        stats.norm.logpdf(x.numpy(), mu, np.sqrt(alpha)).sum(-1), rel=1e-12
    )
    assert torch.equal(likelihood.picture(h), likelihood.location(h))
    assert torch.equal(likelihood.encoder_input(x), x)


def test_numbers_have_the_density_of_their_logits_times_the_slope():
    # The same parameters, as the logit-normal density is the Gaussian one in other units.
    x, h = numbers(4, PIXELS), features(4)
    assert logit_normal()(x, h).detach().numpy() == pytest.approx(
        (gaussian()(torch.logit(x), h) - (x.log() + torch.log1p(-x)).sum(-1)).detach().numpy(), rel=1e-12
    )


@pytest.mark.parametrize("family", ["none", "planar"])
def test_importance_samples_give_the_exact_ln_p_of_a_linear_gaussian_model(family):
    # With windows of one piece and one layer all of it is linear: x = W (A z + a) + c + noise, noise ~ N(0, diag α).
    flow = FlowSpec(family=family, length=0 if family == "none" else 3)
    spec = ModelSpec(latent=2, hidden=3, layers=1, maxout=1, variance="shared", variance_floor=0.1)
    model = DLGM(5, spec, flow, Gaussian)
    model.initialise(1, 1)
    model.double()
    with torch.no_grad():
        for name, parameter in model.decoder.named_parameters():
            if name.endswith("bias"):
                parameter.fill_(0.4)
        model.likelihood.location.bias.copy_(torch.linspace(-2, 2, 5))
        model.likelihood.excess_bias.copy_(torch.linspace(-1, 1, 5))
        # A q0 as wide as the prior keeps the weights' variance finite.
        model.mean.weight.zero_()
        model.log_variance.weight.zero_()
        model.log_variance.bias.fill_(0.3)
        basis = torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()
        at_zero, *columns = model.likelihood.location(model.decoder(basis))
        slopes = torch.stack([column - at_zero for column in columns], -1).numpy()
        alpha = model.likelihood.variance(torch.zeros(1, 3).double()).numpy()
    exact = stats.multivariate_normal(at_zero.numpy(), slopes @ slopes.T + np.diag(alpha))
    x = exact.rvs(50, random_state=3)
    found = evaluate_likelihood(model, x, 5000, seed=1)
    assert found.nll_mc_se < 0.01
    assert abs(found.nll + exact.logpdf(x).mean()) < 4 * found.nll_mc_se
    assert -found.elbo > found.nll


def bernoulli(pixels, kind, scale=1.0):
    likelihood = Bernoulli(pixels, FEATURES, ModelSpec())
    likelihood.initialise(lambda part: torch.Generator().manual_seed(3))
    with torch.no_grad():
        likelihood.logits.weight.mul_(scale)
        likelihood.logits.bias.copy_(torch.randn(pixels, generator=torch.Generator().manual_seed(4)))
    return likelihood.to(kind)


@pytest.mark.parametrize(("kind", "within"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize(("pixels", "samples", "images"), [(5, 1, 1), (64, 16, 100), (784, 3, 7), (785, 2, 16)])
@torch.no_grad()
def test_bits_of_many_samples_are_the_plain_formula(kind, within, scale, pixels, samples, images):
    likelihood = bernoulli(pixels, kind, scale)
    stream = torch.Generator().manual_seed(5)
    x = torch.randint(2, (images, pixels), generator=stream).to(kind)
    # Batch-last in memory, as a Maxout layer leaves them.
    h = torch.randn(FEATURES, samples * images, generator=stream).to(kind).T.unflatten(0, (samples, images))
    exact, found = likelihood.double()(x.double(), h.double()), likelihood.to(kind).of_samples(x, h)
    assert found.dtype == kind
    torch.testing.assert_close(found.double(), exact, rtol=within, atol=within)


@torch.no_grad()
def test_a_likelihood_without_a_loop_for_many_samples_goes_by_its_formula():
    likelihood = Categorical(PIXELS, FEATURES, ModelSpec(), levels=3).double()
    likelihood.initialise(lambda part: torch.Generator().manual_seed(len(part)))
    x, h = torch.randint(3, (4, PIXELS), generator=torch.Generator().manual_seed(1)).double(), features(3, 4)
    assert torch.equal(likelihood.of_samples(x, h), likelihood(x, h))


@pytest.mark.parametrize("variance", ["network", "shared"])
@pytest.mark.parametrize(("samples", "images"), [(1, 1), (1, 4), (16, 100), (5, 5), (3, 1)])
@torch.no_grad()
def test_densities_of_many_samples_are_those_of_the_formula(variance, samples, images):
    likelihood, x = logit_normal(variance), numbers(images, PIXELS)
    h = features(images, samples, scale=3.0).transpose(0, 1)
    found = likelihood.of_samples(x, h)
    by_hand = [[likelihood(x[i : i + 1], h[s, i : i + 1]).item() for i in range(images)] for s in range(samples)]
    torch.testing.assert_close(found, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_one_image_for_many_features_is_not_read_past_its_end():
    likelihood, x = bernoulli(PIXELS, torch.float64), torch.ones(1, PIXELS, dtype=torch.float64)
    h = torch.randn(3, 4, FEATURES, generator=torch.Generator().manual_seed(5)).double()
    assert torch.equal(likelihood.of_samples(x, h), likelihood(x, h))
    assert torch.equal(likelihood.of_samples(x, h[0]), likelihood(x, h[0]))


@pytest.mark.parametrize("training", [True, False])
def test_the_logits_of_a_gpu_are_rounded_as_those_of_a_processor(monkeypatch, training):
    likelihood = bernoulli(PIXELS, torch.float32).train(training)
    likelihood.logits.precision = torch.bfloat16
    x, h = torch.ones(3, PIXELS), torch.randn(3, FEATURES, generator=torch.Generator().manual_seed(5))
    expected = likelihood(x, h)
    monkeypatch.setattr("nfstudy.core.cuda.runs_here", lambda *tensors: True)
    formula = SimpleNamespace(apply=lambda rows, bias, x: plain_log_mass(rows + bias, x))
    monkeypatch.setattr("nfstudy.inference.likelihoods.bernoulli._LogMassOnGPU", formula)
    torch.testing.assert_close(likelihood(x, h), expected, rtol=1e-6, atol=1e-5)
    likelihood.logits.precision = torch.float32
    assert torch.allclose(likelihood(x, h), expected, rtol=1e-6, atol=1e-5) is not training
