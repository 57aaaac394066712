"""What MLflow's pages show of a study beside what its runs log: descriptions, names of cells, and saved views.

All of it follows from the runs, so it is made again whenever it is no longer true, and no archive has it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nfstudy.core.errors import UserError
from nfstudy.runs.conditions import recorded_settings
from nfstudy.runs.description import WRITTEN, Described, cell_name, describe, is_written, unit_of_settings
from nfstudy.runs.metrics import FREE_ENERGY, KL, NLL, PER_IMAGE, POSITIVE_FREE_ENERGY
from nfstudy.runs.readable import is_object, trouble
from nfstudy.runs.result import outcome_of
from nfstudy.runs.tags import MlflowTag, Tag
from nfstudy.runs.tracking.store import Store
from nfstudy.runs.views import MACHINE_LEARNING, may_replace, numeric_axes, view, view_tag
from nfstudy.study.plan import StudyPlan

if TYPE_CHECKING:
    from mlflow.entities import Run

OF_UNIT = ("data.", "energy.", "model.likelihood")
"""What the settings begin with on which a run's unit depends."""


def show_study(store: Store, study: str, report: str, plan: StudyPlan | None = None) -> None:
    """Bring what MLflow's pages show of a study up to date, in as few writes as that takes.

    Arguments:
        store: where its experiment is.
        study: its name.
        report: the page of its report, from the project's folder.
        plan: what is to be run, if anything is: its budget has a view before it has runs.

    Raises:
        StoreError: the store cannot be read or written.
    """
    runs = store.runs(study).entities()
    units: dict[tuple[tuple[str, str], ...], str] = {}
    stale = {run.info.run_id: _stale(run, _unit(run.data.params, units), report) for run in runs}
    store.tag_runs({run_id: tags for run_id, tags in stale.items() if tags})
    _, own = store.study_tags().get(study, ("", {}))
    if MlflowTag.KIND not in own:
        store.tag_study(study, MlflowTag.KIND, MACHINE_LEARNING)
    budgets = {run.data.tags.get(Tag.BUDGET, "") for run in runs} | ({plan.logged_as.budget} if plan else set())
    for budget in sorted(filter(None, budgets)):
        made = _view(budget, runs, plan if plan and plan.logged_as.budget == budget else None)
        if may_replace(own.get(view_tag(budget), ""), made):
            store.tag_study(study, view_tag(budget), made)


def _stale(run: Run, unit: str, report: str) -> dict[str, str]:
    """Return the tags of a run that are not as they should be; of a run under way its description waits."""
    tags, name = run.data.tags, run.info.run_name or ""
    wanted = {Tag.CELL_NAME: cell_name(name)}
    outcome = outcome_of(run.info.status, tags.get(Tag.OUTCOME))
    if outcome != "running" and not trouble(tags) and is_written(tags.get(MlflowTag.NOTE, WRITTEN)):
        described = Described(tags[Tag.STAGE], outcome, tags.get(Tag.REASON, ""), run.data.metrics, unit)
        wanted[MlflowTag.NOTE] = describe(described, report)
    return {tag: text for tag, text in wanted.items() if tags.get(tag) != text}


def _unit(params: Mapping[str, str], known: dict[tuple[tuple[str, str], ...], str]) -> str:
    """Return what a run's numbers are in; `known` keeps that of runs with the same data and likelihood."""
    key = tuple(sorted(pair for pair in params.items() if pair[0].startswith(OF_UNIT)))
    if key not in known:
        known[key] = PER_IMAGE  # Of a plug-in that is not here.
        with suppress(UserError):
            known[key] = unit_of_settings(recorded_settings(params))
    return known[key]


def _view(budget: str, runs: list[Run], plan: StudyPlan | None) -> str:
    shown = [run for run in runs if run.data.tags.get(Tag.BUDGET) == budget]
    repetitions = [run for run in shown if run.data.tags.get(Tag.STAGE) == "repetition"]
    names = {cell_name(run.info.run_name or "") for run in repetitions}
    points: list[dict[str, Any]] = [
        json.loads(text) for run in repetitions if is_object(text := run.data.tags.get(Tag.POINT, ""))
    ]
    metrics = {POSITIVE_FREE_ENERGY.name, FREE_ENERGY.name, KL.name}
    if plan:
        names |= {cell.label for cell in plan.cells}
        points += [dict(cell.point) for cell in plan.cells]
        metrics |= {NLL.name} if plan.study.settings.data else set()
    logged = [set(run.data.metrics) for run in repetitions if FREE_ENERGY.name in run.data.metrics]
    if logged:  # A column of some runs alone would put them above all others.
        metrics = set.intersection(*logged)
    return view(budget, names, numeric_axes(points), metrics, int(time.time() * 1000))
