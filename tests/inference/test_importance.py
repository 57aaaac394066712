"""What log weights say of −ln p(x): by hand, by other software, and by repetition."""

import numpy as np
import pytest
from inference.test_evaluation import LinearGaussian, exact_nll, images

from nfstudy.inference.models.evaluation import evaluate_likelihood
from nfstudy.inference.models.importance import (
    SeedSpread,
    effective_sizes,
    log_means,
    pareto_k,
    sample_numbers,
)


def test_by_hand():
    logs = np.log(np.array([[1.0, 2.0], [3.0, 2.0], [4.0, 2.0], [8.0, 2.0], [100.0, 2.0]]))
    assert np.exp(log_means(logs, 2)) == pytest.approx(np.array([[2.0, 2.0], [6.0, 2.0]]))
    assert effective_sizes(logs[:4]) == pytest.approx([16**2 / 90, 4])
    assert sample_numbers(5000) == (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 2500, 5000)
    assert (sample_numbers(2), sample_numbers(3)) == ((1, 2), (1, 2, 3))
    assert np.isneginf(log_means(np.full((2, 1), -np.inf), 2)).all()


@pytest.mark.parametrize(
    ("samples", "shape", "expected"),
    # psislw of arviz-stats 0.8.0, whose tail has as many weights where S is at most 225.
    [
        (30, 0.3, 0.3854659140026858),
        (30, 0.8, 0.5219039147514286),
        (30, 1.6, 0.7371662144711115),
        (200, 0.3, 0.34903697147398843),
        (200, 0.8, 0.714565726952413),
        (200, 1.6, 1.2998049740328983),
    ],
)
def test_pareto_k_is_that_of_other_software(samples, shape, expected):
    logs = -shape * np.log1p(-(np.arange(samples) + 0.5) / samples)
    assert pareto_k(logs[:, None] - 7000.0) == pytest.approx([expected], rel=1e-9)


def test_pareto_k_is_the_shape_of_a_pareto_tail_whatever_its_scale():
    drawn = np.random.default_rng(0).exponential(size=(5000, 40))
    for shape in (0.2, 0.7, 1.5):
        assert np.median(pareto_k(shape * drawn)) == pytest.approx(shape, abs=0.06)
    # Weights that differ by thousands of nats: in floats all but one would be 0.
    assert (pareto_k(300 * drawn) > 100).all()


def test_pareto_k_of_weights_without_a_tail():
    equal, lumped, few = np.zeros((50, 1)), np.r_[0.0, np.full(199, -1e4)][:, None], np.zeros((24, 1))
    assert (pareto_k(equal), pareto_k(lumped)) == (0.0, np.inf)
    assert np.isnan(pareto_k(few)).all()


@pytest.mark.parametrize(
    ("spread", "samples"), [(0.5, 64), (2.5, 64), (2.5, 1000)], ids=["light", "heavy", "heavy, many"]
)
def test_the_spread_over_seeds_is_that_of_repeated_evaluations(spread, samples):
    rng = np.random.default_rng(1)
    printed, estimates, delta = [], [], []
    for _ in range(60):
        logs = spread * rng.standard_normal((samples, 60))
        counted = SeedSpread(samples)
        counted.add(logs)
        printed.append(counted.variance())
        estimates.append(log_means(logs, samples)[0])
        weights = np.exp(logs)
        delta.append((weights.var(0, ddof=1) / samples / weights.mean(0) ** 2).mean())
    true = np.sqrt(np.var(estimates, axis=0, ddof=1).mean())
    assert np.sqrt(np.mean(printed)) == pytest.approx(true, rel=0.1)
    if spread > 1:
        assert np.sqrt(np.mean(delta)) < 0.85 * true


@pytest.mark.parametrize(("shift", "widening"), [(0.0, 0.35), (0.3, 1.0)], ids=["too narrow", "shifted"])
def test_the_printed_error_over_seeds_is_the_spread_of_repeated_evaluations(shift, widening):
    # Every image has a stream of its own, so that copies of an image are evaluations by other seeds.
    few, copies = 10, 300
    found = evaluate_likelihood(LinearGaussian(shift, widening), np.tile(images(few), (copies, 1)), 100, seed=1)
    of_one = found.images.nll.reshape(copies, few).var(axis=0, ddof=1).mean()
    assert found.nll_seed_se == pytest.approx(np.sqrt(of_one / (few * copies)), rel=0.15)


def test_the_printed_error_over_images_is_the_spread_over_other_test_sets():
    found = [evaluate_likelihood(LinearGaussian(0.3), images(40, seed), 20, seed).numbers() for seed in range(100)]
    spread = np.std([run["nll"] for run in found], ddof=1)
    assert np.mean([run["nll_image_se"] for run in found]) == pytest.approx(spread, rel=0.15)


def test_the_curve_falls_from_f_to_the_estimate_and_its_parts_are_consistent():
    found = evaluate_likelihood(LinearGaussian(0.2, 0.6), images(30), 400, seed=3)
    values = list(found.curve.values())
    assert found.curve[1] == pytest.approx(-found.elbo)
    assert found.curve[400] == pytest.approx(found.nll)
    assert values == sorted(values, reverse=True)
    numbers = found.numbers()
    assert numbers["nll_drop"] == pytest.approx(found.curve[200] - found.nll)
    assert found.images.nll.mean() == pytest.approx(found.nll)
    assert 1 < numbers["ess"] < 400
    assert exact_nll(images(30)) < found.curve[200]


@pytest.mark.parametrize("samples", [2, 3, 20, 64, 1000, 1024, 3000])
def test_the_last_doubling_is_from_half_of_the_samples(samples):
    """Whatever round number there is between, such as 50 of 64."""
    found = evaluate_likelihood(LinearGaussian(0.2, 0.6), images(3), samples, seed=3)
    assert found.numbers()["nll_drop"] == found.curve[samples // 2] - found.nll


def test_of_one_sample_there_is_no_doubling():
    found = evaluate_likelihood(LinearGaussian(0.2, 0.6), images(3), 2, seed=3)
    assert found._replace(curve={1: found.nll}).numbers()["nll_drop"] == 0


def test_nothing_to_evaluate_is_refused():
    with pytest.raises(ValueError, match="0 images, 5 samples: expected: at least 1 and at least 2"):
        evaluate_likelihood(LinearGaussian(), images(0), 5, seed=1)
    with pytest.raises(ValueError, match="3 images, 1 samples"):
        evaluate_likelihood(LinearGaussian(), images(3), 1, seed=1)
