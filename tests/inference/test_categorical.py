"""The likelihood of whole levels: SciPy's and torch's numbers, exact ln p(x) of small models, no overflow."""

import itertools
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from nfstudy.core import registry
from nfstudy.core.errors import SpecError, UserError
from nfstudy.data import load_dataset
from nfstudy.inference.likelihoods import categorical, load_likelihood
from nfstudy.inference.likelihoods.bernoulli import Bernoulli
from nfstudy.inference.likelihoods.categorical import Categorical
from nfstudy.inference.likelihoods.normal import Gaussian
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.inference.models.evaluation import evaluate_likelihood
from nfstudy.inference.problems.images import ImageProblem
from nfstudy.inference.problems.trained import ImageModel
from nfstudy.study.sections import DataSpec, FlowSpec, ModelSpec
from nfstudy.study.settings import Settings

PIXELS, FEATURES = 5, 7


def likelihood(levels=17, pixels=PIXELS):
    made = Categorical(pixels, FEATURES, ModelSpec(), levels)
    made.initialise(lambda part: torch.Generator().manual_seed(len(part)))
    with torch.no_grad():
        made.logits.bias.copy_(torch.randn(pixels * levels, generator=torch.Generator().manual_seed(8)))
    return made.double()


def features(*shape, scale=1.0):
    return scale * torch.randn(*shape, FEATURES, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def levels(*shape, of=17):
    return torch.randint(of, shape, generator=torch.Generator().manual_seed(4)).double()


@pytest.mark.parametrize("of", [2, 17, 256])
def test_the_logarithm_is_scipys_and_torchs(of):
    made, x, h = likelihood(of), levels(4, PIXELS, of=of), features(3, 4)
    logits = made.logits(h).detach().numpy().reshape(3, 4, PIXELS, of)
    expected = np.take_along_axis(special.log_softmax(logits, -1), x.long().numpy()[None, ..., None], -1)[..., 0].sum(
        -1
    )
    found = made(x, h).detach().numpy()
    assert found == pytest.approx(expected, rel=1e-12)
    theirs = torch.distributions.Categorical(logits=torch.from_numpy(logits)).log_prob(x).sum(-1).numpy()
    assert found == pytest.approx(theirs, rel=1e-12)


def test_all_images_have_the_probability_one_together():
    made, h = likelihood(3, pixels=4), features(1)
    images = torch.tensor([*itertools.product(range(3), repeat=4)]).double()
    assert made(images, h.expand(len(images), -1)).exp().sum().item() == pytest.approx(1, rel=1e-12)
    assert made.probabilities(h).sum(-1).flatten().tolist() == pytest.approx([1] * 4, rel=1e-12)


def test_two_levels_are_the_bernoulli_likelihood_of_the_difference_of_logits():
    made, x, h = likelihood(2), levels(4, PIXELS, of=2), features(4)
    bits = Bernoulli(PIXELS, FEATURES, ModelSpec()).double()
    with torch.no_grad():
        weight, bias = made.logits.weight.view(PIXELS, 2, FEATURES), made.logits.bias.view(PIXELS, 2)
        bits.logits.weight.copy_(weight[:, 1] - weight[:, 0])
        bits.logits.bias.copy_(bias[:, 1] - bias[:, 0])
    assert made(x, h).tolist() == pytest.approx(bits(x, h).tolist(), rel=1e-12)
    assert made.probabilities(h).flatten().tolist() == pytest.approx(
        bits.probabilities(h).flatten().tolist(), rel=1e-12
    )
    assert made.picture(h).flatten().tolist() == pytest.approx(bits.picture(h).flatten().tolist(), rel=1e-12)


def test_logits_of_any_size_give_finite_numbers_and_gradients():
    made = likelihood().float()
    h = features(2, scale=1e6).float().requires_grad_()
    found = made(levels(2, PIXELS).float(), h)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(h.grad).all()
    assert found.max() < -1000


def test_gradients_are_those_of_finite_differences_and_blocks_change_nothing(monkeypatch):
    made, x, h = likelihood(), levels(2, PIXELS), features(3, 2).requires_grad_()
    inputs = (h, *made.parameters())
    assert torch.autograd.gradcheck(lambda *_: made(x, h), inputs)
    whole = made(x, h)
    gradients = torch.autograd.grad(whole.sum(), inputs)
    drawn, picture = made.draw(h, torch.Generator().manual_seed(1)), made.picture(h)
    monkeypatch.setattr(categorical, "LOGITS_AT_ONCE", 2 * 17 * PIXELS)  # Two rows of six.
    blocks = made(x, h)
    assert torch.allclose(blocks, whole, rtol=1e-14)
    for ours, before in zip(torch.autograd.grad(blocks.sum(), inputs), gradients, strict=True):
        assert torch.allclose(ours, before, rtol=1e-12)
    assert torch.equal(made.draw(h, torch.Generator().manual_seed(1)), drawn)
    assert torch.allclose(made.picture(h), picture, rtol=1e-14)
    with torch.inference_mode():
        assert torch.allclose(made(x, h), whole, rtol=1e-14)


def test_draws_have_the_probabilities_and_the_picture_is_their_mean():
    made = likelihood(pixels=2)
    h = features(1).expand(20_000, -1)
    drawn = made.draw(h, torch.Generator().manual_seed(5)).numpy()
    expected = made.probabilities(features(1))[0].detach().numpy()
    for pixel in range(2):
        counts = np.bincount(drawn[:, pixel].astype(int), minlength=17)
        assert stats.chisquare(counts, len(drawn) * expected[pixel]).pvalue > 1e-3
    assert made.picture(features(1))[0].tolist() == pytest.approx(drawn.mean(0).tolist(), abs=0.15)


def test_the_inference_network_sees_levels_from_0_to_1():
    assert likelihood().encoder_input(torch.tensor([[0.0, 8.0, 16.0]])).tolist() == [[0.0, 0.5, 1.0]]


# --- in a model -----------------------------------------------------------------------------------------------------


def tiny_model(flow=None, of=5):
    spec = ModelSpec(latent=1, hidden=8, layers=1, maxout=2)
    model = DLGM(3, spec, flow or FlowSpec(), partial(Categorical, levels=of))
    model.initialise(1, 1)
    with torch.no_grad():
        # A q0 as wide as the prior keeps the weights' variance finite; logits that z moves.
        model.mean.weight.zero_()
        model.log_variance.bias.fill_(0.3)
        model.likelihood.logits.weight.mul_(3)
    return model.double()


@pytest.mark.parametrize("family", ["none", "planar"])
def test_importance_samples_give_ln_p_of_one_latent_variable_as_quadrature_does(family):
    model = tiny_model(FlowSpec(family=family, length=0 if family == "none" else 3))
    x = levels(4, 3, of=5)
    z = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    with torch.no_grad():
        log_joint = model.log_likelihood(x, z[:, None, None].expand(-1, 4, 1)) - z[:, None].square() / 2
    exact = -np.log(integrate.simpson(log_joint.exp().numpy(), x=z.numpy(), axis=0) / math.sqrt(2 * math.pi)).mean()
    found = evaluate_likelihood(model, x.numpy(), 20_000, seed=1)
    assert found.nll_mc_se < 0.01
    assert abs(found.nll - exact) < 4 * found.nll_mc_se
    assert found.kl > 0


SETTINGS = {
    "data": {"name": "digits", "binarisation": "categories"},
    "model": {"latent": 3, "hidden": 8, "layers": 1, "maxout": 2},
    "flow": {"family": "planar", "length": 2},
    "train": {"updates": 2, "batch": 20},
    "evaluation": {"samples": 4, "test_images": 20},
}


def problem(**changes):
    settings = Settings.model_validate(SETTINGS | changes)
    made = ImageProblem(settings, load_dataset(settings.data, []), 1, "cpu")
    return made


@pytest.mark.parametrize("family", ["planar", "hamiltonian", "langevin"])
def test_a_problem_trains_and_has_its_bound_in_bits_per_pixel(family):
    made = problem(flow={"family": family, "length": 2})
    (batch,) = made.minibatches(1, 1)
    (-batch.terms().elbo.mean()).backward()
    assert [name for name, each in made.named_parameters().items() if not each.grad.any()] == []
    numbers = made.test()
    assert numbers["bits_per_pixel"] == pytest.approx(-numbers["elbo"] / (64 * math.log(2)), rel=1e-12)
    assert 3.5 < numbers["bits_per_pixel"] < 6, "log2(17) = 4.09 at the start"
    assert {"samples.png", "reconstructions.png", "checkpoint.pt"} == set(made.files())
    pictures = made._unit(np.concatenate([made._samples(), made._reconstructions()]))
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert made._reconstructions()[:8].max() == 16


def test_bits_have_their_bound_in_bits_per_pixel_and_densities_have_none():
    bits = problem(data={"name": "digits"}).test()
    assert bits["bits_per_pixel"] == pytest.approx(-bits["elbo"] / (64 * math.log(2)), rel=1e-12)
    settings = Settings.model_validate(SETTINGS | {"data": {"name": "photos"}})
    dataset = load_dataset(settings.data, [])
    assert "bits_per_pixel" not in ImageProblem(settings, dataset, 1, "cpu").test()


def test_patches_keep_their_256_levels():
    settings = Settings.model_validate(SETTINGS | {"data": {"name": "photos", "dequantisation": "categories"}})
    dataset = load_dataset(settings.data, [])
    assert (dataset.train.dtype, dataset.test.dtype, dataset.levels) == (np.uint8, np.uint8, 0)
    assert dataset.test.max() > 200
    assert ImageProblem(settings, dataset, 1, "cpu").model.likelihood.levels == 256
    assert "data.epsilon" not in settings.flat()
    assert settings.data.values == "categories"


def test_a_model_asks_for_levels_that_it_has():
    made = problem()
    model = ImageModel("r", made.settings, made.model, 64)
    assert model.log_likelihood(made.dataset.test[:3]).shape == (3,)
    assert model.sample(2).max() > 1
    for wrong in (17.0, -1.0, 0.5):
        with pytest.raises(UserError, match="whole ones from 0 to 16"):
            model.log_likelihood(np.full((2, 64), wrong))


def test_a_source_says_how_many_levels_there_are():
    made = load_likelihood(DataSpec(name="mnist", binarisation="categories"))
    assert made(3, 2, ModelSpec()).levels == 256
    assert load_likelihood(DataSpec(name="mnist")) is Bernoulli
    assert load_likelihood(DataSpec(name="file", kind="real")) is Gaussian
    assert DataSpec(name="digits", binarisation="categories").categories == 17
    assert DataSpec(name="digits", binarisation="dynamic").categories is None
    assert DataSpec(name="file", kind="categories", levels=9).categories == 10
    source = registry.find("data", "digits")
    for wrong in (None, 1, 5000):
        with pytest.raises(SpecError, match="data digits: values are categories, categories: got"):
            replace(source, values="categories", categories=wrong).categories_of(DataSpec(name="digits"))
    with pytest.raises(ValueError, match="data digits: categories: got True; expected: a whole number or a function"):
        replace(source, categories=True)
    with pytest.raises(SpecError, match="data digits: categories: returned True; expected: a whole number"):
        replace(source, values="categories", categories=lambda data: True).categories_of(DataSpec(name="digits"))


def test_no_other_likelihood_is_of_levels():
    with pytest.raises(
        ValueError, match=r"model\.likelihood: got bernoulli; expected: categorical for data of categories"
    ):
        Settings.model_validate(SETTINGS | {"model": {"likelihood": "bernoulli"}})
    with pytest.raises(ValueError, match="expected: at least 2"):
        Categorical(3, 2, ModelSpec(), 1)
    with pytest.raises(NotImplementedError, match="expected: a likelihood of whole numbers"):
        Gaussian(3, 2, ModelSpec()).probabilities(torch.zeros(1, 2))
