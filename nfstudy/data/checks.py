"""Whether a data set is what its source declares."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from nfstudy.core.declarations import DataSource
from nfstudy.core.errors import DataError
from nfstudy.data.dataset import MOST_LEVELS, Dataset, Splits

MOST_OF_KIND = {"bits": 1, "patches": 0, "real": 0, "categories": 0}
"""Values -> the most levels; of patches that are dequantised, and of others, `MOST_LEVELS`."""


def check_declared(dataset: Any, source: DataSource, data: Any, where: str) -> None:
    """Raise DataError where what a plug-in's loader returns is not as `Dataset` and the source's declaration say.

    Arguments:
        dataset: what it returned.
        source: its declaration.
        data: the section.
        where: names the source in messages.
    """
    if not isinstance(dataset, Dataset):
        raise DataError(f"{where}: loader: got {type(dataset).__name__}; expected: a Dataset, as make_dataset returns")
    declared = source.splits_of(data)
    for split, count in zip(Splits._fields, declared or (None, None, None), strict=True):
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
        for split in Splits._fields:
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
    for split in Splits._fields:
        array = getattr(dataset, split)
        if array.dtype.name not in INTEGERS or (array.size and (array.min() < 0 or array.max() >= count)):
            got = f"{array.dtype} from {array.min():g} to {array.max():g}"
            raise DataError(f"data {dataset.name}: {split}: got {got}; expected: whole numbers from 0 to {count - 1}")


def repeated_examples(dataset: Dataset) -> dict[str, int]:
    """Return split -> how many of its examples are training examples too, where chance does not explain so many.

    Of data that repeat themselves, such as few bits, a share of the training examples has equals among the others, and
    a held-out example has one as often; so many, and three standard deviations more, are no sign of a leak. Where
    training examples are drawn from levels anew, they cannot be compared.
    """
    found: dict[str, int] = {}
    if dataset.levels > 1:
        return found
    counts = Counter(map(_mark, dataset.train))
    share = sum(count for count in counts.values() if count > 1) / len(dataset.train)
    for split in ("valid", "test"):
        examples = getattr(dataset, split)
        if examples.dtype != dataset.train.dtype:
            continue
        repeated = sum(_mark(example) in counts for example in examples)
        expected = share * len(examples)
        if repeated > expected + 3 * math.sqrt(expected):
            found[split] = repeated
    return found


def _mark(example: np.ndarray) -> int:
    """Return a number that tells an example from others, all but surely."""
    return hash(example.tobytes())
