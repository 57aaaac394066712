"""Examples to train on: each source a module that declares it. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nfstudy.core import registry
from nfstudy.core.declarations import DataSource, Implementation, load
from nfstudy.core.errors import DataError
from nfstudy.core.hints import fits, shown, takes
from nfstudy.data.checks import check_categories, check_declared
from nfstudy.data.dataset import Dataset

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
    dataset: Dataset = _loaded(data.name, "loader", source.loader, ("data", "folders", "download"))(
        data, folders, download
    )
    if registry.origin_of("data", data.name) != registry.BUILT_IN:
        check_declared(dataset, source, data, _where(data.name))
    if count := source.categories_of(data):
        check_categories(dataset, count)
    return replace(dataset, sizes=(len(dataset.train), len(dataset.valid), len(dataset.test)))


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
    found = _loaded(data.name, "resolve", source.resolve, ("data", "folder"))(data, folder)
    if not fits(found, Mapping[str, Any]):
        raise DataError(f"{_where(data.name)}: resolve: got {shown(found)}; expected: a mapping of fields to values")
    return dict(found)


def _loaded(name: str, field: str, implementation: Implementation, arguments: tuple[str, ...]) -> Callable[..., Any]:
    """Return the function of some arguments that a source's declaration names; raises DataError where there is none."""
    try:
        found: Callable[..., Any] = load(implementation)
    except (ImportError, AttributeError) as error:
        raise DataError(f"{_where(name)}: {field}: cannot be loaded: {error}") from error
    if not takes(found, arguments):
        raise DataError(f"{_where(name)}: {field}: got {shown(found)}; expected: a function ({', '.join(arguments)})")
    return found


def _where(name: str) -> str:
    return f"data {name}: {registry.origin_of('data', name)}"
