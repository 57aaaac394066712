"""Models with several stochastic layers: held to ln p(x) that is known, in ξ and in z, and their gradients."""

import copy
import math

import numpy as np
import pytest
import torch
from inference.test_dlgm import FLOWS
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm
from torch.autograd import gradcheck
from torch.autograd.functional import jacobian

from nfstudy.flows.guided import GuidedFlow
from nfstudy.flows.layered import LayeredFlow
from nfstudy.inference.likelihoods.bernoulli import Bernoulli
from nfstudy.inference.likelihoods.normal import Gaussian, LogitNormal
from nfstudy.inference.models.ais import Annealing, ais_likelihood, bracket_likelihood
from nfstudy.inference.models.bits_back import round_trip
from nfstudy.inference.models.diagnostics import summarise_posteriors
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.inference.models.evaluation import evaluate_likelihood, log_likelihoods
from nfstudy.inference.models.objective import bound_terms
from nfstudy.inference.problems.base import variational
from nfstudy.study.sections import FlowSpec, ModelSpec

PIXELS = 5
PLANAR = FLOWS["planar"]
every_flow = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
deep = pytest.mark.parametrize("layers", [2, 3])


def model_spec(layers, **changes):
    sizes = {"latent": 3, "latent_ratio": 0.67, "hidden": 8, "layers": 1, "maxout": 2}
    return ModelSpec(stochastic_layers=layers, variance="shared", **(sizes | changes))


def make_model(layers, flow=PLANAR, likelihood=Gaussian, **changes):
    model = DLGM(PIXELS, model_spec(layers, **changes), flow, likelihood).double()
    model.initialise(1, 1)
    return model.eval()


