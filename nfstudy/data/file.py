"""Somebody's own data: arrays of a file, read, checked and split as a study says. Free of torch."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from nfstudy.core.declarations import DataSource, Values
from nfstudy.core.errors import DataError
from nfstudy.core.fields import Record
from nfstudy.data.arrays import MAX_BYTES, Entry, file_digests, list_arrays
from nfstudy.data.dataset import Binarisation, Dataset, Splits, binarise, data_generator, fingerprint, make_dataset
from nfstudy.data.patches import Dequantised, dequantise
from nfstudy.data.values import FULL, Kind, as_kind, check_finite

VALID_PART = 6
"""Where there is no validation array, one in so many training examples, at least one, is kept for it."""

Key = Annotated[str, Field(min_length=1, max_length=200)]
Side = Annotated[int, Field(ge=1, le=1_000_000)]


class FileSettings(Record):
    """What a study may say of a file of its own. What is null is found out when the study is read, and recorded."""

    path: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    """A .npz or .mat file, or a folder of .npy files; relative to the study file."""
    kind: Kind | None = None
    """Bits; levels, binarised by `binarisation`; patches, numbers of [0, 1] under a logit-normal density; real numbers
    under a Gaussian one. Null: bits where all values are 0 or 1, else patches where there are three colours, else
    levels, for whole numbers of 0 ... 255 and numbers of [0, 1]."""
    train_key: Key = "train"
    """Name of the array of training examples."""
    valid_key: Key | None = None
    """Null: `valid` if there is one; else a sixth of the training examples, drawn once, is kept for validation."""
    test_key: Key = "test"
    """Of test examples, which there must be, or `test_share`."""
    test_share: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None
    """Where there is no test array: keep this share of the training examples, drawn once, for testing."""
    example_axis: Literal["first", "last"] | None = None
    """Whether examples lie along the first axis, as rows, or the last one, as columns; null is the first."""
    levels: Annotated[int, Field(ge=1, le=FULL)] = FULL
    """Whole levels only: the one of full ink."""
    shape: tuple[Side, Side] | tuple[Side, Side, Literal[3]] | None = None
    """Of an example as a picture: height and width, or height, width and 3. Null: the array's own; else a square if
    there is one, or one row."""
    sizes: tuple[Side, Side, Side] | None = None
    """How many examples the three splits hold; found out."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Of the numbers of the three splits; found out, or stated to be held to. A run is of these numbers."""


FOUND_OUT = ("kind", "shape", "sizes", "sha256")
"""Settings that may be null in a study file, and in no run."""


def values_of(data: Any) -> Values:
    """Return what the numbers are: levels stay levels only where their bits are drawn anew."""
    if data.kind == "levels":
        return "levels" if data.binarisation == "dynamic" else "bits"
    return data.kind or "bits"


def idle_settings(data: Any) -> list[str]:
    """Return the settings that have no effect on data of another kind."""
    idle = [] if data.kind == "levels" else ["binarisation", "levels"]
    return idle if data.kind == "patches" else [*idle, "epsilon", "dequantisation"]


FILE = DataSource(
    name="file",
    label="own data",
    values=values_of,
    splits=lambda data: data.sizes,
    loader="nfstudy.data.file:load",
    resolve="nfstudy.data.file:resolve",
    settings=FileSettings,
    shared_settings=(Binarisation, Dequantised),
    idle=idle_settings,
    not_identity=("path", "train_key", "valid_key", "test_key", "test_share", "example_axis", "shape", "sizes"),
    fixed=tuple(FileSettings.model_fields),
)


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


def resolve(data: Any, folder: Path) -> dict[str, Any]:
    """Return the settings that only the file can tell, its path made absolute.

    A file that is not there is no error where `kind` and `sha256` are stated: reports can then be built without it.

    Arguments:
        data: the section.
        folder: of the study file.

    Raises:
        DataError: the file cannot be read, or is not as the settings say.
    """
    if data.path is None:
        raise DataError("is missing; expected: the path of a file, relative to the study file")
    path = Path(os.path.abspath(folder / Path(data.path).expanduser()))
    if data.kind and data.sha256 and not os.path.lexists(path):
        return {"path": str(path)}
    asked = data.model_copy(update={"path": str(path)})
    return {"path": str(path), **_look(asked, _state(path))}


