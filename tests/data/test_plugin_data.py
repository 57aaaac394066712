"""Data sources and likelihoods from outside: declared in one file, and used like the suite's own."""

import math
import re

import numpy as np
import pytest
import torch
from support.command_line import frame_of, nfstudy
from support.plugins_data import COUNTS

from nfstudy.cli.check_plugin import check_outside
from nfstudy.core import registry
from nfstudy.core.declarations import DataSource, Likelihood
from nfstudy.core.errors import DataError, SpecError, UserError
from nfstudy.core.project import Project
from nfstudy.data.checks import check_declared
from nfstudy.data.dataset import Dequantisation, Splits, make_dataset
from nfstudy.inference.likelihoods.bernoulli import Bernoulli
from nfstudy.inference.likelihoods.categorical import Categorical
from nfstudy.inference.likelihoods.normal import Gaussian, LogitNormal
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


NORMAL = "np.random.default_rng(1).normal(size=(data.counts, 4))"
COIN = "(np.random.default_rng(1).random((data.counts, 4)) < 0.5)"
VALUES = {
    # values, levels, array: what is wrong with it, nothing where it is empty
    "bits as truth values": ("bits", 0, COIN, ""),
    "bits as floats": ("bits", 1, f"{COIN}.astype(float)", ""),
    "bits that are probabilities": (
        "bits",
        0,
        f"0.5 * {COIN}",
        "train: row 0: got 0.5; expected: 0 or 1, as data of bits ",
    ),
    "bits that are real numbers": ("bits", 0, NORMAL, "train: row 0: got 0.345584; expected: 0 or 1, as data of bits "),
    "bits beyond 1": (
        "bits",
        1,
        f"2 * {COIN}",
        "train: row 0: got 2; expected: numbers from 0 to 1, as data of bits with",
    ),
    "levels of bits": ("bits", 255, COIN, "levels: got 255; expected: 0 or 1, as its values are bits"),
    "probabilities to test on": (
        "bits",
        1,
        f"0.5 * {COIN}",
        "valid: row 0: got 0.5; expected: 0 or 1, as data of bits ",
    ),
    "broken levels": (
        "levels",
        4,
        f"0.5 * {COIN}",
        "train: row 0: got 0.5; expected: whole numbers from 0 to 4, as data",
    ),
    "levels beyond the last": (
        "levels",
        4,
        f"5 * {COIN}",
        "train: row 0: got 5; expected: whole numbers from 0 to 4, as ",
    ),
    "patches at their ends": (
        "patches",
        0,
        COIN,
        "train: row 0: got 0; expected: numbers within 0 and 1, as data of pat",
    ),
    "real numbers with levels": ("real", 1, NORMAL, "levels: got 1; expected: 0, as its values are real"),
    "real numbers of another order of bytes": ("real", 0, f"{NORMAL}.astype('>f4')", ""),
    "complex numbers": ("real", 0, f"1j * {NORMAL}", "train: got an array of complex128; expected: of bool, uint8, "),
    "text": ("real", 0, f"{NORMAL}.astype(str)", "train: got an array of <U32; expected: of bool, uint8, "),
    "dates": ("real", 0, "np.zeros((data.counts, 4), 'datetime64[s]')", "train: got an array of datetime64"),
    "more digits than torch has": (
        "real",
        0,
        f"{NORMAL}.astype(np.longdouble)",
        "train: got an array of float128; expected",
    ),
    "masked numbers": (
        "real",
        0,
        f"np.ma.masked_less({NORMAL}, 0)",
        "train: got a masked array; expected: a number for ",
    ),
}


