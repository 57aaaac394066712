"""What reports ask of the paper that a study rebuilds: its numbers, what it states of settings, its claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from types import FunctionType
from typing import Any

from nfstudy.core import registry
from nfstudy.core.declarations import Paper, load
from nfstudy.core.errors import ReportError
from nfstudy.core.hints import described, fits, misfit, shown, takes
from nfstudy.report.labels import setting_name, setting_text
from nfstudy.study.settings import Settings
from nfstudy.study.spec import NO_PAPER


def _always(_: Settings) -> str:
    return ""


@dataclass(frozen=True)
class Published:
    """One published number, in the unit of the metric beside it."""

    value: float
    source: str
    """Table and row, or figure and panel."""
    confidence: str
    """How sure the reading is."""
    half_bar: float | None = None
    """Half the length of the drawn error bar; a paper may not say whether it is a standard error."""
    printed: str = ""
    """As a table of the paper prints it, such as `≤ 85.7`; empty for a point of a figure."""
    why_not_comparable: Callable[[Settings], str] = _always
    """Says why the numbers of a cell are of another quantity than this; empty where their levels can be compared."""

    def __post_init__(self) -> None:
        if wrong := misfit(self):
            raise ValueError(f"Published: {wrong}")

    @property
    def display(self) -> str:
        """The number as printed, or to two decimals with its half error bar, such as `85.76 ± 0.22`."""
        if self.printed or self.half_bar is None:
            return self.printed or f"{self.value:.2f}".replace("-", "−")
        return f"{self.value:.2f} ± {self.half_bar:.2f}".replace("-", "−")


class PaperFacts:
    """What a paper says; a paper's own class overrides what it knows, and of none nothing is known."""

    repetitions: int | None = None
    """How many runs of each cell it reports."""

    def __init_subclass__(cls) -> None:
        """Hold what a paper's own methods return to the types below."""
        super().__init_subclass__()
        for name in METHODS.keys() & vars(cls).keys():
            if isinstance(method := vars(cls)[name], FunctionType):
                setattr(cls, name, _held(cls, name, method))

    def find(self, where: Mapping[str, Any], quantity: str, family: str, length: int) -> Published | None:
        """Return the paper's number for a metric of one cell, None where it gives none.

        Arguments:
            where: dotted path -> value of settings that say which experiment it is, such as `data.name`.
            quantity: the metric's name in tables, such as `F`.
            family: the flow's family, `none` for length 0.
            length: K.
        """
        return None

    def stated_settings(self, flat: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return dotted path -> value that the paper states of the experiment most like settings, by dotted path."""
        return {}

    def departures(self, settings: Settings) -> list[str]:
        """List the settings in use that are not as the paper states, such as `updates 20,000 (paper: 500,000)`."""
        flat = settings.flat()
        return [
            f"{setting_name(path)} {setting_text(flat[path])} (paper: {setting_text(stated)})"
            for path, stated in self.stated_settings(flat).items()
            if path in flat and flat[path] != stated
        ]


METHODS: Mapping[str, tuple[tuple[str, ...], Any]] = {
    "find": (("where", "quantity", "family", "length"), Published | None),
    "stated_settings": (("flat",), Mapping[str, Any]),
    "departures": (("settings",), Sequence[str]),
}
"""Method of `PaperFacts` -> what it is called with, and the type of what it returns."""


def _held(kind: type, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that raises ReportError where what it returns is not of its type."""
    hint = METHODS[name][1]

    @wraps(method)
    def asked(*arguments: Any, **named: Any) -> Any:
        found = method(*arguments, **named)
        if not fits(found, hint):
            raise ReportError(f"{kind.__name__}.{name}: returned {shown(found)}; expected: {described(hint)}")
        return found

    return asked


def paper_of(name: str) -> Paper | None:
    """Return the declaration of a study's paper; None for `none`."""
    return None if name == NO_PAPER else registry.find("papers", name)


def facts_of(paper: Paper | None) -> PaperFacts:
    """Return what a paper says; of no paper, nothing is known.

    Raises:
        ReportError: what its declaration names cannot be imported, or is something else.
    """
    if paper is None or paper.facts is None:
        return PaperFacts()
    try:
        facts = load(paper.facts)
    except (ImportError, AttributeError) as error:
        raise ReportError(f"papers {paper.name}: facts: cannot be loaded: {error}") from error
    if not isinstance(facts, PaperFacts):
        raise ReportError(f"papers {paper.name}: facts: got {shown(facts)}; expected: a PaperFacts")
    for name, (arguments, _) in METHODS.items():
        if not takes(method := getattr(facts, name), arguments):
            allowed = f"a function ({', '.join(arguments)})"
            raise ReportError(f"papers {paper.name}: facts: {name}: got {shown(method)}; expected: {allowed}")
    return facts
