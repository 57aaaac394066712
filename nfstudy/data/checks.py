"""Whether arrays are what a data set can be made of, and whether a data set is what its source declares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nfstudy.core.declarations import DataSource
from nfstudy.core.errors import DataError
from nfstudy.core.hints import shown

if TYPE_CHECKING:
    from nfstudy.data.dataset import Dataset

SPLITS = ("train", "valid", "test")
TYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
"""Of arrays: those that torch has too."""
COLOURS = 3
MOST_LEVELS = 255
MOST_OF_KIND = {"bits": 1, "patches": 0, "real": 0, "categories": 0}
"""Values -> the most levels; of patches that are dequantised, and of others, `MOST_LEVELS`."""


def checked_array(array: Any, where: str) -> np.ndarray:
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


def checked_shape(shape: Any, where: str) -> tuple[int, ...]:
    """Return an example's shape; of one number, that of one row; raises DataError."""
    sides = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    whole = all(isinstance(side, int | np.integer) and side > 0 for side in sides)
    if not (whole and (len(sides) in (1, 2) or (len(sides) == 3 and sides[2] == COLOURS))):
        allowed = "(numbers,), (height, width) or (height, width, 3)"
        raise DataError(f"{where}: shape: got {shown(shape)}; expected: {allowed}")
    found = tuple(map(int, sides))
    return (1, *found) if len(found) == 1 else found


def checked_levels(levels: Any, where: str) -> int:
    """Return what `Dataset.levels` may be; raises DataError."""
    if isinstance(levels, bool) or not isinstance(levels, int | np.integer) or not 0 <= levels <= MOST_LEVELS:
        raise DataError(f"{where}: levels: got {shown(levels)}; expected: a whole number from 0 to {MOST_LEVELS}")
    return int(levels)


def check_declared(dataset: Any, source: DataSource, data: Any, where: str) -> None:
    """Raise DataError where what a plug-in's loader returns is not as `Dataset` and the source's declaration say.

    Arguments:
        dataset: what it returned.
        source: its declaration.
        data: the section.
        where: names the source in messages.
    """
    from nfstudy.data.dataset import Dataset

    if not isinstance(dataset, Dataset):
        raise DataError(f"{where}: loader: got {type(dataset).__name__}; expected: a Dataset, as make_dataset returns")
    declared = source.splits_of(data)
    for split, count in zip(SPLITS, declared or (None, None, None), strict=True):
        array = getattr(dataset, split)
        expected = f"({'N' if count is None else count}, {math.prod(dataset.shape)})"
        fits = array.ndim == 2 and array.shape[1] == math.prod(dataset.shape) and count in (None, len(array))
        if not (fits and array.size):
            what = ", as `splits` and its `shape` say" if array.size else ", and at least one example"
            raise DataError(f"{where}: {split}: got an array {array.shape}; expected: {expected}{what}")
        if not np.isfinite(array).all():
            raise DataError(f"{where}: {split}: got numbers that are not finite; expected: finite ones")
    values = source.values_of(data)
    most = MOST_LEVELS if values == "patches" and dataset.dequantisation else MOST_OF_KIND.get(values, MOST_LEVELS)
    if dataset.levels > most:
        allowed = "0 or 1" if most else "0"
        raise DataError(f"{where}: levels: got {dataset.levels}; expected: {allowed}, as its values are {values}")
    if values != "categories":  # Which have a check of their own, for all sources.
        for split in SPLITS:
            _check_values(dataset, split, values, where)


def _check_values(dataset: Dataset, split: str, values: str, where: str) -> None:
    array = getattr(dataset, split)
    levels = dataset.levels if split == "train" else 0
    if levels > 1:
        bad, allowed = (array < 0) | (array > levels) | (array != np.floor(array)), f"whole numbers from 0 to {levels}"
    elif levels:
        bad, allowed = (array < 0) | (array > 1), "numbers from 0 to 1"
    elif values in ("bits", "levels"):
        bad, allowed = (array != 0) & (array != 1), "0 or 1"
    elif values == "patches":
        bad, allowed = (array <= 0) | (array >= 1), "numbers within 0 and 1"
    else:
        return
    if bad.any():
        row, column = np.unravel_index(bad.argmax(), bad.shape)
        kind = f"data of {values}" + (f" with levels {levels}" if levels else "")
        got = f"row {row}: got {array[row, column]:g}"
        raise DataError(f"{where}: {split}: {got}; expected: {allowed}, as {kind} (rows count from 0)")


INTEGERS = ("uint8", "int16", "int32", "int64")
"""Types of categories: those that torch indexes by."""


def check_categories(dataset: Dataset, count: int) -> None:
    """Raise DataError where levels are not those that the source declares, which a likelihood has no probability of."""
    for split in SPLITS:
        array = getattr(dataset, split)
        if array.dtype.name not in INTEGERS or (array.size and (array.min() < 0 or array.max() >= count)):
            got = f"{array.dtype} from {array.min():g} to {array.max():g}"
            raise DataError(f"data {dataset.name}: {split}: got {got}; expected: whole numbers from 0 to {count - 1}")
