"""Hamiltonian Monte Carlo on densities whose moments are known, and R-hat on chains made by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import norm, rankdata
from torch.distributions import MultivariateNormal

from nfstudy.inference.models.hmc import Sampling, r_hat, run_chains

MEANS = torch.tensor([[1.0, -2.0], [0.0, 3.0]], dtype=torch.float64)
COVARIANCES = torch.tensor([[[1.0, 0.8], [0.8, 1.0]], [[0.04, -0.01], [-0.01, 0.25]]], dtype=torch.float64)
"""Of two densities side by side: one is correlated, one much narrower."""


def log_density(z):
    return MultivariateNormal(MEANS, COVARIANCES).log_prob(z) + 7


LONG = Sampling(200, 1500, 8)


def draws(seed=1, sampling=LONG):
    stream = torch.Generator().manual_seed(seed)
    starts = 6 * torch.randn(8, 2, 2, generator=stream, dtype=torch.float64)
    return run_chains(log_density, starts, sampling, stream)


def test_draws_have_the_moments_of_correlated_gaussians_whatever_their_scale():
    found = draws()
    assert found.draws.shape == (1500, 8, 2, 2)
    for place in (0, 1):
        z = found.draws[:, :, place]
        deviation = COVARIANCES[place].diagonal().sqrt()
        assert max(r_hat(z[..., axis].numpy()) for axis in (0, 1)) < 1.01
        torch.testing.assert_close(z.mean((0, 1)) / deviation, MEANS[place] / deviation, atol=0.06, rtol=0)
        scale = deviation.outer(deviation)
        torch.testing.assert_close(z.flatten(0, 1).T.cov() / scale, COVARIANCES[place] / scale, atol=0.08, rtol=0)
    assert (found.accepted - 0.8).abs().max() < 0.12
    assert found.step[0] > 1.5 * found.step[1]


def test_the_correction_is_needed_and_there():
    # One step that is far too long is never accepted: without a correction, draws would be anywhere.
    stream = torch.Generator().manual_seed(1)
    starts = torch.zeros(4, 1, 2, dtype=torch.float64)
    found = run_chains(lambda z: -0.5e6 * z.square().sum(-1), starts, Sampling(0, 20, 3, first_step=1.0), stream)
    assert found.accepted.item() == 0
    assert (found.draws == 0).all()


def test_the_seed_alone_decides():
    sampling = Sampling(20, 30, 3)
    assert torch.equal(draws(1, sampling).draws, draws(1, sampling).draws)
    assert not torch.equal(draws(1, sampling).draws, draws(2, sampling).draws)


def test_r_hat_by_the_formulas_of_the_paper():
    rng = np.random.default_rng(0)
    chains = rng.standard_t(3, size=(101, 3)) + np.array([0, 0.3, 0.8])

    def plain(x):
        between = x.shape[0] * x.mean(0).var(ddof=1)
        within = x.var(0, ddof=1).mean()
        return np.sqrt(((x.shape[0] - 1) / x.shape[0] * within + between / x.shape[0]) / within)

    halves = np.hstack([chains[:50], chains[51:]])
    scores = [norm.ppf((rankdata(x).reshape(x.shape) - 3 / 8) / (x.size + 1 / 4)) for x in
              (halves, np.abs(halves - np.median(halves)))]  # fmt: skip
    assert r_hat(chains) == pytest.approx(max(map(plain, scores)))


def test_r_hat_tells_chains_that_agree_from_those_that_do_not():
    rng = np.random.default_rng(1)
    same = rng.normal(size=(2000, 4))
    assert r_hat(same) < 1.005
    assert r_hat(same + np.array([0, 0, 0, 3])) > 1.2
    assert r_hat(same * np.array([1, 1, 1, 5])) > 1.1, "equal means and other spreads: the folded one says so"
    drifting = same + np.linspace(0, 3, 2000)[:, None]
    assert r_hat(drifting) > 1.2, "within each chain"
    assert r_hat(np.zeros((10, 2))) == 1
    assert r_hat(np.tile([0.0, 1.0], (10, 1))) == np.inf
