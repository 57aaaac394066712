"""What the numbers of somebody's own data are: bits, grey levels, patches or real numbers, told or checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from nfstudy.core.errors import DataError

Kind = Literal["bits", "levels", "patches", "real", "categories"]
"""Bits; levels that become bits; numbers from 0 to 1 that have a density; any real numbers; whole levels."""

FULL = 255
"""The greatest level of whole numbers."""

EXPECTED: Mapping[Kind, str] = {
    "bits": "0 or 1",
    "levels": "whole numbers from 0 to {full}, or numbers from 0 to 1",
    "patches": "whole numbers from 0 to {full}, or numbers from 0 to 1",
    "real": "finite numbers within single precision",
    "categories": "whole numbers from 0 to {full}",
}


def check_finite(array: np.ndarray, where: str) -> None:
    """Raise DataError for an array (N, ...) with NaN or infinite numbers; `where` names it."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row, value = _first(array, ~np.isfinite(array))
        raise DataError(f"{where}: row {row}: got {value}; expected: finite numbers (rows count from 0)")


def as_kind(
    splits: Mapping[str, np.ndarray], kind: Kind | None, colours: bool, full: int = FULL
) -> tuple[Kind, dict[str, np.ndarray]]:
    """Return the kind of some splits, and each as the kind has it.

    Bits and categories are uint8; levels and patches are uint8 if they are whole numbers of 0 ... `full`, and float32
    if they are numbers of [0, 1]; real numbers are float32.

    Arguments:
        splits: where, for messages -> finite numbers (N, D).
        kind: the one that is stated; None for the one that the values tell: `bits` where all are 0 or 1, else `levels`
            where they are whole numbers of 0 ... 255 or numbers of [0, 1], or `patches` with colours.
        colours: whether there are three numbers a pixel.
        full: the level of full ink.

    Raises:
        DataError: a value is not of the kind, no kind can be told, or the splits are on different scales.
    """
    if kind == "real":
        return kind, {where: _as_float(array, where) for where, array in splits.items()}
    told = kind is None
    if kind is None:
        all_bits = all(_are_bits(array) for array in splits.values())
        kind = "bits" if all_bits else "patches" if colours else "levels"
    for where, array in splits.items():
        bad = _misfits(array, kind, full, floats_to=1 if told else full)
        if bad.any():
            row, value = _first(array, bad)
            hint = (
                "; any other numbers need data.kind: real, and floats from 0 to 255 data.kind: levels" if told else ""
            )
            expected = EXPECTED[kind].format(full=full)
            raise DataError(f"{where}: row {row}: got {value:g}; expected: {expected} (rows count from 0){hint}")
    if kind in ("bits", "categories"):
        return kind, {where: array.astype(np.uint8) for where, array in splits.items()}
    scales = {where: _scale(array) for where, array in splits.items()}
    whole = next((where for where, scale in scales.items() if scale == "whole"), None)
    unit = next((where for where, scale in scales.items() if scale == "unit"), None)
    if whole and unit:
        raise DataError(
            f"{unit}: got numbers from 0 to 1, where {whole} has whole numbers to {splits[whole].max():g}; "
            "expected: one scale for all splits"
        )
    if whole:
        _check_same_scale(splits, scales)
    return kind, {where: array.astype(np.float32 if unit else np.uint8) for where, array in splits.items()}


CHANCE = 1e-6
"""Grey examples that are as they are by a smaller chance than this are none."""


def _check_same_scale(
    splits: Mapping[str, np.ndarray], scales: Mapping[str, Literal["whole", "unit", "either"]]
) -> None:
    """Raise DataError for a split of bits beside grey ones, in which a 1 would be next to no ink.

    A few grey examples, or dark ones, may have no level above 1 by chance. The share s of such examples in the grey
    splits says by which: a split of n has none above 1 by s^n. One such example more is counted, as there may be some
    that are not in the grey splits. Zeros are the same on both scales.
    """
    grey = {where: array for where, array in splits.items() if scales[where] == "whole"}
    for where, array in splits.items():
        if where in grey or not array.any():
            continue
        alike = [((own == 0) | (own == 1)).all(axis=1) for own in grey.values()]
        share = (1 + sum(int(own.sum()) for own in alike)) / (1 + sum(map(len, alike)))
        if share ** len(array) < CHANCE:
            first, numbers = next(iter(grey.items()))
            raise DataError(
                f"{where}: got only 0 and 1, where {first} has whole numbers to {numbers.max():g}; "
                "expected: one scale for all splits"
            )


def _are_bits(array: np.ndarray) -> bool:
    return bool(((array == 0) | (array == 1)).all())


def _misfits(array: np.ndarray, kind: Kind, full: int, floats_to: int) -> np.ndarray:
    """Say of each value whether it is none of a kind's; floats above 1 may be whole numbers to `floats_to`."""
    if kind == "bits":
        bits: np.ndarray = (array == 0) | (array == 1)
        return ~bits
    if kind == "categories":
        whole: np.ndarray = array == np.floor(array)
        return ~whole | (array < 0) | (array > full)
    if array.dtype.kind != "f":
        return (array < 0) | (array > full)
    if floats_to > 1 and array.max() > 1:
        broken: np.ndarray = array != np.floor(array)
        return broken | (array < 0) | (array > floats_to)
    return (array < 0) | (array > 1)


def _scale(array: np.ndarray) -> Literal["whole", "unit", "either"]:
    """Return whether full ink is `full` or 1: it is either for integers that are all 0 or 1."""
    if array.dtype.kind == "f":
        return "whole" if array.max() > 1 else "unit"
    return "either" if _are_bits(array) else "whole"


def _as_float(array: np.ndarray, where: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        numbers = array.astype(np.float32)
    if not np.isfinite(numbers).all():
        row, _ = _first(array, ~np.isfinite(numbers))
        raise DataError(f"{where}: row {row}: got a number beyond 3.4e38; expected: {EXPECTED['real']}")
    return numbers


def _first(array: np.ndarray, bad: np.ndarray) -> tuple[int, float]:
    """Return the first row with a bad value, and that value."""
    place = np.unravel_index(bad.argmax(), bad.shape)
    return int(place[0]), array[place]
