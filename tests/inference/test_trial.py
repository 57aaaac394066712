import dataclasses
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from nfstudy.core.seeds import derive_seed
from nfstudy.data.dataset import Splits, make_dataset
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.inference.models.evaluation import evaluate_likelihood
from nfstudy.inference.problems import make_problem
from nfstudy.inference.problems.image_grid import image_grid
from nfstudy.inference.training.fit import fit
from nfstudy.inference.training.trial import run_trial
from nfstudy.runs.metrics import METRICS
from nfstudy.study.cells import Cell, Trial
from nfstudy.study.settings import Settings

SETTINGS = Settings.model_validate(
    {
        "data": {"name": "digits", "train_images": 20},
        "model": {"latent": 2, "hidden": 8, "layers": 1, "maxout": 2},
        "flow": {"family": "planar", "length": 2},
        "train": {"updates": 8, "batch": 5, "optimiser": "adam", "learning_rate": 0.01},
        "evaluation": {"samples": 20, "test_images": 12, "tight_samples": 60, "tight_images": 7},
    }
)
BOUNDS = {"test/elbo", "test/nll", "test/nll_mc_se", "test/kl"}
TEST_METRICS = BOUNDS | {f"test/{name}" for name in ("nll_seed_se", "nll_image_se", "nll_drop", "ess")}
TIGHT = {
    *(f"test/{name}_tight" for name in ("elbo", "nll", "kl", "ess", "pareto_k", "pareto_k_high")),
    *(f"test/nll_tight_{name}" for name in ("mc_se", "seed_se", "image_se", "drop")),
    *("test/tight_samples", "test/tight_images"),
}
FIT = {"test/active_latents", "test/log_det", "test/displacement", "train/gradient_snr", "train/parameters"}
OF_UPDATES = {"time/updates_per_second", "time/update_cpu_ms"}
TIMES = {"time/wall_seconds", "time/evaluation_seconds", "time/peak_memory", *OF_UPDATES}
FILES = {"checkpoint.pt", "samples.png", "reconstructions.png", "images.csv"}


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    return make_dataset(
        "tiny-static", (8, 8), 1, Splits(*(rng.integers(2, size=(30, 64), dtype=np.uint8) for _ in range(3))), "here"
    )


def run(dataset, values=(), stage="repetition", index=1, on_epoch=lambda record: True):
    settings = SETTINGS.replace(dict(values))
    trial = Trial("tiny", Cell(settings.normalized(), "full"), settings, stage, index)
    return run_trial(trial, dataset, "cpu", on_epoch)


def test_a_repetition_is_evaluated_on_the_test_set(dataset):
    result = run(dataset)
    assert (result.outcome, result.update, result.reason) == ("finished", 8, "")
    assert set(result.metrics) == TEST_METRICS | {"test/bits_per_pixel"} | TIGHT | FIT | TIMES <= set(METRICS)
    bits = -result.metrics["test/elbo"] / (64 * math.log(2))
    assert result.metrics["test/bits_per_pixel"] == pytest.approx(bits)
    assert set(result.files) == FILES
    assert result.metrics["test/kl"] == pytest.approx(-result.metrics["test/elbo"] - result.metrics["test/nll"])
    assert result.metrics["time/wall_seconds"] > result.metrics["time/evaluation_seconds"] > 0


def test_the_checkpoint_gives_the_test_metrics_again(dataset):
    result = run(dataset)
    model = DLGM(64, SETTINGS.model, SETTINGS.flow)
    model.load_state_dict(torch.load(io.BytesIO(result.files["checkpoint.pt"]), weights_only=True))
    seed = derive_seed(SETTINGS.seed, "evaluation", "test")
    estimates = evaluate_likelihood(model, dataset.test[:12], 20, seed)
    assert {f"test/{name}": value for name, value in estimates.numbers().items()} == {
        name: result.metrics[name] for name in TEST_METRICS
    }


