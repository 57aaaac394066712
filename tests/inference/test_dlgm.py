import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from nfstudy.flows.base import StepHead
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.inference.models.maxout import Maxout
from nfstudy.study.sections import FlowSpec, ModelSpec

PIXELS = 12
SMALL = ModelSpec(latent=3, hidden=8, layers=2, maxout=4)
FLOWS = {
    "none": FlowSpec(),
    "planar": FlowSpec(family="planar", length=3),
    "planar-long": FlowSpec(family="planar", length=7),
    "radial": FlowSpec(family="radial", length=3),
    "nice-perm": FlowSpec(family="nice-perm", length=3),
    "nice-orth": FlowSpec(family="nice-orth", length=3),
    "iaf": FlowSpec(family="iaf", length=3, autoregressive_hidden=8),
    "sylvester": FlowSpec(family="sylvester", length=3, sylvester_columns=2),
    "householder": FlowSpec(family="householder", length=3),
    "full-covariance": FlowSpec(family="full-covariance", length=1),
    "realnvp": FlowSpec(family="realnvp", length=3, coupling_hidden=8),
    "glow": FlowSpec(family="glow", length=3, coupling_hidden=8),
    "spline": FlowSpec(family="spline", length=3, coupling_hidden=8),
    "hamiltonian": FlowSpec(family="hamiltonian", length=3),
    "langevin": FlowSpec(family="langevin", length=3),
}
every_flow = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())


def make_model(flow=FLOWS["none"], model=SMALL, seed=1, repetition=1):
    network = DLGM(PIXELS, model, flow)
    network.initialise(seed, repetition)
    return network


def bits(count, seed=0):
    return torch.randint(2, (count, PIXELS), generator=torch.Generator().manual_seed(seed)).float()


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_maxout_takes_the_largest_of_consecutive_pieces():
    layer = Maxout(inputs=1, units=2, window=3)
    with torch.no_grad():
        layer.pieces.weight.copy_(torch.tensor([[1.0], [-2.0], [0.5], [3.0], [-1.0], [0.0]]))
        layer.pieces.bias.copy_(torch.tensor([0.0, 0.0, 1.0, 0.0, 5.0, -1.0]))
    # pieces at x = 2: (2, -4, 2 | 6, 3, -1); at x = -1: (-1, 2, 0.5 | -3, 6, -1)
    expected = torch.tensor([[2.0, 6.0], [2.0, 6.0]])
    assert torch.equal(layer(torch.tensor([[2.0], [-1.0]])), expected)
    assert torch.equal(layer(torch.tensor([[[2.0]], [[-1.0]]])), expected.reshape(2, 1, 2))


@pytest.mark.parametrize(("counts", "units"), [("units", 8), ("pieces", 2)])
def test_hidden_counts_units_or_pieces(counts, units):
    model = make_model(model=SMALL.model_copy(update={"hidden_counts": counts}))
    shapes = [tuple(layer.pieces.weight.shape) for layer in (*model.encoder, *model.decoder)]
    assert shapes == [(units * 4, PIXELS), (units * 4, units), (units * 4, 3), (units * 4, units)]
    assert model.likelihood.logits.weight.shape == (PIXELS, units)


def test_parameter_count_of_the_papers_networks():
    model = DLGM(784, ModelSpec(), FlowSpec())
    encoder = 784 * 1600 + 1600 + 400 * 1600 + 1600 + 2 * (400 * 40 + 40)
    decoder = 40 * 1600 + 1600 + 400 * 1600 + 1600 + 400 * 784 + 784
    assert sum(parameter.numel() for parameter in model.parameters()) == encoder + decoder


@every_flow
def test_initial_networks_are_the_same_for_every_flow(flow):
    plain = make_model().state_dict()
    state = make_model(flow).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.items())


@every_flow
def test_initialise_is_repeatable_and_sets_every_parameter(flow):
    first, second, other = make_model(flow), make_model(flow), make_model(flow, repetition=2)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name))
    changed = [
        name
        for name, parameter in first.named_parameters()
        if name.endswith("weight") and not torch.equal(parameter, other.get_parameter(name))
    ]
    weights = [name for name, _ in first.named_parameters() if name.endswith("weight")]
    assert changed == weights


def test_initial_weights_have_the_glorot_variance_and_layers_differ():
    model = DLGM(784, ModelSpec(), FlowSpec())
    model.initialise(1, 1)
    for layer, fans in (
        (model.encoder[0].pieces, 784 + 400),
        (model.decoder[1].pieces, 800),
        (model.likelihood.logits, 1184),
    ):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fans), rel=0.02)
        assert not layer.bias.any()
    assert not torch.equal(model.encoder[1].pieces.weight, model.decoder[1].pieces.weight)


