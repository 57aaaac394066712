"""A study under one of its budgets: made once a command, and handed on in place of the two."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from nfstudy.core.declarations import unmet_need
from nfstudy.core.errors import SpecError
from nfstudy.study.cells import Cell, Impossible, Trial
from nfstudy.study.grid import cell_at, expand, point_text, replaced, why_impossible
from nfstudy.study.searches import check_choice
from nfstudy.study.sections import DataSpec
from nfstudy.study.settings import Settings
from nfstudy.study.spec import NO_SEARCH, Former, Range, Sampling, Search, StudySpec


@dataclass(frozen=True)
class Further:
    """Repetitions beyond a study's number, that `decide` runs of some cells."""

    repetitions: int
    """How many in all."""
    look: str
    """The look that they are run for, as runs have it (`nfstudy.runs.tags.Tag.LOOK`)."""


@dataclass(frozen=True, eq=False)
class StudyPlan:
    """What a study is under one budget; made by `StudySpec.under`. Its parts are worked out when first asked for."""

    study: StudySpec
    budget: str
    """The name of one of the study's budgets."""

    @property
    def logged_as(self) -> Former:
        """The study and the budget that its runs are logged as: its own, unless the budget was formerly another."""
        return self.study.budgets[self.budget].formerly or Former(study=self.study.study, budget=self.budget)

    @property
    def name(self) -> str:
        """The name of the study that its runs are logged as, by which they are locked, claimed and searched."""
        return self.logged_as.study

    @property
    def shown(self) -> str:
        """What people call it, such as `mnist, budget smoke`, with what its runs are logged as where that is other."""
        own = f"{self.study.study}, budget {self.budget}"
        logged = self.logged_as
        if (logged.study, logged.budget) == (self.study.study, self.budget):
            return own
        return f"{own} (logged as study {logged.study}, budget {logged.budget})"

    @cached_property
    def settings(self) -> Settings:
        """The study's settings under the budget; raises SpecError where they are impossible together."""
        return replaced(self.study.settings, self.study.budgets[self.budget].settings, f"budget {self.budget}")

    @cached_property
    def repetitions(self) -> int:
        """How many repetitions each cell has."""
        return self.study.budgets[self.budget].repetitions or self.study.repetitions

    @cached_property
    def sampling(self) -> Sampling | None:
        """What proposes cells, at the budget's number of trials; None for an exhaustive grid."""
        return self._with_trials(self.study.sampler) if isinstance(self.study.sampler, Sampling) else None

    @cached_property
    def search(self) -> Search | None:
        """The nuisance search inside each cell, at the budget's number of trials and with its settings."""
        search, budget = self.study.search, self.study.budgets[self.budget]
        if search is None or budget.search == NO_SEARCH:
            return None
        settings = {**search.settings, **budget.search_settings}
        return search.model_copy(update={"sampler": self._with_trials(search.sampler), "settings": settings})

    @cached_property
    def corners(self) -> tuple[Cell, ...]:
        """The cells of a grid in which the two ends stand for a range, each once, in file order.

        Raises:
            SpecError: no point is possible, or one is not and a sampler could propose it, or there are too many.
        """
        cells, impossible = self._expanded
        if impossible and (not cells or self.sampling):
            raise SpecError(impossible[0].text)
        return cells

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of an exhaustive grid, each once, in file order; raises SpecError as `corners`.

        The cells of a study with a sampler are not known beforehand: there are none here.
        """
        return () if self.sampling else self.corners

    @property
    def impossible(self) -> tuple[Impossible, ...]:
        """The points of the grid that are no cells, in file order."""
        return self._expanded[1]

    @cached_property
    def total_runs(self) -> int:
        """How many runs the study has in all, its searches included; with a sampler, at most."""
        return self.runs_of(len(self.cells))

    @cached_property
    def data_sources(self) -> frozenset[DataSpec]:
        """What each data set that some cell may use is loaded by (`DataSpec.source`)."""
        space = self.search.space if self.search else {}
        axes = {path: axis for path, axis in space.items() if path.startswith("data.") and not isinstance(axis, Range)}
        searched = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
        each = {cell.settings.data: cell for cell in self.corners}.values()
        found = set()
        for cell, values in itertools.product(each, searched):
            for settings in (cell.tried, cell.given.replace):
                with suppress(ValidationError):  # A search proposes them in vain.
                    found.add(settings(values).data)
        return frozenset(spec.source() for spec in found if spec)

    def check(self) -> None:
        """Raise SpecError where the study has no cell under the budget, or a sampler or a search could not choose."""
        _ = self.corners
        check_choice(self)

    def cell_at(self, point: Mapping[str, Any]) -> Cell:
        """Return the cell at one point (dotted path -> value) of the grid; raises SpecError where it is impossible."""
        try:
            return cell_at(self.settings, point, self.logged_as.budget, self.search, tuple(self.study.axes))
        except ValidationError as error:
            raise SpecError(f"{point_text(point)}: {why_impossible(error)}") from None

    def place_of(self, point: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return where a point of the grid stands in it: of each axis the value's number, or in a range the value."""
        return tuple(
            point.get(path, axis.low) if isinstance(axis, Range) else [*axis, point.get(path)].index(point.get(path))
            for path, axis in self.study.axes.items()
        )

    def repetitions_of(
        self, cell: Cell, settings: Settings | None = None, further: Further | None = None
    ) -> list[Trial]:
        """List a cell's repetitions, and `further` ones, at the settings that its search has chosen if it has one."""
        own, settings = self.repetitions, settings or cell.settings
        metrics = tuple(m.name for m in self.study.metrics if unmet_need(m.needs, settings.flat()) is None)
        return [
            Trial(
                self.name,
                cell,
                settings,
                "repetition",
                index,
                metrics=metrics,
                film=self.study.films,
                fits=self.study.fits,
                gradients=self.measures_gradients(cell) and index == 1,
                look=further.look if further and index > own else "",
            )
            for index in range(1, max(own, further.repetitions if further else 0) + 1)
        ]

    def measures_gradients(self, cell: Cell) -> bool:
        """Say whether the variance of all gradients is measured along a cell's training.

        It is where an exhibit shows it, in the cells of one estimator: the grid's first, or the study's own.
        """
        axis = self.study.axes.get("objective.estimator")
        first = axis[0] if isinstance(axis, tuple) else self.settings.objective.estimator
        return self.study.gradients and cell.settings.objective.estimator == first

    def runs_of(self, cells: int) -> int:
        """Return how many runs so many cells have, their searches included; with a sampler, of all it may propose."""
        trials = self.search.sampler.trials if self.search else 0
        return (self.sampling.trials if self.sampling else cells) * (self.repetitions + trials)

    @cached_property
    def _expanded(self) -> tuple[tuple[Cell, ...], tuple[Impossible, ...]]:
        study = self.study
        return expand(study.grid, self.settings, self.logged_as.budget, self.search, study.points)

    def _with_trials(self, sampling: Sampling) -> Sampling:
        trials = self.study.budgets[self.budget].trials
        return sampling.model_copy(update={"trials": trials}) if trials else sampling
