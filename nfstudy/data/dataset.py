"""A data set in memory, its fingerprint, and how levels become bits or real numbers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from nfstudy.core.errors import DataError
from nfstudy.core.fields import Record
from nfstudy.core.hints import shown
from nfstudy.core.seeds import derive_seed

DATA_SEED = 0
"""Base of the seeds that make the data: a constant, so that a study's `seed` never changes its images."""

TYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
"""Of arrays: those that torch has too."""
COLOURS = 3
MOST_LEVELS = 255
LEAST_EPSILON = 1e-6
"""Of ε. Below 1, single precision goes in steps of 6e-8: 1 − ε is off by a few percent of this ε, and is 1, which has
no finite logit, for an ε of less than half a step."""


class Splits(NamedTuple):
    """Images as arrays of shape (N, D), pixels row by row and a pixel's colours together; before that, as read."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


class Binarisation(Record):
    """How grey levels become bits, or that they stay levels."""

    binarisation: Literal["static", "dynamic", "threshold", "categories"] = "static"
    """As `binarise` says of each; with `categories`, levels stay what they are, under a categorical likelihood."""


def grey_values(data: Any) -> Literal["bits", "levels", "categories"]:
    """Return what a model meets of grey images under the section `data`."""
    if data.binarisation == "categories":
        return "categories"
    return "levels" if data.binarisation == "dynamic" else "bits"


@dataclass(frozen=True)
class Dequantisation:
    """How levels v of 0 ... 255 become real numbers x of [ε, 1 − ε], where a density of x exists (Section 6.2).

    x = ε + (1 − 2ε) (v + u) / 256 with u ~ U[0, 1), or x = ε + (1 − 2ε) v / 255 without noise. The paper gives the
    interval, and neither the map nor whether there is noise.
    """

    epsilon: float
    """ε, at least `LEAST_EPSILON`."""
    noise: bool
    """Whether there is a u."""

    def apply(self, levels: Any, draw_noise: Callable[[], Any]) -> Any:
        """Return x for levels, an array or tensor of floats; `draw_noise` gives u of its shape, if there is noise."""
        unit = (levels + draw_noise()) / 256 if self.noise else levels / 255
        return self.epsilon + (1 - 2 * self.epsilon) * unit


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images ready for training; the arrays are read-only."""

    name: str
    """Images and what is made of their levels, such as `mnist-static` or `cifar10-uniform`."""
    shape: tuple[int, ...]
    """(height, width) in pixels, or (height, width, 3) in colour; D is the product."""
    train: np.ndarray
    """(N, D): what x is drawn from anew at every use, as `levels` says."""
    valid: np.ndarray
    """(N, D): uint8 bits or categories, or float32 x, drawn once."""
    test: np.ndarray
    """(N, D): as `valid`."""
    levels: int
    """0 where training numbers, float32 or categories, are x themselves. Else a training pixel v is 1 with probability
    v / `levels`: uint8 of 0 ... `levels`, bits if that is 1; or float32 of [0, 1] at 1. With a dequantisation, 255."""
    fingerprint: str
    """`fingerprint` of the three splits."""
    source: str
    """One line for people: the files, or the package and version, the images come from."""
    dequantisation: Dequantisation | None = None
    """Of training levels; None for bits and real numbers."""
    sizes: tuple[int, int, int] | None = None
    """How many examples its source gave for each split, as `load_dataset` notes: where some are left out, such as when
    costs are measured, the sizes of the whole."""


def make_dataset(
    name: str,
    shape: tuple[int, ...],
    levels: int,
    splits: Splits,
    source: str,
    dequantisation: Dequantisation | None = None,
) -> Dataset:
    """Return the data set with its fingerprint, its arrays made contiguous and read-only.

    Raises:
        DataError: something of it is of another kind than `Dataset` says.
    """
    if not (isinstance(name, str) and name and isinstance(source, str)):
        raise DataError(f"data: name and source: got {name!r} and {source!r}; expected: text")
    where = f"data {name}"
    if not isinstance(splits, tuple | list) or len(splits) != len(Splits._fields):
        raise DataError(f"{where}: splits: got {shown(splits)}; expected: three arrays, {', '.join(Splits._fields)}")
    shape, levels = _checked_shape(shape, where), _checked_levels(levels, where)
    frozen = Splits(
        *(_checked_array(each, f"{where}: {split}") for split, each in zip(Splits._fields, splits, strict=True))
    )
    for split, images in zip(Splits._fields, frozen, strict=True):
        if images.ndim < 2:
            allowed = f"(N, {math.prod(shape)})"
            raise DataError(f"{where}: {split}: got an array {images.shape}; expected: {allowed}")
        images.setflags(write=False)
    return Dataset(name, shape, *frozen, levels, fingerprint(name, shape, frozen), source, dequantisation)


