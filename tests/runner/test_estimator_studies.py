"""Studies of estimators, end to end: the suite's own and one from outside, and what runs log of gradients."""

import re

import pytest
from support.command_line import digests, nfstudy

import nfstudy as suite
from nfstudy.cli.check_plugin import check_declaration
from nfstudy.core import plugins, registry
from nfstudy.core.errors import SpecError, UserError
from nfstudy.study.reader import parse_study

STUDY = """\
study: noise
title: Noise of gradients
data: {name: digits}
model: {latent: 2, hidden: 8, layers: 1, maxout: 2}
flow: {family: planar}
objective: {annealing: none, samples: 2, baseline: input}
train: {updates: 10, batch: 240, optimiser: adam, learning_rate: 1e-3}
evaluation: {samples: 5, test_images: 20, tight_images: 0}
grid: {objective.estimator: [sticking-the-landing, half], flow.length: [2]}
repetitions: 2
paper: none
plugins: [half.py]
exhibits: [summary, estimators]
"""
PLUGIN = '''\
"""Half of F, which has half of its gradient."""

from nfstudy import GradientEstimator, Positive, Record


class HalfSettings(Record):
    """How much of F."""

    share: Positive = 0.5


def load():
    from nfstudy.inference.objectives.base import Estimate, Estimator, over_samples

    class Half(Estimator):
        def __call__(self, batch, beta):
            terms = over_samples(batch.terms())
            return Estimate(terms, self.objective.share * self.energies(terms, beta))

    return Half


half = GradientEstimator(name="half", implementation=load, settings=HalfSettings)
'''
WRONG = {
    "as it should be": ("", "", ""),
    "shape": ("self.energies(terms, beta))", "self.energies(terms, beta).mean())", "objective: got shape ()"),
    "stopped": ("self.energies(terms, beta))", "self.energies(terms, beta).detach())", "does not require grad"),
    "other draws": ("self.energies(terms, beta))", "self.energies(terms, beta) + torch.rand(1))", "other numbers"),
    "noise in its gradient": (
        "self.energies(terms, beta))",
        "(lambda e: e + torch.rand(1) * (e - e.detach()))(self.energies(terms, beta)))",
        "another one of the same minibatch; expected: no draws but the minibatch's",
    ),
    "state beside state": (
        "terms = over_samples(batch.terms())",
        "terms = over_samples(batch.terms()); self.seen = getattr(self, 'seen', 0) + 1; terms = terms._replace("
        "log_q0=self.seen * terms.log_q0)",
        "other numbers by another one that has taken over its state; expected: all that it learns to be tensors",
    ),
    "a counter beside state, of the gradient alone": (
        "self.energies(terms, beta))",
        "(lambda e: e.detach() + self.later() * (e - e.detach()))(self.energies(terms, beta)))\n\n"
        "        def later(self):\n            self.seen = getattr(self, 'seen', 0) + 1\n            return self.seen",
        "another one by another one that has taken over its state; expected: all that it learns to be tensors",
    ),
    "without p": ("self.energies(terms, beta))", "terms.log_q0)", "none; expected: one that reaches every parameter"),
}


@pytest.fixture
def own_registry(monkeypatch):
    """A registry that forgets the plug-ins of a test."""
    for kind in ("likelihoods", "estimators", "metrics"):
        registry.all_of(kind)
    monkeypatch.setattr(registry, "_declared", {kind: dict(found) for kind, found in registry._declared.items()})
    monkeypatch.setattr(plugins, "_installed", {})
    yield
    registry._version += 1


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    (folder / "studies").mkdir()
    (folder / "studies/noise.yaml").write_text(STUDY)
    (folder / "studies/half.py").write_text(PLUGIN)
    done = nfstudy(folder, "run", "noise", "--workers", "2")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.end_to_end
