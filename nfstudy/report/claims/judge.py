"""Judge every claim on the logged runs of its study, each study's runs read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nfstudy.core import registry
from nfstudy.core.errors import ReportError, SpecError
from nfstudy.core.project import Project
from nfstudy.report.claims.inequalities import QUANTITIES, Claim, read_claims
from nfstudy.report.claims.ledger import ClaimVerdict, evaluate
from nfstudy.report.statistics.estimates import Results, gather_results
from nfstudy.runs.tracking.open import is_live, load_frame
from nfstudy.study.reader import read_studies
from nfstudy.study.spec import StudySpec


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
    claims = tuple(claim for paper in registry.all_of("papers").values() for claim in read_claims(paper))
    counts = Counter(claim.id for claim in claims)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ReportError(f"claims: two papers have a claim '{twice[0]}'; expected: an id that no other paper uses")
    return claims


def judge_claims(project: Project, uri: str, budget: str | None = None) -> tuple[ClaimVerdict, ...]:
    """Judge the claims of all papers; those whose study has no file or no runs are not run.

    Arguments:
        project: its `studies/*.yaml` are the studies.
        uri: the store of their runs; one that has not been made yet holds none.
        budget: of the studies that have it; None and the others are judged under their own.

    Raises:
        SpecError: there is no folder of studies, one of them is not valid, two have one name, or none has the budget.
        StoreError: the store cannot be read.
    """
    claims = all_claims()
    studies = {study.study: study for study in read_studies(project.root / "studies").values()}
    known = sorted({name for study in studies.values() for name in study.budgets})
    if budget and budget not in known:
        raise SpecError(f"--budget {budget}: no study has it; expected: {', '.join(known)}")
    wanted = dict.fromkeys(claim.study for claim in claims if claim.study in studies)
    metrics = {QUANTITIES[claim.quantity].name for claim in claims}
    results = {name: _gather(studies[name], project, uri, budget, metrics) for name in wanted}
    return tuple(verdict for claim in claims for verdict in evaluate([claim], results.get(claim.study)))


def _gather(study: StudySpec, project: Project, uri: str, budget: str | None, metrics: Collection[str]) -> Results:
    chosen = budget if budget in study.budgets else study.budget
    rows: Any = _Rows(load_frame(uri, study.study, metrics))  # A part of `LoggedRuns`: judging needs no more.
    return gather_results(study.under(chosen), rows, is_live(project, uri, study.study))
