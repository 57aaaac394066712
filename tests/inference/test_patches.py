"""Patches of colour images: where they are cut, what becomes of their levels, and a model trained on them."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from sklearn.datasets import load_sample_images

from nfstudy.data import load_dataset
from nfstudy.data import photos as photos_module
from nfstudy.data.dataset import Dequantisation, Splits
from nfstudy.data.patches import cut_patches
from nfstudy.data.photos import cut_tiles
from nfstudy.inference.problems.image_grid import image_grid
from nfstudy.inference.problems.images import pixel_noise, pixels
from nfstudy.inference.training.trial import run_trial
from nfstudy.study.cells import Cell, Trial
from nfstudy.study.sections import DataSpec
from nfstudy.study.settings import Settings

# Part of every logged run. scikit-learn's photographs are JPEG files, so the decoder decides their bytes too.
FINGERPRINTS = {
    "uniform": "26a73e63e4f900bdc487cf283dec0cf9bf95b4f86d46c60c39957e62a2dbc80b",
    "none": "3a94d01755ca4fc4a7a8d2a1eafc54720cb59c17717926cccec5b0c75976f840",
}


def photos(**values):
    return load_dataset(DataSpec(name="photos", **values), [])


@pytest.fixture(scope="module")
def dataset():
    return photos()


# --- cutting --------------------------------------------------------------------------------------------------------


def numbered(count, height=9, width=7):
    """Images in which every value is another: image, row, column and colour can be read off it."""
    return np.arange(count * height * width * 3).reshape(count, height, width, 3)


@pytest.mark.parametrize("side", [1, 4, 7])
def test_patches_are_squares_of_their_images_row_by_row_with_colours_last(side):
    images = numbered(5)
    patches = cut_patches(images, side, 3, np.random.default_rng(0))
    assert patches.shape == (15, side * side * 3)
    for number, patch in enumerate(patches):
        image, row, column, colour = np.unravel_index(patch[0], images.shape)
        assert (image, colour) == (number % 5, 0)
        np.testing.assert_array_equal(patch, images[image, row : row + side, column : column + side].ravel())


def test_every_place_is_equally_probable():
    patches = cut_patches(numbered(1), 4, 24_000, np.random.default_rng(0))
    _, rows, columns, _ = np.unravel_index(patches[:, 0], (1, 9, 7, 3))
    counts = np.bincount(rows * 4 + columns)
    assert counts.shape == (6 * 4,)
    assert stats.chisquare(counts).pvalue > 0.001


def test_more_patches_leave_the_first_as_they_are():
    few, many = (cut_patches(numbered(5), 4, count, np.random.default_rng(0)) for count in (2, 6))
    np.testing.assert_array_equal(many[:10], few)
    assert len(np.unique(many[:, 0])) > 10


# --- dequantisation -------------------------------------------------------------------------------------------------


def test_levels_are_mapped_onto_the_interval_by_hand():
    levels, noise = np.array([0.0, 51.0, 255.0]), np.array([0.0, 0.5, 1.0])
    plain = Dequantisation(0.1, noise=False).apply(levels, lambda: pytest.fail("there is no noise to draw"))
    assert plain.tolist() == pytest.approx([0.1, 0.1 + 0.8 * 0.2, 0.9])
    noisy = Dequantisation(0.1, noise=True).apply(levels, lambda: noise)
    assert noisy.tolist() == pytest.approx([0.1, 0.1 + 0.8 * 51.5 / 256, 0.9])


def noise_in(x, epsilon=1e-4):
    """Return the levels and the noise that uniform dequantisation has made x of."""
    units = (np.asarray(x, dtype=float) - epsilon) / (1 - 2 * epsilon) * 256
    return np.floor(units), units - np.floor(units)


def test_held_out_noise_is_uniform_and_takes_no_level_to_another(dataset):
    plain = photos(dequantisation="none")
    for split in ("valid", "test"):
        noisy, bare = getattr(dataset, split), getattr(plain, split)
        assert noisy.dtype == bare.dtype == np.float32
        levels = np.rint((bare.astype(float) - 1e-4) / 0.9998 * 255)
        found, noise = noise_in(noisy)
        # Where the noise is next to 0 or 1, single precision may round across a level.
        assert np.mean(found == levels) > 0.9999
        assert stats.kstest(noise.ravel(), "uniform").pvalue > 0.001
        assert noisy.min() >= np.float32(1e-4)
        assert noisy.max() < 1 - 0.99e-4


@pytest.mark.parametrize("dequantisation", ["uniform", "none"])
def test_training_levels_are_dequantised_anew_at_every_use(dequantisation):
    dataset = photos(dequantisation=dequantisation)
    levels, stream = torch.tensor(dataset.train[:200]), torch.Generator().manual_seed(1)
    first, second = (pixels(levels, dataset, pixel_noise(levels.shape, False, dataset, stream)) for _ in range(2))
    assert first.dtype == torch.float32
    if dequantisation == "none":
        assert torch.equal(first, second)
        assert first.numpy() == pytest.approx(1e-4 + 0.9998 * dataset.train[:200] / 255, rel=1e-6)
    else:
        (found, noise), (again, other) = noise_in(first), noise_in(second)
        assert np.mean(found == dataset.train[:200]) > 0.9999
        assert np.mean(again == dataset.train[:200]) > 0.9999
        assert stats.kstest(noise.ravel(), "uniform").pvalue > 0.001
        assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(noise.size)


# --- photographs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dequantisation", ["uniform", "none"])
def test_photos_have_the_splits_of_the_spec_and_the_pinned_bytes(dequantisation):
    dataset = photos(dequantisation=dequantisation)
    assert (dataset.name, dataset.shape, dataset.levels) == (f"photos-{dequantisation}", (8, 8, 3), 255)
    counts = [len(images) for images in (dataset.train, dataset.valid, dataset.test)]
    assert counts == list(DataSpec(name="photos").examples()) == [1600, 60, 60]
    assert (dataset.train.dtype, dataset.train.min(), dataset.train.max()) == (np.uint8, 0, 255)
    for split in Splits._fields:
        assert getattr(dataset, split).shape[1] == 8 * 8 * 3
        with pytest.raises(ValueError, match="read-only"):
            getattr(dataset, split)[0, 0] = 1
    assert "scikit-learn" in dataset.source
    assert dataset.fingerprint == FINGERPRINTS[dequantisation]


def test_tiles_cover_a_photograph_once_in_order():
    china, _ = load_sample_images().images
    tiles = cut_tiles(china)
    assert (china.shape, tiles.shape) == ((427, 640, 3), (260, 32, 32, 3))
    for number, tile in enumerate(tiles):
        top, left = 32 * (number // 20), 32 * (number % 20)
        np.testing.assert_array_equal(tile, china[top : top + 32, left : left + 32])


def test_no_tile_is_in_two_splits():
    # Patches as large as the tiles are the tiles themselves.
    whole = photos(patch=32, train_patches=1, dequantisation="none", epsilon=1e-4)
    levels = [np.rint((whole.valid.astype(float) - 1e-4) / 0.9998 * 255), np.rint((whole.test - 1e-4) / 0.9998 * 255)]
    ours = [tile.astype(np.uint8).tobytes() for images in (whole.train, *levels) for tile in images]
    theirs = [tile.tobytes() for photograph in load_sample_images().images for tile in cut_tiles(photograph)]
    assert len(ours) == sum(photos_module.IMAGES)
    assert sorted(ours) == sorted(theirs)
    assert ours != theirs


CHANGES = {
    "epsilon": 2e-4,
    "dequantisation": "none",
    "train_patches": 5,
    "heldout_patches": 2,
    "patch": 7,
}


def test_whatever_changes_the_data_changes_the_fingerprint(dataset):
    prints = {key: photos(**{key: value}).fingerprint for key, value in CHANGES.items()}
    assert len({dataset.fingerprint, *prints.values()}) == len(CHANGES) + 1
    assert photos(train_images=10, binarisation="dynamic").fingerprint == dataset.fingerprint


# --- training -------------------------------------------------------------------------------------------------------

SETTINGS = Settings.model_validate(
    {
        "data": {"name": "photos", "train_images": 40},
        "model": {"latent": 2, "hidden": 8, "layers": 1, "maxout": 2},
        "flow": {"family": "planar", "length": 2},
        "train": {"updates": 30, "batch": 10, "optimiser": "adam", "learning_rate": 0.01},
        "objective": {"annealing": "none"},
        "evaluation": {"samples": 20, "test_images": 12},
    }
)


def run(dataset, **changes):
    settings = SETTINGS.replace({key.replace("__", "."): value for key, value in changes.items()})
    records = []
    trial = Trial("tiny", Cell(settings.normalized(), "full"), settings, "repetition", 1)
    return run_trial(trial, dataset, "cpu", lambda record: records.append(record) or True), records


def test_a_trial_on_patches_learns_and_is_repeatable(dataset):
    result, records = run(dataset)
    assert (result.outcome, result.update) == ("finished", 30)
    assert records[-1].metrics["valid/elbo"] > records[0].metrics["valid/elbo"] + 10
    assert result.metrics["test/kl"] == pytest.approx(-result.metrics["test/elbo"] - result.metrics["test/nll"])
    again, _ = run(dataset)
    assert again.metrics["test/nll"] == result.metrics["test/nll"]
    assert again.files == result.files


@pytest.mark.parametrize("setting", [{"model__variance": "shared"}, {"model__variance_floor": 0.5}])
def test_settings_of_the_likelihood_reach_the_model(dataset, setting):
    assert run(dataset, **setting)[0].metrics["test/nll"] != run(dataset)[0].metrics["test/nll"]


def test_the_dequantisation_of_the_data_reaches_the_training(dataset):
    bare = dataclasses.replace(dataset, dequantisation=Dequantisation(1e-4, noise=False))
    assert run(bare)[0].metrics["test/nll"] != run(dataset)[0].metrics["test/nll"]


def test_pictures_show_the_patches_in_colour(dataset):
    result, _ = run(dataset)
    side = 8 * 7
    page = np.asarray(Image.open(io.BytesIO(result.files["reconstructions.png"])))
    assert page.shape == (2 * side + 2, 8 * side + 7 * 2, 3)
    second = page[:side, side + 2 : 2 * side + 2][::7, ::7]
    np.testing.assert_array_equal(second, np.rint(255 * dataset.test[1].reshape(8, 8, 3)))
    assert Image.open(io.BytesIO(result.files["samples.png"])).size == (8 * side + 7 * 2, 8 * side + 7 * 2)


def test_a_grid_of_colours_by_hand():
    images = np.zeros((2, 56, 56, 3))
    images[0, 0, 0], images[1, 55, 55] = (1, 0, 0.2), (0, 2, -1)
    page = np.asarray(Image.open(io.BytesIO(image_grid(images, columns=2))))
    assert page.shape == (56, 2 * 56 + 2, 3)
    assert page[0, 0].tolist() == [255, 0, 51]
    assert page[55, 113].tolist() == [0, 255, 0]
    assert (page[:, 56:58] == 128).all()
    assert page.sum(dtype=int) == 255 + 51 + 255 + 56 * 2 * 3 * 128
