"""A cell and its trials: what they are, and the keys by which their runs are known."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from pydantic import ValidationError

from nfstudy.core import registry
from nfstudy.study.settings import Settings, is_switch
from nfstudy.study.spec import SEARCH_SAMPLER, Axis, Range, Search

KEY_VERSION = 2
"""Part of every key; raised when the same settings come to mean other numbers."""

IN_LABELS = ("flow.family", "flow.length", "model.latent", "energy.name", "drawn.density")
"""Settings that a cell's label shows whatever the grid is."""

SIZES = ("model.latent", "model.stochastic_layers", "model.latent_ratio")
"""What the numbers of latent variables follow from."""

Identity = tuple[str, str, int, str]
"""(cell key, stage, index, digest of the resolved settings): what is run exactly once."""

Stage = Literal["repetition", "search", "rerun"]


@dataclass(frozen=True)
class Cell:
    """One point of the grid: a row of a table, a point of a curve.

    `settings` are normalized. Where the study searches for some of them, the cell's identity holds the search itself in
    their place, so a cell's key is known before its search has ended, and changes with the search.
    """

    settings: Settings
    budget: str
    search: Search | None = None
    varied: tuple[str, ...] = ()
    """The dotted paths of the grid, whose values the label shows."""
    point: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Dotted path -> value: the first place in the grid that means this cell."""
    as_given: Settings | None = field(default=None, compare=False)
    """Its settings before they were normalized, where those are known."""

    @property
    def given(self) -> Settings:
        """Its settings as the study gives them, idle ones included: what a search starts from, which may use those."""
        return self.as_given or self.settings

    def flat(self) -> dict[str, Any]:
        """Return dotted path -> value of the settings in use, and of the search's sampler where the grid varies it."""
        found = self.settings.flat()
        if self.search and SEARCH_SAMPLER in self.varied:
            found[SEARCH_SAMPLER] = self.search.sampler.name
        return found

    def tried(self, values: Mapping[str, Any]) -> Settings:
        """Return the settings of a trial of its search; raises pydantic's ValidationError where they are impossible."""
        return self.given.replace({**(self.search.settings if self.search else {}), **values})

    def chosen(self, values: Mapping[str, Any]) -> Settings:
        """Return the settings of its repetitions after its search has come to some values."""
        return self.given.replace(values).normalized()

    @cached_property
    def key(self) -> str:
        """The first 16 hex digits of the SHA-256 of all that can change a number of this cell."""
        return self.key_of(KEY_VERSION)

    def key_of(self, version: int) -> str:
        """Return the key in some version of the keys: runs of before have those of their time."""
        return _digest({"budget": self.budget, "settings": self.identity()}, version)

    def identity(self) -> dict[str, Any]:
        """Return dotted path -> value of the settings in use, a searched one's value being its search."""
        if not self.search:
            return self.settings.identity()
        flat = self._identity_of_all(self.search)
        how: dict[str, Any] = {"by": self.search.sampler.model_dump()}
        if self.search.settings:
            how["with"] = self.search.settings
        for path, axis in self.search.space.items():
            flat[path] = {"search": axis.model_dump() if isinstance(axis, Range) else axis, **how}
        return flat

    def _identity_of_all(self, search: Search) -> dict[str, Any]:
        """Return what tells apart all settings that its search may come to: a choice may put idle ones to use."""
        flat = self.settings.identity()
        switches = {path: _switching(range_endpoints(axis)) for path, axis in search.space.items() if is_switch(path)}
        if not switches and not any(map(is_switch, search.settings)):
            return flat
        for values in itertools.product(*switches.values()):
            for changes in ({}, search.settings):
                with suppress(ValidationError):
                    used = self.given.replace({**changes, **dict(zip(switches, values, strict=True))}).normalized()
                    flat |= {k: v for k, v in used.identity().items() if k not in flat and k not in changes}
        return flat

    @cached_property
    def label(self) -> str:
        """A short name for people, such as `planar K=40 D=40, train.batch 50` or, on the plane, `u1 planar K=8`."""
        settings, open_ = self.settings, self.search.space if self.search else {}
        length = "?" if "flow.length" in open_ else settings.flow.length
        # What tables call it too: of length 0, there is nothing of a family.
        family = settings.flow.family if length else registry.find("flows", "none").title
        name = f"{'flow=?' if 'flow.family' in open_ else family} K={length}"
        if settings.data:
            sizes = "+".join(map(str, settings.model.latent_sizes))
            name = f"{name} D={'?' if open_.keys() & SIZES else sizes}"
        elif settings.energy:
            name = f"{settings.energy.name} {name}"
        elif settings.drawn:
            name = f"{settings.drawn.density} {name}"
        others = [path for path in self.varied if path not in IN_LABELS]
        flat = self.flat() if others else {}
        return ", ".join((name, *(f"{path} {_value_text(flat[path])}" for path in others if path in flat)))