def test_the_same_trial_gives_the_same_numbers_and_files(dataset):
    first, second, other = run(dataset), run(dataset), run(dataset, index=2)
    for name in TEST_METRICS:
        assert first.metrics[name] == second.metrics[name] != other.metrics[name]
    assert first.files["samples.png"] == second.files["samples.png"] != other.files["samples.png"]
    assert first.files["reconstructions.png"] == second.files["reconstructions.png"]


def test_a_search_trial_never_sees_the_test_set(dataset):
    result = run(dataclasses.replace(dataset, test=None), stage="search", index=0)
    assert result.outcome == "finished"
    assert set(result.metrics) == TIMES - {"time/evaluation_seconds"}
    assert result.files == {}


@pytest.mark.parametrize("stage", ["search", "repetition"])
def test_validation_images_have_a_likelihood_where_one_is_asked_for(dataset, stage):
    seen = dataclasses.replace(dataset, test=None) if stage == "search" else dataset
    asked, plain = (run(seen, {"evaluation.valid_samples": n}, stage).metrics for n in (30, 0))
    assert set(asked) - set(plain) == {"valid/nll"} <= set(METRICS)
    assert {name for name in plain if not name.startswith("time/") and plain[name] != asked[name]} == set()
    if stage == "repetition":
        values = {"evaluation.valid_samples": 30}
        result = run(dataset, values)
        model = DLGM(64, SETTINGS.model, SETTINGS.flow)
        model.load_state_dict(torch.load(io.BytesIO(result.files["checkpoint.pt"]), weights_only=True))
        seed = derive_seed(SETTINGS.seed, "evaluation", "valid likelihood")
        assert asked["valid/nll"] == evaluate_likelihood(model, dataset.valid, 30, seed).nll
        assert asked["valid/nll"] != asked["test/nll"]


