"""The arrays of somebody's own file as three splits: found by their names, laid out, checked and cut."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nfstudy.core.errors import DataError
from nfstudy.data.arrays import MAX_BYTES, Entry, file_digests, list_arrays
from nfstudy.data.dataset import Splits, data_generator, fingerprint
from nfstudy.data.values import FULL, Kind, as_kind, check_finite

VALID_PART = 6
"""Where there is no validation array, one in so many training examples, at least one, is kept for it."""


class Found(NamedTuple):
    """What a look at a file tells."""

    kind: Kind
    shape: tuple[int, ...]
    splits: Splits
    """As `values.as_kind` has them."""
    source: str
    """One line for people: the file with its digest, and where each split comes from."""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many examples the splits hold."""
        return len(self.splits.train), len(self.splits.valid), len(self.splits.test)

    @property
    def sha256(self) -> str:
        """Of the numbers of the three splits, in hexadecimal."""
        return fingerprint("file", self.splits.train.shape[1:], self.splits)


def read(data: Any, path: Path) -> Found:
    """Read, check and split the arrays of a file; raises DataError that names file, array, row and value."""
    entries = list_arrays(path)
    keys = _find_keys(data, path, entries)
    used = {split: entries[key] for split, key in keys.items() if key}
    if (total := sum(entry.nbytes for entry in used.values())) > MAX_BYTES:
        names = ", ".join(entry.name for entry in used.values())
        raise DataError(f"{path}: {names}: declare {total:,} bytes; expected: at most {MAX_BYTES:,} bytes together")
    arrays = {split: entry.read() for split, entry in used.items()}
    arrays, own_shape = _arrange(data, path, keys, arrays)
    for split, array in arrays.items():
        check_finite(array, f"{path}: {keys[split]}")
    shape = _picture_shape(data, own_shape, arrays["train"].shape[1])
    named = {f"{path}: {keys[split]}": array for split, array in arrays.items()}
    colours = len(shape) == 3
    kind, named = as_kind(
        named, data.kind, colours, FULL if data.kind == "patches" or (colours and data.kind is None) else data.levels
    )
    if kind == "patches" and data.levels != FULL:
        raise DataError(
            f"{path}: data.levels: got {data.levels} for patches, whose whole levels go to {FULL}; "
            "expected: nothing, or data.kind: levels or categories"
        )
    _check_whole(data, kind, named)
    splits, rules = _split_arrays(data, path, keys, dict(zip(arrays, named.values(), strict=True)))
    if (splits.train == splits.train[0, 0]).all():
        raise DataError(f"{path}: {keys['train']}: all values are {splits.train[0, 0]:g}; expected: data that vary")
    digests = file_digests(used)
    files = ", ".join(f"{file.name} SHA-256 {digest}" for file, digest in digests.items())
    return Found(kind, shape, splits, f"{files}; {'; '.join(rules)}")


def _check_whole(data: Any, kind: Kind, named: Mapping[str, np.ndarray]) -> None:
    """Raise DataError where numbers of [0, 1] are to stay whole levels, as categories."""
    setting = {"levels": "binarisation", "patches": "dequantisation"}.get(kind)
    if setting and getattr(data, setting) == "categories":
        for where, array in named.items():
            if array.dtype != np.uint8:
                raise DataError(
                    f"{where}: got numbers from 0 to 1; expected: whole levels with data.{setting}: categories"
                )


def _find_keys(data: Any, path: Path, entries: Mapping[str, Entry]) -> dict[str, str | None]:
    """Return split -> name of its array, None where it is to be cut off; in the order train, valid, test."""
    there = ", ".join(f"{name} ({' x '.join(map(str, entry.shape))})" for name, entry in entries.items())[:1000]

    def find(key: str, setting: str, or_else: str = "") -> str:
        if key in entries:
            return key
        close = difflib.get_close_matches(key, entries, n=1)
        hint = f"; did you mean data.{setting}: {close[0]}?" if close else ""
        raise DataError(
            f"{path}: holds no array '{key}'; it holds {there or 'none'}; "
            f"expected: data.{setting}, the name of one of them{or_else}{hint}"
        )

    train = find(data.train_key, "train_key")
    valid = find(data.valid_key, "valid_key") if data.valid_key else "valid" if "valid" in entries else None
    if data.test_share is None:
        test = find(data.test_key, "test_key", f", or data.test_share: 0.2 to keep a fifth of '{train}' for testing")
    elif data.test_key in entries:
        raise DataError(f"{path}: holds an array '{data.test_key}'; expected: none with data.test_share")
    else:
        test = None
    keys = {"train": train, "valid": valid, "test": test}
    named = [key for key in keys.values() if key]
    if len(set(named)) < len(named):
        raise DataError(f"{path}: got {', '.join(named)} for the splits; expected: an array of its own for each")
    return keys