@dataclass(frozen=True)
class Trial:
    """One training run: a cell at fully resolved settings, and which of its repetitions or search trials it is."""

    study: str
    cell: Cell
    settings: Settings
    stage: Stage
    index: int
    """Repetition 1, 2, ...; or the number of the search trial, 0, 1, ..."""
    rerun_of: str = ""
    """Of a rerun, which is a repetition trained again and enters no table: the id of the run that it is held to."""
    metrics: tuple[str, ...] = ()
    """Names of the metrics from outside that are computed at its end."""
    film: bool = False
    """Whether it logs what its flow does step by step (`nfstudy.films`)."""
    fits: bool = False
    """Whether it logs the densities that it approximates beside draws by MCMC (`nfstudy.films.fits`)."""
    gradients: bool = False
    """Whether it logs the variance of every estimator's gradient along its training."""
    look: str = ""
    """Of a repetition beyond the study's number: which look it is run for, as runs have it (`runs.tags.Tag.LOOK`)."""

    @cached_property
    def identity(self) -> Identity:
        """What is run exactly once."""
        return (self.cell.key, self.stage, self.index, settings_digest(self.settings))

    @property
    def repetition(self) -> int:
        """The axis of the seeds: 0 for all trials of a search, so that they differ in what is searched alone."""
        return 0 if self.stage == "search" else self.index

    @property
    def cost_key(self) -> str:
        """What times are kept by: trials of a search may be shorter than the repetitions of their cell."""
        return cost_key(self.cell.key, self.stage)

    @property
    def values(self) -> str:
        """What a trial of a search tries, such as `train.learning_rate 0.002178` (four digits); empty of any other."""
        if self.stage != "search" or not self.cell.search:
            return ""
        flat = self.settings.flat()
        drawn = {path: flat[path] for path in self.cell.search.space if path in flat}
        texts = {
            path: f"{value:.4g}" if isinstance(value, float) else _value_text(value) for path, value in drawn.items()
        }
        return ", ".join(f"{path} {text}" for path, text in texts.items())

    @property
    def label(self) -> str:
        """The cell's short name with the repetition or trial, such as `planar K=40 D=40 #2`."""
        return f"{self.cell.label} {'#' if self.stage == 'repetition' else f'{self.stage} '}{self.index}"


@dataclass(frozen=True)
class Impossible:
    """A point of the grid at which the settings are impossible together: it is reported, and not run."""

    label: str
    """Its values, such as `flow.family nice-perm, flow.length 4`; it has no settings, and so no key."""
    reason: str
    """The setting to blame, its value, and what would do."""

    @property
    def text(self) -> str:
        """Both; of a study without a grid, whose one point has no label, the reason alone."""
        return ": ".join(filter(None, (self.label, self.reason)))


def range_endpoints(axis: Axis) -> tuple[Any, ...]:
    """Return an axis's values, of a range its two ends."""
    return (axis.low, axis.high) if isinstance(axis, Range) else axis


MOST_NUMBERS = 8
"""Of a list of more numbers, a few tell which settings the others put to use."""


def _switching(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values that can put different settings to use: of many numbers the ends, and 0 and 1 among them."""
    if len(values) <= MOST_NUMBERS or not all(type(value) in (int, float) for value in values):
        return values
    telling = (0, 1, min(values), max(values))
    return tuple(value for value in values if value in telling)


def cost_key(cell: str, stage: str) -> str:
    """Return what the time that a run takes is known by: its cell's key, with a word where it is of a search."""
    return f"{cell} search" if stage == "search" else cell


def settings_digest(settings: Settings, version: int = KEY_VERSION) -> str:
    """Return the first 16 hex digits of the SHA-256 of fully resolved settings, in some version of the keys."""
    return _digest(settings.normalized().identity(), version)


def _value_text(value: Any) -> str:
    """Return a setting's value as a study file has it: a number in four digits, or in all where it has more."""
    if isinstance(value, float):
        return text if float(text := f"{value:.4g}") == value else repr(value)
    return json.dumps(value, ensure_ascii=False).strip('"')


def _digest(content: Mapping[str, Any], version: int) -> str:
    text = json.dumps({"version": version, **content}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
