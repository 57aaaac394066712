"""Examples to train on: each source a module that declares it. Free of torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nfstudy.core import registry
from nfstudy.core.declarations import DataSource, Implementation, load
from nfstudy.core.errors import DataError
from nfstudy.core.hints import fits, shown
from nfstudy.data.dataset import Dataset, Splits

__all__ = ["Dataset", "load_dataset", "source_of"]


def source_of(data: Any) -> DataSource:
    """Return the declaration of the source that a section `data` names."""
    source: DataSource = registry.find("data", data.name)
    return source


def load_dataset(data: Any, folders: Sequence[Path], download: bool = True) -> Dataset:
    """Return all examples of a data set, split; `train_images` is left to the training.

    The same call gives the same bytes on every machine: what is drawn is drawn from constant seeds.

    Arguments:
        data: which examples, and what becomes of them: `nfstudy.study.sections.DataSpec`.
        folders: where authors' files are looked for, in order (see `nfstudy.core.project`); downloads go into the last.
        download: whether missing files may be fetched from their authors' mirrors.

    Raises:
        DataError: a file is truncated or altered, or missing and out of reach; or a plug-in's source cannot be loaded.
    """
    source = source_of(data)
    dataset: Dataset = _loaded(data.name, "loader", source.loader)(data, folders, download)
    if registry.origin_of("data", data.name) != registry.BUILT_IN:
        _check_outside(dataset, source, data)
    if count := source.categories_of(data):
        _check_categories(dataset, count)
    return dataset


def _check_outside(dataset: Any, source: DataSource, data: Any) -> None:
    """Raise DataError where what a plug-in's loader returns is not as `Dataset` and the source's declaration say."""
    where = _where(data.name)
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


INTEGERS = (np.uint8, np.int16, np.int32, np.int64)
"""Types of categories: those that torch indexes by."""


def _check_categories(dataset: Dataset, count: int) -> None:
    """Raise DataError where levels are not those that the source declares, which a likelihood has no probability of."""
    for split in Splits._fields:
        array = getattr(dataset, split)
        fits = array.dtype in INTEGERS and not (array.size and (array.min() < 0 or array.max() >= count))
        if not fits:
            got = f"{array.dtype} from {array.min():g} to {array.max():g}"
            raise DataError(f"data {dataset.name}: {split}: got {got}; expected: whole numbers from 0 to {count - 1}")


def resolve_settings(data: Any, folder: Path) -> dict[str, Any]:
    """Return field -> value of the settings that only a look at the data can tell, none for most sources.

    Arguments:
        data: the section.
        folder: of the study file.

    Raises:
        DataError: the data are not as the settings say.
    """
    source = source_of(data)
    if source.resolve is None:
        return {}
    found = _loaded(data.name, "resolve", source.resolve)(data, folder)
    if not fits(found, Mapping[str, Any]):
        raise DataError(f"{_where(data.name)}: resolve: got {shown(found)}; expected: a mapping of fields to values")
    return dict(found)


def _loaded(name: str, field: str, implementation: Implementation) -> Callable[..., Any]:
    """Return the function that a source's declaration names; raises DataError where there is none."""
    try:
        found: Callable[..., Any] = load(implementation)
    except (ImportError, AttributeError) as error:
        raise DataError(f"{_where(name)}: cannot be loaded: {error}") from error
    if not callable(found):
        raise DataError(f"{_where(name)}: {field}: got {shown(found)}; expected: a function")
    return found


def _where(name: str) -> str:
    return f"data {name}: {registry.origin_of('data', name)}"
