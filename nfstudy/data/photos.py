"""The two sample photographs that scikit-learn carries, in tiles: natural images that need no download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nfstudy.core.declarations import DataSource
from nfstudy.data.dataset import Dataset, Splits, data_generator
from nfstudy.data.packaged import packaged_file
from nfstudy.data.patches import (
    LEVELS,
    Dequantised,
    PatchSettings,
    colour_values,
    count_patches,
    idle_of_categories,
    make_patches,
)

TILE = 32
"""Height and width of a tile, as of an image of CIFAR-10."""
IMAGES = (400, 60, 60)
"""Tiles of the training, validation and test splits, from which patches are cut."""

PHOTOS = DataSource(
    name="photos",
    values=colour_values,
    categories=LEVELS + 1,
    splits=count_patches(*IMAGES),
    loader="nfstudy.data.photos:load",
    shared_settings=(PatchSettings, Dequantised),
    idle=idle_of_categories,
)


def load(data: Any, folders: Sequence[Path], download: bool = True) -> Dataset:
    """Return patches of the photographs as the section `data` says."""
    images, source = read_images()
    return make_patches(images, data, source)


def read_images() -> tuple[Splits, str]:
    """Return tiles of the photographs as uint8 (N, 32, 32, 3), colours last, values 0 ... 255, and their source.

    Each photograph (a temple and a flower, 427x640 pixels) is cut into 13x20 tiles that do not overlap, its last rows
    left out. The tiles are dealt out to the splits by one fixed permutation, seeded by `DATA_SEED` and "photos split":
    the held-out ones are of the same two photographs, next to training ones.
    """
    from PIL import Image  # Not at the top: declaring a data set loads no image library.

    files = [packaged_file(f"images/{name}.jpg") for name in ("china", "flower")]
    tiles = np.concatenate([cut_tiles(np.asarray(Image.open(path))) for path, _ in files])
    order = data_generator("photos split").permutation(len(tiles))
    train, valid, _ = IMAGES
    splits = Splits(*np.split(tiles[order], [train, train + valid]))
    return splits, f"{files[0][1]}, load_sample_images"


def cut_tiles(photograph: np.ndarray) -> np.ndarray:
    """Return the whole tiles of a photograph (H, W, 3), row by row, as (H // 32 · W // 32, 32, 32, 3)."""
    rows, columns = photograph.shape[0] // TILE, photograph.shape[1] // TILE
    whole = photograph[: rows * TILE, : columns * TILE]
    return whole.reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
