"""Whether a data set is what its source declares."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from nfstudy.core.declarations import DataSource
from nfstudy.core.errors import DataError, UserError
from nfstudy.data.dataset import LEAST_EPSILON, MOST_LEVELS, Dataset, Dequantisation, Splits

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
    _check_dequantisation(dataset, values, where)
    if values != "categories":  # Which have a check of their own, for all sources.
        for split in Splits._fields:
            _check_values(dataset, split, values, where)
    train = dataset.train.dtype
    if dataset.levels > 1 and train.kind == "f" and not dataset.dequantisation:
        # A training takes floats for probabilities, whatever the levels.
        allowed = f"uint8, or floats from 0 to 1 with levels 1, as levels are {dataset.levels}"
        raise DataError(f"{where}: train: got an array of {train}; expected: {allowed}")


def _check_dequantisation(dataset: Dataset, values: str, where: str) -> None:
    """Raise DataError where a dequantisation would make numbers of the training split that are not those declared."""
    dequantisation = dataset.dequantisation
    if dequantisation is None:
        return
    if values != "patches" and values in (*MOST_OF_KIND, "levels"):  # A kind of somebody's own may be dequantised too.
        raise DataError(f"{where}: dequantisation: got one; expected: none, as its values are {values}")
    if dataset.levels != MOST_LEVELS:
        allowed = f"{MOST_LEVELS} with a dequantisation, which is of levels from 0 to {MOST_LEVELS}"
        raise DataError(f"{where}: levels: got {dataset.levels}; expected: {allowed}")
    if isinstance(dequantisation, Dequantisation) and not LEAST_EPSILON <= dequantisation.epsilon < 1 / 2:
        allowed = f"at least {LEAST_EPSILON:g} and less than 0.5"
        raise DataError(f"{where}: dequantisation: epsilon: got {dequantisation.epsilon:g}; expected: {allowed}")


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


def check_sizes(dataset: Dataset, settings: Any) -> None:
    """Raise UserError where settings ask for more examples than there are.

    Of sources that say how many they have, it is checked when a study is read. Of the others it is known only now, and
    a training would find no minibatch, or be said to be of more examples than it is.

    Arguments:
        dataset: whole, or a part that costs are measured on.
        settings: all of them, `nfstudy.study.settings.Settings`.
    """
    data, evaluation = settings.data, settings.evaluation
    if data.examples() is not None:
        return
    train, valid, test = dataset.sizes or (len(dataset.train), len(dataset.valid), len(dataset.test))
    if data.training_split == "train+valid":
        train += valid
    for key, asked, there, what in (
        ("data.train_images", data.train_images, train, "training"),
        ("train.batch", settings.train.batch, data.train_images or train, "training"),
        ("evaluation.test_images", evaluation.test_images, test, "test"),
        ("evaluation.valid_images", evaluation.valid_images, valid, "validation"),
    ):
        if (asked or 0) > there:
            raise UserError(f"{key}: got {asked}; expected: at most {there}, the {what} images of {dataset.name}")


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
