"""The handwritten digits that scikit-learn carries: 1,797 images that need no download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nfstudy.core.declarations import DataSource
from nfstudy.data.dataset import Binarisation, Dataset, Splits, binarise, data_generator, grey_values, make_dataset
from nfstudy.data.packaged import packaged_file

SHAPE = (8, 8)
LEVELS = 16
IMAGES = (1197, 300, 300)
"""Of the training, validation and test splits."""

DIGITS = DataSource(
    name="digits",
    values=grey_values,
    categories=LEVELS + 1,
    splits=lambda data: IMAGES,
    loader="nfstudy.data.digits:load",
    shared_settings=(Binarisation,),
)


def load(data: Any, folders: Sequence[Path], download: bool = True) -> Dataset:
    """Return the digits, binarised as the section `data` says."""
    greys, source = read_grey()
    splits, levels = binarise(greys, LEVELS, data.name, data.binarisation)
    return make_dataset(f"{data.name}-{data.binarisation}", SHAPE, levels, splits, source)


def read_grey() -> tuple[Splits, str]:
    """Return the grey splits, values 0 ... 16, and their source.

    The images (UCI "Optical Recognition of Handwritten Digits", test part) have no training and test split of their
    own; they are dealt out by one fixed permutation, seeded by `DATA_SEED` and "digits split".
    """
    path, package = packaged_file("data/digits.csv.gz")
    images = np.loadtxt(path, delimiter=",", dtype=np.uint8)[:, :-1]  # The last column is the label.
    order = data_generator("digits split").permutation(len(images))
    train, valid, _ = IMAGES
    return Splits(*np.split(images[order], [train, train + valid])), f"{package}, load_digits"