def _checked_array(array: Any, where: str) -> np.ndarray:
    """Return what can be an array of examples as one, in this machine's order of bytes; raises DataError.

    Arguments:
        array: an array, or what numpy makes one of.
        where: names it in messages.
    """
    if np.ma.is_masked(array):
        raise DataError(f"{where}: got a masked array; expected: a number for every pixel")
    found = np.ascontiguousarray(array)
    found = found.astype(found.dtype.newbyteorder("="), copy=False)
    if found.dtype.name not in TYPES:
        raise DataError(f"{where}: got an array of {found.dtype}; expected: of {', '.join(TYPES)}")
    return found


def _checked_shape(shape: Any, where: str) -> tuple[int, ...]:
    """Return an example's shape; of one number, that of one row; raises DataError."""
    sides = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    whole = all(isinstance(side, int | np.integer) and side > 0 for side in sides)
    if not (whole and (len(sides) in (1, 2) or (len(sides) == 3 and sides[2] == COLOURS))):
        allowed = "(numbers,), (height, width) or (height, width, 3)"
        raise DataError(f"{where}: shape: got {shown(shape)}; expected: {allowed}")
    found = tuple(map(int, sides))
    return (1, *found) if len(found) == 1 else found


def _checked_levels(levels: Any, where: str) -> int:
    """Return what `Dataset.levels` may be; raises DataError."""
    if isinstance(levels, bool) or not isinstance(levels, int | np.integer) or not 0 <= levels <= MOST_LEVELS:
        raise DataError(f"{where}: levels: got {shown(levels)}; expected: a whole number from 0 to {MOST_LEVELS}")
    return int(levels)


def fingerprint(name: str, shape: tuple[int, ...], splits: Splits) -> str:
    """Return the SHA-256, in hex digits, of the name, the shapes and every byte of the three splits."""
    digest = hashlib.sha256(f"{name} {'x'.join(map(str, shape))}\n".encode())
    for split, images in zip(Splits._fields, splits, strict=True):
        digest.update(f"{split} {images.shape[0]}x{images.shape[1]} {images.dtype}\n".encode())
        digest.update(images.data)
    return digest.hexdigest()


def data_generator(purpose: str, *axes: str) -> np.random.Generator:
    """Return a PCG64 generator seeded by `DATA_SEED`, the purpose and the axes."""
    return np.random.Generator(np.random.PCG64(derive_seed(DATA_SEED, purpose, *axes)))


def binarise(
    greys: Splits, levels: int, name: str, binarisation: Literal["static", "dynamic", "threshold", "categories"]
) -> tuple[Splits, int]:
    """Return the splits as a training sees them, and the levels of the train split.

    `static`: every pixel v is drawn once as Bernoulli(v / levels); `threshold`: it is 1 where v / levels ≥ 1/2;
    `dynamic`: the train split stays grey, and the other two are drawn once; `categories`: all stay as they
    are, and x is the level itself, which 0 levels tell. Draws depend on the data set's name and the split, so the
    held-out bits of `static` and `dynamic` are the same.

    Arguments:
        greys: uint8 (N, D), values 0 ... levels; or float32 of [0, 1], whose level of full ink is 1.
        levels: the value of full ink.
        name: of the images, such as `digits`.
        binarisation: which of the four.

    Raises:
        DataError: numbers of [0, 1] are to stay levels, which they are not.
    """
    if binarisation == "categories":
        require_whole(greys, "data.binarisation")
        return greys, 0
    if greys.train.dtype != np.uint8:
        levels = 1
    if binarisation == "threshold" and greys.train.dtype != np.uint8:
        return Splits(*((images >= 0.5).astype(np.uint8) for images in greys)), 1
    if binarisation == "threshold":
        return Splits(*((images >= (levels + 1) // 2).astype(np.uint8) for images in greys)), 1

    def draw(split: str) -> np.ndarray:
        return draw_bits(getattr(greys, split), levels, data_generator("binarisation", name, split))

    train, train_levels = (greys.train, levels) if binarisation == "dynamic" else (draw("train"), 1)
    return Splits(train, draw("valid"), draw("test")), train_levels


def require_whole(splits: Splits, setting: str) -> None:
    """Raise DataError where numbers are no whole levels, which a setting takes as categories."""
    if splits.train.dtype != np.uint8:
        raise DataError(f"got numbers from 0 to 1; expected: whole levels with {setting}: categories")


def draw_bits(greys: np.ndarray, levels: int, generator: np.random.Generator) -> np.ndarray:
    """Return x ~ Bernoulli(v / levels) for each pixel v, as uint8 of the same shape.

    With u uniform on 0 ... levels − 1, P(u < v) = v / levels exactly, without rounding; for float32 v of [0, 1], u is
    uniform on [0, 1) in steps of 2^−24.
    """
    if greys.dtype != np.uint8:
        return (generator.random(greys.shape, dtype=np.float32) < greys).astype(np.uint8)
    return (generator.integers(levels, size=greys.shape, dtype=np.uint8) < greys).astype(np.uint8)
