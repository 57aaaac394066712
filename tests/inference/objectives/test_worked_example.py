"""The suite's own estimators in the one-dimensional example: their variances are those that are worked by hand."""

import math

import pytest
import torch
from torch.distributions import Normal

from nfstudy.inference.models.minibatch import Draws
from nfstudy.inference.objectives import make_estimator
from nfstudy.report.exhibits.worked_example import WORKED, C, simulated
from nfstudy.study.sections import ObjectiveSpec

DRAWS = 200_000
EXACT = {each.name: each.exact for each in WORKED}


class Shifted:
    """q = N(φ_b, 1) with a φ of its own for each example, p = N(0, 1), φ = θ = 0: a gradient for each example.

    With `of_p_alone`, what stands for ln p(x|z) is ln p(z) + ln q(z) held, so that F is −ln p(z): the entropy of q is
    left out, which does not depend on φ.
    """

    latent = 1

    def __init__(self, samples, of_p_alone=False, seed=1):
        self.samples, self.of_p_alone = samples, of_p_alone
        self.phi = torch.zeros(DRAWS, dtype=torch.float64, requires_grad=True)
        generator = torch.Generator().manual_seed(seed)
        self.noise = torch.randn(samples, DRAWS, 1, generator=generator, dtype=torch.float64)
        self.inputs = torch.zeros(DRAWS, 0)

    def draw(self):
        q = Normal(self.phi.unsqueeze(-1), 1)
        z = q.loc + self.noise
        return Draws(z, q.log_prob(z).sum(-1), torch.zeros(self.samples, DRAWS, dtype=torch.float64))

    def terms(self):
        from nfstudy.inference.objectives.base import terms_at

        draws = self.draw()
        terms = terms_at(self, draws, draws.z)
        return type(terms)(*(term[0] if self.samples == 1 else term for term in terms))

    def slope(self):
        return -self.noise

    def log_joint(self, z):
        log_p = Normal(0.0, 1.0).log_prob(z).sum(-1)
        return (log_p + log_p.detach() if self.of_p_alone else log_p), torch.zeros_like(log_p)

    def dream(self):
        z = torch.randn(DRAWS, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        return Normal(self.phi.unsqueeze(-1), 1).log_prob(z).sum(-1)


def variance(name, samples=1, of_p_alone=False, learned=None, **settings):
    batch = Shifted(samples, of_p_alone)
    spec = ObjectiveSpec(estimator=name, annealing="none", samples=samples, **settings)
    made = make_estimator(spec, 0, "cpu")
    if learned is not None:
        made.state = {"count": torch.tensor(1.0), "mean": torch.tensor(learned)}
    (found,) = torch.autograd.grad(made(batch, 1.0).objective.sum(), batch.phi)
    squares = (found - found.mean()) ** 2
    return squares.sum().item() / (DRAWS - 1), squares.std().item() / math.sqrt(DRAWS)


CASES = {
    "pathwise": ("pathwise", {}),
    "score function of −ln p, b = 0": ("score-function", {"of_p_alone": True, "baseline": "none"}),
    "score function of −ln p, b the mean of −ln p": ("score-function", {"of_p_alone": True, "learned": C + 0.5}),
    "score function of −ln p, best constant b": ("score-function", {"of_p_alone": True, "learned": C + 1.5}),
    "score function of −ln p, leave-one-out, S = 5": (
        "score-function",
        {"of_p_alone": True, "samples": 5, "baseline": "leave-one-out"},
    ),
    "score function of ln q − ln p": ("score-function", {"baseline": "none"}),
    "sticking the landing": ("sticking-the-landing", {}),
    "IWAE, S = 5": ("iwae", {"samples": 5}),
    "DReG, S = 5": ("dreg", {"samples": 5}),
    "wake-sleep, of q": ("wake-sleep", {}),
    "reweighted wake-sleep, of q awake, S = 5": ("reweighted-wake-sleep", {"samples": 5}),
}


def test_every_line_of_the_table_is_one_of_an_estimator():
    assert list(CASES) == list(EXACT)


@pytest.mark.parametrize("line", CASES)
def test_an_estimator_has_the_variance_that_is_worked_by_hand(line):
    name, settings = CASES[line]
    found, error = variance(name, **settings)
    assert found == pytest.approx(EXACT[line], abs=4 * error + 1e-12)


@pytest.mark.parametrize("worked", WORKED, ids=lambda worked: worked.name)
def test_the_table_s_simulation_agrees_with_its_exact_value(worked):
    found, error = simulated(worked)
    assert found == pytest.approx(worked.exact, abs=4 * error + 1e-12)


def test_the_numbers_of_the_text():
    assert EXACT["score function of −ln p, b = 0"] == pytest.approx(7.351, abs=5e-4)
    assert pytest.approx(0.5 * math.log(2 * math.pi)) == C
    # By the moments E ε² = 1, E ε⁴ = 3, E ε⁶ = 15: the best constant is where the variance is least.
    at = [15 / 4 + 3 * (C - b) + (C - b) ** 2 for b in (C + 1.4, C + 1.5, C + 1.6)]
    assert min(at) == at[1] == pytest.approx(1.5)


def test_two_samples_that_leave_one_out_are_no_better_than_the_best_constant_of_one():
    found, error = variance("score-function", of_p_alone=True, samples=2, baseline="leave-one-out")
    assert found == pytest.approx(2.5 / 2 + 0.5 / 2, abs=4 * error)
