"""The expansion of a grid: axes and settings -> cells, and the points at which settings are impossible together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from nfstudy.core.errors import SpecError
from nfstudy.study.cells import Cell, Impossible, range_endpoints
from nfstudy.study.settings import Settings
from nfstudy.study.spec import SEARCH_SAMPLER, Axis, Search

MAX_CELLS = 100_000


def expand(
    axes: Mapping[str, Axis],
    base: Settings,
    budget: str,
    search: Search | None,
    points: Sequence[Mapping[str, Any]] = (),
) -> tuple[tuple[Cell, ...], tuple[Impossible, ...]]:
    """Return a grid's cells and its impossible points, both in file order; the last axis varies fastest.

    The two ends stand for a range. Points that mean the same training (length 0 under several families) are one cell,
    which carries the first of them. A point is impossible, too, where its search could come to settings that are.

    Arguments:
        axes: dotted path -> the values that it takes.
        base: the settings at every point, but for the axes.
        budget: the name of the budget, part of each key.
        search: the nuisance search inside each cell.
        points: settings that vary together, each dotted path -> value; each is combined with all of the axes, which
            vary faster.

    Raises:
        SpecError: there are too many points.
    """
    values = {path: range_endpoints(axis) for path, axis in axes.items()}
    together = points or ({},)
    count = len(together) * math.prod(map(len, values.values()))
    if count > MAX_CELLS:
        raise SpecError(f"the grid has {count:,} points; expected: at most {MAX_CELLS:,}")
    varied = (*together[0], *axes)
    # With the cell's own values, too, by which trials are timed and their data found.
    searched: list[dict[str, Any]] = [{}] if search else []
    searched += [
        {path: value} for path, axis in (search.space if search else {}).items() for value in range_endpoints(axis)
    ]
    cells: dict[str, Cell] = {}
    impossible = []
    for own, *combination in itertools.product(together, *values.values()):
        point = {**own, **dict(zip(values, combination, strict=True))}
        try:
            cell = cell_at(base, point, budget, search, varied)
            if cell.key not in cells:
                for change in searched:
                    cell.tried(change)
                    cell.given.replace(change)
                cells[cell.key] = cell
        except ValidationError as error:
            impossible.append(Impossible(point_text(point), why_impossible(error)))
    return tuple(cells.values()), tuple(impossible)


def cell_at(
    base: Settings, point: Mapping[str, Any], budget: str, search: Search | None, varied: tuple[str, ...]
) -> Cell:
    """Return the cell at one point of a grid; raises ValidationError where it is impossible."""
    changes = {path: value for path, value in point.items() if path != SEARCH_SAMPLER}
    if search and SEARCH_SAMPLER in point:
        sampler = search.sampler.model_copy(update={"name": point[SEARCH_SAMPLER]})
        search = search.model_copy(update={"sampler": sampler})
    given = base.replace(changes)
    return Cell(given.normalized(), budget, search, varied, point, given)


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
