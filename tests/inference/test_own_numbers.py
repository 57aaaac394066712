"""Training on numbers of a file: levels of [0, 1], real numbers, few test examples, and how they are shown."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from support.processes import loaded_by

from nfstudy.data import load_dataset, resolve_settings
from nfstudy.inference.problems.images import ImageProblem, pixel_noise, pixels
from nfstudy.inference.training.trial import run_trial
from nfstudy.study.cells import Cell, Trial
from nfstudy.study.settings import Settings

RNG = np.random.default_rng(2)
BASE = {
    "model": {"latent": 2, "hidden": 8, "layers": 1, "maxout": 2},
    "objective": {"anneal_updates": 10},
    "train": {"updates": 30, "batch": 10, "optimiser": "adam", "learning_rate": 3e-3},
    "evaluation": {"samples": 8},
}


def made(folder, train, test, **settings):
    """Return the settings and the data set of a file."""
    np.savez(folder / "own.npz", train=train, test=test)
    tree = BASE | {"data": {"name": "file", "path": str(folder / "own.npz"), **settings}}
    data = Settings.model_validate(tree).data
    found = Settings.model_validate(tree | {"data": tree["data"] | resolve_settings(data, folder)})
    return found, load_dataset(found.data, [folder / "data"])


def trained(settings, dataset):
    trial = Trial("own", Cell(settings.normalized(), "default"), settings, "repetition", 1)
    return run_trial(trial, dataset, "cpu", lambda record: True)


def test_levels_from_0_to_1_are_drawn_anew_at_every_use(tmp_path):
    levels = np.tile(np.array([0, 0.25, 0.9, 1]), (4000, 1))
    levels[0, 0] = 0.5
    _, dataset = made(tmp_path, levels, levels[:5], binarisation="dynamic")
    values, stream = torch.tensor(dataset.train[1:]), torch.Generator().manual_seed(1)
    one, two = (pixels(values, dataset, pixel_noise(values.shape, True, dataset, stream)) for _ in range(2))
    assert one.dtype == torch.float32
    assert set(one.unique().tolist()) == {0, 1}
    assert one.mean(0).numpy() == pytest.approx([0, 0.25, 0.9, 1], abs=0.03)
    assert not torch.equal(one, two)


def test_real_numbers_are_seen_as_they_are(tmp_path):
    numbers = 5 + 3 * RNG.normal(size=(40, 7))
    settings, dataset = made(tmp_path, numbers, numbers[:5], kind="real")
    (minibatch,) = ImageProblem(settings, dataset, 1, "cpu").minibatches(1, 1)
    batch = minibatch.x
    rows = {tuple(row) for row in numbers.astype(np.float32).tolist()}
    assert {tuple(row) for row in batch.tolist()} <= {tuple(np.float32(row).tolist()) for row in rows}


@pytest.mark.parametrize(("kind", "width"), [("real", 7), ("real", 9), ("bits", 12), ("patches", 12)])
def test_a_trial_on_few_test_examples_of_any_width_has_all_its_pictures(tmp_path, kind, width):
    numbers = RNG.integers(2, size=(40, width)) * 1.0 if kind == "bits" else RNG.random((40, width))
    settings, dataset = made(tmp_path, numbers, numbers[:3], kind=kind)
    result = trained(settings, dataset)
    assert result.outcome == "finished"
    assert result.metrics["test/nll"] == pytest.approx(-result.metrics["test/elbo"] - result.metrics["test/kl"])
    sizes = {name: Image.open(io.BytesIO(result.files[name])).size for name in ("samples.png", "reconstructions.png")}
    assert sizes["reconstructions.png"][0] < sizes["samples.png"][0]


def test_real_numbers_are_shown_between_their_extremes(tmp_path):
    numbers = -3 + 2 * RNG.random((40, 16))
    settings, dataset = made(tmp_path, numbers, numbers[:8], kind="real")
    picture = trained(settings, dataset).files["reconstructions.png"]
    upper = np.array(Image.open(io.BytesIO(picture)))[:56]
    assert upper.min() < 20
    assert upper.max() > 235


def test_training_on_the_validation_examples_too(tmp_path):
    numbers = RNG.normal(size=(36, 4))
    settings, dataset = made(tmp_path, numbers, numbers[:3], kind="real", training_split="train+valid", train_images=33)
    problem = ImageProblem(settings, dataset, 1, "cpu")
    assert (len(dataset.train), len(problem.images)) == (30, 33)
    assert settings.data.examples() == (36, 6, 3)


def test_a_study_of_a_file_is_read_without_torch(tmp_path):
    made(tmp_path, RNG.normal(size=(36, 4)), np.eye(4)[:3], kind="real")
    (tmp_path / "own.yaml").write_text(
        "study: own\ntitle: O\ndata: {name: file, path: own.npz, kind: real}\ntrain: {batch: 9}\nexhibits: [summary]\n"
    )
    code = f"from nfstudy.study.reader import read_study; read_study({str(tmp_path / 'own.yaml')!r})"
    assert not {"torch", "scipy", "pooch", "sklearn", "mlflow", "optuna"} & loaded_by(code)[0]
