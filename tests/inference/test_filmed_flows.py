"""Films of trained flows: densities by change of variables, grids by the paper's formulas, the run's own samples."""

import math

import numpy as np
import pytest
import torch
from test_plane import DRAWN, SETTINGS, run

from nfstudy.data import load_dataset
from nfstudy.films import read_film
from nfstudy.flows.base import Flow
from nfstudy.inference.problems import make_problem
from nfstudy.inference.problems.films import CELLS, LINES, REACH, SAMPLES, beginnings, plane_film
from nfstudy.inference.training.trial import run_trial
from nfstudy.study.cells import Cell, Trial
from nfstudy.study.settings import Settings

CELL_AREA = (8 / CELLS) ** 2
IMAGES = {
    "data": {"name": "digits", "binarisation": "threshold"},
    "model": {"latent": 2, "hidden": 16, "layers": 1, "maxout": 2},
    "flow": {"family": "planar", "length": 3},
    "train": {"updates": 60, "batch": 50, "optimiser": "adam", "learning_rate": 1e-2},
    "objective": {"anneal_updates": 20},
    "evaluation": {"samples": 10, "test_images": 40, "tight_images": 0},
}


def changed(family, length=5):
    """An energy's problem whose flow has been moved away from its start."""
    settings = SETTINGS.replace({"flow.family": family, "flow.length": length})
    problem = make_problem(settings, None, 1, "cpu")
    stream = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weights in problem.parameters():
            weights += 0.2 * torch.randn(weights.shape, generator=stream)
    return problem


@pytest.mark.parametrize("family", ["planar", "radial", "nice-perm", "nice-orth", "iaf", "sylvester"])
def test_the_density_after_every_step_integrates_to_one(family):
    film = changed(family).film()
    assert film.steps.tolist() == [0, 1, 2, 3, 4, 5]
    masses = np.exp(film.log_density).sum((1, 2)) * CELL_AREA
    # What lies outside of the window is missing, as many as of the samples; so the two are held to each other.
    inside = (np.abs(film.samples) < 4).all(-1).mean(1)
    assert masses == pytest.approx(inside, abs=4 * math.sqrt(0.25 / SAMPLES) * 0.5 + 1e-3)
    assert masses.max() < 1.01
    assert masses[0] == pytest.approx(1, abs=5e-3)


def test_a_density_that_lies_within_the_window_integrates_to_one_to_four_digits():
    film = make_problem(SETTINGS, None, 1, "cpu").film()  # near the identity
    assert np.exp(film.log_density).sum((1, 2)) * CELL_AREA == pytest.approx(1, abs=2e-4)
    assert np.exp(film.target).sum() * CELL_AREA == pytest.approx(1, abs=1e-3)


def test_the_last_samples_are_the_runs_own_and_the_first_are_of_q0():
    problem = changed("planar")
    film = problem.film()
    noise = torch.randn(SETTINGS.evaluation.samples, 2, generator=problem._generator("evaluation", "test"))
    _, z = problem._terms(noise)
    np.testing.assert_allclose(film.samples[-1], z[:SAMPLES].detach(), atol=2e-5)
    np.testing.assert_allclose(film.samples[0], problem.model.start(noise[:SAMPLES]).detach(), atol=1e-6)


def grid_of(problem):
    """The grid in z_0 by hand: REACH standard deviations of q0 on each side of its mean."""
    ticks = np.linspace(-REACH, REACH, LINES)
    mean, deviation = (
        problem.model.mean.detach().double().numpy(),
        problem.model.log_variance.detach().double().div(2).exp(),
    )
    return mean + deviation.numpy() * np.stack(np.meshgrid(ticks, ticks), -1)


def test_the_planar_grid_follows_equation_10():
    problem = changed("planar")
    film = problem.film()
    u, w, b = (part.detach().double().numpy() for part in problem.model.flow.split(*problem.model.flow_parameters()))
    z = grid_of(problem)
    np.testing.assert_allclose(film.grid[0], z, atol=1e-6)
    for k in range(5):
        wu = w[k] @ u[k]
        u_hat = u[k] + (-1 + np.log1p(np.exp(wu)) - wu) * w[k] / (w[k] @ w[k])
        z = z + u_hat * np.tanh(z @ w[k] + b[k])[..., None]
        np.testing.assert_allclose(film.grid[k + 1], z, atol=1e-6)


def test_the_radial_grid_follows_equation_14():
    problem = changed("radial")
    film = problem.film()
    z0, alpha, beta = (
        part.detach().double().numpy() for part in problem.model.flow.split(*problem.model.flow_parameters())
    )
    z = grid_of(problem)
    for k in range(5):
        r = np.linalg.norm(z - z0[k], axis=-1, keepdims=True)
        z = z + (np.log1p(np.exp(beta[k])) - alpha[k]) / (alpha[k] + r) * (z - z0[k])
        np.testing.assert_allclose(film.grid[k + 1], z, atol=1e-5)


def test_a_longer_chain_shows_seventeen_moments():
    film = changed("radial", 40).film()
    assert (len(film.steps), film.steps[0], film.steps[-1]) == (17, 0, 40)


def test_a_drawn_flow_has_no_target():
    film = make_problem(DRAWN, None, 1, "cpu").film()
    assert film.target.size == 0
    assert np.exp(film.log_density[0]).sum() * CELL_AREA == pytest.approx(1, abs=1e-3)
    uniform = make_problem(DRAWN.replace({"drawn.density": "uniform"}), None, 1, "cpu").film()
    assert np.abs(uniform.samples[0]).max() <= 2
    assert np.exp(uniform.log_density[0]).max() == pytest.approx(1 / 16)


