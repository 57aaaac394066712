"""Random patches of colour images, and how their levels become real numbers between 0 and 1 (Section 6.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from nfstudy.core.fields import Record
from nfstudy.data.dataset import (
    LEAST_EPSILON,
    Dataset,
    Dequantisation,
    Splits,
    data_generator,
    make_dataset,
    require_whole,
)

LEVELS = 255


class PatchSettings(Record):
    """Which patches are cut from colour images."""

    patch: Annotated[int, Field(ge=1, le=32)] = 8
    """Height and width in pixels."""
    train_patches: Annotated[int, Field(ge=1, le=1000)] = 4
    """How many are cut from each training image, at random places drawn once."""
    heldout_patches: Annotated[int, Field(ge=1, le=1000)] = 1
    """The same of each validation and test image; the paper does not say which patches it tests."""


class Dequantised(Record):
    """How levels become numbers within (0, 1), or that they stay levels."""

    epsilon: Annotated[float, Field(ge=LEAST_EPSILON, lt=0.5, allow_inf_nan=False)] = 1e-4
    """Levels are mapped onto [ε, 1 − ε]."""
    dequantisation: Literal["uniform", "none", "categories"] = "uniform"
    """Whether a level v of 0 ... 255 becomes (v + u) / 256 with u uniform on [0, 1), or v / 255; with `categories` it
    stays v, under a categorical likelihood."""


def colour_values(data: Any) -> Literal["patches", "categories"]:
    """Return what a model meets of colour images under the section `data`."""
    return "categories" if data.dequantisation == "categories" else "patches"


def idle_of_categories(data: Any) -> list[str]:
    """Return the settings of `Dequantised` that have no effect where levels stay what they are."""
    return ["epsilon"] if data.dequantisation == "categories" else []


def count_patches(train: int, valid: int, test: int) -> Callable[[Any], tuple[int, int, int]]:
    """Return section `data` -> how many patches are cut from so many images."""
    return lambda data: (train * data.train_patches, valid * data.heldout_patches, test * data.heldout_patches)


def make_patches(images: Splits, spec: Any, source: str) -> Dataset:
    """Return the data set of patches: training levels, to be dequantised anew at every use, and held-out numbers.

    Places and held-out noise are drawn once, from streams of the data set's name and the split.

    Arguments:
        images: uint8 (N, height, width, 3), values 0 ... 255.
        spec: `patch`, `train_patches`, `heldout_patches`, `epsilon` and `dequantisation`.
        source: of the images, one line.
    """

    def cut(split: str) -> np.ndarray:
        count = spec.train_patches if split == "train" else spec.heldout_patches
        return cut_patches(getattr(images, split), spec.patch, count, data_generator("patches", spec.name, split))

    splits = Splits(*map(cut, Splits._fields))
    return dequantise(spec.name, (spec.patch, spec.patch, 3), splits, spec, source)


def dequantise(name: str, shape: tuple[int, ...], splits: Splits, spec: Any, source: str) -> Dataset:
    """Return the data set of numbers within [ε, 1 − ε]: training levels as they are, held-out ones dequantised once.

    Arguments:
        name: of the examples, from which held-out noise is seeded with the split.
        shape: of an example.
        splits: levels, uint8 (N, D) of 0 ... 255; or float32 of [0, 1], of which x = ε + (1 − 2ε) v.
        spec: `epsilon` and `dequantisation`.
        source: one line for people.

    Raises:
        DataError: numbers of [0, 1] are to stay levels, which they are not.
    """
    if spec.dequantisation == "categories":
        require_whole(splits, "data.dequantisation")
        return make_dataset(f"{name}-categories", shape, 0, splits, source)
    dequantisation = Dequantisation(spec.epsilon, spec.dequantisation == "uniform")
    if splits.train.dtype != np.uint8:
        splits = Splits(*(spec.epsilon + (1 - 2 * spec.epsilon) * numbers for numbers in splits))
        return make_dataset(f"{name}-continuous", shape, 0, splits, source)

    def numbers(split: str) -> np.ndarray:
        levels = getattr(splits, split).astype(np.float32)
        noise = data_generator("dequantisation", name, split)
        applied: np.ndarray = dequantisation.apply(levels, lambda: noise.random(levels.shape, dtype=np.float32))
        return applied

    made = Splits(splits.train, numbers("valid"), numbers("test"))
    return make_dataset(f"{name}-{spec.dequantisation}", shape, LEVELS, made, source, dequantisation)


def cut_patches(images: np.ndarray, side: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return square patches (count · N, side · side · 3), at places of each image that are equally probable.

    First one of every image, then a second one of every image, and so on; places may coincide. More patches leave the
    first ones as they are.

    Arguments:
        images: (N, height, width, 3).
        side: in pixels, at most the height and the width.
        count: patches of each image.
        generator: where the places are drawn from.
    """
    windows = np.lib.stride_tricks.sliding_window_view(images, (side, side), axis=(1, 2))
    _, rows, columns, *_ = windows.shape
    places = generator.integers((rows, columns), size=(count, len(images), 2))
    patches = windows[np.arange(len(images)), places[..., 0], places[..., 1]]
    return np.moveaxis(patches, 2, -1).reshape(count * len(images), -1)