def _arrange(
    data: Any, path: Path, keys: Mapping[str, str | None], arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    """Return the arrays as (N, D), and the shape of an example; empty where no array has more than two axes."""
    arranged, shapes = {}, {}
    for split, array in arrays.items():
        where = f"{path}: {keys[split]}"
        if not 2 <= array.ndim <= 4:
            hint = ", of one number an example, as labels are" if array.ndim == 1 else ""
            raise DataError(
                f"{where}: got {array.ndim} axes{hint}; expected: 2 to 4, (N, D), (N, H, W) or (N, H, W, 3)"
            )
        if split == "train" and path.suffix.lower() == ".mat" and array.ndim == 2 and data.example_axis is None:
            rows, columns = array.shape
            if rows < columns:
                raise DataError(
                    f"{where}: got {rows} x {columns}, more columns than rows; expected: data.example_axis: last if "
                    "each column is an example, as is common in MATLAB, or data.example_axis: first if each row is"
                )
        if data.example_axis == "last":
            array = np.moveaxis(array, -1, 0)
        if not array.size:
            raise DataError(f"{where}: is empty, {' x '.join(map(str, array.shape))}; expected: at least one example")
        if array.ndim == 4 and array.shape[3] == 1:
            array = array[..., 0]
        if array.ndim == 4 and array.shape[3] != 3:
            first = "; move the colours from the second axis to the last one" if array.shape[1] in (1, 3) else ""
            raise DataError(f"{where}: got examples of {_by(array.shape[1:])}; expected: H x W or H x W x 3{first}")
        if array.ndim > 2:
            shapes[split] = array.shape[1:]
        arranged[split] = np.ascontiguousarray(array.reshape(len(array), -1))
    widths = {split: array.shape[1] for split, array in arranged.items()}
    for split, width in widths.items():
        if width != widths["train"]:
            flip = ""
            if len({len(array) for array in arranged.values()}) == 1 and data.example_axis != "last":
                flip = "; if each column is an example, say data.example_axis: last"
            raise DataError(
                f"{path}: {keys[split]}: got examples of {width} numbers; expected: {widths['train']}, as in "
                f"'{keys['train']}'{flip}"
            )
    for split, shape in shapes.items():
        first, own = next(iter(shapes.items()))
        if shape != own:
            raise DataError(
                f"{path}: {keys[split]}: got examples of {_by(shape)}; expected: {_by(own)}, as in '{keys[first]}'"
            )
    if data.shape and math.prod(data.shape) != widths["train"]:
        flip = ""
        if math.prod(data.shape) == len(arranged["train"]):
            flip = f"; say data.example_axis: {'first' if data.example_axis == 'last' else 'last'}"
        raise DataError(
            f"{path}: {keys['train']}: got examples of {widths['train']} numbers; expected: "
            f"{_by(data.shape)} = {math.prod(data.shape)}, as data.shape says{flip}"
        )
    return arranged, next(iter(shapes.values()), ())


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _picture_shape(data: Any, own: tuple[int, ...], width: int) -> tuple[int, ...]:
    if data.shape or own:
        return tuple(data.shape or own)
    side = math.isqrt(width)
    return (side, side) if side * side == width else (1, width)


def _split_arrays(
    data: Any, path: Path, keys: Mapping[str, str | None], arrays: dict[str, np.ndarray]
) -> tuple[Splits, list[str]]:
    """Return the three splits, what is missing cut off train, and where each comes from, in words."""
    train, rules = arrays["train"], []
    for split, share in (("test", data.test_share), ("valid", 1 / VALID_PART)):
        if split in arrays:
            rules.append(f"{split}: {keys[split]}")
            continue
        count = max(1, round(share * len(train)))
        if len(train) < count + 2:
            raise DataError(
                f"{path}: {keys['train']}: got {len(arrays['train'])} examples, of which {split} is to be cut off; "
                "expected: at least two that are left for training"
            )
        chosen = np.zeros(len(train), dtype=bool)
        chosen[data_generator("file split", split).permutation(len(train))[:count]] = True
        arrays[split], train = train[chosen], train[~chosen]
        rules.append(f"{split}: {count} of {keys['train']}, drawn once")
    if len(train) < 2:
        raise DataError(f"{path}: {keys['train']}: got one example; expected: at least two to train on")
    rules.append(f"train: {keys['train']}")
    return Splits(train, arrays["valid"], arrays["test"]), rules[::-1]
