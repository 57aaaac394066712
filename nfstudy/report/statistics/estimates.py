"""Rows of runs -> estimates: how many repetitions, their mean, its standard error, and which runs they are."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from nfstudy.core.declarations import Metric, Paper
from nfstudy.report.labels import Label, label_cells
from nfstudy.report.paper import PaperFacts, facts_of, paper_of
from nfstudy.report.statistics.contrasts import Contrast, contrast_of
from nfstudy.runs.frame import (
    RERUN_VERDICTS,
    CellState,
    LoggedRuns,
    cell_states,
    latest_per_identity,
    notes,
    trusted,
)
from nfstudy.runs.metrics import ENERGY_ERROR, FREE_ENERGY, KL, NLL, NLL_ERROR, unit_of
from nfstudy.runs.result import RESULTS
from nfstudy.study.cells import Cell, Impossible
from nfstudy.study.plan import StudyPlan
from nfstudy.study.spec import StudySpec

KL_ON_PLANE = replace(KL, heading="KL(q‖p) = F + ln Z", mark="")

BOUNDS = (FREE_ENERGY, KL, NLL)
"""The three panels of the paper's Figure 4, in its order."""

ERRORS_OF = {
    FREE_ENERGY.name: (ENERGY_ERROR.name,),
    NLL.name: (NLL_ERROR.name,),
    KL.name: (ENERGY_ERROR.name, NLL_ERROR.name),
}
"""Metric -> the metrics of its Monte-Carlo standard error; the errors of a difference add up, at most."""

INCOMPARABLE = 1e150
"""Size from which numbers are as good as infinite where they are compared: their squares would be."""


@dataclass(frozen=True)
class Estimate:
    """A mean over repetitions."""

    n: int
    mean: float | None
    """None with n = 0."""
    se: float | None
    """Standard error of the mean, √(sd² / n + m²) with n − 1 in the sd; None with n < 2."""
    run_ids: tuple[str, ...]
    """The runs averaged, by repetition."""
    left_out: int = 0
    """Runs without a finite value."""


def estimate(values: Mapping[str, float], noise: float = 0.0) -> Estimate:
    """Average one value a run.

    mean = Σ x_i / n;  se = √(Σ (x_i − mean)² / (n − 1) / n + m²).

    Arguments:
        values: run id -> value, in the unit that mean and se then have; values that are not finite are left out and
            counted.
        noise: m, the Monte-Carlo standard error of one value; runs may share their noise, so that n does not divide it.
    """
    finite = {run_id: value for run_id, value in values.items() if math.isfinite(value)}
    n = len(finite)
    numbers = np.fromiter(finite.values(), dtype=float, count=n)
    with np.errstate(over="ignore", invalid="ignore"):  # Of numbers beyond 1e154, which are shown as what they are.
        mean = float(numbers.mean()) if n else None
        se = math.hypot(float(numbers.std(ddof=1)) / math.sqrt(n), noise) if n > 1 else None
    return Estimate(n, mean, se, tuple(finite), len(values) - n)


@dataclass(frozen=True, eq=False)
class Rows:
    """Runs as a frame, and as lists: of thousands of cells each asks for a few values, which take a frame seconds."""

    frame: pd.DataFrame

    @cached_property
    def lists(self) -> Mapping[str, list[Any]]:
        """Column -> its values."""
        found: dict[str, list[Any]] = self.frame.to_dict("list")
        return found