def test_training_starts_near_a_unit_posterior_variance():
    model = DLGM(PIXELS, ModelSpec(), FLOWS["planar"])
    model.initialise(1, 1)
    posterior = model.infer(bits(50))
    assert 0 < posterior.log_variance.abs().max() < 0.3
    assert posterior.log_variance.std() < 0.2 * posterior.mean.std()


def test_log_q0_is_the_density_of_the_diagonal_gaussian():
    model = make_model()
    posterior = model.infer(bits(4))
    z, log_q0, log_det = model.sample(posterior, normal(5, 4, 3))
    q0 = Normal(posterior.mean, (posterior.log_variance / 2).exp())
    torch.testing.assert_close(log_q0, q0.log_prob(z).sum(-1))
    assert torch.equal(log_det, torch.zeros(5, 4))


def test_samples_have_the_posterior_moments():
    model = make_model()
    posterior = model.infer(bits(2))
    z, _, _ = model.sample(posterior, normal(100_000, 2, 3))
    error = (posterior.log_variance / 2).exp() / math.sqrt(100_000)
    assert ((z.mean(0) - posterior.mean).abs() < 5 * error).all()
    torch.testing.assert_close(z.var(0), posterior.log_variance.exp(), rtol=5 * math.sqrt(2 / 100_000), atol=0)


def test_mean_log_ratio_is_the_closed_form_kl():
    model = make_model()
    posterior = model.infer(bits(3))
    z, log_q0, _ = model.sample(posterior, normal(100_000, 3, 3))
    ratios = log_q0 - Normal(0, 1).log_prob(z).sum(-1)
    exact = kl_divergence(Normal(posterior.mean, (posterior.log_variance / 2).exp()), Normal(0, 1)).sum(-1)
    assert ((ratios.mean(0) - exact).abs() < 4 * ratios.std(0) / math.sqrt(100_000)).all()


def test_log_likelihood_is_the_bernoulli_density():
    model = make_model()
    x, z = bits(4), normal(5, 4, 3)
    expected = Bernoulli(probs=model.decode(z).double()).log_prob(x.double()).sum(-1)
    torch.testing.assert_close(model.log_likelihood(x, z).double(), expected, rtol=1e-5, atol=1e-5)


def test_log_likelihood_is_finite_and_exact_for_huge_logits():
    model = make_model()
    with torch.no_grad():
        model.likelihood.logits.weight.zero_()
        model.likelihood.logits.bias.fill_(1e6)
    x = bits(4)
    assert torch.equal(model.log_likelihood(x, normal(4, 3)), -1e6 * (1 - x).sum(-1))


@every_flow
def test_sample_axes_share_the_posterior(flow):
    model = make_model(flow)
    posterior, noise = model.infer(bits(4)), normal(5, 4, model.noise_size)
    assert posterior.noise_size == model.noise_size
    together = model.sample(posterior, noise)
    apart = [torch.stack(parts) for parts in zip(*(model.sample(posterior, each) for each in noise), strict=True)]
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)
    assert together[0].shape == (5, 4, 3)
    assert together[1].shape == together[2].shape == (5, 4)


@every_flow
def test_gradient_reaches_every_parameter(flow):
    model = make_model(flow)
    x = bits(20)
    z, log_q0, log_det = model.sample(model.infer(x), normal(20, model.noise_size))
    (model.log_likelihood(x, z) - z.square().sum(-1) / 2 - log_q0 + log_det).mean().backward()
    untouched = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    assert untouched == []


@every_flow
def test_the_initial_scale_is_of_the_weights_by_which_an_image_enters_and_of_no_other(flow):
    plain, scaled = make_model(flow), make_model(flow.model_copy(update={"initial_scale": 4.0}))
    heads = {f"flow.{name}.weight" for name, module in plain.flow.named_modules() if isinstance(module, StepHead)}
    assert bool(heads) == (flow.length > 0)
    for (name, before), after in zip(plain.named_parameters(), scaled.parameters(), strict=True):
        assert torch.equal(after, 4.0 * before if name in heads else before)


@pytest.mark.parametrize("flow", ["planar", "iaf"])
def test_heads_are_rounded_while_training_alone(flow):
    plain, rounded = make_model(FLOWS[flow]), make_model(FLOWS[flow])
    rounded.round_heads(torch.bfloat16)
    x, noise = bits(6), normal(6, 3)
    for training in (True, False):
        ours, theirs = (model.train(training).infer(x) for model in (rounded, plain))
        # The encoder is not rounded here: only what the heads make of its features.
        same = [torch.equal(a, b) for a, b in ((ours.mean, theirs.mean), (ours.log_variance, theirs.log_variance))]
        assert same == [not training] * 2
        torch.testing.assert_close(ours.mean, theirs.mean, rtol=0.02, atol=0.02)
        terms = [model.log_likelihood(x, noise) for model in (rounded, plain)]
        assert torch.equal(*terms) is (not training)