def load(data: Any, folders: Sequence[Path], download: bool = True) -> Dataset:
    """Return the data set, from the file at its path, or else of its name in a data folder.

    Raises:
        DataError: it is not there, cannot be read, or does not hold the numbers that the settings say.
    """
    path = Path(data.path)
    places = [path, *(folder / path.name for folder in folders)]
    path = next((place for place in places if os.path.lexists(place)), path)
    found = read(data, path)
    _check_stated(data, path, found)
    kind, shape, splits, source = found
    if kind == "patches":
        return dequantise("file", shape, splits, data, source)
    if kind == "levels":
        splits, levels = binarise(splits, data.levels, "file", data.binarisation)
        return make_dataset(f"file-{data.binarisation}", shape, levels, splits, source)
    return make_dataset(f"file-{kind}", shape, 1 if kind == "bits" else 0, splits, source)


def read(data: Any, path: Path) -> Found:
    """Read, check and split the arrays of a file; raises DataError that names file, array, row and value."""
    entries = list_arrays(path)
    keys = _keys(data, path, entries)
    used = {split: entries[key] for split, key in keys.items() if key}
    if (total := sum(entry.nbytes for entry in used.values())) > MAX_BYTES:
        names = ", ".join(entry.name for entry in used.values())
        raise DataError(f"{path}: {names}: declare {total:,} bytes; expected: at most {MAX_BYTES:,} bytes together")
    arrays = {split: entry.read() for split, entry in used.items()}
    arrays, own_shape = _arranged(data, path, keys, arrays)
    for split, array in arrays.items():
        check_finite(array, f"{path}: {keys[split]}")
    shape = _picture_shape(data, own_shape, arrays["train"].shape[1])
    named = {f"{path}: {keys[split]}": array for split, array in arrays.items()}
    kind, named = as_kind(
        named, data.kind, colours=len(shape) == 3, full=data.levels if data.kind == "levels" else FULL
    )
    splits, rules = _split(data, path, keys, dict(zip(arrays, named.values(), strict=True)))
    if (splits.train == splits.train[0, 0]).all():
        raise DataError(f"{path}: {keys['train']}: all values are {splits.train[0, 0]:g}; expected: data that vary")
    digests = file_digests(used)
    files = ", ".join(f"{file.name} SHA-256 {digest}" for file, digest in digests.items())
    return Found(kind, shape, splits, f"{files}; {'; '.join(rules)}")


def _state(path: Path) -> tuple[Any, ...]:
    """Return what changes when the content of a file, or of the files of a folder, does."""
    try:
        files = [path, *(sorted(path.glob("*.npy")) if path.is_dir() else ())]
        return tuple(
            (str(file), found.st_ino, found.st_size, found.st_mtime_ns) for file in files if (found := file.stat())
        )
    except (OSError, ValueError):
        return ()  # Reading it says why.


@lru_cache(maxsize=64)
def _look(data: Any, state: tuple[Any, ...]) -> dict[str, Any]:
    """Return what a file tells, once for each state of it."""
    path = Path(data.path)
    found = read(data, path)
    _check_stated(data, path, found)
    return {name: getattr(found, name) for name in FOUND_OUT}


def _check_stated(data: Any, path: Path, found: Found) -> None:
    """Raise DataError where the file is not what the settings say that it is."""
    if data.sha256 and data.sha256 != found.sha256:
        raise DataError(
            f"{path}: holds other numbers, of SHA-256 {found.sha256}; expected: those of data.sha256, {data.sha256}"
        )
    if data.sizes and data.sizes != found.sizes:
        raise DataError(f"{path}: holds {found.sizes} examples; expected: data.sizes, {data.sizes}")


def _keys(data: Any, path: Path, entries: Mapping[str, Entry]) -> dict[str, str | None]:
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


def _arranged(
    data: Any, path: Path, keys: Mapping[str, str | None], arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    """Return the arrays as (N, D), and the shape that an example of the training array has."""
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
    if data.shape and math.prod(data.shape) != widths["train"]:
        flip = ""
        if math.prod(data.shape) == len(arranged["train"]):
            flip = f"; say data.example_axis: {'first' if data.example_axis == 'last' else 'last'}"
        raise DataError(
            f"{path}: {keys['train']}: got examples of {widths['train']} numbers; expected: "
            f"{_by(data.shape)} = {math.prod(data.shape)}, as data.shape says{flip}"
        )
    return arranged, shapes["train"]


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _picture_shape(data: Any, own: tuple[int, ...], width: int) -> tuple[int, ...]:
    if data.shape or len(own) > 1:
        return tuple(data.shape or own)
    side = math.isqrt(width)
    return (side, side) if side * side == width else (1, width)


def _split(
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
