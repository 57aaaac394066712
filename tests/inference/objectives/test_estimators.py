"""Every declared estimator keeps the contract, resumes bit for bit, and refuses what it cannot do."""

import io
from dataclasses import replace
from functools import partial

import pytest
import torch
from pydantic import ValidationError

from nfstudy.core import registry
from nfstudy.core.errors import UserError
from nfstudy.data import load_dataset
from nfstudy.inference.objectives import make_estimator
from nfstudy.inference.objectives.base import Estimate, Estimator, over_samples, terms_at, with_gradient_of
from nfstudy.inference.problems import make_problem
from nfstudy.inference.problems.estimator_contract import check_estimator
from nfstudy.inference.training.fit import fit
from nfstudy.inference.training.loop import Loop
from nfstudy.inference.training.variances import gradient_variances, measured_epochs, variants
from nfstudy.runs.metrics import known_metrics
from nfstudy.study.sections import ObjectiveSpec
from nfstudy.study.settings import Settings

DECLARED = registry.all_of("estimators")
CASES = [(name, example) for name, declared in DECLARED.items() for example in declared.examples]
IDS = ["-".join((name, *map(str, example.values()))) for name, example in CASES]
BASE = {
    "data": {"name": "digits"},
    "model": {"latent": 3, "hidden": 8, "layers": 1, "maxout": 2},
    "flow": {"family": "planar", "length": 2},
    "train": {"updates": 40, "batch": 50, "learning_rate": 1e-3},
    "evaluation": {"samples": 2},
}
PLANE = {"energy": {"name": "u1"}, "flow": BASE["flow"], "train": {"updates": 5, "batch": 20}}


def settings_of(name, example=(), base=BASE, **further):
    objective = {"estimator": name, "annealing": "none", **dict(example)}
    return Settings.model_validate({**base, "objective": objective, **further})


def problem_of(settings):
    dataset = load_dataset(settings.data.source(), ()) if settings.data else None
    return make_problem(settings, dataset, 1, "cpu")


@pytest.mark.parametrize("name", DECLARED)
def test_it_keeps_the_contract(name):
    assert check_estimator(DECLARED[name]) >= 1


class OfOtherSign(Estimator):
    """The free energy, with the gradient of its negative, or with that over q's weights alone."""

    of_p_too = True

    def __call__(self, batch, beta):
        draws = batch.draw()
        terms = over_samples(terms_at(batch, draws, draws.z))
        objective = self.energies(terms, beta)
        of_p = -over_samples(terms_at(batch, draws, draws.z.detach())).log_likelihood
        return Estimate(terms, with_gradient_of(objective, -objective if self.of_p_too else 2 * of_p - objective))


class OfOtherSignForQ(OfOtherSign):
    of_p_too = False


class Misnamed(Estimator):
    """The free energy, with terms that another function has changed."""

    def __init__(self, change, *arguments):
        super().__init__(*arguments)
        self.change = change

    def __call__(self, batch, beta):
        terms = over_samples(batch.terms())
        return Estimate(self.change(terms), self.energies(terms, beta))


MISNAMED = {
    "exchanged": (
        lambda terms: terms._replace(log_prior=terms.log_q0, log_q0=terms.log_prior),
        "log_prior: got the numbers of log_q0; expected: its own",
    ),
    "of the other sign": (
        lambda terms: terms._replace(log_likelihood=-terms.log_likelihood),
        "log_likelihood: got its numbers with the other sign",
    ),
}


@pytest.mark.parametrize("case", MISNAMED)
def test_terms_that_are_another_one_are_told(case, monkeypatch):
    change, words = MISNAMED[case]
    declared = replace(DECLARED["pathwise"], implementation=lambda: partial(Misnamed, change))
    monkeypatch.setitem(registry._declared["estimators"], "pathwise", (declared, registry.BUILT_IN))
    with pytest.raises(UserError, match=words):
        check_estimator(declared)


