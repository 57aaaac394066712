"""The grid: a study and a budget -> its cells, each with a key, and the trials that fill them."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import ValidationError

from nfstudy.core.declarations import unmet_need
from nfstudy.core.errors import SpecError
from nfstudy.study.sections import DataSpec
from nfstudy.study.settings import Settings
from nfstudy.study.spec import Axis, Range, Sampling, Search, StudySpec

KEY_VERSION = 2
"""Part of every key; raised when the same settings come to mean other numbers."""

MAX_CELLS = 100_000

IN_LABELS = ("flow.family", "flow.length", "model.latent", "energy.name", "drawn.density")
"""Settings that a cell's label tells whatever the grid is."""

Identity = tuple[str, str, int, str]
"""(cell key, stage, index, digest of the resolved settings): what is run exactly once."""


@dataclass(frozen=True)
class Cell:
    """One point of the grid: a row of a table, a point of a curve.

    `settings` are canonical. Where the study searches for some of them, the cell's identity holds the search itself in
    their place, so a cell's key is known before its search has ended, and changes with the search.
    """

    settings: Settings
    budget: str
    search: Search | None = None
    varied: tuple[str, ...] = ()
    """The dotted paths of the grid, whose values the label tells."""

    @cached_property
    def key(self) -> str:
        """The first 16 hex digits of the SHA-256 of all that can change a number of this cell."""
        return _digest({"budget": self.budget, "settings": self.identity()})

    def identity(self) -> dict[str, Any]:
        """Return dotted path -> value of the settings in use, a searched one's value being its search."""
        flat = self.settings.identity()
        if self.search:
            sampling = self.search.sampler.model_dump()
            for path, axis in self.search.space.items():
                flat[path] = {"search": axis.model_dump() if isinstance(axis, Range) else axis, "by": sampling}
        return flat

    @property
    def label(self) -> str:
        """A short name for people, such as `planar K=40 D=40, train.batch 50` or, on the plane, `u1 planar K=8`."""
        settings, flat = self.settings, self.settings.flat()
        name = f"{settings.flow.family} K={settings.flow.length}"
        if settings.data:
            name = f"{name} D={settings.latent}"
        else:
            name = f"{settings.energy.name if settings.energy else settings.drawn.density} {name}"
        others = [(path, flat[path]) for path in self.varied if path in flat and path not in IN_LABELS]
        return ", ".join((name, *(f"{path} {_value_text(value)}" for path, value in others)))


@dataclass(frozen=True)
class Trial:
    """One training run: a cell at fully resolved settings, and which of its repetitions or search trials it is."""

    study: str
    cell: Cell
    settings: Settings
    stage: Literal["repetition", "search", "rerun"]
    index: int
    """Repetition 1, 2, ...; or the number of the search trial, 0, 1, ..."""
    rerun_of: str = ""
    """Of a rerun, which is a repetition trained again and enters no table: the id of the run that it is held to."""
    metrics: tuple[str, ...] = ()
    """Names of the metrics from outside that are computed at its end."""

    @cached_property
    def identity(self) -> Identity:
        """What is run exactly once."""
        return (self.cell.key, self.stage, self.index, settings_digest(self.settings))

    @property
    def repetition(self) -> int:
        """The axis of the seeds: 0 for all trials of a search, so that they differ in what is searched alone."""
        return 0 if self.stage == "search" else self.index

    @property
    def label(self) -> str:
        """The cell's short name with the repetition or trial, such as `planar K=40 D=40 #2`."""
        return f"{self.cell.label} {'#' if self.stage == 'repetition' else f'{self.stage} '}{self.index}"


@dataclass(frozen=True)
class Impossible:
    """A point of the grid at which the settings are impossible together: it is told of, and not run."""

    label: str
    """Its values, such as `flow.family nice-perm, flow.length 4`; it has no settings, and so no key."""
    reason: str
    """The setting to blame, its value, and what would do."""


def _value_text(value: Any) -> str:
    """Return a setting's value as a study file has it, a number to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False).strip('"')


def settings_digest(settings: Settings) -> str:
    """Return the first 16 hex digits of the SHA-256 of fully resolved settings."""
    return _digest(settings.canonical().identity())


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps({"version": KEY_VERSION, **content}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def budget_settings(study: StudySpec, budget: str) -> Settings:
    """Return the study's settings under one budget; raises SpecError where they are impossible together."""
    return _replaced(study.settings, study.budgets[budget].settings, f"budget {budget}")


def make_cell(study: StudySpec, budget: str, point: Mapping[str, Any]) -> Cell:
    """Return the cell at one point (dotted path -> value) of the grid; raises SpecError where it is impossible."""
    settings = _replaced(budget_settings(study, budget), point, _in_words(point))
    return Cell(settings.canonical(), budget, budget_search(study, budget), tuple(study.grid))


def budget_search(study: StudySpec, budget: str) -> Search | None:
    """Return the nuisance search at the budget's number of trials."""
    if study.search is None:
        return None
    return study.search.model_copy(update={"sampler": budget_sampling(study, budget, study.search.sampler)})


