"""The expansion of a grid: axes and settings -> cells, and the points at which settings are impossible together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from nfstudy.core.errors import SpecError
from nfstudy.study.cells import Cell, Impossible
from nfstudy.study.settings import TRAINED_ON, Settings
from nfstudy.study.spec import Axis, Range, Search

MAX_CELLS = 100_000


def expand(
    axes: Mapping[str, Axis], base: Settings, budget: str, search: Search | None, sampled: bool = False
) -> tuple[tuple[Cell, ...], tuple[Impossible, ...]]:
    """Return a grid's cells and its impossible points, both in file order; the last axis varies fastest.

    The two ends stand for a range. Points that mean the same training (length 0 under several families) are one cell,
    which carries the first of them. A point is impossible, too, where its search could come to settings that are.

    Arguments:
        axes: dotted path -> the values that it takes.
        base: the settings at every point, but for the axes.
        budget: the name of the budget, part of each key.
        search: the nuisance search inside each cell.
        sampled: whether a sampler chooses among the points.

    Raises:
        SpecError: there are too many points.
    """
    values = {path: range_endpoints(axis) for path, axis in axes.items()}
    count = math.prod(map(len, values.values()))
    if count > MAX_CELLS:
        raise SpecError(f"the grid has {count:,} points; expected: at most {MAX_CELLS:,}")
    if search and "train.weight_decay" in search.space and base.train.decay_biases:
        # Cells are normalized at the study's own decay, which may be 0: it would be lost.
        raise SpecError("train.decay_biases: got true; expected: false where train.weight_decay is searched for")
    varied = tuple(axes)
    searched = [
        {path: value} for path, axis in (search.space if search else {}).items() for value in range_endpoints(axis)
    ]
    cells: dict[str, Cell] = {}
    impossible = []
    for combination in itertools.product(*values.values()):
        point = dict(zip(values, combination, strict=True))
        try:
            cell = Cell(base.replace(point).normalized(), budget, search, varied, point)
            if cell.key not in cells:
                tried = [cell.settings, *map(cell.settings.replace, searched)]
                if reason := next(filter(None, map(_why_not_chosen, tried)), "") if search or sampled else "":
                    impossible.append(Impossible(point_text(point), reason))
                    continue
                cells[cell.key] = cell
        except ValidationError as error:
            impossible.append(Impossible(point_text(point), why_impossible(error)))
    return tuple(cells.values()), tuple(impossible)


def _why_not_chosen(settings: Settings) -> str:
    """Say why nothing can be chosen by the validation bound of trainings with some settings; empty where it can."""
    if settings.data and settings.data.training_split != "train":
        split = settings.data.training_split
        return (
            f"data.training_split: got {split}, {TRAINED_ON}; expected: train where a search or sampler chooses by it"
        )
    return ""


def range_endpoints(axis: Axis) -> tuple[Any, ...]:
    """Return an axis's values, of a range its two ends."""
    return (axis.low, axis.high) if isinstance(axis, Range) else axis


def replaced(settings: Settings, values: Mapping[str, Any], where: str) -> Settings:
    """Return settings with others at some dotted paths; raises SpecError, which begins with `where`."""
    try:
        return settings.replace(values)
    except ValidationError as error:
        raise SpecError(f"{where}: {why_impossible(error)}") from None


def why_impossible(error: ValidationError) -> str:
    """Return the first reason why settings are impossible."""
    details = error.errors()[0]
    return str(details.get("ctx", {}).get("error") or f"{'.'.join(map(str, details['loc']))}: {details['msg']}")


def point_text(point: Mapping[str, Any]) -> str:
    """Return a point of the grid for people, such as `flow.family nice-perm, flow.length 4`."""
    return ", ".join(f"{path} {value}" for path, value in point.items())
