"""A study file as a record: settings, grid, sampler, search, budgets, exhibits. Free of torch, mlflow, optuna."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from nfstudy.core import registry
from nfstudy.core.declarations import Metric
from nfstudy.core.errors import SpecError
from nfstudy.core.fields import Count, Record
from nfstudy.core.suggest import did_you_mean
from nfstudy.study.settings import Settings
from nfstudy.study.yaml_document import shown

if TYPE_CHECKING:
    from nfstudy.study.plan import StudyPlan


class MedianPruner(Record):
    """Optuna's MedianPruner; steps are epochs."""

    name: Literal["median"]
    n_startup_trials: Annotated[int, Field(ge=0)] = 5
    n_warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Epochs before the first at which a trial is judged; null is until its annealing has ended."""


class PercentilePruner(Record):
    """Optuna's PercentilePruner; steps are epochs."""

    name: Literal["percentile"]
    percentile: Annotated[float, Field(ge=0, le=100)]
    n_startup_trials: Annotated[int, Field(ge=0)] = 5
    n_warmup_steps: Annotated[int, Field(ge=0)] | None = None


class ThresholdPruner(Record):
    """Optuna's ThresholdPruner on the validation free energy F, in nats an image."""

    name: Literal["threshold"]
    upper: Annotated[float, Field(allow_inf_nan=False)]
    n_warmup_steps: Annotated[int, Field(ge=0)] | None = None


Pruner = Annotated[MedianPruner | PercentilePruner | ThresholdPruner, Field(discriminator="name")]
"""Those whose judgement of a trial depends on no trial that is still under way."""

SamplerName = Literal["tpe", "random", "gp", "qmc"]
"""Optuna's samplers that draw for one objective; its grid and brute-force samplers are what `exhaustive` is for."""


class Sampling(Record):
    """An Optuna sampler with its number of trials.

    Trials are proposed in generations of `batch` and their values told in order, so that what is proposed depends on
    the study's seed alone, not on how many workers there are or which one is first.
    """

    name: SamplerName
    trials: Count
    batch: Annotated[int, Field(ge=1, le=10_000)] = 2
    pruner: Pruner | None = None


class Exhaustive(Record):
    """Every point of the grid."""

    name: Literal["exhaustive"]


Sampler = Annotated[Exhaustive | Sampling, Field(discriminator="name")]


def _is_number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"got {shown(value)}; expected: a finite number")
    return value


Number = Annotated[float | int, BeforeValidator(_is_number)]


class Range(Record):
    """An interval to draw a setting from, both ends included."""

    low: Number
    high: Number
    log: bool = False
    step: Number | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low <= self.high:
            raise ValueError(f"low {self.low} with high {self.high}: expected: low at most high")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low} with log true: expected: greater than 0")
        if self.step is not None and (self.log or self.step <= 0):
            raise ValueError(f"step {self.step}: expected: greater than 0, and not together with log")
        return self


def _is_scalar(value: Any) -> Any:
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise ValueError(f"got {shown(value)}; expected: text, a number, true, false or null")
    return value


def _is_axis(value: Any) -> Any:
    if not isinstance(value, (list, tuple, dict, Range)):
        raise ValueError(f"got {shown(value)}; expected: a list of values, in [ ], or a range with low and high")
    return value


Scalar = Annotated[bool | int | float | str | None, BeforeValidator(_is_scalar)]
Choices = Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=10_000)]
LIST, RANGE = "<list>", "<range>"
"""What pydantic's paths call the two forms of an axis."""


def _form(axis: Any) -> str:
    return RANGE if isinstance(axis, (dict, Range)) else LIST


Axis = Annotated[
    Annotated[Choices, Tag(LIST)] | Annotated[Range, Tag(RANGE)], Discriminator(_form), BeforeValidator(_is_axis)
]


class Search(Record):
    """A nuisance search inside each cell: so many trials, chosen by the validation bound, never by the test set."""

    sampler: Sampling
    space: Annotated[dict[str, Axis], Field(min_length=1)]
    settings: Annotated[dict[str, Any], Field(default_factory=dict)]
    """Dotted path -> value that the trials of the search have in place of the cell's: a shorter training, say."""


SEARCH_SAMPLER = "search.sampler"
"""The one axis of a grid that is no setting: the name of the sampler of each cell's search."""

NO_SEARCH = "none"
"""The `search` of a budget under which cells have none."""


STUDY_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"


class Former(Record):
    """The study and the budget that runs are known as in stores and archives."""

    study: Annotated[str, Field(pattern=STUDY_NAME)]
    budget: Annotated[str, Field(min_length=1, max_length=200)]


class Budget(Record):
    """What a named budget changes; its name is part of a run's identity, so two budgets never mix."""

    formerly: Former | None = None
    """What study and budget this was before studies were merged or budgets renamed. Its cells keep the keys of that
    time, and its runs, old and new, are logged and looked for as those of that study under that budget."""
    settings: Annotated[dict[str, Any], Field(default_factory=dict)]
    repetitions: Count | None = None
    trials: Count | None = None
    """In place of `sampler.trials` and `search.sampler.trials`."""
    search: Literal["none"] | None = None
    search_settings: Annotated[dict[str, Any], Field(default_factory=dict, alias="search.settings")]
    """Over those of `search.settings`."""


STUDY_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"

NO_PAPER = "none"
"""The `paper` of a study that rebuilds none."""


def _known_exhibit(name: str) -> str:
    if name not in registry.all_of("exhibits"):
        raise ValueError(f"got {shown(name)}; expected: {registry.allowed('exhibits', name)}")
    return name


