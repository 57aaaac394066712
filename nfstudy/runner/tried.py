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
from nfstudy.study.cells import Cell, settings_digest
from nfstudy.study.plan import StudyPlan
from nfstudy.study.spec import Range

RunAt = Callable[[int, Mapping[str, Any]], Mapping[str, Any]]
"""Given a trial's number and the values proposed for it, returns those that it was run at in place of them; empty where
it was run at these, or not yet."""

ROUNDING = 1e-9
"""Relative: numbers that are nearer are one, worked out on two processors."""


class LoggedTrial(NamedTuple):
    """A trial of a search inside a cell, as its run tells it."""

    settings: str
    """The digest of its settings."""
    drawn: Mapping[str, Any]
    """Dotted path -> value, as far as its settings tell what was drawn."""


@dataclass(frozen=True)
class Tried:
    """What the trials of a study under one budget have been run at."""

    plan: StudyPlan
    searches: Mapping[str, Mapping[int, LoggedTrial]] = field(default_factory=dict)
    """Cell key -> number of the trial in the search inside that cell -> the trial."""
    cells: Mapping[str, Cell] = field(default_factory=dict)
    """Key -> cell, of those that the study's sampler has proposed."""

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
            if logged is None or digest(proposed) == logged.settings:
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
        try:
            cell = self.plan.cell_at(proposed) if ranges and self.cells else None
        except SpecError:
            return {}
        if cell is None or cell.key in self.cells:
            return {}
        ours = cell.flat()
        for other in self.cells.values():
            theirs = other.flat()
            if ours.keys() == theirs.keys() and all(_close(value, theirs[path]) for path, value in ours.items()):
                return {path: theirs[path] for path in ranges if path in theirs}
        return {}


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
        # Of a trial that was run at several values, the run that reports show.
        for run in latest_per_identity(own).to_dict("records"):
            trial = LoggedTrial(run["settings"], drawn_values(plan.search, run))
            searches.setdefault(run["cell"], {})[run["index"]] = trial
    return Tried(plan, searches, cells)


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=ROUNDING)
    return bool(a == b)
