"""Studies of estimators, end to end: the suite's own and one from outside, and what runs log of gradients."""

import json

import pytest
from support.command_line import digests, nfstudy

import nfstudy as suite

pytestmark = pytest.mark.end_to_end

STUDY = """\
study: noise
title: Noise of gradients
data: {name: digits}
model: {latent: 2, hidden: 8, layers: 1, maxout: 2}
flow: {family: planar}
objective: {annealing: none, samples: 2, baseline: input}
train: {updates: 60, batch: 60, optimiser: adam, learning_rate: 1e-3}
evaluation: {samples: 5, test_images: 20, tight_images: 0}
grid: {objective.estimator: [sticking-the-landing, score-function, half], flow.length: [0, 2]}
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
    "shape": ("self.energies(terms, beta))", "self.energies(terms, beta).mean())", "objective: got shape ()"),
    "gradient": ("over_samples(batch.terms())", "over_samples(batch.terms()); batch.x = None", ""),
    "stopped": ("self.energies(terms, beta))", "self.energies(terms, beta).detach())", "does not require grad"),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    (folder / "studies").mkdir()
    (folder / "studies/noise.yaml").write_text(STUDY)
    (folder / "studies/half.py").write_text(PLUGIN)
    done = nfstudy(folder, "run", "noise", "--workers", "2")
    assert done.returncode == 0, done.stderr
    return folder


def test_first_repetitions_of_the_first_estimator_measure_all_of_them(project, monkeypatch):
    monkeypatch.chdir(project)
    study = suite.load_study("studies/noise.yaml")
    runs = suite.results(study, runs=True)
    names = [name for name in runs.columns if name.startswith("train/gradient_variance_")]
    assert "train/gradient_variance_half" in names
    assert len(names) == 12
    measured = runs[names].notna().all(axis=1)
    first = (runs["index"] == 1) & (runs["objective.estimator"] == "sticking-the-landing")
    assert list(measured) == list(first)
    own = runs[measured].iloc[0]
    assert own["train/gradient_variance_half"] == pytest.approx(own["train/gradient_variance_pathwise"] / 4, rel=1e-5)
    page = (project / "reports/noise/index.html").read_text()
    assert "7.351" in page
    assert "figures/estimators.svg" in page or "estimators-DejaVuSans" in page


def test_an_archive_and_a_rerun_carry_the_variances(project, tmp_path):
    archive = tmp_path / "noise.tar.xz"
    assert nfstudy(project, "export", "noise", str(archive)).returncode == 0
    other = tmp_path / "other"
    (other / "studies").mkdir(parents=True)
    for name in ("noise.yaml", "half.py"):
        (other / "studies" / name).write_text((project / "studies" / name).read_text())
    assert nfstudy(other, "import", str(archive)).returncode == 0
    assert nfstudy(other, "report", "noise").returncode == 0
    assert digests(other / "reports/noise") == digests(project / "reports/noise")
    manifest = json.loads((project / "reports/noise/manifest.json").read_text())
    run_id = next(run for run in manifest["runs"] if isinstance(run, str)) if "runs" in manifest else ""
    assert run_id
    again = nfstudy(project, "rerun", run_id)
    assert again.returncode == 0, again.stderr
    assert "identical" in again.stdout


@pytest.mark.parametrize(("old", "new", "message"), WRONG.values(), ids=WRONG.keys())
def test_an_estimator_from_outside_that_is_wrong_is_told_of_before_anything_is_trained(tmp_path, old, new, message):
    (tmp_path / "half.py").write_text(PLUGIN.replace(old, new))
    done = nfstudy(tmp_path, "check-plugin", "half.py")
    assert (done.returncode, message in done.stderr) == ((2, True) if message else (0, True)), done.stderr


def test_wake_sleep_is_refused_with_a_likelihood_that_cannot_draw(tmp_path):
    (tmp_path / "coins.py").write_text(COINS)
    study = STUDY.replace("half.py", "coins.py").replace(
        "grid: {objective.estimator: [sticking-the-landing, ", "grid: {"
    )
    study = study.replace("score-function, half], ", "").replace("samples: 2, ", "samples: 2, estimator: wake-sleep, ")
    (tmp_path / "bad.yaml").write_text(study.replace("latent: 2", "likelihood: coins, latent: 2"))
    done = nfstudy(tmp_path, "run", "bad.yaml", "--dry-run")
    assert done.returncode == 2
    assert (
        "objective.estimator: got wake-sleep; expected: one without a sleep phase with the likelihood coins"
        in done.stderr
    )
    assert "bad.yaml:6" in done.stderr


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
