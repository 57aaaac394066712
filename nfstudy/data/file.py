"""The user's own data: arrays of a file, read, checked and split as a study says. Free of torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from nfstudy.core.declarations import DataSource, Values
from nfstudy.core.errors import DataError
from nfstudy.core.fields import Record
from nfstudy.core.project import Project
from nfstudy.data.dataset import Binarisation, Dataset, binarise, grey_values, make_dataset
from nfstudy.data.file_arrays import Found, read
from nfstudy.data.patches import Dequantised, colour_values, dequantise, idle_of_categories
from nfstudy.data.values import FULL, Kind

Key = Annotated[str, Field(min_length=1, max_length=200)]
Side = Annotated[int, Field(ge=1, le=1_000_000)]


class FileSettings(Record):
    """What a study may say of a file of its own. What is null is found out when the study is read, and recorded."""

    path: Annotated[str, Field(min_length=1, max_length=4000)] | None = None
    """A .npz or .mat file, or a folder of .npy files; relative to the study file."""
    kind: Kind | None = None
    """Bits; levels, binarised by `binarisation`; patches, numbers of [0, 1] under a logit-normal density; real numbers
    under a Gaussian one; categories, whole numbers of 0 ... `levels` as they are, each with a probability. Null: bits
    where all values are 0 or 1, else patches where there are three colours, else levels, for whole numbers of 0 ... 255
    and numbers of [0, 1]."""
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
    """Whole levels: the one of full ink; categories: the greatest there may be, so that there are `levels` + 1."""
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
        return grey_values(data)
    return colour_values(data) if data.kind == "patches" else data.kind or "bits"


def count_categories(data: Any) -> int:
    """Return how many levels there are; of patches, 256."""
    return (FULL if data.kind == "patches" else data.levels) + 1


def idle_settings(data: Any) -> list[str]:
    """Return the settings that have no effect on data of another kind."""
    used = {"levels": ["binarisation", "levels"], "categories": ["levels"], "patches": ["dequantisation", "epsilon"]}
    further = idle_of_categories(data) if data.kind == "patches" else []
    fields = (*Binarisation.model_fields, "levels", *Dequantised.model_fields)
    return [*(field for field in fields if field not in used.get(data.kind, ())), *further]


FILE = DataSource(
    name="file",
    label="own data",
    values=values_of,
    categories=count_categories,
    splits=lambda data: data.sizes,
    loader="nfstudy.data.file:load",
    resolve="nfstudy.data.file:resolve",
    settings=FileSettings,
    shared_settings=(Binarisation, Dequantised),
    idle=idle_settings,
    not_identity=("path", "train_key", "valid_key", "test_key", "test_share", "example_axis", "shape", "sizes"),
    fixed=tuple(FileSettings.model_fields),
)


def resolve(data: Any, folder: Path) -> dict[str, Any]:
    """Return the settings that only the file can tell, and its path: relative to the project, or else absolute.

    A file that is not there is no error where `kind` and `sha256` are stated: reports can then be built without it.

    Arguments:
        data: the section.
        folder: of the study file.

    Raises:
        DataError: the file cannot be read, or is not as the settings say.
    """
    if data.path is None:
        raise DataError("is missing; expected: the path of a file, relative to the study file")
    path, root = Path(os.path.abspath(folder / os.path.expanduser(data.path))), Project.find().root
    recorded = {"path": str(path.relative_to(root) if path.is_relative_to(root) else path)}
    if data.kind and data.sha256 and not os.path.lexists(path):
        return recorded
    return recorded | _look(data.model_copy(update={"path": str(path)}), _state(path))


def load(data: Any, folders: Sequence[Path], download: bool = True) -> Dataset:
    """Return the data set, from the file at its path in the project, or else of its name in a data folder.

    Arguments:
        data: the section, resolved.
        folders: the last one is `data/` of the project.
        download: unused: there are no mirrors.

    Raises:
        DataError: it is not there, cannot be read, or does not hold the numbers that the settings say.
    """
    path = (folders[-1].parent if folders else Path()) / data.path
    places = [path, *(folder / path.name for folder in folders)]
    path = next((place for place in places if os.path.lexists(place)), None)
    if path is None:
        looked = ", ".join(map(str, places))
        raise DataError(
            f"{looked}: is not there; expected: the file of these runs; hint: put it, or a link to it, into data/"
        )
    found = read(data, path)
    _check_stated(data, path, found)
    kind, shape, splits, source = found
    if kind == "patches":
        return dequantise("file", shape, splits, data, source)
    if kind == "levels":
        splits, levels = binarise(splits, data.levels, "file", data.binarisation)
        return make_dataset(f"file-{data.binarisation}", shape, levels, splits, source)
    return make_dataset(f"file-{kind}", shape, 1 if kind == "bits" else 0, splits, source)


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