def test_first_repetitions_of_the_first_estimator_measure_all_of_them(project, monkeypatch):
    monkeypatch.chdir(project)
    runs = suite.results("noise")
    names = [name for name in runs.columns if name.startswith("train/gradient_variance_")]
    assert "train/gradient_variance_half" in names
    assert len(names) == 12
    measured = runs[names].notna().all(axis=1)
    first = (runs["repetition"] == 1) & (runs["objective.estimator"] == "sticking-the-landing")
    assert list(measured) == list(first)
    own = runs[measured].iloc[0]
    assert own["train/gradient_variance_half"] == pytest.approx(own["train/gradient_variance_pathwise"] / 4, rel=1e-5)
    page = (project / "reports/noise/index.html").read_text()
    assert "7.351" in page
    assert "figures/estimators.svg" in page or "estimators-DejaVuSans" in page


@pytest.mark.end_to_end
def test_an_archive_and_a_rerun_carry_the_variances(project, tmp_path, monkeypatch):
    archive = tmp_path / "noise.tar.xz"
    assert nfstudy(project, "export", "noise", str(archive)).returncode == 0
    other = tmp_path / "other"
    (other / "studies").mkdir(parents=True)
    for name in ("noise.yaml", "half.py"):
        (other / "studies" / name).write_text((project / "studies" / name).read_text())
    assert nfstudy(other, "import", str(archive)).returncode == 0
    assert nfstudy(other, "report", "noise").returncode == 0
    for folder in ("tables", "figures"):  # The pages say that the runs were imported.
        assert digests(other / "reports/noise" / folder) == digests(project / "reports/noise" / folder)
    monkeypatch.chdir(project)
    (run_id,) = suite.results("noise").dropna(subset=["train/gradient_variance_half"])["run_id"]
    again = nfstudy(project, "rerun", run_id)
    assert again.returncode == 0, again.stderr
    assert "identical" in again.stdout


@pytest.mark.parametrize(("old", "new", "message"), WRONG.values(), ids=WRONG.keys())
def test_an_estimator_from_outside_is_held_to_the_contract(tmp_path, own_registry, old, new, message):
    text = PLUGIN.replace(old, new) if old else PLUGIN
    (tmp_path / "half.py").write_text(text.replace("def load():\n", "def load():\n    import torch\n"))
    (declared,) = plugins.install(plugins.read_plugin("half.py", tmp_path))
    if not message:
        assert check_declaration(declared) == "satisfies the contract of estimators on 5 small problems"
        return
    with pytest.raises(UserError, match=f"estimator half: half.*{re.escape(message)}"):
        check_declaration(declared)


def test_wake_sleep_is_refused_with_a_likelihood_that_cannot_draw(tmp_path, own_registry):
    (tmp_path / "coins.py").write_text(COINS)
    own = "objective: {annealing: none, estimator: wake-sleep}\nplugins: [coins.py]\n"
    text = f"study: x\ntitle: x\ndata: {{name: digits}}\nmodel: {{likelihood: coins}}\nexhibits: [summary]\n{own}"
    with pytest.raises(SpecError) as error:
        parse_study(text, str(tmp_path / "bad.yaml"))
    assert "bad.yaml:6:" in str(error.value)
    expected = "objective.estimator: got wake-sleep; expected: one without a sleep phase with the likelihood coins"
    assert expected in str(error.value)


COINS = '''\
"""Bits that do not depend on each other, without a way to draw them."""

from nfstudy import Likelihood


def load():
    import torch
    from nfstudy.inference.likelihoods.base import Likelihood

    class Coins(Likelihood):
        def __init__(self, pixels, features, model):
            super().__init__(pixels, features, model)
            self.logits = torch.nn.Linear(features, pixels)

        def initialise(self, generator):
            torch.nn.init.zeros_(self.logits.weight)
            torch.nn.init.zeros_(self.logits.bias)

        def forward(self, x, features):
            return torch.nn.functional.logsigmoid((2 * x - 1) * self.logits(features)).sum(-1)

        def picture(self, features):
            return self.logits(features).sigmoid()

    return Coins


coins = Likelihood(name="coins", values=("bits",), implementation=load)
'''