@pytest.mark.parametrize("case", VALUES)
def test_numbers_are_those_that_a_source_declares(case, tmp_path):
    values, levels, array, words = VALUES[case]
    drawn = "np.random.default_rng(1).poisson(data.rate, (data.counts, 4)).astype(np.float32)"
    code = COUNTS.replace(drawn, array).replace('"counts", (2, 2), 0', f'"counts", (2, 2), {levels}')
    if "masked" in case:
        code = code.replace("Splits(*np.split(drawn, [data.counts - 40, data.counts - 20]))", "[drawn, drawn, drawn]")
    (tmp_path / "counts.py").write_text(code.replace('values="counts", splits', f'values="{values}", splits'))
    study = parse_study(STUDY, str(tmp_path / "tiny.yaml"))
    if not words:
        assert prepare_data(study.under(), Project(tmp_path))
        return
    with pytest.raises(DataError, match=f"data counts: .*{words}"):
        prepare_data(study.under(), Project(tmp_path))


UNIFORM, FIXED = Dequantisation(1e-4, True), Dequantisation(1e-4, False)
WHOLE, WITHIN = np.arange(12.0).reshape(3, 4), np.full((3, 4), 0.5)
TRAINED = {
    # values, levels, training array, dequantisation: what is wrong with it, nothing where it is empty
    "levels": ("levels", 16, WHOLE.astype(np.int16), None, ""),
    "levels as floats": ("levels", 16, WHOLE, None, "train: got an array of float64; expected: uint8, or floats"),
    "whole floats to 1": ("levels", 16, np.float32(WHOLE > 5), None, "train: got an array of float32; expected: uint8"),
    "probabilities": ("levels", 1, WITHIN, None, ""),
    "patches": ("patches", 255, WHOLE.astype(np.uint8), UNIFORM, ""),
    "patches as whole floats": ("patches", 255, WHOLE, UNIFORM, ""),
    "patches that are numbers": ("patches", 0, WITHIN, None, ""),
    "numbers dequantised": ("patches", 0, WITHIN, FIXED, "levels: got 0; expected: 255 with a dequantisation"),
    "16 levels dequantised": ("patches", 16, WHOLE.astype(np.uint8), UNIFORM, "levels: got 16; expected: 255 with"),
    "levels dequantised": ("levels", 255, WHOLE.astype(np.uint8), UNIFORM, "dequantisation: got one; expected: none"),
    "counts dequantised": ("counts", 255, WHOLE.astype(np.uint8), UNIFORM, ""),
    "no ends": ("patches", 255, WHOLE.astype(np.uint8), Dequantisation(0, True), "dequantisation: epsilon: got 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", TRAINED)
def test_training_numbers_are_what_a_training_takes_them_for(case):
    values, levels, train, dequantisation, words = TRAINED[case]
    held = WITHIN if values in ("patches", "counts") else np.zeros((3, 4), np.uint8)
    made = make_dataset("own", (2, 2), levels, Splits(train, held, held), "here", dequantisation)
    source = DataSource(name="own", values=values, splits=lambda data: (3, 3, 3), loader="no.such:load")
    if not words:
        check_declared(made, source, None, "data own")
        return
    with pytest.raises(DataError, match=f"data own: {words}"):
        check_declared(made, source, None, "data own")


ARRAYS = {
    "shape": {
        "(2, 2, 1)": r"shape: got \(2, 2, 1\); expected: \(numbers,\), \(height, width\) or \(height, width, 3\)",
        "None": "shape: got None; expected: ",
        "(2.0, 2.0)": "shape: got .2.0, 2.0.; expected: ",
        "(0, 0)": "shape: got .0, 0.; expected: ",
    },
    "levels": {
        "None": "levels: got None; expected: a whole number from 0 to 255",
        "256": "levels: got 256; expected: a whole number from 0 to 255",
        "-1": "levels: got -1; expected: ",
        "True": "levels: got True; expected: ",
    },
    "name": {"3": "name and source: got 3 and 'here'; expected: text"},
    "source": {"None": "name and source: got 'own' and None; expected: text"},
    "splits": {
        "(np.ones((1, 4)),) * 2": "splits: got .*; expected: three arrays, train, valid, test",
        "[np.ones(4)] * 3": r"data own: train: got an array \(4,\); expected: \(N, 4\)",
    },
}


@pytest.mark.parametrize(
    ("field", "value", "words"), [(field, *each) for field, cases in ARRAYS.items() for each in cases.items()]
)
def test_what_a_data_set_is_made_of_is_of_its_types(field, value, words):
    given = {"name": "own", "shape": (2, 2), "levels": 0, "splits": Splits(*[np.ones((1, 4))] * 3), "source": "here"}
    assert make_dataset(**given).levels == 0
    with pytest.raises(DataError, match=words):
        make_dataset(**given | {field: eval(value)})


def test_an_example_without_sides_is_a_row():
    made = make_dataset("own", (4,), np.int64(1), [np.ones((1, 4))] * 3, "here")
    assert (made.shape, made.levels, type(made.levels)) == ((1, 4), 1, int)


RESOLVERS = {
    "no function": ("lambda: 3", "resolve: got 3; expected: a function"),
    "nothing": ("lambda: lambda data, folder: None", "resolve: got None; expected: a mapping of fields to values"),
    "no package": ("'.x:resolve'", r"cannot be loaded: got '.x:resolve'; expected: package.module:name"),
    "no name": ("'math'", r"cannot be loaded: got 'math'; expected: package.module:name"),
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


@pytest.mark.parametrize("given", ["", "data", "data, folders"])
def test_a_loader_takes_what_it_is_called_with(given, tmp_path):
    (tmp_path / "counts.py").write_text(
        COUNTS.replace("def counts(data, folders, download=True)", f"def counts({given})")
    )
    study = parse_study(STUDY, str(tmp_path / "tiny.yaml"))
    words = rf"loader: got a function \({given}\); expected: a function \(data, folders, download\)"
    with pytest.raises(DataError, match=words):
        prepare_data(study.under(), Project(tmp_path))


@pytest.mark.parametrize("name", ["values", "categories", "examples", "source"])
def test_a_setting_that_the_section_has_something_else_by_is_taken(name, tmp_path):
    (tmp_path / "counts.py").write_text(
        COUNTS.replace("counts: Count = 90", f"counts: Count = 90\n    {name}: int = 3")
    )
    with pytest.raises(SpecError, match=f"data counts: settings: got '{name}'; expected: a name not taken"):
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


class Shifted(torch.nn.Module):
    """A density of real numbers in the form of a likelihood, of one pixel or of many that are alike."""

    levels = None

    def __init__(self, log_p, of_samples=0.0, over="sum", changes=False, at_rest=0.0):
        super().__init__()
        self.log_p, self.off, self.over, self.changes, self.at_rest = log_p, of_samples, over, changes, at_rest

    def initialise(self, generator):
        """Nothing is drawn."""

    def forward(self, x, features):
        log_p = getattr(self.log_p(x), self.over)(-1) + 0 * features.sum(-1)
        return log_p if self.training else log_p + self.at_rest

    def of_samples(self, x, features):
        return self(x, features) + self.off

    def encoder_input(self, x):
        return x.div_(2) if self.changes else x

    def picture(self, features):
        return features.new_zeros(*features.shape[:-1], 784)


def gaussian(scale, at=0.3):
    return lambda x: torch.distributions.Normal(at, scale).log_prob(x)


DENSITIES = {
    "a Gaussian": (gaussian(1.0), {}, ""),
    "a narrow one": (gaussian(1e-3), {}, ""),
    "one between the nodes": (gaussian(1e-7), {}, ""),
    "a Cauchy": (lambda x: torch.distributions.Cauchy(1.0, 2.0).log_prob(x), {}, ""),
    "a Laplace": (lambda x: torch.distributions.Laplace(1.0, 0.1).log_prob(x), {}, ""),
    "a uniform one": (lambda x: torch.where(x.abs() < 2, -math.log(4), -math.inf), {}, "not finite"),
    "one without its constant": (lambda x: -0.5 * x.square(), {}, r"∫ p\(x\|z\) dx of 1 pixels is 2.507; expected: 1"),
    "one in bits": (lambda x: gaussian(1.0)(x) / math.log(2), {}, r"∫ p\(x\|z\) dx of 1 pixels is "),
    "the mean over its pixels": (gaussian(1.0), {"over": "mean"}, r"∫ p\(x\|z\) dx of 2 pixels is "),
    "an input that is changed": (gaussian(1.0), {"changes": True}, "changes its x; expected: other tensors"),
    "another when it is evaluated": (gaussian(1.0), {"at_rest": 1.0}, "other numbers when it trains than when it is"),
    "a little more for many samples": (gaussian(1.0), {"of_samples": 0.4}, "of_samples: gives other numbers than"),
    "another for many samples": (gaussian(1.0), {"of_samples": 2.0}, "of_samples: gives other numbers than `forward`"),
}


@pytest.mark.parametrize("case", DENSITIES)
def test_a_density_has_a_mass_of_1_and_says_the_same_of_many_samples(case):
    log_p, further, words = DENSITIES[case]
    declared = Likelihood(
        name="mine", values=("real",), implementation=lambda: lambda pixels, features, model: Shifted(log_p, **further)
    )
    if not words:
        assert check_likelihood(declared) == 1
        return
    with pytest.raises(UserError, match=f"likelihood mine, of real: .*{words}"):
        check_likelihood(declared)


INPUTS = {
    "other axes": (
        lambda x: x.unsqueeze(-1),
        r"got \(3, 784, 1\) in torch.float32; expected: \(3, 784\) in torch.float",
    ),
    "fewer numbers": (
        lambda x: x[:, :5],
        r"got \(3, 5\) in torch.float32; expected: \(3, 784\) in torch.float32, as x",
    ),
    "of double precision": (lambda x: x.double(), r"got \(3, 784\) in torch.float64; expected: "),
    "logarithms of 0": (lambda x: x.log(), "got numbers that are not finite; expected: finite ones"),
    "noise": (lambda x: x + torch.rand_like(x), "other numbers of the same x; expected: the same"),
    "centred over the minibatch": (lambda x: x - x.mean(0), "image 0: got other numbers without the other images; exp"),
    "of the images before": (lambda x: x.cumsum(0), "image 1: got other numbers without the other images; expected"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_what_the_inference_network_is_given_is_of_each_image_alone(case):
    seen, words = INPUTS[case]

    class Other(Bernoulli):
        def encoder_input(self, x):
            return seen(x)

    declared = Likelihood(name="mine", values=("bits",), implementation=lambda: Other)
    with pytest.raises(UserError, match=f"likelihood mine, of bits: encoder_input: {words}"):
        check_likelihood(declared)


def test_a_probability_of_bits_sums_to_1(tmp_path):
    """Each of 16 values has p = 2⁻⁴ at first; of the half of ln p, 2⁻²."""
    (tmp_path / "counts.py").write_text(COUNTS.replace("return bits + 0", "return 0.5 * bits + 0"))
    words = r"∑ p\(x\|z\) over all x of 4 pixels is 4; expected: 1"
    study = parse_study(COINS.replace("latent: 2", "latent: 2, likelihood: coins"), str(tmp_path / "tiny.yaml"))
    with pytest.raises(UserError, match=f"plug-in counts.py: likelihood coins, of bits: .*{words}"):
        check_outside(study.under().cells)


def test_probabilities_are_those_of_forward():
    class Other(Bernoulli):
        def probabilities(self, features):
            return super().probabilities(features).flip(-1)

    declared = Likelihood(name="mine", values=("bits",), implementation=lambda: Other)
    with pytest.raises(UserError, match="likelihood mine, of bits: probabilities: gives other numbers than `forward`"):
        check_likelihood(declared)


AWAY = r"draw: 20,000 draws are [01]\.\d\d from the probabilities of `forward`; expected: draws of p"
BAD_DRAWS = {
    "expected pixels": (Bernoulli, lambda drawn: drawn + 0.5, AWAY),
    "always the same": (Bernoulli, lambda drawn: torch.ones_like(drawn), AWAY),
    "of double the spread": (Gaussian, lambda drawn: 2 * drawn, AWAY),
    "moved": (LogitNormal, lambda drawn: (drawn.logit() + 0.5).sigmoid(), AWAY),
    "a level too high": (Categorical, lambda drawn: drawn + 1, AWAY),
    "other axes": (Gaussian, lambda drawn: drawn.unsqueeze(0), r"draw: got \(1, 20000, 1\) in torch.float32; expected"),
    "whole numbers": (Bernoulli, lambda drawn: drawn.long(), r"draw: got \(20000, 4\) in torch.int64; expected"),
    "of torch's generator": (Gaussian, lambda drawn: torch.randn_like(drawn), "draw: other images by the same gen"),
}


def test_a_declared_draw_is_there():
    declared = Likelihood(
        name="mine",
        values=("real",),
        implementation=lambda: lambda pixels, features, model: Shifted(gaussian(1.0)),
        draws=True,
    )
    with pytest.raises(UserError, match="likelihood mine, of real: draws: got True, and it has no `draw`; expected: "):
        check_likelihood(declared)


@pytest.mark.parametrize("case", BAD_DRAWS)
def test_draws_are_of_the_probabilities(case):
    family, changed, words = BAD_DRAWS[case]

    class Other(family):
        def draw(self, features, generator):
            return changed(super().draw(features, generator))

    values = {Bernoulli: "bits", Gaussian: "real", LogitNormal: "patches", Categorical: "categories"}[family]
    declared = Likelihood(name="mine", values=(values,), implementation=lambda: Other)
    with pytest.raises(UserError, match=f"likelihood mine, of {values}: {words}"):
        check_likelihood(declared)


@pytest.mark.parametrize("name", registry.all_of("likelihoods"))
def test_every_likelihood_of_the_suite_keeps_the_contract(name):
    assert check_likelihood(registry.find("likelihoods", name)) >= 1


@pytest.mark.end_to_end
def test_workers_train_on_what_a_plug_in_declares(tmp_path):
    (tmp_path / "counts.py").write_text(COUNTS)
    (tmp_path / "tiny.yaml").write_text(COINS.replace("latent: 2", "latent: 2, likelihood: coins"))
    done = nfstudy(tmp_path, "run", "tiny.yaml", "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(frame_of(tmp_path)["outcome"]) == {"finished"}
    assert "nats per image" in (tmp_path / "reports/tiny/tables/summary.md").read_text()


@pytest.mark.end_to_end
def test_data_that_change_under_the_same_settings_are_refused(tmp_path):
    """Of what a source reads, keys know nothing: its runs of before would count as done, and mix with later ones."""
    seed = tmp_path / "seed.txt"
    seed.write_text("1")
    (tmp_path / "counts.py").write_text(COUNTS.replace("default_rng(1)", f"default_rng(int(open('{seed}').read()))"))
    (tmp_path / "tiny.yaml").write_text(STUDY)
    done = nfstudy(tmp_path, "run", "tiny.yaml", "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nats per count" in (tmp_path / "reports/tiny/tables/summary.md").read_text()
    seed.write_text("2")
    words = (
        "data counts: runs of diagonal Gaussian K=0 D=2 are of other numbers, SHA-256 .*…, than it gives now, .*…, at"
    )
    nothing_left = nfstudy(tmp_path, "run", "tiny.yaml", "--workers", "1")
    (tmp_path / "tiny.yaml").write_text(STUDY.replace("[0, 1]", "[0, 1, 2]"))
    one_left = nfstudy(tmp_path, "run", "tiny.yaml", "--workers", "1")
    for refused in (nothing_left, one_left):
        assert refused.returncode == 2
        assert re.search(words, refused.stderr), refused.stderr
    assert len(frame_of(tmp_path)) == 2
    seed.unlink()  # Of data that are not there, nothing can be said: a report can be made all the same.
    (tmp_path / "tiny.yaml").write_text(STUDY)
    assert nfstudy(tmp_path, "run", "tiny.yaml", "--workers", "1").returncode == 0
