"""Bits-back: trained models code images without loss, at the length that F says, and altered streams do not pass."""

import copy
import math

import numpy as np
import pytest
import torch

from nfstudy.core.errors import UserError
from nfstudy.data import load_dataset
from nfstudy.inference.models import bits_back
from nfstudy.inference.models.ans import CodingError
from nfstudy.inference.models.bits_back import decode, encode, round_trip
from nfstudy.inference.models.evaluation import evaluate_likelihood
from nfstudy.inference.models.latent_codes import EqualMass, EqualWidth
from nfstudy.inference.models.objective import bound_terms
from nfstudy.inference.problems.images import ImageProblem
from nfstudy.runs.evaluations import make_request
from nfstudy.study.settings import Settings

INVERTIBLE = (
    *(("none", 0), ("planar", 4), ("radial", 3), ("nice-perm", 3), ("nice-orth", 2), ("iaf", 2), ("sylvester", 2)),
    *(("householder", 2), ("full-covariance", 1), ("realnvp", 2), ("glow", 2), ("spline", 2)),
)
IMAGES = 100
_TRAINED = {}


def trained(family="none", length=0, binarisation="static", updates=150, model=None, **flow):
    """Return a problem of digits, trained a little; the same one each time."""
    key = (family, length, binarisation, updates, str(model), *flow.items())
    if key not in _TRAINED:
        content = {
            "data": {"name": "digits", "binarisation": binarisation},
            "model": {"latent": 5, "hidden": 24, "layers": 1, "maxout": 2} | (model or {}),
            "flow": {"family": family, "length": length, **flow},
            "train": {"updates": updates, "batch": 50},
        }
        settings = Settings.model_validate(content)
        problem = ImageProblem(settings, load_dataset(settings.data, []), 1, "cpu")
        optimiser = torch.optim.Adam(problem.parameters(), lr=5e-3)
        for epoch in range(1, 2 + updates // problem.epoch_updates):
            for batch in problem.minibatches(epoch, problem.epoch_updates):
                optimiser.zero_grad()
                (-batch.terms().elbo.mean()).backward()
                optimiser.step()
        problem.model.eval()
        _TRAINED[key] = problem
    return _TRAINED[key]


def images(problem, count=IMAGES):
    return problem.dataset.test[:count]


@pytest.mark.parametrize("binarisation", ["static", "categories"])
@pytest.mark.parametrize(("family", "length"), INVERTIBLE)
def test_a_round_trip_has_the_length_that_the_bound_says(family, length, binarisation):
    problem = trained(family, length, binarisation)
    made = round_trip(problem.model, images(problem), 7).numbers()
    # The coder's own share: at the z of the coded images, bins, masses and local linearity cost next to nothing.
    assert made["bits_per_pixel_net"] == pytest.approx(made["bits_per_pixel_drawn"], rel=1e-3)
    # And these z are draws from q, so that their mean F is F, but for chance.
    found = evaluate_likelihood(problem.model, images(problem), 50, 1)
    with torch.no_grad():
        x = torch.tensor(images(problem)).float()
        noise = torch.randn(40, IMAGES, 5, generator=torch.Generator().manual_seed(1))
        spread = bound_terms(problem.model, x, noise).elbo.std(0).square().mean().sqrt() / math.sqrt(IMAGES)
    bits = 64 * math.log(2)
    assert abs(made["bits_per_pixel_drawn"] + found.elbo / bits) < 4 * spread.item() / bits
    assert made["bits_per_pixel"] == pytest.approx(
        made["bits_per_pixel_net"] + made["initial_bits"] / (IMAGES * 64), abs=40 / (IMAGES * 64)
    )
    assert made["message_bytes"] * 8 == pytest.approx(made["bits_per_pixel"] * IMAGES * 64)


@pytest.mark.parametrize(("family", "length"), [("none", 0), ("planar", 3), ("iaf", 2)])
def test_several_stochastic_layers_are_coded_as_the_noise_that_they_are_made_from(family, length):
    problem = trained(family, length, "categories", model={"stochastic_layers": 2})
    made = round_trip(problem.model, images(problem), 7).numbers()
    assert made["bits_per_pixel_net"] == pytest.approx(made["bits_per_pixel_drawn"], rel=1e-3)
    found = evaluate_likelihood(problem.model, images(problem), 50, 1)
    assert made["bits_per_pixel_net"] == pytest.approx(-found.elbo / (64 * math.log(2)), rel=0.02)


def test_many_images_come_within_a_hundredth_of_the_bound():
    for family, length in (("none", 0), ("planar", 4)):
        problem = trained(family, length, "categories")
        made = round_trip(problem.model, images(problem, 300), 2)
        found = evaluate_likelihood(problem.model, images(problem, 300), 200, 1)
        assert made.numbers()["bits_per_pixel_net"] == pytest.approx(-found.elbo / (64 * math.log(2)), rel=0.01)
        assert made.initial_bits < 0.01 * made.message_bits


def test_a_model_that_is_far_from_the_images_has_its_own_bound_too():
    # Its prior is not where q is, so bits that were pushed are not random; without masks, z would be no draws from q.
    problem = trained("planar", 4, "categories", updates=1)
    made = round_trip(problem.model, images(problem), 3).numbers()
    found = evaluate_likelihood(problem.model, images(problem), 100, 1)
    assert made["bits_per_pixel_net"] == pytest.approx(-found.elbo / (64 * math.log(2)), rel=0.02)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    problem = trained()
    first, again, other = (encode(problem.model, images(problem, 5), seed)[0] for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(("family", "length"), [("none", 0), ("planar", 4)])
def test_an_altered_stream_is_not_decoded_to_the_same(family, length):
    problem = trained(family, length)
    sent = images(problem, 10)
    message, beginning, _ = encode(problem.model, sent, 4)
    back, rest = decode(problem.model, message, 10, 4)
    assert (back == sent).all()
    assert (rest.state, rest.words) == (beginning.state, beginning.words)
    for byte in (0, len(message) // 2, len(message) - 1):
        altered = bytearray(message)
        altered[byte] ^= 0x10
        assert not same(problem, bytes(altered), sent, 4, beginning)
    assert not same(problem, message[4:], sent, 4, beginning), "cut at its beginning"
    assert not same(problem, message[:-4], sent, 4, beginning), "cut at its end"
    assert not same(problem, message, sent, 5, beginning), "another seed"


def same(problem, message, sent, seed, beginning):
    """Say whether a message is decoded to the images that were sent, with the bits that it began with."""
    try:
        back, rest = decode(problem.model, message, len(sent), seed)
    except CodingError:
        return False
    return (back == sent).all() and (rest.state, rest.words) == (beginning.state, beginning.words)


def test_a_decoder_that_computes_other_numbers_is_found_out(monkeypatch):
    problem = trained()
    tables, calls = bits_back.mass_table, []

    def noisy(probabilities):
        calls.append(probabilities)
        return tables(probabilities + 1e-7 if len(calls) > 5 else probabilities)  # Only the decoder's.

    monkeypatch.setattr(bits_back, "mass_table", noisy)
    with pytest.raises(CodingError, match=r"were decoded to others|did not come back|ends before"):
        round_trip(problem.model, images(problem, 5), 1)


@pytest.mark.parametrize("binarisation", ["static", "categories"])
def test_levels_of_no_float_s_probability_are_coded_and_have_a_finite_bound(binarisation):
    problem = copy.deepcopy(trained(binarisation=binarisation))
    with torch.no_grad():
        problem.model.likelihood.logits.bias.add_(-400 * torch.sign(problem.model.likelihood.logits.bias))
    top = 1 if binarisation == "static" else 16
    sent = np.stack([np.zeros(64), np.full(64, top), np.arange(64) % (top + 1)]).astype(np.uint8)
    made = round_trip(problem.model, sent, 7).numbers()
    assert made["bits_per_pixel_drawn"] > 100
    # A level has at least the mass 2 of 2^48, so that the code is shorter than F.
    assert 10 < made["bits_per_pixel_net"] < 48


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_told_of(number):
    problem = copy.deepcopy(trained())
    with torch.no_grad():
        problem.model.decoder[0].pieces.bias.fill_(number)
    with pytest.raises(CodingError, match="not finite; expected: probabilities"):
        round_trip(problem.model, images(problem, 3), 7)


def test_other_models_weights_do_not_decode():
    message, beginning, _ = encode(trained().model, images(trained(), 5), 1)
    other = trained(updates=50)
    assert not same(other, message, images(other, 5), 1, beginning)


@pytest.mark.parametrize("bins", [EqualMass(10), EqualWidth(10)])
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-2.0, 0.01), (30.0, 0.1), (0.3, 1e-9), (0.0, 1e6)])
def test_bins_have_all_mass_and_each_some(bins, mean, deviation):
    starts = [bins.gaussian(mean, deviation).start(code) for code in range(bins.size + 1)]
    assert (starts[0], starts[-1]) == (0, 2**48)
    assert min(np.diff(starts)) >= 1
    assert all(bins.edge(code) < bins.point(code) for code in range(1, bins.size))


