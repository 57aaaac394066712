"""Images by name: what scikit-learn carries, and MNIST and CIFAR-10 from their authors' files. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nfstudy.data import cifar10, digits, mnist, photos
from nfstudy.data.dataset import Dataset, binarise, make_dataset
from nfstudy.data.patches import make_patches
from nfstudy.study.sections import PATCHES, DataSpec

__all__ = ["Dataset", "load_dataset"]


def load_dataset(spec: DataSpec, folders: Sequence[Path], download: bool = True) -> Dataset:
    """Return all images of a data set, split, as bits or patches; `spec.train_images` is left to the training.

    The same call gives the same bytes on every machine: what is drawn is drawn from constant seeds.

    Arguments:
        spec: which images, and what becomes of their levels.
        folders: where authors' files are looked for, in order (see `nfstudy.core.project`); downloads go into the last.
        download: whether missing files may be fetched from their authors' mirrors.

    Raises:
        DataError: a file is truncated or altered, or missing and out of reach.
    """
    if spec.name in PATCHES:
        images, source = cifar10.read_images(folders, download) if spec.name == "cifar10" else photos.read_images()
        return make_patches(images, spec, source)
    name = f"{spec.name}-{spec.binarisation}"
    if spec.name == "mnist" and spec.binarisation == "static":
        bits, source = mnist.read_static(folders, download)
        return make_dataset(name, mnist.SHAPE, 1, bits, source)
    if spec.name == "mnist":
        shape, full = mnist.SHAPE, mnist.LEVELS
        greys, source = mnist.read_grey(folders, download)
    else:
        shape, full = digits.SHAPE, digits.LEVELS
        greys, source = digits.read_grey()
    splits, levels = binarise(greys, full, spec.name, spec.binarisation)
    return make_dataset(name, shape, levels, splits, source)
