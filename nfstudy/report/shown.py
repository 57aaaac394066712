"""Under which budgets a study is shown, and in which folder of reports each of them is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from nfstudy.report.claims.judge import bodies_of
from nfstudy.report.statistics.estimates import Results, gather_results
from nfstudy.runs.frame import LoggedRuns
from nfstudy.study.spec import StudySpec


@dataclass(frozen=True)
class Shown:
    """A study under a budget, and where its page is among those of the study."""

    results: Results
    folder: str
    """Of its report, relative to that of all reports: the study's own, or for a further budget one in it."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Other budget that is shown -> the folder of its report, as an address relative to this one's."""

    @property
    def home(self) -> str:
        """The address of the folder of all reports, relative to this one's page."""
        return "../" * (1 + self.folder.count("/"))


def shown_bodies(study: StudySpec, store: LoggedRuns, active: bool = False) -> tuple[Shown, ...]:
    """Return a study under each budget that has runs, the one of `gather_fullest` first; where none has, that alone.

    Arguments:
        study: the study.
        store: its runs.
        active: whether a coordinator is at work now.
    """
    first = gather_fullest(study, store, active)
    return placed([first, *(body for body in bodies_of(study, store, active) if body.budget != first.budget)])


def placed(bodies: Sequence[Results]) -> tuple[Shown, ...]:
    """Return the folders of a study's bodies of evidence, of which the first has the study's own."""
    names = ["", *(f"budget-{quote(body.budget, safe='')}" for body in bodies[1:])]

    def from_(here: str, there: str) -> str:
        return "/".join([*([".."] if here else []), *([quote(there)] if there else [])])

    return tuple(
        Shown(
            body,
            "/".join(filter(None, (body.study.study, name))),
            {other.budget: from_(name, place) for other, place in zip(bodies, names, strict=True) if other is not body},
        )
        for body, name in zip(bodies, names, strict=True)
    )


def repeated_bodies(bodies: Sequence[Shown]) -> list[Shown]:
    """Return a study's bodies of evidence by which claims are judged: without those of one seed, which decide nothing.

    Where every body is of one seed, all of them.
    """
    return [body for body in bodies if _most_repeated(body.results) > 1] or list(bodies)


def _most_repeated(results: Results) -> int:
    """Return the most repetitions that have been started of any cell."""
    return max((len(cell.own) + len(cell.beyond) for cell in results.cells), default=0)


def gather_fullest(study: StudySpec, store: LoggedRuns, active: bool = False) -> Results:
    """Read a study under the budget with the most finished repetitions; of several, under its own, or the fullest.

    Those of complete cells count first: what is half done does not take the place of what is whole.

    Arguments:
        study: the study.
        store: its runs.
        active: whether a coordinator is at work now.
    """
    budgets = [study.budget, *(budget for budget in study.budgets if budget != study.budget)]
    every = [gather_results(study.under(budget), store, active) for budget in budgets]
    return max(every, key=lambda body: (*_finished(body), body.budget == study.budget, len(body.runs)))


def _finished(results: Results) -> tuple[int, int]:
    """Return how many repetitions are finished in complete cells, and in all: a search's trials are in no table."""
    runs = results.runs
    finished = runs[(runs["outcome"] == "finished") & (runs["stage"] == "repetition")]
    complete = finished["cell"].isin([cell.cell.key for cell in results.cells if cell.complete])
    return int(complete.sum()), len(finished)