def test_validation_is_on_as_many_images_as_asked_for_spread_over_all(dataset):
    few, whole = (run(dataset, {"evaluation.valid_images": count}).metrics for count in (10, None))
    assert {name for name in whole if not name.startswith("time/") and whole[name] != few[name]} == set()
    those = dataclasses.replace(dataset, valid=dataset.valid[np.arange(10) * len(dataset.valid) // 10])
    seen = {name: [] for name in ("few", "those", "whole")}
    for name, images, count in (("few", dataset, 10), ("those", those, None), ("whole", dataset, None)):
        settings = SETTINGS.replace({"evaluation.valid_images": count})
        fit(make_problem(settings, images, 0, "cpu"), settings, lambda epoch, own=seen[name]: own.append(epoch) or True)
    bounds = {name: [epoch.metrics["valid/elbo"] for epoch in epochs] for name, epochs in seen.items()}
    assert bounds["few"] == bounds["those"] != bounds["whole"]
    with pytest.raises(ValueError, match=r"evaluation\.valid_images: got 10000; expected: at most \d+, the validation"):
        SETTINGS.replace({"evaluation.valid_images": 10_000})


def test_a_likelihood_of_images_that_were_trained_on_is_refused():
    both = {"data.training_split": "train+valid", "data.train_images": None}
    with pytest.raises(ValueError, match=r"evaluation\.valid_samples: got 30; expected: 0 with data\.training_split"):
        SETTINGS.replace({**both, "evaluation.valid_samples": 30})
    with pytest.raises(ValueError, match=r"evaluation\.valid_samples: got 1; expected: 0, or at least 2"):
        SETTINGS.replace({"evaluation.valid_samples": 1})


def test_search_trials_share_their_seeds(dataset):
    histories = []
    for index in (0, 5):
        records = []
        run(
            dataset,
            stage="search",
            index=index,
            on_epoch=lambda record, records=records: records.append(record) or True,
        )
        histories.append(records)
    assert histories[0] == histories[1]


@pytest.mark.parametrize("key", ["data.train_images", "evaluation.test_images"])
def test_only_the_first_images_are_used(dataset, key):
    split, count = ("train", 20) if key == "data.train_images" else ("test", 12)
    images = getattr(dataset, split).copy()
    images[count:] = 1 - images[count:]
    result, altered = run(dataset), run(dataclasses.replace(dataset, **{split: images}))
    whole = run(dataset, {key: None})
    for name in BOUNDS:
        assert result.metrics[name] == altered.metrics[name] != whole.metrics[name]


def test_the_tight_estimate_is_of_images_spread_evenly_over_those_evaluated(dataset):
    places = [0, 1, 3, 5, 6, 8, 10]  # floor(i * 12 / 7)
    result = run(dataset)
    rows = result.files["images.csv"].decode().splitlines()
    assert [int(row.split(",")[0]) for row in rows[1:]] == places
    test = dataset.test.copy()
    others = np.setdiff1d(np.arange(len(test)), places)
    test[others] = 1 - test[others]
    altered = run(dataclasses.replace(dataset, test=test))
    assert altered.metrics["test/nll_tight"] == result.metrics["test/nll_tight"]
    assert altered.metrics["test/nll"] != result.metrics["test/nll"]


def test_a_diverged_trial_has_a_reason_and_no_test_numbers(dataset):
    result = run(dataset, {"train.learning_rate": 1e6, "train.updates": 200})
    assert result.outcome == "diverged"
    assert f"at update {result.update}" in result.reason
    assert set(result.metrics) == {"time/wall_seconds", "time/peak_memory"}
    assert result.files == {}


def test_a_test_bound_that_is_not_finite_diverges(dataset, monkeypatch):
    monkeypatch.setattr(
        "nfstudy.inference.problems.images.evaluate_likelihood",
        lambda *a: evaluate_likelihood(*a)._replace(nll=math.nan),
    )
    result = run(dataset)
    assert (result.outcome, result.update, result.reason) == ("diverged", 8, "test/nll is nan")
    assert TEST_METRICS.isdisjoint(result.metrics)
    assert result.files == {}


def test_a_problem_without_parameters_is_evaluated_and_not_trained():
    settings = Settings.model_validate({"drawn": {"density": "uniform"}, "flow": {"family": "radial", "length": 2}})
    told = []
    result = run_trial(
        Trial("tiny", Cell(settings.normalized(), "full"), settings, "repetition", 1), None, "cpu", told.append
    )
    assert (result.outcome, result.update, result.reason, told) == ("finished", 0, "", [])
    assert set(result.metrics) == {"test/window_mass", "train/parameters", *TIMES} - OF_UPDATES
    assert set(result.files) == {"density.npy", "density.png"}


def test_a_pruned_trial_has_no_test_numbers(dataset):
    result = run(dataset, on_epoch=lambda record: False)
    assert (result.outcome, result.update) == ("pruned", 4)
    assert TEST_METRICS.isdisjoint(result.metrics)


def test_pictures_are_grids_of_enlarged_images(dataset):
    files = run(dataset).files
    side = 8 * 7
    samples = Image.open(io.BytesIO(files["samples.png"]))
    assert samples.size == (8 * side + 7 * 2, 8 * side + 7 * 2)
    reconstructions = np.asarray(Image.open(io.BytesIO(files["reconstructions.png"])))
    assert reconstructions.shape == (2 * side + 2, 8 * side + 7 * 2)
    second_image = reconstructions[:side, side + 2 : 2 * side + 2][::7, ::7]
    assert np.array_equal(second_image, 255 * dataset.test[1].reshape(8, 8))


def test_image_grid_by_hand():
    images = np.array([[[0.0, 1.0]], [[0.5, 2.0]], [[1.0, 1.0]], [[0.0, 0.0]]])
    page = np.asarray(Image.open(io.BytesIO(image_grid(images, columns=2))))
    assert page.shape == (28 + 2 + 28, 56 + 2 + 56)
    assert page[0, [0, 27, 28, 55, 56, 57, 58, 113]].tolist() == [0, 0, 255, 255, 128, 128, 128, 255]
    assert page[28:30].tolist() == [[128] * 114] * 2
    assert page[57, [0, 113]].tolist() == [255, 0]


@pytest.mark.parametrize("count", [0, 3])
def test_image_grid_refuses_rows_that_are_not_full(count):
    with pytest.raises(ValueError, match=f"{count} images in 2 columns"):
        image_grid(np.zeros((count, 4, 4)), columns=2)
