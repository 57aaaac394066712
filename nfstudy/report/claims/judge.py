"""Judge every claim on the logged runs of all studies, each study's runs read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from nfstudy.core import registry
from nfstudy.core.errors import ReportError, SpecError, untold
from nfstudy.core.project import Project
from nfstudy.core.suggest import did_you_mean
from nfstudy.report.claims.inequalities import QUANTITIES, Claim, read_claims
from nfstudy.report.claims.ledger import JudgedClaim, judge_on
from nfstudy.report.statistics.estimates import ERRORS_OF, Results, gather_results
from nfstudy.runs.frame import notes
from nfstudy.runs.tracking.open import is_live, load_undeleted
from nfstudy.study.spec import StudySpec

if TYPE_CHECKING:
    from nfstudy.runs.frame import LoggedRuns


@dataclass(frozen=True)
class _Rows:
    """Of `nfstudy.runs.frame.LoggedRuns`, what judging claims needs: rows that have been read."""

    rows: pd.DataFrame

    def frame(self) -> pd.DataFrame:
        return self.rows


def all_claims() -> tuple[Claim, ...]:
    """Read the claims of all papers.

    Raises:
        ReportError: two of them have one id.
    """
    claims = tuple(claim for own in claims_by_paper().values() for claim in own)
    counts = Counter(claim.id for claim in claims)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ReportError(f"claims: two papers have a claim '{twice[0]}'; expected: an id that no other paper uses")
    return claims


def claims_by_paper() -> dict[str, tuple[Claim, ...]]:
    """Return the claims of each paper, by its name."""
    return {name: read_claims(paper) for name, paper in registry.all_of("papers").items()}


def judge_claims(
    project: Project,
    uri: str,
    studies: Collection[StudySpec],
    budget: str | None = None,
    tell: Callable[[str], None] = untold,
) -> tuple[JudgedClaim, ...]:
    """Judge the claims of all papers, each on every study that names its paper and under every budget that has runs.

    Arguments:
        project: where runs may be under way.
        uri: the store of their runs; one that has not been made yet holds none.
        studies: on whose runs, with distinct names.
        budget: the only one whose runs count; None for all.
        tell: is told what people should know of the runs, such as those that are left out.

    Raises:
        SpecError: none of the studies has the budget.
        StoreError: the store cannot be read.
    """
    claims = all_claims()
    known = sorted({name for study in studies for name in study.budgets})
    if budget and budget not in known:
        raise SpecError(
            f"--budget {budget}: no study has it; expected: {', '.join(known)}{did_you_mean(budget, known)}"
        )
    return judge_bodies(claims, bodies_in_store(studies, project, uri, budget, tell))


def judge_bodies(claims: Sequence[Claim], bodies: Sequence[Results]) -> tuple[JudgedClaim, ...]:
    """Judge claims on those bodies of evidence whose study names their paper."""
    paper_of = {claim.id: name for name, own in claims_by_paper().items() for claim in own}
    papers = {paper_of[claim.id] for claim in claims}
    by_paper = {paper: [results for results in bodies if results.study.paper == paper] for paper in papers}
    return tuple(found for claim in claims for found in judge_on([claim], by_paper[paper_of[claim.id]]))


def bodies_in_store(
    studies: Collection[StudySpec],
    project: Project,
    uri: str,
    budget: str | None = None,
    tell: Callable[[str], None] = untold,
) -> list[Results]:
    """Read the bodies of evidence of studies: each budget that has runs, with the metrics of claims alone."""
    metrics = {QUANTITIES[claim.quantity].name for claim in all_claims()}
    metrics |= {name for metric in metrics for name in ERRORS_OF.get(metric, ())}
    found = []
    for study in studies:
        rows: Any = _Rows(load_undeleted(uri, study, metrics))  # A part of `LoggedRuns`: judging needs no more.
        for note in notes(rows.frame()):
            tell(note)
        active = any(is_live(project, uri, name) for name in study.logged_names)
        found += bodies_of(study, rows, active, budget)
    return found


def bodies_of(study: StudySpec, store: LoggedRuns, active: bool = False, budget: str | None = None) -> list[Results]:
    """Return a study under each of its budgets that has runs, its own first.

    Arguments:
        study: the study.
        store: its runs.
        active: whether a coordinator is at work now.
        budget: the only one that is wanted; None for all.
    """
    have = set(store.frame()["budget"])
    names = sorted(study.budgets, key=lambda name: name != study.budget)
    wanted = [name for name in names if name in have and budget in (None, name)]
    gathered = (gather_results(study.under(name), store, active) for name in wanted)
    return [results for results in gathered if len(results.runs)]


def verdicts_of(judged: Sequence[JudgedClaim]) -> Mapping[str, Mapping[str, str]]:
    """Return body -> id -> verdict of every claim and part that the body bears on."""
    found: dict[str, dict[str, str]] = {}
    for claim in judged:
        for body, verdict in claim.bodies.items():
            own = found.setdefault(body, {})
            own[claim.claim.id] = verdict.verdict
            own |= {part.part.id: part.verdict for part in verdict.parts}
    return found