class Shift(Flow):
    """A family from outside that does not show its steps."""

    def initialise(self, generator):
        pass

    def parameters_from(self, features):
        return ()

    def forward(self, z, parameters):
        return z + 1.0, z.new_zeros(z.shape[:-1])

    def inverse(self, z, parameters):
        return z - 1.0


def test_a_family_that_shows_no_steps_has_start_and_end_alone():
    flow = Shift(2, 6, 0)
    assert [k for k, *_ in beginnings(flow, ())] == [0, 6]
    samples = torch.zeros(3, 2, dtype=torch.float64)
    film = plane_film(flow, (), lambda z: -0.5 * z.square().sum(-1), lambda z: z, samples, None)
    assert film.samples[-1].tolist() == [[1.0, 1.0]] * 3
    top, left = np.unravel_index(film.log_density[-1].argmax(), (CELLS, CELLS))
    assert (4 - (top + 0.5) * 8 / CELLS, (left + 0.5) * 8 / CELLS - 4) == pytest.approx((1, 1), abs=8 / CELLS)


def image_problem(latent):
    settings = Settings.model_validate(IMAGES).replace({"model.latent": latent})
    return make_problem(settings, load_dataset(settings.data, ()), 1, "cpu")


def test_posteriors_at_two_variables_are_shown_as_they_are_with_the_true_ones():
    problem = image_problem(2)
    film = problem.film()
    places = np.arange(6) * 40 // 6
    images = torch.tensor(problem.dataset.test[places].astype(np.float32))
    np.testing.assert_array_equal(film.images[..., 0].reshape(6, -1), 255 * problem.dataset.test[places])
    noise = problem._noise(200 * 6, 2, "film").reshape(200, 6, 2)
    with torch.no_grad():
        z_K, _, _ = problem.model.sample(problem.model.infer(images), noise)
        np.testing.assert_allclose(film.samples[-1], z_K.transpose(0, 1), atol=1e-5)
        # ln p(x, z) of image 3 at the cell of row 5 and column 7, against the one where it is largest.
        x, y, half = film.windows[3]
        at = [[x + half * ((c + 0.5) / 24 - 1), y - half * ((r + 0.5) / 24 - 1)] for r, c in ((5, 7), (30, 20))]
        z = torch.tensor(at, dtype=torch.float32)
        joint = problem.model.log_likelihood(images[3:4], z[:, None])[:, 0] - 0.5 * z.square().sum(-1)
    difference = film.posterior[3, 5, 7] - film.posterior[3, 30, 20]
    assert difference == pytest.approx((joint[0] - joint[1]).item(), abs=1e-3)
    assert film.posterior.max((1, 2)).tolist() == [0.0] * 6
    assert (film.share == 1).all()
    assert film.decoded.shape == (13, 13, 8, 8, 1)
    assert len(film.places) == len(film.thumbnails) == 40  # All test images, where there are no more.


def test_posteriors_of_more_variables_are_shown_in_their_two_main_directions():
    problem = image_problem(4)
    film = problem.film()
    assert film.posterior.size == film.decoded.size == film.places.size == 0
    images = torch.tensor(problem.dataset.test[np.arange(6) * 40 // 6].astype(np.float32))
    noise = problem._noise(200 * 6, 4, "film").reshape(200, 6, 4)
    with torch.no_grad():
        z_K, _, _ = problem.model.sample(problem.model.infer(images), noise)
    for n in range(6):
        variances = np.linalg.eigvalsh(np.cov(z_K[:, n].double().numpy().T))[::-1]
        found = np.cov(film.samples[-1, n].T)
        np.testing.assert_allclose(found, np.diag(variances[:2]), rtol=1e-4, atol=1e-5)
        assert film.share[n] == pytest.approx(variances[:2].sum() / variances.sum(), rel=1e-4)


def test_one_latent_variable_has_a_film_too():
    assert np.ptp(image_problem(1).film().samples[..., 1]) == 0


def test_a_run_logs_its_film_where_it_is_asked_for_and_its_numbers_are_the_same():
    short = SETTINGS.replace({"train.updates": 20, "evaluation.samples": 500})
    trial = Trial("plane", Cell(short.normalized(), "full"), short, "repetition", 1, film=True)
    with_film = run_trial(trial, None, "cpu", lambda record: True)
    without, _ = run(short)
    again = run_trial(trial, None, "cpu", lambda record: True)
    assert with_film.files.keys() - without.files.keys() == {"film.npz", "film.gif", "film.html"}
    assert [with_film.files[name] for name in sorted(with_film.files)] == [again.files[n] for n in sorted(again.files)]
    own = {name: value for name, value in with_film.metrics.items() if not name.startswith("time/")}
    assert own == {name: value for name, value in without.metrics.items() if not name.startswith("time/")}
    assert read_film(with_film.files["film.npz"]).steps[-1] == 8


def test_no_flow_has_no_film():
    settings = SETTINGS.replace({"flow.length": 0, "train.updates": 5})
    trial = Trial("plane", Cell(settings.normalized(), "full"), settings, "repetition", 1, film=True)
    assert "film.npz" not in run_trial(trial, None, "cpu", lambda record: True).files
