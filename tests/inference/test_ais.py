"""Annealed importance sampling on a model whose ln p(x) is known."""

import math

import numpy as np
import pytest
import torch
from inference.test_evaluation import SCALE, WEIGHTS, LinearGaussian, images
from scipy.stats import multivariate_normal

from nfstudy.inference.likelihoods.normal import LogitNormal
from nfstudy.inference.models.ais import Annealing, ais_likelihood, bracket_likelihood
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.study.sections import FlowSpec, ModelSpec


class Drawing(LinearGaussian):
    latent = 2

    def draw(self, z, generator):
        return z @ self.weights.T + SCALE * torch.randn(len(z), 4, generator=generator, dtype=z.dtype)


def exact(x):
    return -multivariate_normal(np.zeros(4), WEIGHTS @ WEIGHTS.T + SCALE**2 * np.eye(4)).logpdf(x)


def test_betas_rise_from_0_to_1_and_are_symmetric():
    betas = Annealing(temperatures=10).betas()
    assert (betas[0], betas[-1], len(betas)) == (0, 1, 11)
    assert (np.diff(betas) > 0).all()
    assert betas + betas[::-1] == pytest.approx(np.ones(11))


@pytest.mark.parametrize("path", ["prior", "q"])
def test_it_is_exact_within_its_error(path):
    x = images(60)
    found = ais_likelihood(LinearGaussian(0.5, 1.5), x, Annealing(60, 16, 5, path), seed=2)
    assert abs((found.nll - exact(x)).mean()) < 4 * found.mean_se
    assert found.mean_se < 0.05
    assert found.accepted > 0.6
    again = ais_likelihood(LinearGaussian(0.5, 1.5), x, Annealing(60, 16, 5, path), seed=2)
    assert np.array_equal(again.nll, found.nll)


def test_weights_are_unbiased_even_with_few_temperatures():
    x = np.repeat(images(1), 2000, axis=0)
    found = ais_likelihood(LinearGaussian(0.3), x, Annealing(3, 2, 3, "q"), seed=5)
    ratios = np.exp(exact(x) - found.nll)  # p̂(x) / p(x)
    assert ratios.mean() == pytest.approx(1, abs=4 * ratios.std() / math.sqrt(len(ratios)))


def test_the_truth_lies_between_the_two_ends_on_images_of_the_models_own():
    gaps = []
    for temperatures in (4, 60):
        bracket, x = bracket_likelihood(Drawing(), 100, Annealing(temperatures, 8, 5), seed=1)
        truth = exact(x).mean()
        numbers = bracket.numbers()
        assert numbers["nll_below"] - 4 * numbers["nll_below_seed_se"] < truth
        assert truth < numbers["nll_above"] + 4 * numbers["nll_above_seed_se"]
        gaps.append(numbers["gap"])
    assert gaps[0] > 0.1
    assert abs(gaps[1]) < 0.1


def test_both_paths_agree_on_a_model_with_a_flow():
    model = DLGM(6, ModelSpec(latent=2, hidden=8, layers=1, maxout=2), FlowSpec(family="planar", length=2)).double()
    model.initialise(1, 1)
    x = np.random.default_rng(0).integers(2, size=(10, 6), dtype=np.uint8)
    prior, q = (ais_likelihood(model, x, Annealing(40, 16, 4, path), seed=1) for path in ("prior", "q"))
    assert abs((prior.nll - q.nll).mean()) < 4 * math.hypot(prior.mean_se, q.mean_se)


def test_models_draw_what_they_say_is_likely():
    spec = ModelSpec(latent=2, hidden=8, layers=1, maxout=2)
    for likelihood in ({}, {"likelihood": LogitNormal}):
        model = DLGM(5, spec, FlowSpec(), **likelihood)
        model.initialise(1, 1)
        with torch.no_grad():
            x = model.draw(torch.zeros(20_000, 2), torch.Generator().manual_seed(1))
            middle = model.decode(torch.zeros(1, 2))[0]
        assert ((x > 0) & (x < 1)).all() if likelihood else set(x.unique().tolist()) == {0.0, 1.0}
        typical = x.median(0).values if likelihood else x.mean(0)
        torch.testing.assert_close(typical, middle, atol=0.02, rtol=0)
