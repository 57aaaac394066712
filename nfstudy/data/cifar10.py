"""CIFAR-10 as its authors publish it: the binary version, of 60,000 colour images of 32x32 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nfstudy.core.declarations import DataSource
from nfstudy.data.dataset import Dataset, Splits
from nfstudy.data.files import DataFile, read_members
from nfstudy.data.patches import (
    LEVELS,
    Dequantised,
    PatchSettings,
    colour_values,
    count_patches,
    idle_of_categories,
    make_patches,
)

FOLDER = "cifar-10-batches-bin"
"""Of the files, in the archive and where it is unpacked."""
SIDE, COLOURS = 32, 3
RECORD = 1 + COLOURS * SIDE * SIDE
"""Bytes of an image: its label, then all red values row by row, all green, all blue."""


IMAGES = (45_000, 5_000, 10_000)
"""Of the training, validation and test splits, from which patches are cut."""

CIFAR10 = DataSource(
    name="cifar10",
    values=colour_values,
    categories=LEVELS + 1,
    splits=count_patches(*IMAGES),
    loader="nfstudy.data.cifar10:load",
    shared_settings=(PatchSettings, Dequantised),
    idle=idle_of_categories,
)


def _batch(name: str, sha256: str) -> DataFile:
    return DataFile(name, 10_000 * RECORD, sha256, FOLDER, ())


BATCHES = (
    _batch("data_batch_1.bin", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
    _batch("data_batch_2.bin", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
    _batch("data_batch_3.bin", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
    _batch("data_batch_4.bin", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
    _batch("data_batch_5.bin", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
    _batch("test_batch.bin", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
)

ARCHIVE = DataFile(
    "cifar-10-binary.tar.gz",
    170_052_171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "",
    ("https://www.cs.toronto.edu/~kriz/",),
    members=BATCHES,
)
"""The only form in which the authors serve the files."""


def load(data: Any, folders: Sequence[Path], download: bool = True) -> Dataset:
    """Return patches of CIFAR-10 as the section `data` says; raises DataError."""
    images, source = read_images(folders, download)
    return make_patches(images, data, source)


def read_images(folders: Sequence[Path], download: bool) -> tuple[Splits, str]:
    """Return the images as uint8 (N, 32, 32, 3), colours last, values 0 ... 255, and their source.

    Train is the first 45,000 of the five training files in their order, valid their last 5,000, test the test file.
    The paper trains on all 50,000 and names no validation images.

    Raises:
        DataError: a file is missing and out of reach, or truncated or altered.
    """
    images = np.concatenate([_parse_batch(content) for content in read_members(ARCHIVE, folders, download)])
    train, valid, _ = IMAGES
    return Splits(*np.split(images, [train, train + valid])), ", ".join(file.name for file in BATCHES)


def _parse_batch(content: bytes) -> np.ndarray:
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    return records[:, 1:].reshape(-1, COLOURS, SIDE, SIDE).transpose(0, 2, 3, 1)