# --- what is asked of a run -----------------------------------------------------------------------------------------


def asked(problem, **given):
    return problem.evaluate(make_request("bits-back", 1, **given))


def test_what_a_run_is_asked_has_the_bound_beside_the_code():
    problem = trained("planar", 4, "categories")
    numbers = asked(problem, images=20, samples=30)
    assert numbers["images"] == 20
    assert numbers["bits_per_pixel_free_energy"] == pytest.approx(-numbers["elbo"] / (64 * math.log(2)))
    assert numbers["bits_per_pixel_net"] == pytest.approx(numbers["bits_per_pixel_free_energy"], rel=0.05)
    assert numbers["pixels"] == 64
    assert asked(problem, images=20, samples=30) == numbers
    assert asked(trained(), images=100_000, samples=2)["images"] == 300


@pytest.mark.parametrize("family", ["hamiltonian", "langevin"])
def test_flows_that_follow_a_gradient_are_refused(family):
    with pytest.raises(UserError, match=f"flow.family: got {family}; expected: .*planar.* as bits-back needs"):
        asked(trained(family, 1, updates=1))


@pytest.mark.parametrize("family", ["planar", "radial"])
def test_flows_without_their_constraint_are_refused(family):
    with pytest.raises(UserError, match=r"flow\.constraint: got false; expected: true, as bits-back needs"):
        asked(trained(family, 2, updates=1, constraint=False))


def test_densities_are_refused():
    content = {"data": {"name": "photos"}, "model": {"latent": 2, "hidden": 8, "layers": 1, "maxout": 2}}
    settings = Settings.model_validate(content)
    problem = ImageProblem(settings, load_dataset(settings.data, []), 1, "cpu")
    with pytest.raises(UserError, match=r"got LogitNormal, a density; expected: .*bernoulli, categorical"):
        asked(problem)


def test_temperatures_are_none_of_its():
    with pytest.raises(UserError, match=r"temperatures: got 3; expected: .*none with bits-back"):
        make_request("bits-back", 1, temperatures=3)
    request = make_request("bits-back", 1)
    assert request.label == "bits-back, 200 samples, 100 images, seed 1"
