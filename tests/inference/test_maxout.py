"""How the networks' weights are drawn: standard deviations against their formulas, in all layers of a model."""

import math

import pytest
import torch
from torch import nn

from nfstudy.inference.likelihoods.bernoulli import Bernoulli
from nfstudy.inference.likelihoods.normal import VARIANCE_GAIN, LogitNormal
from nfstudy.inference.models.dlgm import DLGM, LOG_VARIANCE_GAIN
from nfstudy.inference.models.maxout import Maxout
from nfstudy.inference.weights import draw_weights
from nfstudy.study.sections import FlowSpec, ModelSpec

PIXELS, LATENT, UNITS, WINDOW = 600, 50, 300, 4


def assert_deviation(weight, deviation):
    """Hold the root mean square within 4 of its standard errors, σ/√(2n)."""
    root_mean_square = weight.double().square().mean().sqrt().item()
    assert root_mean_square == pytest.approx(deviation, rel=4 / math.sqrt(2 * weight.numel()))


@pytest.mark.parametrize(("rule", "fans"), [("glorot", 300 + 500), ("he", 300)])
def test_a_linear_layer_is_drawn_by_its_rule(rule, fans):
    linear = nn.Linear(300, 500)
    draw_weights(linear, 500, rule, torch.Generator().manual_seed(1))
    assert_deviation(linear.weight, math.sqrt(2 / fans))
    assert not linear.bias.any()


@pytest.mark.parametrize(("rule", "fans"), [("glorot", 300 + 50), ("he", 300)])
def test_a_maxout_layer_is_drawn_by_its_rule_with_units_as_fan_out(rule, fans):
    layer = Maxout(300, 50, window=4)
    layer.initialise(rule, torch.Generator().manual_seed(1))
    assert_deviation(layer.pieces.weight, math.sqrt(2 / fans))


@pytest.mark.parametrize("likelihood", [Bernoulli, LogitNormal])
def test_the_rule_holds_for_all_layers_of_a_model_and_for_no_flow(likelihood):
    networks = {}
    for rule in ("glorot", "he"):
        model = ModelSpec(latent=LATENT, hidden=UNITS, maxout=WINDOW, initialisation=rule)
        networks[rule] = DLGM(PIXELS, model, FlowSpec(family="planar", length=3), likelihood)
        networks[rule].initialise(1, 1)
    he, head = networks["he"], networks["he"].flow.head
    gains = {"log_variance": LOG_VARIANCE_GAIN, "likelihood.excess": VARIANCE_GAIN}
    drawn = {name: part for name, part in he.named_modules() if isinstance(part, nn.Linear) and part is not head}
    assert len(drawn) == 2 * 2 + 2 + (1 if likelihood is Bernoulli else 2)
    for name, linear in drawn.items():
        assert_deviation(linear.weight, gains.get(name, 1) * math.sqrt(2 / linear.in_features))
    assert torch.equal(head.weight, networks["glorot"].flow.head.weight)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("window", [1, 2, 3, 4])
def test_without_gradients_the_units_are_the_same_to_the_bit(kind, window):
    layer = Maxout(9, 5, window).to(kind)
    layer.initialise("glorot", torch.Generator().manual_seed(1))
    x = torch.randn(3, 7, 9, generator=torch.Generator().manual_seed(2)).to(kind)
    x[0, 0, 0] = math.nan
    trained = layer(x)
    with torch.no_grad():
        alone = layer(x)
    assert trained.grad_fn is not None
    assert alone.isnan().any()
    torch.testing.assert_close(alone, trained.detach(), rtol=0, atol=0, equal_nan=True)
