import math

import pytest
import torch

from nfstudy.inference.models.dlgm import DLGM
from nfstudy.inference.models.objective import BoundTerms, beta_at, bound_terms, free_energy
from nfstudy.study.sections import FlowSpec, ModelSpec, ObjectiveSpec

TERMS = BoundTerms(*(torch.tensor([value]) for value in (-90.0, -50.0, -40.0, 3.0)))
"""ln q_K = -43, ln p(x, z_K) = -140."""


def test_elbo_of_known_terms():
    assert TERMS.elbo.item() == -90 - 50 + 40 + 3
    assert TERMS.numbers() == {
        "elbo": -97.0,
        "log_likelihood": -90.0,
        "log_prior": -50.0,
        "log_q0": -40.0,
        "log_det": 3.0,
    }


@pytest.mark.parametrize(
    ("annealing", "beta", "expected"),
    [
        ("energy", 0.25, -43 + 0.25 * 140),
        ("energy", 0.0, -43),
        ("kl", 0.25, 90 + 0.25 * (-43 + 50)),
        ("kl", 0.0, 90),
        ("none", 0.25, 97),
        ("energy", 1.0, 97),
        ("kl", 1.0, 97),
        ("none", 1.0, 97),
    ],
)
def test_free_energy_by_hand(annealing, beta, expected):
    assert free_energy(TERMS, beta, annealing).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("update", "beta"), [(0, 0.01), (100, 0.02), (5000, 0.51), (9899, 0.9999), (9900, 1.0), (500_000, 1.0)]
)
@pytest.mark.parametrize("annealing", ["energy", "kl"])
def test_beta_of_the_paper(annealing, update, beta):
    assert beta_at(update, ObjectiveSpec(annealing=annealing)) == pytest.approx(beta, rel=1e-12)
    assert beta_at(9900, ObjectiveSpec(annealing=annealing)) == 1.0


@pytest.mark.parametrize(
    ("spec", "update", "beta"),
    [
        (ObjectiveSpec(annealing="none"), 0, 1.0),
        (ObjectiveSpec(beta_start=0.0, anneal_updates=10), 0, 0.0),
        (ObjectiveSpec(beta_start=0.5, anneal_updates=10), 4, 0.9),
        (ObjectiveSpec(beta_start=1.0), 0, 1.0),
    ],
    ids=["none", "from-zero", "faster", "from-one"],
)
def test_beta_of_other_settings(spec, update, beta):
    assert beta_at(update, spec) == pytest.approx(beta)


class ScaledNoise(torch.nn.Module):
    """z_0 = noise, z_K = 2 z_0, p(x|z) free of z: all terms known by hand."""

    def infer(self, x):
        return "posterior"

    def sample(self, posterior, noise):
        assert posterior == "posterior"
        log_q0 = torch.distributions.Normal(0, 1).log_prob(noise).sum(-1)
        return 2 * noise, log_q0, torch.full(noise.shape[:-1], noise.shape[-1] * math.log(2))

    def log_likelihood(self, x, z):
        return (x.sum(-1) + 0 * z.sum(-1)).expand(z.shape[:-1])


def test_bound_terms_take_the_prior_at_the_end_of_the_flow():
    x, noise = torch.tensor([[1.0, 2.0]]), torch.tensor([[[0.5]], [[-1.0]]])
    terms = bound_terms(ScaledNoise(), x, noise)
    half_log_2pi = math.log(2 * math.pi) / 2
    assert terms.log_likelihood.tolist() == [[3.0], [3.0]]
    torch.testing.assert_close(terms.log_prior, torch.tensor([[-0.5], [-2.0]]) - half_log_2pi)
    torch.testing.assert_close(terms.log_q0, torch.tensor([[-0.125], [-0.5]]) - half_log_2pi)
    torch.testing.assert_close(terms.log_det, torch.full((2, 1), math.log(2)))


def test_bound_terms_use_a_given_posterior():
    class Uninferable(ScaledNoise):
        def infer(self, x):
            raise AssertionError("inferred twice")

    given = bound_terms(Uninferable(), torch.ones(1, 2), torch.zeros(1, 1), "posterior")
    assert torch.equal(given.elbo, bound_terms(ScaledNoise(), torch.ones(1, 2), torch.zeros(1, 1)).elbo)


@pytest.mark.parametrize("annealing", ["energy", "kl", "none"])
def test_gradient_of_the_mean_of_q0_in_closed_form(annealing):
    # With logits free of z, only the prior depends on the mean: d/dm of β (m + σ ε)² / 2 is β z for energy and kl.
    model = DLGM(6, ModelSpec(latent=2, hidden=4, layers=1, maxout=2), FlowSpec())
    model.initialise(1, 1)
    torch.nn.init.zeros_(model.likelihood.logits.weight)
    x, noise = torch.ones(3, 6), torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    posterior = model.infer(x)
    posterior.mean.retain_grad()
    beta = 0.3
    free_energy(bound_terms(model, x, noise, posterior), beta, annealing).sum().backward()
    z = model.sample(posterior, noise)[0]
    torch.testing.assert_close(posterior.mean.grad, (1.0 if annealing == "none" else beta) * z.detach())
