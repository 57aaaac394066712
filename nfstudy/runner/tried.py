"""What the trials of a study's searches have been run at, so that a search goes on from them on any processor.

Samplers take logarithms and exponentials, whose last digit is another one on another processor. A trial that was run
elsewhere would be proposed again a digit away, and so be run again, as another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd
from pydantic import ValidationError

from nfstudy.core.errors import SpecError
from nfstudy.runs.frame import drawn_values, latest_per_identity, study_cells
from nfstudy.runs.result import RESULTS
from nfstudy.study.cells import Cell, settings_digest
from nfstudy.study.plan import StudyPlan
from nfstudy.study.spec import Range

RunAt = Callable[[int, Mapping[str, Any]], Mapping[str, Any]]
"""Given a trial's number and the values proposed for it, returns those that it was run at in place of them; empty where
it was run at these, or not yet."""

ROUNDING = 1e-9
"""Relative: numbers that are nearer are one, worked out on two processors."""


class LoggedTrial(NamedTuple):
    """What a trial of a search inside a cell was run at, as its runs tell it."""

    settings: str
    """The digest of its settings, of the run that reports show."""
    drawn: Mapping[str, Any]
    """Dotted path -> value in that run, as far as its settings tell what was drawn."""
    results: frozenset[str]
    """The digests of the settings of all its runs that have a result: two processors may have run it, each its own."""


@dataclass(frozen=True)
class Tried:
    """What the trials of a study under one budget have been run at."""

    plan: StudyPlan
    searches: Mapping[str, Mapping[int, LoggedTrial]] = field(default_factory=dict)
    """Cell key -> number of the trial in the search inside that cell -> the trial."""
    cells: Mapping[str, Cell] = field(default_factory=dict)
    """Key -> cell, of those that the study's sampler has proposed, each at the point where its runs were logged."""

    def in_search(self, cell: Cell) -> RunAt:
        """Say what the trials of the search inside a cell were run at; their numbers tell them apart."""
        assert cell.search is not None
        own, space = self.searches.get(cell.key, {}), cell.search.space
        ranges = {path for path, axis in space.items() if isinstance(axis, Range)}

        def digest(values: Mapping[str, Any]) -> str:
            try:
                return settings_digest(cell.tried(values))
            except ValidationError:
                return ""

        def run_at(number: int, proposed: Mapping[str, Any]) -> Mapping[str, Any]:
            logged = own.get(number)
            if logged is None or all(proposed[path] == value for path, value in logged.drawn.items()):
                return {}
            if digest(proposed) in {logged.settings, *logged.results}:
                return {}
            # A choice that made no difference to the run is not logged, or as another: those stay as proposed.
            drawn = {path: v for path, v in logged.drawn.items() if path in ranges or v in space[path]}
            numbers = {path: v for path, v in drawn.items() if path in ranges}
            fitting = (some for some in (numbers, drawn) if digest({**proposed, **some}) == logged.settings)
            return next(fitting, {})

        return run_at

    def in_grid(self, number: int, proposed: Mapping[str, Any]) -> Mapping[str, Any]:
        """Say what a cell that the study's sampler proposes was run at: at what differs from it by rounding alone."""
        ranges = [path for path, axis in self.plan.study.axes.items() if isinstance(axis, Range)]
        near = {
            key: {path: cell.point[path] for path in ranges if _rounded(proposed[path], cell.point[path])}
            for key, cell in self.cells.items()
        }
        if not any(near.values()) or self._key_at(proposed) in self.cells:
            return {}
        fitting = (some for key, some in near.items() if some and self._key_at({**proposed, **some}) == key)
        return next(fitting, {})

    def _key_at(self, point: Mapping[str, Any]) -> str:
        try:
            return self.plan.cell_at(point).key
        except SpecError:
            return ""


def tried_before(plan: StudyPlan, frame: pd.DataFrame) -> Tried:
    """Return what the trials of a study have been run at.

    Arguments:
        plan: the study under one of its budgets.
        frame: its runs, those that can be trusted.
    """
    cells = {cell.key: cell for cell in study_cells(plan, frame)} if plan.sampling else {}
    searches: dict[str, dict[int, LoggedTrial]] = {}
    if plan.search:
        own = frame[(frame["budget"] == plan.budget) & (frame["stage"] == "search")]
        ended = own[own["outcome"].isin(RESULTS)]
        results = {trial: frozenset(runs["settings"]) for trial, runs in ended.groupby(["cell", "index"])}
        for run in latest_per_identity(own).to_dict("records"):
            key, index = run["cell"], run["index"]
            found = LoggedTrial(run["settings"], drawn_values(plan.search, run), results.get((key, index), frozenset()))
            searches.setdefault(key, {})[index] = found
    return Tried(plan, searches, cells)


def _rounded(a: Any, b: Any) -> bool:
    """Say whether two numbers are one that was worked out on two processors."""
    return isinstance(a, float) and isinstance(b, float) and a != b and math.isclose(a, b, rel_tol=ROUNDING)
