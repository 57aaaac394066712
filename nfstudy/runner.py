"""The coordinator of a study: asks the plan for trials, gives them to workers, writes what comes back to the store.

It is the one process that writes to the tracking store and to Optuna's journal, under the study's lock. What is done is
what the store holds as finished, diverged or pruned: everything else is run, once.
"""

from __future__ import annotations

import itertools
import math
import signal
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from types import FrameType

import pandas as pd

from nfstudy.cells import Cell, Identity, corner_points, total_runs
from nfstudy.data import Dataset, load_dataset
from nfstudy.forecast import Forecast, in_words, run_seconds, shape
from nfstudy.outcomes import Cost, EpochRecord, TrialResult
from nfstudy.progress import StudyProgress, make_progress
from nfstudy.project import Project
from nfstudy.runs import RESULTS, runs_left, study_cells
from nfstudy.schedule import Request, Scheduler, Told
from nfstudy.search import study_plan
from nfstudy.sections import DataSpec
from nfstudy.settings import Settings
from nfstudy.spec import Range, StudySpec
from nfstudy.tracking import DataRecord, Store, open_store
from nfstudy.workers import Died, Pool, Ready, Worker

ATTEMPTS = 3
"""How often a trial whose worker process died is started in all, before it counts as failed."""

STOP_SECONDS = 0.25
"""How long a signal to stop may go unnoticed."""

MAX_MEASURED = 24
"""Of a study with more shapes of cells than this, so many are measured, spread over its grid."""


