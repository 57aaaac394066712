"""Data sources and likelihoods from outside: declared in one file, and used like the suite's own."""

import pytest
from support.command_line import frame_of, nfstudy
from support.plugins_data import COUNTS

from nfstudy.cli.check_plugin import check_outside
from nfstudy.core import registry
from nfstudy.core.errors import DataError, SpecError, UserError
from nfstudy.core.project import Project
from nfstudy.inference.problems.likelihood_contract import check_likelihood
from nfstudy.runner.prepare import prepare_data
from nfstudy.study.reader import parse_study

STUDY = """\
study: tiny
title: Counts
plugins: [counts.py]
data: {name: counts, rate: 2.0}
model: {latent: 2, hidden: 8, layers: 1, maxout: 2}
objective: {anneal_updates: 20}
train: {updates: 20, batch: 10, optimiser: adam, learning_rate: 3e-3}
evaluation: {samples: 8}
grid: {flow.family: [planar], flow.length: [0, 1]}
exhibits: [summary, samples]
"""
COINS = STUDY.replace("data: {name: counts, rate: 2.0}", "data: {name: digits}")


@pytest.fixture(autouse=True)
def fresh_registry(monkeypatch):
    """Have each test declare into a copy of what there is."""
    for kind in ("flows", "data", "likelihoods"):
        registry.all_of(kind)
    monkeypatch.setattr(registry, "_declared", {kind: dict(found) for kind, found in registry._declared.items()})
    monkeypatch.setattr("nfstudy.core.plugins._installed", {})
    yield
    registry._version += 1


def study_in(folder, text=STUDY):
    (folder / "counts.py").write_text(COUNTS)
    return parse_study(text, str(folder / "tiny.yaml"))


def test_a_source_of_a_plug_in_is_used_like_the_suites_own(tmp_path):
    settings = study_in(tmp_path).settings
    flat, identity = settings.flat(), settings.identity()
    assert (flat["data.rate"], flat["data.counts"], settings.data.examples()) == (2.0, 90, (50, 20, 20))
    assert not {"data.binarisation", "data.patch", "data.path", "model.variance", "model.likelihood"} & flat.keys()
    assert {"origin.data.counts", "origin.likelihoods.poisson"} <= identity.keys()
    with pytest.raises(SpecError, match=r"data.rate: got -1; expected: greater than 0"):
        study_in(tmp_path, STUDY.replace("rate: 2.0", "rate: -1"))


def test_a_second_likelihood_of_bits_moves_no_key_until_it_is_named(tmp_path):
    before = parse_study(COINS.replace("plugins: [counts.py]\n", ""), "tiny.yaml").settings
    identity = before.identity()
    other = study_in(tmp_path, COINS).settings
    assert other.identity() == identity
    assert "model.coin_scale" not in other.flat()
    named = study_in(tmp_path, COINS.replace("latent: 2", "latent: 2, likelihood: coins")).settings
    assert named.flat()["model.likelihood"] == "coins"
    assert named.flat()["model.coin_scale"] == 1.0
    assert {"origin.likelihoods.coins", "model.likelihood"} <= named.identity().keys()
    with pytest.raises(SpecError, match=r"model.likelihood: got gaussian; expected: bernoulli, coins for data of bits"):
        study_in(tmp_path, COINS.replace("latent: 2", "latent: 2, likelihood: gaussian"))


BAD_SOURCES = {
    "no data set": (
        'return make_dataset("counts", (2, 2), 0, splits, "drawn")',
        "return splits",
        "loader: got Splits; expected: a Dataset",
    ),
    "other sizes": (
        "data.counts - 40, 20, 20",
        "data.counts - 30, 10, 20",
        r"train: got an array \(50, 4\); expected: \(60, 4\), as `splits`",
    ),
    "another shape": ("(2, 2), 0", "(3, 3), 0", r"train: got an array \(50, 4\); expected: \(50, 9\)"),
    "rows and columns": (
        "(data.counts, 4)",
        "(data.counts, 2, 2)",
        r"train: got an array \(50, 2, 2\); expected: \(50",
    ),
    "not a number": (
        "return make_dataset",
        "drawn[3] = np.nan\n        return make_dataset",
        "train: got numbers that are not finite",
    ),
    "another draw": ("default_rng(1)", "default_rng()", "loader: got other numbers the second time"),
}


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_a_source_that_is_not_as_it_says_is_refused_before_training(case, tmp_path):
    old, new, words = BAD_SOURCES[case]
    assert old in COUNTS
    (tmp_path / "counts.py").write_text(COUNTS.replace(old, new))
    study = parse_study(STUDY, str(tmp_path / "tiny.yaml"))
    with pytest.raises(DataError, match=f"data counts: counts.py: .*{words}"):
        prepare_data(study.under(), Project(tmp_path))