@dataclass(frozen=True)
class CellResult:
    """One cell with its state, its name, and its repetitions."""

    state: CellState
    label: Label
    runs: Rows
    """Those of all cells."""
    own: Sequence[int]
    """Which of these are repetitions of the cell that have been started, whatever came of them."""
    beyond: Sequence[int]
    """The same of repetitions beyond the study's number, which `decide` has run: in no table, but in verdicts."""

    @cached_property
    def repetitions(self) -> pd.DataFrame:
        """One row a repetition (`nfstudy.runs.frame.RUN_COLUMNS`)."""
        return self.runs.frame.iloc[list(self.own)]

    @property
    def cell(self) -> Cell:
        """The point of the grid."""
        return self.state.cell

    @property
    def complete(self) -> bool:
        """Whether nothing more is to come: a diverged repetition is a result."""
        return self.state.state in ("done", "pruned", "diverged")

    @property
    def note(self) -> str:
        """Why the mean is not over all repetitions asked for; empty when it is."""
        state, counts = self.state, Counter(self._column("outcome", self.own))
        if "pruned" in counts:
            return state.note
        open_runs = min(len(state.running), counts["running"])
        absent = state.wanted - len(state.finished) - len(state.diverged) - len(state.failed) - open_runs
        parts = (
            (len(state.diverged), "diverged"),
            (len(state.failed), "failed"),
            (open_runs, "running"),
            (absent, "not run"),
        )
        if absent == state.wanted:
            return "running" if state.running else "not run"
        return ", ".join(f"{count} of {state.wanted} {what}" for count, what in parts if count)

    def estimate(self, metric: Metric) -> Estimate:
        """Average a metric over the finished repetitions."""
        return estimate({run_id: value for _, run_id, value in self._values(metric, self.own)}, self.noise(metric))

    def by_repetition(self, metric: Metric, further: bool = False) -> dict[int, tuple[str, float]]:
        """Return repetition -> (run id, value) of the finished ones with a value to compare; with `further`, of all."""
        found = self._values(metric, self._rows(further))
        return {repetition: (run_id, value) for repetition, run_id, value in found if abs(value) < INCOMPARABLE}

    def noise(self, metric: Metric, further: bool = False) -> float:
        """Return the Monte-Carlo standard error of one value: the root mean square of what its runs have logged."""
        rows = self._finished(self._rows(further))
        logged = [self._column(name, rows) for name in ERRORS_OF.get(metric.name, ())]
        known = [[value for value in values if not math.isnan(value)] for values in logged]
        squares = [sum(value * value for value in values) / len(values) for values in known if values]
        return sum(math.sqrt(square) for square in squares if math.isfinite(square))

    @property
    def ended(self) -> int:
        """How many repetitions have ended without a gap, from the first: 1, ..., n, with those that have diverged."""
        found = self._results()
        return next(n for n in range(len(found) + 1) if n + 1 not in found)

    def absent(self, size: int) -> int:
        """Return how many of the first so many repetitions have not ended: a kill may leave a gap."""
        return len({*range(1, size + 1)} - self._results())

    def _results(self) -> set[int]:
        """Return the numbers of the repetitions that have ended."""
        rows = self._rows(further=True)
        outcomes = zip(self._column("index", rows), self._column("outcome", rows), strict=True)
        return {index for index, outcome in outcomes if outcome in RESULTS}

    def _rows(self, further: bool) -> Sequence[int]:
        return [*self.own, *self.beyond] if further else self.own

    def _column(self, name: str, rows: Sequence[int]) -> list[Any]:
        """Return the values of a column in some rows; NaN where no run has it."""
        column = self.runs.lists.get(name)
        return [math.nan] * len(rows) if column is None else [column[row] for row in rows]

    def _finished(self, rows: Sequence[int]) -> Sequence[int]:
        return [row for row in rows if self.runs.lists["outcome"][row] == "finished"]

    def _values(self, metric: Metric, rows: Sequence[int]) -> Iterator[tuple[int, str, float]]:
        """Yield (repetition, run id, value) of the finished repetitions; NaN where the metric was not logged."""
        rows = self._finished(rows)
        values = [metric.sign * float(value) for value in self._column(metric.name, rows)]
        return zip(self._column("index", rows), self._column("run_id", rows), values, strict=True)