def stirred(model, scale=0.3, but=()):
    """Move every parameter: biases and the heads of a flow begin at values that could hide a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.startswith(but):
                weight.add_(scale * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return model


def linear_model(layers, flow=PLANAR, **changes):
    """Return a model whose generative maps are linear (windows of one piece) and whose variances are constant.

    Its likelihood is wide, and q near the prior and so near the posterior: weights have no heavy tail.
    """
    model = stirred(make_model(layers, flow, maxout=1, **changes), 0.1, but=("flow.",))
    with torch.no_grad():
        model.likelihood.excess_bias.add_(5)
        for name, weight in model.named_parameters():
            if name.startswith(("mean", "log_variance", "upper_encoders")):
                weight.mul_(0.1)
        for decoder in model.upper_decoders:
            decoder.log_variance.weight.zero_()
    stirred(model.flow, 0.02)
    return model


def affine(*linears):
    """Return A and b of y = A z + b, the composition of linear layers."""
    matrix, offset = np.eye(linears[0].in_features), np.zeros(linears[0].in_features)
    for linear in linears:
        weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
        matrix, offset = weight @ matrix, weight @ offset + bias
    return matrix, offset


def exact_log_p(model):
    """Return p(x) of a linear model by the covariances of z_L, ..., z_1 and x, from the weights alone."""
    mean, covariance = np.zeros(model.sizes[-1]), np.eye(model.sizes[-1])
    for decoder in reversed(model.upper_decoders):
        matrix, offset = affine(decoder.layers[0].pieces, decoder.mean)
        variance = np.exp(decoder.log_variance.bias.detach().numpy())
        mean, covariance = matrix @ mean + offset, matrix @ covariance @ matrix.T + np.diag(variance)
    matrix, offset = affine(model.decoder[0].pieces, model.likelihood.location)
    variance = model.likelihood.variance(torch.zeros(1, dtype=torch.float64)).detach().numpy()
    return multivariate_normal(matrix @ mean + offset, matrix @ covariance @ matrix.T + np.diag(variance))


@deep
def test_the_importance_estimate_comes_to_the_exact_ln_p_of_linear_layers(layers):
    model = linear_model(layers)
    density = exact_log_p(model)
    x = density.rvs(20, random_state=1)
    errors = []
    for samples in (2, 5000):
        found = evaluate_likelihood(model, x, samples, seed=1)
        errors.append(found.nll + density.logpdf(x).mean())
    assert errors[0] > 0.1
    assert abs(errors[1]) < 4 * found.nll_seed_se + 0.01
    assert found.nll_seed_se < 0.05


@deep
@every_flow
def test_every_familys_weights_have_the_mean_p_of_x(flow, layers):
    model = linear_model(layers, flow, latent_ratio=1.0, latent=2)
    density = exact_log_p(model)
    x = density.rvs(1, random_state=3).reshape(1, -1)
    noise = torch.randn(20_000, 1, model.noise_size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ratios = (bound_terms(model, torch.tensor(x), noise).elbo.detach().numpy() - density.logpdf(x)).ravel()
    weights = np.exp(ratios)
    assert weights.mean() == pytest.approx(1, abs=4 * weights.std() / math.sqrt(len(weights)))
    assert weights.std() / math.sqrt(len(weights)) < 0.1


def test_ln_p_of_nonlinear_layers_is_the_integral_over_z():
    """By quadrature over z_1 and z_2 with the densities of z, where the model itself works with ξ."""
    model = stirred(make_model(2, latent=1, latent_ratio=1.0, maxout=3), 0.4)
    with torch.no_grad():
        model.likelihood.excess_bias.add_(5)
    x = np.random.default_rng(0).normal(size=(4, PIXELS))
    z = np.linspace(-9, 9, 1201)
    step = z[1] - z[0]
    with torch.no_grad():
        _, mean, log_variance = model.upper_decoders[0](torch.tensor(z).unsqueeze(-1))
        features = model.decoder(torch.tensor(z).unsqueeze(-1))
        given_z1 = model.likelihood(torch.tensor(x), features.unsqueeze(1)).numpy()  # (z_1, image)
    deviation = np.exp(0.5 * log_variance.numpy())[:, 0]
    log_z1 = norm(mean.numpy()[:, 0], deviation).logpdf(z[:, None])  # (z_1, z_2)
    assert log_variance.std() > 0.05, "the variance of z_1 depends on z_2 here"
    log_prior = logsumexp(log_z1 + norm.logpdf(z), axis=1) + math.log(step)
    expected = logsumexp(given_z1 + log_prior[:, None], axis=0) + math.log(step)
    found = log_likelihoods(model, x, 40_000, seed=1).numpy()
    assert found == pytest.approx(expected, abs=0.05)


@deep
def test_bounds_in_xi_are_those_in_z(layers):
    """With ln q(z|x) by the change of variables, and ln p(z) by the densities of each layer."""
    model = stirred(make_model(layers))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, PIXELS, dtype=torch.float64, generator=generator)
    noise = torch.randn(3, model.noise_size, dtype=torch.float64, generator=generator)
    xi, log_q0, log_det = model.sample(model.infer(x), noise)
    for image in range(3):
        one = xi[image : image + 1]
        slope = jacobian(lambda point: torch.cat(model.layers_of(point), -1), one)[0, :, 0]
        log_q_z = (log_q0 - log_det)[image] - torch.linalg.slogdet(slope).logabsdet
        layers_z = model.layers_of(one)
        log_p_z = torch.distributions.Normal(0, 1).log_prob(layers_z[-1]).sum()
        for z, above, decoder in zip(layers_z, layers_z[1:], model.upper_decoders, strict=False):
            _, mean, log_variance = decoder(above)
            log_p_z = log_p_z + torch.distributions.Normal(mean, (0.5 * log_variance).exp()).log_prob(z).sum()
        in_z = model.likelihood(x[image : image + 1], model.decoder(layers_z[0])) + log_p_z - log_q_z
        assert in_z.item() == pytest.approx(bound_terms(model, x, noise).elbo[image].item(), rel=1e-12)


@deep
def test_the_bracket_holds_the_truth_and_annealing_comes_to_it(layers):
    model = linear_model(layers)
    density = exact_log_p(model)
    bracket, x = bracket_likelihood(model, 60, Annealing(100, 8, 5), seed=1)
    truth, numbers = -density.logpdf(x).mean(), bracket.numbers()
    assert numbers["nll_below"] - 4 * numbers["nll_below_seed_se"] < truth
    assert truth < numbers["nll_above"] + 4 * numbers["nll_above_seed_se"]
    assert abs(numbers["gap"]) < 0.3
    x = density.rvs(20, random_state=2)
    for path in ("prior", "q"):
        found = ais_likelihood(model, x, Annealing(100, 16, 5, path), seed=2)
        assert found.nll.mean() == pytest.approx(-density.logpdf(x).mean(), abs=4 * found.mean_se + 0.01)


@deep
def test_images_drawn_from_the_prior_have_the_models_covariance(layers):
    """So a draw passes through the noise of every layer."""
    model = linear_model(layers)
    density = exact_log_p(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        x = model.draw(torch.randn(100_000, model.latent, generator=generator, dtype=torch.float64), generator).numpy()
    assert x.mean(0) == pytest.approx(density.mean, abs=0.1)
    assert np.cov(x.T) == pytest.approx(density.cov, rel=0.03, abs=0.03 * np.abs(density.cov).max())


@deep
def test_the_noise_of_every_layer_moves_the_image(layers):
    model = stirred(make_model(layers))
    z = torch.zeros(1, model.latent, dtype=torch.float64)
    parts = jacobian(model.decode, z)[0, :, 0].split(model.sizes, dim=-1)
    assert len(parts) == layers
    assert all((part.abs().sum(0) > 1e-6).all() for part in parts)


@deep
def test_gradients_are_those_of_finite_differences(layers):
    model = stirred(make_model(layers))
    x = torch.randn(2, PIXELS, dtype=torch.float64)
    xi = torch.randn(2, model.latent, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda z: model.log_likelihood(x, z), (xi,))
    noise = torch.randn(2, model.noise_size, dtype=torch.float64)
    named = dict(model.named_parameters())
    grads = torch.autograd.grad(bound_terms(model, x, noise).elbo.sum(), list(named.values()))
    for (name, weight), grad in zip(named.items(), grads, strict=True):
        place = grad.abs().argmax()
        step = 1e-5
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.view(-1)[place] += sign * step
                values.append(bound_terms(model, x, noise).elbo.sum().item())
                weight.view(-1)[place] -= sign * step
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(grad.view(-1)[place].item(), rel=1e-4, abs=1e-6), name


@deep
@every_flow
def test_gradient_reaches_every_parameter_of_every_layer(flow, layers):
    model = stirred(make_model(layers, flow, latent_ratio=1.0), 0.1)
    x = torch.randn(4, PIXELS, dtype=torch.float64)
    noise = torch.randn(4, model.noise_size, dtype=torch.float64)
    named = dict(model.named_parameters())
    grads = torch.autograd.grad(bound_terms(model, x, noise).elbo.sum(), list(named.values()))
    assert [name for name, grad in zip(named, grads, strict=True) if not grad.abs().sum() > 0] == []
    if flow.length and not isinstance(model.flow, GuidedFlow):
        assert len(model.flow.chains) == layers
        assert all(any(name.startswith(f"flow.chains.{number}.") for name in named) for number in range(layers))


@pytest.mark.parametrize("flow", [flow for name, flow in FLOWS.items() if name not in ("hamiltonian", "langevin")])
def test_chains_side_by_side_are_each_its_own(flow):
    model = stirred(make_model(3, flow, latent_ratio=1.0))
    assert isinstance(model.flow, LayeredFlow)
    posterior = model.infer(torch.randn(1, PIXELS, dtype=torch.float64))
    z = torch.randn(1, model.latent, dtype=torch.float64)
    z_K, log_det = model.flow(z, posterior.flow_parameters)
    slope = jacobian(lambda point: model.flow(point, posterior.flow_parameters)[0], z)[0, :, 0, :]
    assert torch.linalg.slogdet(slope).logabsdet.item() == pytest.approx(log_det.item(), abs=1e-8)
    blocks = torch.block_diag(*(torch.ones(size, size) for size in model.sizes)).bool()
    assert (slope[~blocks] == 0).all()
    torch.testing.assert_close(model.flow.inverse(z_K, posterior.flow_parameters), z, atol=1e-6, rtol=1e-6)
    _, log_dets = model.flow.by_layer(z, posterior.flow_parameters)
    assert log_dets.shape == (1, 3)
    assert log_dets.sum().item() == pytest.approx(log_det.item(), abs=1e-12)


def test_the_first_steps_of_a_layered_chain_are_those_of_each_layer():
    model = stirred(make_model(2, FlowSpec(family="planar", length=4)))
    parameters = model.infer(torch.randn(2, PIXELS, dtype=torch.float64)).flow_parameters
    z = torch.randn(2, model.latent, dtype=torch.float64)
    first, own = model.flow.first_steps(2, parameters)
    parts = z.split(model.sizes, dim=-1)
    ends = []
    for chain, part, numbers in zip(model.flow.chains, parts, parameters, strict=True):
        shorter, own_numbers = chain.first_steps(2, (numbers,))
        ends.append(shorter(part, own_numbers)[0])
    assert torch.equal(first(z, own)[0], torch.cat(ends, -1))


def test_one_layer_is_the_model_that_it_was():
    model = make_model(1, PLANAR)
    assert list(model.state_dict()) == [
        *("encoder.0.pieces.weight", "encoder.0.pieces.bias", "mean.weight", "mean.bias"),
        *("log_variance.weight", "log_variance.bias", "flow.head.weight", "flow.head.bias"),
        *("decoder.0.pieces.weight", "decoder.0.pieces.bias"),
        *("likelihood.excess_bias", "likelihood.location.weight", "likelihood.location.bias"),
    ]
    z = torch.randn(2, 3, dtype=torch.float64)
    assert model.layers_of(z)[0] is z


def test_layers_that_models_share_begin_alike_however_many_there_are():
    one, two, three = (make_model(layers).state_dict() for layers in (1, 2, 3))
    renamed = {name.replace("flow.chains.0.", "flow."): weight for name, weight in two.items()}
    assert all(torch.equal(weight, renamed[name]) for name, weight in one.items())
    assert all(torch.equal(weight, three[name]) for name, weight in two.items())
    assert len({tuple(three[f"upper_encoders.{n}.layers.0.pieces.weight"].flatten().tolist()) for n in (0, 1)}) == 2
    heads = [three[f"flow.chains.{n}.head.weight"][0, :5] for n in range(3)]
    assert not torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[1], heads[2])


def test_the_generative_layers_are_no_part_of_q():
    model = make_model(3)
    named = dict(model.named_parameters())
    q = {id(weight) for weight in variational(named)}
    outside = {name.split(".")[0] for name, weight in named.items() if id(weight) not in q}
    assert outside == {"decoder", "upper_decoders", "likelihood"}


@deep
def test_the_kl_of_the_layers_adds_up_to_that_of_the_bound(layers):
    model = stirred(make_model(layers))
    x = np.random.default_rng(0).normal(size=(30, PIXELS))
    found = summarise_posteriors(model, x, seed=1)
    noise = torch.randn(
        32, 30, model.noise_size, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )  # As `summarise_posteriors` draws it.
    terms = bound_terms(model, torch.tensor(x), noise)
    kl = (terms.log_q0 - terms.log_det - terms.log_prior).mean().item()
    assert len(found.kl_by_layer) == len(found.active_by_layer) == layers
    assert sum(found.kl_by_layer) == pytest.approx(kl, abs=1e-9)
    assert sum(found.active_by_layer) == found.active
    assert all(each > 0 for each in found.kl_by_layer)


def test_the_kl_of_a_layer_without_a_flow_is_the_closed_form():
    model = stirred(make_model(2, FlowSpec()))
    x = np.random.default_rng(0).normal(size=(400, PIXELS))
    posterior = model.infer(torch.tensor(x))
    each = 0.5 * (posterior.mean.square() + posterior.log_variance.exp() - 1 - posterior.log_variance).mean(0)
    expected = [own.sum().item() for own in each.split(model.sizes)]
    assert summarise_posteriors(model, x, seed=1).kl_by_layer == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("family", ["hamiltonian", "langevin"])
def test_a_guided_chain_moves_all_layers_at_once(family):
    model = stirred(make_model(2, FlowSpec(family=family, length=2)), 0.1)
    assert isinstance(model.flow, GuidedFlow)
    assert model.flow.latent == model.latent
    found = summarise_posteriors(model, np.random.default_rng(0).normal(size=(5, PIXELS)), seed=1)
    assert found.kl_by_layer == ()
    assert len(found.active_by_layer) == 2


@pytest.mark.parametrize("flow", [FLOWS["none"], PLANAR, FLOWS["iaf"]], ids=["none", "planar", "iaf"])
def test_images_are_coded_through_all_layers_and_come_back(flow):
    model = DLGM(PIXELS, model_spec(2, latent_ratio=1.0), flow, Bernoulli)
    model.initialise(1, 1)
    images = np.random.default_rng(0).integers(2, size=(6, PIXELS), dtype=np.uint8)
    trip = round_trip(model, images, seed=1)  # It raises where an image does not come back.
    assert trip.net_bits == pytest.approx(trip.images * trip.free_energy / math.log(2), abs=0.5)


def test_a_copy_of_a_chain_needs_no_features_of_its_own():
    model = make_model(2, FlowSpec(family="nice-perm", length=2), latent_ratio=1.0)
    copied = copy.deepcopy(model.flow)
    posterior = model.infer(torch.randn(2, PIXELS, dtype=torch.float64))
    z = torch.randn(2, model.latent, dtype=torch.float64)
    assert torch.equal(copied(z, posterior.flow_parameters)[0], model.flow(z, posterior.flow_parameters)[0])
    nearest = model.nearest(posterior).flow_parameters
    assert all(map(torch.equal, nearest, posterior.flow_parameters))


@pytest.mark.parametrize("likelihood", [Bernoulli, Gaussian, LogitNormal])
def test_every_likelihood_has_bounds_below_ln_p(likelihood):
    model = make_model(3, likelihood=likelihood)
    x = np.random.default_rng(0).random((4, PIXELS))
    x = (x < 0.5).astype(float) if likelihood is Bernoulli else x
    found = evaluate_likelihood(model, x, 500, seed=1)
    assert found.kl > 0
    stream = torch.Generator().manual_seed(1)
    drawn = model.draw(torch.randn(7, model.latent, generator=stream, dtype=torch.float64), stream)
    assert drawn.shape == (7, PIXELS)
    assert np.isfinite(evaluate_likelihood(model, drawn.detach().numpy(), 20, seed=1).nll)
