"""Densities on the plane beside MCMC and Gaussians, held to closed forms; and what problems log of them."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from nfstudy.data import load_dataset
from nfstudy.films.arrays import write_arrays
from nfstudy.films.fits import read_fits, write_fits
from nfstudy.inference.models.hmc import Sampling
from nfstudy.inference.problems import fits as module
from nfstudy.inference.problems import images, make_problem, plane
from nfstudy.inference.problems.energies import log_density, log_normaliser, reach_of
from nfstudy.inference.problems.fits import plane_fits, study_target
from nfstudy.study.sections import EnergySpec
from nfstudy.study.settings import Settings

SHORT = Sampling(50, 40, 4)
F64 = torch.float64


def gaussian(mean, covariance):
    return MultivariateNormal(torch.tensor(mean, dtype=F64), torch.tensor(covariance, dtype=F64))


P = gaussian([0.5, -1.0], [[1.0, 0.6], [0.6, 0.8]])
Q = gaussian([0.0, -0.5], [[0.5, -0.2], [-0.2, 1.5]])


def studied(log_p, reach=(9.0, 9.0), sampling=SHORT, nodes=16):
    stream = torch.Generator().manual_seed(3)
    starts = 3 * torch.randn(8, 1, 2, generator=stream, dtype=F64)
    return study_target(lambda z: log_p(z.squeeze(-2)).unsqueeze(-1), starts, reach, sampling, nodes, stream)


def closed_kl(p, q):
    return torch.distributions.kl_divergence(p, q).item()


def test_on_a_gaussian_both_directions_find_it():
    target = studied(lambda z: P.log_prob(z) - 5)
    found = plane_fits(target, None, target.draws[-1])
    assert target.log_z.item() == pytest.approx(-5, abs=1e-9)
    for place in (0, 1):
        np.testing.assert_allclose(found.means[0, place], P.mean, atol=2e-4)
        np.testing.assert_allclose(found.covariances[0, place], P.covariance_matrix, atol=4e-4)
    assert np.abs(found.kl).max() < 1e-6
    assert found.kl.shape == (1, 2, 2)
    assert np.abs(found.mass - 1).max() < 1e-6


def test_both_kls_of_a_fit_are_those_of_the_closed_form():
    target = studied(P.log_prob)
    samples = Q.sample((2000,)).unsqueeze(1)
    found = plane_fits(target, lambda z: Q.log_prob(z.squeeze(-2)).unsqueeze(-1), samples)
    assert found.kl[0, 2, 0] == pytest.approx(closed_kl(Q, P), abs=2e-4)
    assert found.kl[0, 2, 1] == pytest.approx(closed_kl(P, Q), abs=1e-6)
    assert found.log_flow.shape == (1, module.PICTURED, module.PICTURED)
    # What is pictured is the density at the cells' centres, from the top left on.
    x, y, half = found.windows[0]
    step = 2 * half / module.PICTURED
    corner = torch.tensor([x - half + step / 2, y + half - step / 2])
    assert found.log_target[0, 0, 0] == pytest.approx(P.log_prob(corner).item())
    assert found.log_flow[0, 0, 0] == pytest.approx(Q.log_prob(corner).item())


def test_of_two_modes_the_forward_gaussian_covers_both_and_the_reverse_one_seeks_one():
    apart, deviation = 2.5, 0.5
    parts = [gaussian([side * apart, 1.0], [[deviation**2, 0], [0, 1.0]]) for side in (-1, 1)]
    target = studied(lambda z: torch.logsumexp(torch.stack([part.log_prob(z) for part in parts]), 0) - math.log(2))
    found = plane_fits(target, None, target.draws[-1])
    reverse, forward = found.means[0]
    np.testing.assert_allclose(forward, [0, 1], atol=1e-6)
    np.testing.assert_allclose(found.covariances[0, 1], np.diag([apart**2 + deviation**2, 1]), atol=1e-6)
    assert abs(abs(reverse[0]) - apart) < 0.01
    assert abs(reverse[1] - 1) < 0.01
    np.testing.assert_allclose(found.covariances[0, 0], np.diag([deviation**2, 1]), atol=0.01)
    assert found.kl[0, 0, 0] == pytest.approx(math.log(2), abs=1e-4), "of two modes that hardly touch"
    assert found.kl[0, 1, 1] < found.kl[0, 0, 1], "each is the better one in its own direction"
    assert found.kl[0, 0, 0] < found.kl[0, 1, 0]
    # KL(p‖N with p's moments) = H(N) − H(p); that of the mixture is a mode's entropy and ln 2.
    entropy = MultivariateNormal(torch.zeros(2, dtype=F64), torch.tensor(found.covariances[0, 1])).entropy().item()
    assert found.kl[0, 1, 1] == pytest.approx(entropy - parts[0].entropy().item() - math.log(2), abs=1e-4)


@pytest.mark.parametrize("spec", [EnergySpec(name="u1"), EnergySpec(name="u4", half_width=9.0, edge=0.1)])
def test_quadrature_meets_the_normaliser_of_the_energies(spec):
    target = studied(lambda z: log_density(spec, z), reach_of(spec))
    assert target.log_z.item() == pytest.approx(log_normaliser(spec), abs=1e-6)
    found = plane_fits(target, None, target.draws[-1])
    assert (found.kl > 0).all()
    assert np.abs(found.mass - 1).max() < 1e-3


@pytest.fixture
def short(monkeypatch):
    for problem in (images, plane):
        monkeypatch.setattr(problem, "FIT_SAMPLING", SHORT)
        monkeypatch.setattr(problem, "FIT_NODES", 6)
    plane._target.cache_clear()
    yield
    plane._target.cache_clear()


def settings(**changes):
    return Settings.model_validate(changes)


def test_an_energy_is_studied_once_and_each_run_has_its_own_flow(short, monkeypatch):
    base = settings(energy={"name": "u1"}, flow={"family": "planar", "length": 2}, evaluation={"samples": 500})
    first = make_problem(base, None, 1, "cpu").fits()
    assert first.kl.shape == (1, 3, 2)
    assert first.images.size == 0
    monkeypatch.setattr(plane, "study_target", None)
    again = make_problem(base.replace({"flow.length": 0}), None, 1, "cpu").fits()
    assert np.array_equal(first.draws, again.draws)
    # K = 0 is a unit Gaussian here, whose KL the test metric has by samples.
    problem = make_problem(base.replace({"flow.length": 0, "evaluation.samples": 50_000}), None, 1, "cpu")
    numbers = problem.test()
    assert again.kl[0, 2, 0] == pytest.approx(numbers["kl"], abs=5 * numbers["elbo_mc_se"])


SMALL = {
    "data": {"name": "digits", "binarisation": "threshold"},
    "model": {"latent": 2, "hidden": 8, "layers": 1, "maxout": 2},
}


def test_posteriors_are_those_of_the_model_and_q_is_its_own(short):
    base = settings(**SMALL, flow={"family": "planar", "length": 2}, evaluation={"test_images": 40})
    problem = make_problem(base, load_dataset(base.data, (), download=False), 1, "cpu")
    found = problem.fits()
    assert found.kl.shape == (4, 3, 2)
    assert found.images.shape == (4, 8, 8, 1)
    # KL(q‖p) = ln p(x) − L, which importance samples estimate; of the images that are pictured.
    from nfstudy.inference.models.evaluation import evaluate_likelihood

    test = problem.dataset.test[:40]
    numbers = evaluate_likelihood(problem.model, test[images.spread_over(40, 4)], 4000, seed=1)
    assert found.kl[:, 2, 0].mean() == pytest.approx(numbers.kl, abs=0.02)
    again = make_problem(base, load_dataset(base.data, (), download=False), 1, "cpu").fits()
    assert write_fits(found) == write_fits(again)


def test_without_two_dimensions_nothing_and_without_an_inverse_no_density(short):
    base = settings(**SMALL, flow={"family": "hamiltonian", "length": 2}, evaluation={"test_images": 40})
    data = load_dataset(base.data, (), download=False)
    found = make_problem(base, data, 1, "cpu").fits()
    assert found.kl.shape == (4, 2, 2)
    assert found.log_flow.size == 0
    assert read_fits(write_fits(found)).log_flow.shape == (0, 0, 0)
    assert make_problem(base.replace({"model.latent": 3}), data, 1, "cpu").fits() is None
    unconstrained = base.replace({"flow.family": "planar", "flow.constraint": False})
    assert make_problem(unconstrained, data, 1, "cpu").fits().log_flow.size == 0


def test_a_file_that_is_none_is_refused():
    target = studied(P.log_prob)
    found = plane_fits(target, None, target.draws[-1])
    content = write_fits(found)
    back = read_fits(content)
    np.testing.assert_allclose(back.kl, found.kl, atol=1e-6)
    np.testing.assert_allclose(back.draws, found.draws, rtol=1e-3)
    with pytest.raises(ValueError, match="not a file of fits"):
        read_fits(content[:200])
    for name, values in (("kl", found.kl[:, :1]), ("draws", np.full_like(found.draws, np.nan))):
        import dataclasses

        with pytest.raises(ValueError, match=name):
            read_fits(write_arrays(dataclasses.replace(found, **{name: values})))
