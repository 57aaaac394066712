"""The coordinator of a study: takes its lock's word for being alone, finds out what is missing, and has that run.

It is the one process that writes to the tracking store and to Optuna's journal, under the study's lock. What is done is
what the store holds as finished, diverged or pruned: everything else is run, once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path

import pandas as pd

from nfstudy.core.errors import StoreError
from nfstudy.core.project import Project
from nfstudy.data import Dataset, load_dataset
from nfstudy.inference.training.checkpoints import sweep
from nfstudy.runner.coordinator import STOP_SECONDS, Care, Places, Session, Summary, journal_errors, told
from nfstudy.runner.engine import Engine
from nfstudy.runner.eta import run_seconds, shape
from nfstudy.runner.progress import make_progress
from nfstudy.runner.scheduler import Scheduler, Told
from nfstudy.runner.search import study_plan
from nfstudy.runner.signals import StopSignal
from nfstudy.runner.worker import Ready
from nfstudy.runs.frame import RESULTS, runs_left, study_cells
from nfstudy.runs.result import Cost
from nfstudy.runs.tracking.retry import PATIENCE_SECONDS, Patience
from nfstudy.runs.tracking.store import DataRecord, open_store
from nfstudy.study.cells import Cell, Identity
from nfstudy.study.plan import StudyPlan
from nfstudy.study.sections import DataSpec
from nfstudy.study.settings import Settings

MAX_MEASURED = 24
"""Of a study with more shapes of cells than this, so many are measured, spread over its grid."""


def prepare_data(plan: StudyPlan, project: Project) -> dict[DataSpec, DataRecord]:
    """Make sure that every data set of a study is there and intact; raises DataError.

    Returns:
        What a data set is loaded by (`DataSpec.source`) -> what runs say of it.
    """
    return {spec: data_record(load_dataset(spec, project.data_folders)) for spec in plan.data_sources}


def run_study(
    plan: StudyPlan,
    project: Project,
    tracking_uri: str,
    data: Mapping[DataSpec, DataRecord],
    expected: Mapping[str, float],
    pool: Engine,
    stop: StopSignal,
    care: Care,
) -> Summary:
    """Run what is missing of a study; call it with the study's lock held.

    Arguments:
        plan: the study under one of its budgets.
        project: where journal and checkpoints go, if the store is not a file.
        tracking_uri: the store, made if it is not there.
        data: from `prepare_data`.
        expected: cell key -> expected seconds of one run, for the time left.
        pool: the workers.
        stop: what may ask to stop.
        care: how often checkpoints are written, and failures retried.

    Raises:
        StoreError: the store or the journal cannot be used.
        Interrupted: asked to stop; runs under way are saved and marked killed.
    """
    study = plan.study
    store = open_store(tracking_uri, create=True)
    experiment = store.experiment(study.study, study.description or study.title)
    store.kill_left_over(study.study)
    frame = store.runs(study.study).frame()
    folder = store.folder or project.store
    journal, checkpoints = folder / "optuna" / f"{study.study}.journal", folder / "checkpoints" / study.study
    sweep(checkpoints, set(_identities(frame[frame["outcome"].isin(RESULTS)])))
    _drop_lock(journal)
    with journal_errors(journal):
        scheduler = Scheduler(study_plan(plan, journal), known_outcomes(frame, plan.budget))
    with closing(make_progress()) as progress:
        store.patience = Patience(PATIENCE_SECONDS, progress.note, lambda: bool(stop.name))
        total = plan.runs_of(len(study_cells(plan, frame)))
        done = total - runs_left(plan, frame)
        places = Places(store, experiment, journal, checkpoints)
        attempts = Counter(_identities(frame))
        session = Session(study.study, places, data, scheduler, pool, progress, expected, care, attempts, done, total)
        try:
            summary = session.work(stop)
            with suppress(StoreError):  # Else the next launch does it.
                store.kill_left_over(study.study)
            return summary
        finally:
            store.tidy()


def known_outcomes(frame: pd.DataFrame, budget: str) -> dict[Identity, Told]:
    """Return the results that the store holds, by what was run."""
    results = frame[(frame["budget"] == budget) & frame["outcome"].isin(RESULTS)]
    return {
        identity: told(outcome, elbo)
        for identity, outcome, elbo in zip(
            _identities(results), results["outcome"].tolist(), results["valid/elbo"].tolist(), strict=True
        )
    }


def measure_costs(pool: Engine, cells: Iterable[Cell], stop: StopSignal) -> dict[str, float]:
    """Return cell key -> expected seconds of one run, measured on the workers, one cell of each shape."""
    by_shape: dict[str, Settings] = {}
    for cell in cells:
        by_shape.setdefault(shape(cell.settings), cell.settings)
    costs: dict[str, Cost] = {}
    waiting = list(by_shape)[:: math.ceil(len(by_shape) / MAX_MEASURED) or 1]
    while waiting or any(worker.task for worker in pool.workers):
        for worker in pool.workers:
            if worker.device and worker.task is None and waiting:
                worker.task = waiting.pop(0)
                worker.measure(by_shape[worker.task])
        stop.check()
        for worker, message in pool.events(STOP_SECONDS):
            if isinstance(message, Cost):
                costs[worker.task] = message
            # A measurement that fails leaves its cells without an estimate; running them will say why.
            if not isinstance(message, Ready):
                worker.task = None
    return {
        cell.key: run_seconds(cell.settings, costs[shape(cell.settings)])
        for cell in cells
        if shape(cell.settings) in costs
    }


def _identities(frame: pd.DataFrame) -> list[Identity]:
    """Return what each run is a run of."""
    return [*frame[["cell", "stage", "index", "settings"]].itertuples(index=False, name=None)]


def _drop_lock(journal: Path) -> None:
    """Remove what a killed coordinator has left of Optuna's own lock, for which Optuna would wait half a minute.

    Nobody else is at work on the journal: we hold the study's lock.
    """
    with journal_errors(journal):
        journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)


def data_record(dataset: Dataset) -> DataRecord:
    """Return what runs say of a data set."""
    shapes = {"train": dataset.train.shape, "valid": dataset.valid.shape, "test": dataset.test.shape}
    return DataRecord(dataset.name, dataset.fingerprint, dataset.source, shapes)