@dataclass(frozen=True)
class Results:
    """All that a report is made from."""

    plan: StudyPlan
    store: LoggedRuns
    cells: tuple[CellResult, ...]
    runs: pd.DataFrame
    """One row a trial of these cells, searches included, with how many `attempts` it took."""
    reruns: pd.DataFrame
    """One row a rerun of these runs that was held to its original; no other number comes from them."""
    notes: tuple[str, ...] = ()
    """What people should know of the runs: such as those that are left out, as somebody has edited their tags."""

    @property
    def study(self) -> StudySpec:
        """The study."""
        return self.plan.study

    @property
    def budget(self) -> str:
        """The name of the budget that is shown."""
        return self.plan.budget

    @property
    def impossible(self) -> tuple[Impossible, ...]:
        """The points of the grid that are no cells."""
        return self.plan.impossible

    @property
    def paper(self) -> Paper | None:
        """The paper that the study rebuilds; None for one's own study."""
        return paper_of(self.study.paper)

    @property
    def facts(self) -> PaperFacts:
        """What that paper says."""
        return facts_of(self.paper)

    @property
    def unit(self) -> str:
        """What F, KL and −ln p(x) are in."""
        settings = self.study.settings
        return unit_of(settings.data.values if settings.data else None, settings.model.likelihood)

    @property
    def bounds(self) -> tuple[Metric, ...]:
        """F, KL and −ln p(x) in the study's unit; a density on the plane has no −ln p(x)."""
        found = BOUNDS if self.study.settings.data else (FREE_ENERGY, KL_ON_PLANE)
        return tuple(replace(metric, unit=self.unit) for metric in found)

    @property
    def unfinished(self) -> tuple[CellResult, ...]:
        """The cells that are missing, running or failed."""
        return tuple(result for result in self.cells if not result.complete)

    @property
    def name(self) -> str:
        """What the runs are called as a body of evidence, such as `mnist laptop`."""
        return f"{self.study.study} {self.budget}"

    @property
    def first_look(self) -> int:
        """At how many repetitions the first look was: the study's number, or a smaller one that runs have recorded.

        So a number that is raised in the file after further looks were taken counts as one of those.
        """
        recorded = (first_of(text) for text in self.runs["look"].dropna().unique())
        return min([self.plan.repetitions, *(first for first in recorded if first)])

    @property
    def stamp(self) -> str:
        """`incomplete: 3 of 9 cells` where some are unfinished, with how many others are impossible; else empty."""
        done = len(self.cells) - len(self.unfinished)
        others = f", {len(self.impossible)} impossible" if self.impossible else ""
        return f"incomplete: {done} of {len(self.cells)} cells{others}" if self.unfinished or others else ""


def runs_of(contrast: Contrast, values: Sequence[Mapping[int, tuple[str, float]]]) -> tuple[str, ...]:
    """Return the ids of the runs behind a contrast of cells, given repetition -> (run id, value) of each."""
    used = [set(contrast.repetitions) or set(cell) for cell in values]
    found = (cell[r][0] for cell, kept in zip(values, used, strict=True) for r in sorted(kept))
    return tuple(dict.fromkeys(found))


def change_of(minuend: CellResult, subtrahend: CellResult, metric: Metric) -> Estimate | None:
    """Return the difference of two cells, in pairs or by means as `contrast_of` has it; None where one has no value."""
    cells = (minuend, subtrahend)
    values = [cell.by_repetition(metric) for cell in cells]
    if not all(values):
        return None
    numbers = [{r: value for r, (_, value) in cell.items()} for cell in values]
    contrast = contrast_of((1, -1), numbers, noise=[cell.noise(metric) for cell in cells])
    return Estimate(contrast.n, contrast.mean, contrast.se, runs_of(contrast, values))


def first_of(look: str) -> int | None:
    """Return the size of the first look that a run's tag `Tag.LOOK` tells; None where it does not."""
    try:
        first = json.loads(look)["first"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return first if isinstance(first, int) and first > 0 else None


def gather_results(plan: StudyPlan, store: LoggedRuns, active: bool = False) -> Results:
    """Read a study's runs under one budget and put them by cell; other budgets' runs do not count.

    Arguments:
        plan: the study under one of its budgets.
        store: its runs.
        active: whether a coordinator is at work now (see `nfstudy.runs.frame.cell_states`).
    """
    frame = trusted(plan, store.frame())
    told = notes(frame)
    states = cell_states(plan, frame, active)
    frame = frame[(frame["budget"] == plan.budget) & frame["cell"].isin([state.cell.key for state in states])]
    again = frame["stage"] == "rerun"
    frame, reruns = frame[~again], frame[again & frame["rerun"].isin(RERUN_VERDICTS)]
    attempts = frame.groupby(["cell", "stage", "index"], sort=False)["run_id"].transform("size")
    runs = latest_per_identity(frame.assign(attempts=attempts))
    labels = label_cells([state.cell for state in states])
    rows, places = Rows(runs), dict[str, list[int]]()
    for place, (key, stage) in enumerate(zip(rows.lists["cell"], rows.lists["stage"], strict=True)):
        if stage == "repetition":
            places.setdefault(key, []).append(place)
    cells = []
    for state, label in zip(states, labels, strict=True):
        numbered = [(place, rows.lists["index"][place]) for place in places.get(state.cell.key, ())]
        own = [place for place, index in numbered if index <= state.wanted]
        cells.append(CellResult(state, label, rows, own, [place for place, index in numbered if index > state.wanted]))
    reruns = reruns[reruns["rerun_of"].isin(runs["run_id"])]
    return Results(plan, store, tuple(cells), runs, reruns, told)