def _known_paper(name: str) -> str:
    if name != NO_PAPER and name not in registry.all_of("papers"):
        raise ValueError(f"got '{name}'; expected: {NO_PAPER}, {registry.allowed('papers', name)}")
    return name


class StudySpec(Record):
    """One study file, checked."""

    study: Annotated[str, Field(pattern=STUDY_NAME)]
    title: Annotated[str, Field(min_length=1, max_length=200)]
    description: Annotated[str, Field(max_length=10_000)] = ""
    settings: Settings
    grid: Annotated[dict[str, Axis], Field(default_factory=dict)]
    points: Annotated[
        tuple[Annotated[dict[str, Scalar], Field(min_length=1, max_length=100)], ...], Field(max_length=10_000)
    ] = ()
    """Settings that vary together: each is dotted path -> value, all of the same paths. The grid has each of them, at
    every combination of the other axes, and not the product of their values."""
    sampler: Sampler = Exhaustive(name="exhaustive")
    search: Search | None = None
    repetitions: Annotated[int, Field(ge=1, le=100_000)] = 1
    budgets: Annotated[dict[str, Budget], Field(min_length=1)]
    budget: str
    """The budget that runs when none is named."""
    exhibits: Annotated[tuple[Annotated[str, AfterValidator(_known_exhibit)], ...], Field(min_length=1)]
    options: tuple[dict[str, Any], ...] = ()
    """Of each exhibit, where any has some: what the study file says beside its name."""
    paper: Annotated[str, AfterValidator(_known_paper)] = "rezende2015"
    """The paper that the study rebuilds, whose numbers and claims its report sets beside the runs; or `none`."""
    also: Annotated[tuple[Annotated[str, Field(pattern=STUDY_NAME)], ...], Field(max_length=10)] = ()
    """Study files beside this one, by name and without `.yaml`, that `run` runs after it."""
    plugins: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    """Files beside the study file, or modules, that declare flows, data sources and more; see `core.plugins`."""

    @cached_property
    def axes(self) -> dict[str, Axis]:
        """Dotted path -> the values of all that differs among its cells: those of points, each once, then the grid."""
        together: dict[str, Axis] = {}
        for path in self.points[0] if self.points else ():
            together[path] = tuple({repr(point[path]): point[path] for point in self.points if path in point}.values())
        return together | self.grid

    @property
    def varied(self) -> tuple[str, ...]:
        """The dotted paths that differ among its cells or are searched for, as its exhibits may show."""
        return (*self.axes, *(self.search.space if self.search else ()))

    @property
    def shown(self) -> list[tuple[str, dict[str, Any]]]:
        """(name, options) of its exhibits, each once, in order."""
        found: list[tuple[str, dict[str, Any]]] = []
        for entry in zip(self.exhibits, self.options or ({},) * len(self.exhibits), strict=True):
            if entry not in found:
                found.append(entry)
        return found

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics from outside that its exhibits bring along, each once: those that its runs log as well."""
        declared = registry.all_of("exhibits")
        brought = dict.fromkeys(metric for name in self.exhibits for metric in declared[name].metrics)
        return tuple(metric for metric in brought if metric.compute)

    @property
    def films(self) -> bool:
        """Whether an exhibit shows films, so that repetitions log them."""
        declared = registry.all_of("exhibits")
        return any(declared[name].films for name in self.exhibits)

    @property
    def fits(self) -> bool:
        """Whether an exhibit shows densities on the plane beside MCMC, so that repetitions log them."""
        declared = registry.all_of("exhibits")
        return any(declared[name].fits for name in self.exhibits)

    @property
    def gradients(self) -> bool:
        """Whether an exhibit shows the variance of gradients, so that first repetitions measure it."""
        declared = registry.all_of("exhibits")
        return any(declared[name].gradients for name in self.exhibits)

    def under(self, budget: str | None = None) -> StudyPlan:
        """Return the study under one of its budgets, the same object each time; None is its default.

        Raises:
            SpecError: it has no such budget.
        """
        from nfstudy.study.plan import StudyPlan

        name = self.budget if budget is None else budget
        if name not in self.budgets:
            hint = did_you_mean(name, self.budgets)
            raise SpecError(f"study {self.study}: no budget '{name}'; expected: {', '.join(self.budgets)}{hint}")
        plan = self._plans.get(name)
        if plan is None or plan.study is not self:  # `model_copy` copies what is cached, too.
            self._plans[name] = plan = StudyPlan(self, name)
        return plan

    @cached_property
    def logged_names(self) -> tuple[str, ...]:
        """The names of the studies that its runs are logged as, its own first: see `Budget.formerly`."""
        former = (budget.formerly.study for budget in self.budgets.values() if budget.formerly)
        return tuple(dict.fromkeys((self.study, *former)))

    def budget_of(self, study: str, budget: str, cell: str) -> str | None:
        """Return the budget that a run is of, by the study, budget and cell key that it is logged with.

        None where it is of no budget of this study. Budgets of before and those of now may be logged under one name;
        the key of a cell says which is meant.
        """
        if former := self._former_cells.get((study, budget, cell)):
            return former
        return budget if study == self.study else None

    @cached_property
    def _former_cells(self) -> dict[tuple[str, str, str], str]:
        """(study, budget, cell key), as runs are logged, -> the budget that was formerly that one."""
        return {
            (budget.formerly.study, budget.formerly.budget, cell.key): name
            for name, budget in self.budgets.items()
            if budget.formerly
            for cell in self.under(name).cells
        }

    @cached_property
    def _plans(self) -> dict[str, StudyPlan]:
        return {}