@dataclass(frozen=True)
class Summary:
    """What a launch did."""

    ran: Counter[str]
    """Outcome -> how many of the runs of this launch."""
    seconds: float
    failures: tuple[str, ...]
    """The failed trials with their reasons."""


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The study was stopped from outside; what had ended is saved."""


class StopSignal:
    """Notes Ctrl-C and SIGTERM while it is entered, so that the work can end between two steps and not within one."""

    def __init__(self) -> None:
        self.name = ""
        """The signal that has come; empty until one has."""

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.name:
            raise Interrupted(self.name)

    def __enter__(self) -> StopSignal:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.name:  # Somebody insists.
            raise Interrupted(self.name)
        self.name = signal.Signals(number).name


def prepare_data(study: StudySpec, budget: str, project: Project) -> dict[DataSpec, DataRecord]:
    """Make sure that every data set of a study is there and intact; raises DataError.

    Returns:
        What a data set is loaded by (`DataSpec.source`) -> what runs say of it.
    """
    return {spec: _record(load_dataset(spec, project.data_folders)) for spec in _data_specs(study, budget)}


def run_study(
    study: StudySpec,
    budget: str,
    project: Project,
    tracking_uri: str,
    data: Mapping[DataSpec, DataRecord],
    expected: Mapping[str, float],
    pool: Pool,
    stop: StopSignal,
) -> Summary:
    """Run what is missing of a study; call it with the study's lock held.

    Arguments:
        study: the study.
        budget: which of its budgets.
        project: where Optuna's journal goes, if the store is not a file.
        tracking_uri: the store, made if it is not there.
        data: from `prepare_data`.
        expected: cell key -> expected seconds of one run, for the time left.
        pool: the workers.
        stop: what may ask to stop.

    Raises:
        StoreError: the store or the journal cannot be used.
        Interrupted: asked to stop; runs under way are marked killed.
    """
    store = open_store(tracking_uri, create=True)
    experiment = store.experiment(study.study, study.description or study.title)
    frame = store.runs(study.study).frame()
    for run_id in frame.loc[frame["outcome"] == "running", "run_id"]:
        store.kill_run(run_id)  # We hold the lock, so nobody is at work on them.
    journal = (store.folder or project.store) / "optuna" / f"{study.study}.journal"
    scheduler = Scheduler(study_plan(study, budget, journal), known_outcomes(frame, budget))
    with closing(make_progress()) as progress:
        total = total_runs(study, budget, len(study_cells(study, budget, frame)))
        done = total - runs_left(study, budget, frame)
        session = _Session(study.study, store, experiment, data, scheduler, pool, progress, expected, done, total)
        try:
            return session.work(stop)
        finally:
            session.kill_running()
            store.tidy()


def known_outcomes(frame: pd.DataFrame, budget: str) -> dict[Identity, Told]:
    """Return the results that the store holds, by what was run."""
    results = frame[(frame["budget"] == budget) & frame["outcome"].isin(RESULTS)]
    return {
        (row["cell"], row["stage"], row["index"], row["settings"]): _told(row["outcome"], row["valid/elbo"])
        for _, row in results.iterrows()
    }


def measure_costs(pool: Pool, cells: list[Cell], stop: StopSignal) -> dict[str, float]:
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


class _Session:
    """One launch at work."""

    def __init__(
        self,
        study: str,
        store: Store,
        experiment: str,
        data: Mapping[DataSpec, DataRecord],
        scheduler: Scheduler,
        pool: Pool,
        progress: StudyProgress,
        expected: Mapping[str, float],
        done: int,
        total: int,
    ) -> None:
        self.study = study
        self.store, self.experiment, self.data = store, experiment, data
        self.scheduler, self.pool, self.progress = scheduler, pool, progress
        self.forecast = Forecast(expected, len(pool.workers))
        self.tasks: dict[int, _Task] = {}
        """Worker number -> what it is at."""
        self.attempts: Counter[Identity] = Counter()
        self.ran: Counter[str] = Counter()
        self.failures: list[str] = []
        self.done, self.total = done, total

    def work(self, stop: StopSignal) -> Summary:
        started = time.monotonic()
        self.progress.begin(self.study, self.done, self.total, self._left())
        while not self.scheduler.done:
            for worker in self.pool.workers:
                if worker.device and worker.number not in self.tasks and (request := self.scheduler.next()):
                    self._start(worker, request)
            for worker, message in self.pool.events(STOP_SECONDS):
                self._handle(worker, message)
            stop.check()
        return Summary(self.ran, time.monotonic() - started, tuple(self.failures))

    def kill_running(self) -> None:
        for task in self.tasks.values():
            self.store.kill_run(task.run_id)

    def _start(self, worker: Worker, request: Request) -> None:
        trial = request.trial
        self.attempts[trial.identity] += 1
        spec = trial.settings.data
        data = self.data[spec.source()] if spec else None
        device, threads = worker.device or "", self.pool.threads
        run_id = self.store.start_run(self.experiment, trial, data, request.point, device, threads)
        self.tasks[worker.number] = _Task(request, run_id)
        worker.run(trial, asks=request.keep_going is not None)
        self.progress.epoch(worker.number, trial, EpochRecord(0, 0, trial.settings.train.updates, {}), self._left())

    def _handle(self, worker: Worker, message: object) -> None:
        task = self.tasks.get(worker.number)
        if task is None:
            return
        if isinstance(message, EpochRecord):
            self.store.log_epoch(task.run_id, message)
            task.record = message
            if task.request.keep_going:
                worker.answer(task.request.keep_going(message.epoch, -message.metrics["valid/elbo"]))
            self.progress.epoch(worker.number, task.request.trial, message, self._left())
        elif isinstance(message, Died) and self.attempts[task.request.trial.identity] < ATTEMPTS:
            self.store.kill_run(task.run_id)
            del self.tasks[worker.number]
            self.scheduler.put_back(task.request)
            words = f"{message.reason}; it is started again"
            self.progress.ended(worker.number, task.request.trial, words, self.done, self.total, self._left())
        elif isinstance(message, Died):
            update = task.record.update if task.record else 0
            reason = f"{message.reason}, {ATTEMPTS} times"
            self._end(worker, task, TrialResult("failed", update, reason))
        elif isinstance(message, TrialResult):
            self._end(worker, task, message)

    def _end(self, worker: Worker, task: _Task, result: TrialResult) -> None:
        trial = task.request.trial
        self.store.finish_run(task.run_id, result)
        del self.tasks[worker.number]
        self.ran[result.outcome] += 1
        self.done += result.outcome in RESULTS
        if result.outcome == "failed":
            self.failures.append(f"{trial.label}: {result.reason}")
        seconds = result.metrics.get("time/wall_seconds", 0.0)
        if result.outcome == "finished" and trial.stage == "repetition":
            self.forecast.ended(trial, seconds)
        elbo = task.record.metrics["valid/elbo"] if task.record else math.nan
        self.scheduler.tell(task.request, _told(result.outcome, elbo))
        words = f"{result.outcome}{f' ({result.reason})' if result.reason else f' in {in_words(seconds)}'}"
        if "test/nll" in result.metrics:
            words += f", test F {-result.metrics['test/elbo']:.2f}, −ln p {result.metrics['test/nll']:.2f} nats"
        self.progress.ended(worker.number, trial, words, self.done, self.total, self._left())

    def _left(self) -> float:
        waiting = [request.trial.cell.key for request in self.scheduler.waiting]
        running = [(task.request.trial.cell.key, task.fraction) for task in self.tasks.values()]
        return self.forecast.left(waiting, running)


@dataclass
class _Task:
    """A trial on a worker."""

    request: Request
    run_id: str
    record: EpochRecord | None = None

    @property
    def fraction(self) -> float:
        return self.record.update / self.record.updates if self.record else 0.0


def _told(outcome: str, elbo: float) -> Told:
    """Return what a plan is told: F where the run finished, inf where it did not or logged none."""
    value = -elbo if outcome == "finished" and math.isfinite(elbo) else math.inf
    return Told(outcome, value)  # type: ignore[arg-type]


def _data_specs(study: StudySpec, budget: str) -> set[DataSpec]:
    """Return every data set that some cell of the study may use."""
    cells = [cell.settings for cell, _ in corner_points(study, budget)]
    space = study.search.space if study.search else {}
    axes = {path: axis for path, axis in space.items() if path.startswith("data.") and not isinstance(axis, Range)}
    searched = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    found = [settings.replace(values).data for settings in cells for values in searched]
    return {spec.source() for spec in found if spec}


def _record(dataset: Dataset) -> DataRecord:
    shapes = {"train": dataset.train.shape, "valid": dataset.valid.shape, "test": dataset.test.shape}
    return DataRecord(dataset.name, dataset.fingerprint, dataset.source, shapes)