def budget_sampling(study: StudySpec, budget: str, sampling: Sampling) -> Sampling:
    """Return a sampler's record at the budget's number of trials."""
    trials = study.budgets[budget].trials
    return sampling.model_copy(update={"trials": trials}) if trials else sampling


def budget_repetitions(study: StudySpec, budget: str) -> int:
    """Return how many repetitions each cell has under one budget."""
    return study.budgets[budget].repetitions or study.repetitions


def expand_cells(study: StudySpec, budget: str) -> list[Cell]:
    """List the cells of an exhaustive grid in file order, each once; see `expand_points`."""
    return [cell for cell, _ in expand_points(study, budget)]


def expand_points(study: StudySpec, budget: str) -> list[tuple[Cell, dict[str, Any]]]:
    """List the cells of an exhaustive grid in file order, each once and with its first place in the grid.

    The last axis varies fastest. Points that mean the same training (length 0 under several families) are one cell.
    The cells of a study with a sampler are not known beforehand: there the list is empty.

    Raises:
        SpecError: as `split_points`.
    """
    points = corner_points(study, budget)
    return [] if isinstance(study.sampler, Sampling) else points


def corner_points(study: StudySpec, budget: str) -> list[tuple[Cell, dict[str, Any]]]:
    """List the cells of a grid in which the two ends stand for a range; as `expand_points` otherwise."""
    return split_points(study, budget)[0]


def impossible_points(study: StudySpec, budget: str) -> list[Impossible]:
    """List the points of an exhaustive grid that are no cells, in file order."""
    return split_points(study, budget)[1]


def split_points(study: StudySpec, budget: str) -> tuple[list[tuple[Cell, dict[str, Any]]], list[Impossible]]:
    """Return `corner_points` and `impossible_points`.

    A point is impossible, too, where its search could come to settings that are.

    Raises:
        SpecError: no point is possible, or one is not and a sampler could propose it, or there are too many points.
    """
    corners = {path: _ends(axis) for path, axis in study.grid.items()}
    count = math.prod(len(values) for values in corners.values())
    if count > MAX_CELLS:
        raise SpecError(f"the grid has {count:,} points; allowed: at most {MAX_CELLS:,}")
    base, search = budget_settings(study, budget), budget_search(study, budget)
    found: dict[str, tuple[Cell, dict[str, Any]]] = {}
    impossible = []
    for values in itertools.product(*corners.values()):
        point = dict(zip(corners, values, strict=True))
        try:
            cell = Cell(base.replace(point).canonical(), budget, search, tuple(study.grid))
            if cell.key not in found:
                for path, axis in search.space.items() if search else ():
                    for value in _ends(axis):
                        cell.settings.replace({path: value})
                found[cell.key] = (cell, point)
        except ValidationError as error:
            impossible.append(Impossible(_in_words(point), _why(error)))
    if impossible and (not found or isinstance(study.sampler, Sampling)):
        raise SpecError(f"{impossible[0].label}: {impossible[0].reason}")
    return list(found.values()), impossible


def _ends(axis: Axis) -> tuple[Any, ...]:
    return (axis.low, axis.high) if isinstance(axis, Range) else axis


def repetitions_of(study: StudySpec, cell: Cell, settings: Settings) -> list[Trial]:
    """List a cell's repetitions at its resolved settings."""
    count, flat = budget_repetitions(study, cell.budget), settings.flat()
    metrics = tuple(metric.name for metric in study.metrics if unmet_need(metric.needs, flat) is None)
    return [Trial(study.study, cell, settings, "repetition", index, metrics=metrics) for index in range(1, count + 1)]


def _replaced(settings: Settings, values: Mapping[str, Any], where: str) -> Settings:
    try:
        return settings.replace(values)
    except ValidationError as error:
        raise SpecError(f"{where}: {_why(error)}") from None


def _why(error: ValidationError) -> str:
    """Return the first reason why settings are impossible."""
    details = error.errors()[0]
    return str(details.get("ctx", {}).get("error") or f"{'.'.join(map(str, details['loc']))}: {details['msg']}")


def _in_words(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} {value}" for path, value in point.items())


def total_runs(study: StudySpec, budget: str, cells: int) -> int:
    """Return how many runs a study of so many cells has in all, its searches included; with a sampler, at most."""
    search = budget_search(study, budget)
    if isinstance(study.sampler, Sampling):
        cells = budget_sampling(study, budget, study.sampler).trials
    return cells * (budget_repetitions(study, budget) + (search.sampler.trials if search else 0))


def data_sources(study: StudySpec, budget: str) -> set[DataSpec]:
    """Return what each data set that some cell of the study may use is loaded by (`DataSpec.source`)."""
    cells = [cell.settings for cell, _ in corner_points(study, budget)]
    space = study.search.space if study.search else {}
    axes = {path: axis for path, axis in space.items() if path.startswith("data.") and not isinstance(axis, Range)}
    searched = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    found = [settings.replace(values).data for settings in cells for values in searched]
    return {spec.source() for spec in found if spec}