@pytest.mark.parametrize("estimator", [OfOtherSign, OfOtherSignForQ])
def test_a_gradient_that_leads_uphill_is_told(estimator, monkeypatch):
    declared = replace(DECLARED["pathwise"], implementation=lambda: estimator)
    monkeypatch.setitem(registry._declared["estimators"], "pathwise", (declared, registry.BUILT_IN))
    with pytest.raises(
        UserError, match=r"gradient: 100 updates by it take F .* from 45\.23 to .* nats; expected: that"
    ):
        check_estimator(declared)


@pytest.mark.parametrize(("name", "example"), CASES, ids=IDS)
def test_a_training_that_goes_on_from_a_checkpoint_is_the_undisturbed_one(name, example):
    settings = settings_of(name, example)
    whole = problem_of(settings)
    records = []
    fit(whole, settings, lambda record: records.append(record) or True)
    first = Loop(problem_of(settings), settings, None)
    batches = first.problem.minibatches
    state = []

    def cut(epoch, updates, start=0):
        for place, batch in enumerate(batches(epoch, updates, start)):
            if place == 17:
                state.append(first.state())
                return
            yield batch

    first.problem.minibatches = cut
    first._run_epoch()
    second = Loop(problem_of(settings), settings, None)
    assert second.restore(state[0]) == 17
    for name_of, value in first.estimator.state.items():
        assert torch.equal(second.estimator.state[name_of], value)
    resumed = list(second.epochs())
    assert [dict(record.metrics) for record in resumed] == [dict(record.metrics) for record in records]
    for ours, theirs in zip(second.parameters, whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_checkpoint_with_another_estimators_state_is_refused():
    settings = settings_of("score-function", {"baseline": "running"})
    other = settings_of("pathwise")
    for mine, theirs in ((settings, other), (other, settings)):
        state = Loop(problem_of(theirs), theirs, None).state()
        with pytest.raises(Exception, match="its estimator of the gradient is another one"):
            Loop(problem_of(mine), mine, None).restore(state)
    content = torch.load(io.BytesIO(Loop(problem_of(settings), settings, None).state()), weights_only=True)
    content["estimator"]["mean"] = torch.tensor(float("nan"))
    file = io.BytesIO()
    torch.save(content, file)
    with pytest.raises(Exception, match="its estimator's mean does not fit"):
        Loop(problem_of(settings), settings, None).restore(file.getvalue())


@pytest.mark.parametrize(("name", "example"), CASES, ids=IDS)
def test_it_trains_on_the_plane_or_says_that_it_cannot(name, example):
    declared = DECLARED[name]
    if declared.examples_only(settings_of(name, example).objective):
        with pytest.raises(ValidationError, match=r"objective.estimator: got .*; expected: on the plane"):
            settings_of(name, example, PLANE)
        return
    settings = settings_of(name, example, PLANE)
    problem = problem_of(settings)
    before = [weight.detach().clone() for weight in problem.parameters()]
    assert fit(problem, settings, lambda _: True).outcome == "finished"
    assert not any(torch.equal(a, b) for a, b in zip(before, problem.parameters(), strict=True))


REFUSED = {
    "samples": ({"estimator": "score-function", "baseline": "leave-one-out"}, {}, r"objective\.samples: got 1; .* 2"),
    "annealing": ({"estimator": "wake-sleep"}, {}, r"objective\.annealing: got energy; expected: none"),
    "free bits": ({"free_bits": 0.5}, {}, r"objective\.free_bits: got 0.5; expected: null with objective\.annealing"),
    "free bits of IWAE": ({"free_bits": 0.5, "estimator": "iwae"}, {}, r"objective\.free_bits: .* pathwise"),
    "guided": ({"estimator": "dreg"}, {"family": "langevin"}, r"objective\.estimator: got dreg; .* langevin"),
    "no inverse": ({"estimator": "wake-sleep", "annealing": "none"}, {"constraint": False}, r"flow\.constraint"),
}


@pytest.mark.parametrize(("objective", "flow", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_is_refused_with_the_setting_to_blame(objective, flow, message):
    with pytest.raises(ValidationError, match=message):
        Settings.model_validate({**BASE, "objective": objective, "flow": {**BASE["flow"], **flow}})


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 1e9])
def test_free_bits_are_a_number_of_nats(value):
    with pytest.raises(ValidationError, match="free_bits"):
        ObjectiveSpec(free_bits=value, annealing="none")


def test_free_bits_by_hand():
    """K = 0: each latent variable's mean KL is floored; with a flow, that of all together."""
    free = 0.05
    settings = settings_of("pathwise", {"free_bits": free}, flow={"length": 0})
    problem = problem_of(settings)
    (batch,) = problem.minibatches(1, 1)
    posterior = problem.model.infer(batch.x)
    kl = 0.5 * (posterior.mean**2 + posterior.log_variance.exp() - 1 - posterior.log_variance)
    floored = torch.tensor([max(free, value.item()) for value in kl.mean(0)]).sum()
    estimate = make_estimator(settings.objective, problem.inputs, "cpu")(batch, 1.0)
    torch.testing.assert_close(estimate.objective, floored - batch.terms().log_likelihood)
    settings = settings_of("pathwise", {"free_bits": 2.0})
    problem = problem_of(settings)
    (batch,) = problem.minibatches(1, 1)
    terms = batch.terms()
    assert (terms.log_q0 - terms.log_det - terms.log_prior).mean() < 6
    estimate = make_estimator(settings.objective, problem.inputs, "cpu")(batch, 1.0)
    torch.testing.assert_close(estimate.objective, 3 * 2.0 - terms.log_likelihood)
    # Below the floor, the KL has no gradient; above it, all is as without one.
    found = torch.autograd.grad(estimate.objective.mean(), problem.parameters(), retain_graph=True, allow_unused=True)
    other = torch.autograd.grad(-terms.log_likelihood.mean(), problem.parameters(), allow_unused=True)
    for ours, theirs in zip(found, other, strict=True):
        assert ours is None if theirs is None else torch.allclose(ours, theirs)


def test_variances_are_of_a_minibatch_and_change_nothing():
    settings = settings_of("pathwise", flow={"length": 0})
    problem = problem_of(settings)
    before = [weight.detach().clone() for weight in problem.parameters()]
    first, second = (gradient_variances(problem, variants(settings)) for _ in range(2))
    assert first == second
    assert all(torch.equal(a, b) for a, b in zip(before, problem.parameters(), strict=True))
    assert all(weight.grad is None for weight in problem.parameters())
    assert first.keys() <= known_metrics().keys()
    assert len(first) == len(CASES)
    none, running = (first[f"train/gradient_variance_score_function_{kind}"] for kind in ("none", "running"))
    assert none > 5 * running > 5 * first["train/gradient_variance_pathwise"]


def test_epochs_that_are_measured():
    assert measured_epochs(1) == {1}
    assert measured_epochs(4) == {1, 2, 3, 4}
    assert measured_epochs(200) == {1, 20, 40, 60, 80, 100, 120, 140, 160, 180, 200}


def test_guided_families_are_left_out_of_what_needs_a_density():
    settings = settings_of("pathwise", flow={"family": "langevin", "length": 1})
    assert variants(settings).keys() == {"train/gradient_variance_pathwise", "train/gradient_variance_iwae_samples_5"}


def test_measured_epochs_hold_the_variances_and_the_numbers_are_the_same_without():
    settings = settings_of("pathwise", flow={"length": 0})
    plain, measured = [], []
    fit(problem_of(settings), settings, lambda record: plain.append(dict(record.metrics)) or True)
    fit(problem_of(settings), settings, lambda record: measured.append(dict(record.metrics)) or True, None, True)
    names = variants(settings).keys()
    assert all(names <= record.keys() for record in measured)
    assert [{k: v for k, v in record.items() if k not in names} for record in measured] == plain


def test_one_that_cannot_be_loaded_is_told(monkeypatch):
    declared = DECLARED["pathwise"]
    monkeypatch.setattr(ObjectiveSpec, "declaration", type(declared)(name="x", implementation="nfstudy.nowhere:X"))
    with pytest.raises(UserError, match="estimator pathwise: cannot be loaded"):
        make_estimator(ObjectiveSpec(), 1, "cpu")