RESOLVERS = {
    "no function": ("lambda: 3", "resolve: got 3; expected: a function"),
    "nothing": ("lambda: lambda data, folder: None", "resolve: got None; expected: a mapping of fields to values"),
    "no such module": ("'no.such:resolve'", "cannot be loaded: No module named 'no'"),
    "the function itself": (
        "lambda data, folder: {}",
        r"resolve: got a function \(data, folder\); expected: text or a function without arguments or None",
    ),
}


@pytest.mark.parametrize("case", RESOLVERS)
def test_what_looks_at_the_data_of_a_study_is_a_function_that_tells_of_fields(case, tmp_path):
    resolve, words = RESOLVERS[case]
    (tmp_path / "counts.py").write_text(COUNTS.replace("loader=load,", f"loader=load, resolve={resolve},"))
    with pytest.raises(SpecError, match=words):
        parse_study(STUDY, str(tmp_path / "tiny.yaml"))


@pytest.mark.parametrize("returned", ["3", "None"])
def test_a_loader_that_is_no_function_is_named_before_training(returned, tmp_path, capsys):
    (tmp_path / "counts.py").write_text(COUNTS.replace("    return counts\n", f"    return {returned}\n"))
    study = parse_study(STUDY, str(tmp_path / "tiny.yaml"))
    with pytest.raises(DataError, match=f"data counts: counts.py: loader: got {returned}; expected: a function"):
        prepare_data(study.under(), Project(tmp_path))
    with pytest.raises(UserError, match=f"data counts: cannot be called: got {returned}; expected: a function"):
        check_outside(study.under().cells)


BAD_LIKELIHOODS = {
    "other axes": (
        "return bits + 0 * features.sum(-1)",
        "return (bits + 0 * features.sum(-1))[..., None]",
        r"ln p\(x\|z\): got \(2, 3, 1\) in torch.float32; expected: \(2, 3\) in torch.float32, one number an example",
    ),
    "a forgotten weight": (
        "self.tilt, self.scale = torch.nn.Parameter(torch.zeros(pixels)), model.coin_scale",
        "self.tilt, self.scale = torch.nn.Parameter(torch.zeros(pixels)), torch.nn.Linear(1, 1).weight",
        "initialise is not reproducible: scale of another one differs; expected: every weight set",
    ),
    "noise": ("return bits", "return torch.randn(1) + bits", r"ln p\(x\|z\): other numbers of the same x"),
    "a picture of features": (".expand(*features.shape[:-1], -1)", "", r"picture: got \(784,\); expected: \(3, 784\)"),
    "an exit": ("bits = torch", "raise SystemExit(0)\n            bits = torch", "SystemExit: 0"),
}


@pytest.mark.parametrize("case", BAD_LIKELIHOODS)
def test_a_likelihood_that_is_not_as_it_says_is_refused_before_training(case, tmp_path):
    old, new, words = BAD_LIKELIHOODS[case]
    assert old in COUNTS
    (tmp_path / "counts.py").write_text(COUNTS.replace(old, new))
    study = parse_study(COINS.replace("latent: 2", "latent: 2, likelihood: coins"), str(tmp_path / "tiny.yaml"))
    with pytest.raises(UserError, match=f"plug-in counts.py: likelihood coins, of bits: {words}"):
        check_outside(study.under().cells)


@pytest.mark.parametrize("name", registry.all_of("likelihoods"))
def test_every_likelihood_of_the_suite_keeps_the_contract(name):
    assert check_likelihood(registry.find("likelihoods", name)) >= 1


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "text", [STUDY, COINS.replace("latent: 2", "latent: 2, likelihood: coins")], ids=["counts", "coins"]
)
def test_workers_train_on_what_a_plug_in_declares(tmp_path, text):
    (tmp_path / "counts.py").write_text(COUNTS)
    (tmp_path / "tiny.yaml").write_text(text)
    done = nfstudy(tmp_path, "run", "tiny.yaml", "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    frame = frame_of(tmp_path)
    assert set(frame["outcome"]) == {"finished"}
    summary = (tmp_path / "reports/tiny/tables/summary.md").read_text()
    assert ("nats per count" if text == STUDY else "nats per image") in summary
