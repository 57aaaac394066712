"""Random patches of colour images, and how their levels become real numbers between 0 and 1 (Section 6.2)."""

from __future__ import annotations

import numpy as np

from nfstudy.data.dataset import Dataset, Dequantisation, Splits, data_generator, make_dataset
from nfstudy.study.sections import DataSpec

LEVELS = 255


def make_patches(images: Splits, spec: DataSpec, source: str) -> Dataset:
    """Return the data set of patches: training levels, to be dequantised anew at every use, and held-out numbers.

    Places and held-out noise are drawn once, from streams of the data set's name and the split.

    Arguments:
        images: uint8 (N, height, width, 3), values 0 ... 255.
        spec: `patch`, `train_patches`, `heldout_patches`, `epsilon` and `dequantisation`.
        source: of the images, one line.
    """
    dequantisation = Dequantisation(spec.epsilon, spec.dequantisation == "uniform")

    def cut(split: str) -> np.ndarray:
        count = spec.train_patches if split == "train" else spec.heldout_patches
        return cut_patches(getattr(images, split), spec.patch, count, data_generator("patches", spec.name, split))

    def numbers(split: str) -> np.ndarray:
        levels = cut(split).astype(np.float32)
        noise = data_generator("dequantisation", spec.name, split)
        return dequantisation.apply(levels, lambda: noise.random(levels.shape, dtype=np.float32))

    splits = Splits(cut("train"), numbers("valid"), numbers("test"))
    name, shape = f"{spec.name}-{spec.dequantisation}", (spec.patch, spec.patch, 3)
    return make_dataset(name, shape, LEVELS, splits, source, dequantisation)


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
