"""Running a study: find what is still to do, schedule it on the workers, log the results.

The coordinator is the one process that writes to the tracking store and to Optuna's journal, under the study's lock.
What is done is what the store holds as finished, diverged or pruned: everything else is run, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace

import pandas as pd

from nfstudy.core.errors import StoreError
from nfstudy.inference.training.checkpoints import prune_checkpoints
from nfstudy.runner.coordinator import Assignment, Coordinator, Places, Summary
from nfstudy.runner.engine import Engine
from nfstudy.runner.journal import drop_lock, journal_errors
from nfstudy.runner.options import Launch
from nfstudy.runner.prepare import require_same_data
from nfstudy.runner.progress import StudyProgress, make_progress
from nfstudy.runner.scheduler import Scheduler
from nfstudy.runner.search import further_plan, study_plan
from nfstudy.runner.signals import StopSignal
from nfstudy.runner.tried import tried_before
from nfstudy.runs.former import runs_of_study
from nfstudy.runs.frame import LoggedRuns, runs_left, study_cells, trusted
from nfstudy.runs.result import RESULTS, TrialResult
from nfstudy.runs.tracking.claim import Claim
from nfstudy.runs.tracking.presented import show_study
from nfstudy.runs.tracking.retry import RETRY_SECONDS, Retry
from nfstudy.runs.tracking.store import open_store
from nfstudy.runs.views import view_tag
from nfstudy.runs.whole_run import DataRecord
from nfstudy.study.cells import Identity
from nfstudy.study.plan import Further, StudyPlan
from nfstudy.study.sections import DataSpec


def run_study(
    launch: Launch,
    data: Mapping[DataSpec, DataRecord],
    expected: Mapping[str, float],
    pool: Engine,
    stop: StopSignal,
    claim: Claim | None = None,
    further: Mapping[str, Further] | None = None,
) -> Summary:
    """Run what is still to do of a study, or `further` repetitions alone.

    Call it with the study's lock held, and its claim taken.

    Arguments:
        launch: the study, and how it is run.
        data: from `prepare_data`.
        expected: `cells.cost_key` -> expected seconds of one run, for the time left.
        pool: the workers.
        stop: what may ask to stop.
        claim: on the study, which is kept.
        further: cell key -> how many repetitions are wanted of it; then of other cells nothing is run.

    Raises:
        StoreError: the store or the journal cannot be used, or the study was taken over.
        DataError: results that the store holds are of other data.
        Interrupted: asked to stop; runs under way are saved and marked killed.
    """
    plan, study = launch.plan, launch.plan.study
    store = open_store(launch.uri, create=True)
    store.claim = claim
    experiment = store.experiment(plan.name, study.description or study.title)
    store.kill_left_over(plan.name)
    runs = runs_of_study(study, store.runs)
    frame = trusted(plan, runs.frame())
    require_same_data(plan, frame, data)
    folder = store.folder or launch.project.store
    report = launch.project.page(launch.project.report(study.study))
    places = Places(
        store, experiment, folder / "optuna" / f"{plan.name}.journal", folder / "checkpoints" / plan.name, report
    )
    if not store.study_tag(
        plan.name, view_tag(plan.logged_as.budget)
    ):  # Else it is brought up to date when all is done.
        show_study(store, plan.name, report, plan)
    prune_checkpoints(places.checkpoints, set(_identities(frame[frame["outcome"].isin(RESULTS)])))
    drop_lock(places.journal)
    known = known_outcomes(frame, plan.budget)
    if _prunes(plan):
        known = with_epochs(known, frame, runs)
    heard: list[StudyProgress] = []
    """What the searches choose is told of from the start on, not what they have chosen in earlier launches."""

    def say(words: str) -> None:
        for progress in heard:
            progress.note(words)

    tried = tried_before(plan, frame)
    with journal_errors(places.journal):
        if further is None:
            work = study_plan(plan, places.journal, say, tried)
        else:
            cells = [cell for cell in study_cells(plan, frame) if cell.key in further]
            work = further_plan(plan, places.journal, cells, further, say, tried)
        scheduler = Scheduler(work, known)
    with closing(make_progress()) as progress:
        heard.append(progress)
        store.retry = Retry(RETRY_SECONDS, progress.note, lambda: bool(stop.name))
        if further is None:
            total = plan.runs_of(len(study_cells(plan, frame)))
            done = total - runs_left(plan, frame)
        else:
            total, done = len(scheduler.waiting), 0
        attempts = Counter(_identities(frame))
        assignment = Assignment(plan.name, places, data, expected, launch.retry, attempts, done, total)
        try:
            summary = Coordinator(assignment, scheduler, pool, progress).work(stop)
            with suppress(StoreError):  # Else the next launch does it.
                store.kill_left_over(plan.name)
                show_study(store, plan.name, report, plan)
            return summary
        finally:
            store.tidy()


def known_outcomes(frame: pd.DataFrame, budget: str) -> dict[Identity, TrialResult]:
    """Return the results that the store holds, by what was run."""
    results = frame[(frame["budget"] == budget) & frame["outcome"].isin(RESULTS)]
    return {
        identity: TrialResult(outcome).told(elbo)
        for identity, outcome, elbo in zip(
            _identities(results), results["outcome"].tolist(), results["valid/elbo"].tolist(), strict=True
        )
    }


def with_epochs(
    known: Mapping[Identity, TrialResult], frame: pd.DataFrame, runs: LoggedRuns
) -> dict[Identity, TrialResult]:
    """Add F after each epoch to results, as a pruner has seen it: a journal that is lost is rebuilt with them."""
    results = frame[frame["outcome"].isin(RESULTS)]
    run_of = dict(zip(_identities(results), results["run_id"].tolist(), strict=True))
    points = runs.history([run_of[identity] for identity in known], ["valid/elbo"])
    bounds = {run_id: (-own["value"]).tolist() for run_id, own in points.groupby("run_id")}
    return {
        identity: replace(result, epochs=dict(enumerate(bounds.get(run_of[identity], ()), start=1)))
        for identity, result in known.items()
    }


def _prunes(plan: StudyPlan) -> bool:
    samplings = [plan.sampling, plan.search and plan.search.sampler]
    return any(sampling and sampling.pruner for sampling in samplings)


def _identities(frame: pd.DataFrame) -> list[Identity]:
    """Return what each run is a run of."""
    return [*frame[["cell", "stage", "index", "settings"]].itertuples(index=False, name=None)]
