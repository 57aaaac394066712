"""Images of a source that does not say how many it has: as many as the settings ask for, or told before training."""

import dataclasses

import numpy as np
import pytest

from nfstudy.core.errors import UserError
from nfstudy.data import load_dataset
from nfstudy.data.dataset import Splits, make_dataset
from nfstudy.inference.problems import make_problem
from nfstudy.inference.training.cost import measure_cost
from nfstudy.study.settings import Settings

RNG = np.random.default_rng(3)
IMAGES = Splits(*(RNG.integers(2, size=(count, 12), dtype=np.uint8) for count in (80, 20, 30)))
UNKNOWN = Settings.model_validate(
    {
        "data": {"name": "file", "path": "own.npz", "kind": "bits"},
        "model": {"latent": 2, "hidden": 8, "layers": 1, "maxout": 2},
        "train": {"updates": 4, "batch": 10, "optimiser": "adam", "learning_rate": 1e-3},
        "evaluation": {"samples": 4},
    }
)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"train.batch": 100}, "train.batch: got 100; expected: at most 80, the training images"),
        ({"data.train_images": 81}, "data.train_images: got 81; expected: at most 80, the training images of tiny"),
        (
            {"data.train_images": 101, "data.training_split": "train+valid"},
            "data.train_images: got 101; expected: at most 100",
        ),
        ({"evaluation.test_images": 31}, "evaluation.test_images: got 31; expected: at most 30, the test images"),
        ({"evaluation.valid_images": 21}, "evaluation.valid_images: got 21; expected: at most 20, the validation"),
    ],
)
def test_more_images_than_there_are_are_told_before_training(values, words):
    dataset = make_dataset("tiny", (3, 4), 1, IMAGES, "made here")
    assert UNKNOWN.data.examples() is None
    with pytest.raises(UserError, match=words):
        make_problem(UNKNOWN.replace(values), dataset, 1, "cpu")
    most = {"train.batch": 80, "data.train_images": 80, "evaluation.test_images": 30, "evaluation.valid_images": 20}
    assert make_problem(UNKNOWN.replace(most), dataset, 1, "cpu").epoch_updates == 1


def test_sources_that_say_how_many_they_have_are_checked_when_a_study_is_read():
    dataset = make_dataset("tiny", (3, 4), 1, IMAGES, "made here")
    known = UNKNOWN.replace({"data": {"name": "digits"}, "evaluation.test_images": 300})
    assert len(make_problem(known, dataset, 1, "cpu")._test_images()) == 30


def test_costs_are_measured_on_a_part_of_the_images_that_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("own.npz", **IMAGES._asdict())
    settings = UNKNOWN.replace({"train.batch": 4, "data.train_images": 60})
    dataset = load_dataset(settings.data, [tmp_path / "data"])
    assert dataset.sizes == (80, 20, 30)
    assert dataclasses.replace(dataset, train=dataset.train[:8]).sizes == (80, 20, 30)
    assert measure_cost(settings, dataset, "cpu").update > 0
