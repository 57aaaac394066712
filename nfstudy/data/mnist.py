"""MNIST as its authors publish it: grey levels in IDX files, and the fixed binarisation in .amat files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nfstudy.core.declarations import DataSource
from nfstudy.data.dataset import Binarisation, Dataset, Splits, binarise, grey_values, make_dataset
from nfstudy.data.files import DataFile, check_present, read_files

SHAPE = (28, 28)
LEVELS = 255
PIXELS = SHAPE[0] * SHAPE[1]
IMAGES = (50_000, 10_000, 10_000)
"""Of the training, validation and test splits."""

MNIST = DataSource(
    name="mnist",
    values=grey_values,
    categories=LEVELS + 1,
    splits=lambda data: IMAGES,
    loader="nfstudy.data.mnist:load",
    shared_settings=(Binarisation,),
)

AMAT_MIRRORS = ("http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",)
IDX_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)


def _amat(split: str, size: int, sha256: str) -> DataFile:
    return DataFile(f"binarized_mnist_{split}.amat", size, sha256, "binarized_mnist", AMAT_MIRRORS)


def _idx(name: str, size: int, sha256: str, unpacked_size: int, unpacked_sha256: str) -> DataFile:
    unpacked = DataFile(name, unpacked_size, unpacked_sha256, "mnist", ())
    return DataFile(f"{name}.gz", size, sha256, "mnist", IDX_MIRRORS, unpacked)


AMAT_FILES = (
    _amat("train", 78_400_000, "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"),
    _amat("valid", 15_680_000, "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
    _amat("test", 15_680_000, "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
)

IMAGE_FILES = (
    _idx(
        "train-images-idx3-ubyte",
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    _idx(
        "t10k-images-idx3-ubyte",
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
)

LABEL_FILES = (
    _idx(
        "train-labels-idx1-ubyte",
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    _idx(
        "t10k-labels-idx1-ubyte",
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)


def load(data: Any, folders: Sequence[Path], download: bool = True) -> Dataset:
    """Return MNIST as the section `data` says; raises DataError."""
    name = f"{data.name}-{data.binarisation}"
    if data.binarisation == "static":
        bits, source = read_static(folders, download)
        return make_dataset(name, SHAPE, 1, bits, source)
    greys, source = read_grey(folders, download)
    splits, levels = binarise(greys, LEVELS, data.name, data.binarisation)
    return make_dataset(name, SHAPE, levels, splits, source)


def read_static(folders: Sequence[Path], download: bool) -> tuple[Splits, str]:
    """Return the fixed binarisation of Salakhutdinov & Murray (2008) as Larochelle distributes it, and its source.

    It is the one the paper uses ("binarized as in Uria et al. 2014", Section 6.2). Its rows are in another order than
    the IDX files', and its validation images are not the last 10,000 of them.

    Raises:
        DataError: a file is missing and out of reach, or truncated or altered.
    """
    splits = (_parse_amat(content) for content in read_files(AMAT_FILES, folders, download))
    return Splits(*splits), ", ".join(file.name for file in AMAT_FILES)


def read_grey(folders: Sequence[Path], download: bool) -> tuple[Splits, str]:
    """Return the grey splits, values 0 ... 255, and their source.

    Train is the first 50,000 images of the training file, valid its last 10,000, test the t10k file. Labels are not
    used, so their files may be absent; where they are present, they must be the authors' too.

    Raises:
        DataError: a file is missing and out of reach, or truncated or altered.
    """
    check_present(LABEL_FILES, folders)
    images, test = (_parse_idx(content) for content in read_files(IMAGE_FILES, folders, download))
    train, _, _ = IMAGES
    return Splits(images[:train], images[train:], test), ", ".join(file.name for file in IMAGE_FILES)


def _parse_amat(content: bytes) -> np.ndarray:
    # Lines "0 1 ... 0\n": every other byte is a digit, and the known hash has ruled out anything else.
    return (np.frombuffer(content, np.uint8)[::2] - ord("0")).reshape(-1, PIXELS)


def _parse_idx(content: bytes) -> np.ndarray:
    header = 16  # magic number, images, rows, columns, four bytes each
    return np.frombuffer(content, np.uint8, offset=header).reshape(-1, PIXELS)
