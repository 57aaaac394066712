"""The coordinator: hands tasks to workers, logs what they report, retries failures, saves what is interrupted."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from nfstudy import __version__
from nfstudy.core.atomic import sweep
from nfstudy.core.errors import RunGoneError, StoreError
from nfstudy.inference.training.checkpoints import CheckpointPlan, checkpoint_path
from nfstudy.runner.engine import Engine, OtherCodeError, Worker
from nfstudy.runner.eta import Forecast, epoch_share, format_duration
from nfstudy.runner.journal import journal_errors
from nfstudy.runner.options import RetryPolicy
from nfstudy.runner.progress import StudyProgress
from nfstudy.runner.scheduler import Scheduler, Task
from nfstudy.runner.signals import STOP_SECONDS, Interrupted, StopSignal
from nfstudy.runner.watch import AtWork, Watch
from nfstudy.runner.worker import Compiling, Died
from nfstudy.runs.description import Described, describe, unit_of_settings
from nfstudy.runs.result import RESULTS, EpochRecord, Notice, Resumed, TrialResult
from nfstudy.runs.tags import Tag
from nfstudy.runs.tracking.store import Attempt, Store
from nfstudy.runs.weights import WEIGHTS, describe_weights
from nfstudy.runs.whole_run import DataRecord
from nfstudy.study.cells import Identity, Trial
from nfstudy.study.sections import DataSpec

GRACE_SECONDS = 5.0
"""How long workers that are to stop may take to save what they are at; a launch has 10 s to end in all, of which
`signals.PRESS_SECONDS` may have gone before."""


@dataclass(frozen=True)
class Summary:
    """What a launch did."""

    ran: Counter[str]
    """Outcome -> how many of the runs of this launch."""
    seconds: float
    failures: tuple[str, ...]
    """The failed trials with their reasons."""


@dataclass(frozen=True)
class Places:
    """Where a launch reads and writes."""

    store: Store
    experiment: str
    journal: Path
    """Optuna's."""
    checkpoints: Path
    """The folder of the study's."""
    report: str
    """The page of the study's report, from the project's folder: runs' descriptions name it."""


@dataclass(frozen=True)
class Assignment:
    """What a coordinator is to do, and what has been done before."""

    study: str
    """Its name."""
    places: Places
    data: Mapping[DataSpec, DataRecord]
    """What a data set is loaded by -> what runs say of it."""
    expected: Mapping[str, float]
    """`cells.cost_key` -> expected seconds of one run."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    attempts: Mapping[Identity, int] = field(default_factory=dict)
    """How many runs of each trial the store holds."""
    done: int = 0
    """Runs that have ended."""
    total: int = 1
    """Runs in all."""


class Coordinator:
    """One launch of a study, from its first task to its last."""

    def __init__(self, assignment: Assignment, scheduler: Scheduler, pool: Engine, progress: StudyProgress) -> None:
        """Take over a study's work.

        Arguments:
            assignment: what is to be done.
            scheduler: the order of work.
            pool: the workers.
            progress: what is reported.
        """
        self.study, self.places, self.data = assignment.study, assignment.places, assignment.data
        self.retry = assignment.retry
        self.scheduler, self.pool, self.progress = scheduler, pool, progress
        self.forecast = Forecast(assignment.expected, len(pool.workers))
        self.watch = Watch(pool, self.retry.worker_timeout, progress.note)
        self.tasks: dict[int, Task] = {}
        """Worker number -> what it is at."""
        self.attempts = Counter(assignment.attempts)
        self.failed: Counter[Identity] = Counter()
        """Attempts of this launch that ended without a result, and no further on than the one before."""
        self.furthest: Counter[Identity] = Counter()
        """The update from which a trial was last resumed."""
        self.stopping = False
        self.ran: Counter[str] = Counter()
        self.failures: list[str] = []
        self.done, self.total = assignment.done, assignment.total
        self._seconds_left, self._outdated = math.nan, -math.inf

    def work(self, stop: StopSignal) -> Summary:
        """Run all that the scheduler asks for.

        Raises:
            Interrupted: asked to stop; says what became of the trials under way.
            StoreError: the store or the journal cannot be used any more; trials under way are saved.
            OtherCodeError: a worker took another's place with other sources; trials under way are saved.
        """
        started = time.monotonic()
        self.progress.begin(self.study, self.done, self.total, self._left())
        try:
            while not self.scheduler.done:
                self.places.store.retry.retry_while_unavailable(self.places.store.keep)
                for worker in self.pool.workers:
                    if worker.device and worker.number not in self.tasks and (task := self.scheduler.next()):
                        self._start(worker, task)
                        stop.check()
                for worker, message in self.pool.events(STOP_SECONDS):
                    self._handle(worker, message)
                    stop.check()
                self.watch.look({number: self._at_work(task) for number, task in self.tasks.items()})
                stop.check()
        except (Interrupted, StoreError, OtherCodeError) as error:
            stop.obey()
            with self.places.store.hurried():
                saved = self._wind_down(unavailable=isinstance(error, StoreError))
            if stop.name:
                raise Interrupted(f"{stop.name}; {saved}") from None
            raise type(error)(f"{error}; {saved}") from None
        finally:
            with suppress(StoreError), self.places.store.hurried():
                for task in self.tasks.values():
                    self._kill_run(task)
            sweep(self.places.checkpoints)  # What workers were writing when they were killed.
        return Summary(self.ran, time.monotonic() - started, tuple(self.failures))

    def _wind_down(self, unavailable: bool) -> str:
        """Have the workers save what they are at and leave, within `GRACE_SECONDS`; say what came of it.

        An `unavailable` store is not asked again: what it lacks is found out when the study is resumed.
        """
        self.stopping = True
        under_way = len(self.tasks)
        left: Counter[bool] = Counter()
        self.pool.stop()
        deadline = time.monotonic() + GRACE_SECONDS
        while self.tasks and time.monotonic() < deadline:
            for worker, message in self.pool.events(STOP_SECONDS):
                gone = message if isinstance(message, Died) and worker.number in self.tasks else None
                if gone:
                    left[gone.clean_exit] += 1
                try:
                    if not unavailable:
                        self._handle(worker, message)
                except StoreError:
                    unavailable = True
                if gone:
                    self.tasks.pop(worker.number, None)
        ended = under_way - left.total() - len(self.tasks)
        lost = left[False] + len(self.tasks)
        if unavailable:
            self.tasks.clear()
        words = f"finished runs are saved, and so are {left[True]} of {under_way - ended} runs under way"
        return words + (f"; the other {lost} resume from their last checkpoints" if lost else "")

    def _start(self, worker: Worker, task: Task) -> None:
        trial = task.trial
        self.attempts[trial.identity] += 1
        spec = trial.settings.data
        try:
            task.run_id = self.places.store.start_run(
                self.places.experiment,
                trial,
                self.data[spec.source()] if spec else None,
                Attempt(worker.device or "", self.pool.threads, self.attempts[trial.identity], worker.environment),
            )
        except RunGoneError as error:
            self.tasks[worker.number] = task
            self._end(worker, task, TrialResult("failed", reason=str(error)))
            return
        self.tasks[worker.number] = task
        if task.tags:
            self.places.store.tag_run(task.run_id, task.tags())
        plan = CheckpointPlan(self._checkpoint(trial.identity), self.retry.checkpoint_every)
        worker.run(trial, task.should_continue is not None, plan)
        self.progress.epoch(worker.number, trial, EpochRecord(0, 0, trial.settings.train.updates, {}), self._left())

    def _handle(self, worker: Worker, message: object) -> None:
        task = self.tasks.get(worker.number)
        if task is None:
            return
        try:
            self._take(worker, task, message)
        except RunGoneError as error:
            task.run_id = ""
            if isinstance(message, TrialResult):
                self._end(worker, task, TrialResult("failed", message.update, str(error)))
            else:  # It goes on from its checkpoint, in another run.
                self.pool.give_up(worker, str(error))

    def _take(self, worker: Worker, task: Task, message: object) -> None:
        if not task.run_id and not isinstance(message, Died):
            return  # Said before it was given up.
        if isinstance(message, EpochRecord):
            self._epoch(worker, task, message)
        elif isinstance(message, Resumed):
            self._resumed(task, message)
        elif isinstance(message, Notice):
            self._note(task, message.words)
            self.places.store.tag_run(task.run_id, {Tag.NOTICE: message.words})
        elif isinstance(message, Compiling):
            self.progress.note(f"compiling for this processor, once, some seconds each: {message.loop}")
        elif isinstance(message, Died):
            self._died(worker, task, message)
        elif isinstance(message, TrialResult):
            self._end(worker, task, message)

    def _epoch(self, worker: Worker, task: Task, record: EpochRecord) -> None:
        self.places.store.log_epoch(task.run_id, record)
        task.record = record
        if task.should_continue:
            task.epochs[record.epoch] = record.free_energy
            worker.answer(task.should_continue(record))
        self.progress.epoch(worker.number, task.trial, record, self._left())

    def _resumed(self, task: Task, message: Resumed) -> None:
        identity, update = task.trial.identity, message.update
        if update > self.furthest[identity]:
            self.furthest[identity] = update
            self.failed[identity] = 0
        tags, words = {Tag.RESUMED_AT: str(update)}, f"resumes after update {update:,}"
        if message.other_code:
            tags[Tag.EARLIER_CODE] = " ".join(message.other_code)
            words += ", done by other code (the run and its report say so)"
        self.places.store.tag_run(task.run_id, tags)
        self._note(task, words)

    def _died(self, worker: Worker, task: Task, message: Died) -> None:
        if self.stopping:
            self._kill_run(task)
            del self.tasks[worker.number]
        elif self._may_retry(task):
            self._kill_run(task)
            self._put_back(worker, task, message.reason)
        else:
            update = task.record.update if task.record else 0
            self._end(worker, task, TrialResult("failed", update, f"{message.reason}, {self.retry.attempts} times"))

    def _end(self, worker: Worker, task: Task, result: TrialResult) -> None:
        trial = task.trial
        if task.run_id:
            self.places.store.finish_run(task.run_id, _described(result, task), self._description(trial, result))
        if result.outcome == "failed" and result.retry and self._may_retry(task):
            self._put_back(worker, task, f"failed ({result.reason})")
            return
        del self.tasks[worker.number]
        if result.outcome in RESULTS:
            with suppress(OSError):  # Else it is swept when the study is next run.
                self._checkpoint(trial.identity).unlink(missing_ok=True)
        self.ran[result.outcome] += 1
        self.done += result.outcome in RESULTS
        if result.outcome == "failed":
            self.failures.append(f"{trial.label}: {result.reason}")
        seconds = result.metrics.get("time/wall_seconds", 0.0)
        if result.outcome == "finished":
            self.forecast.ended(trial, seconds)
        elbo = task.record.metrics["valid/elbo"] if task.record else math.nan
        with journal_errors(self.places.journal):
            self.scheduler.tell(task, result.told(elbo, task.epochs))
        how = f"({result.reason})" if result.reason and result.outcome != "pruned" else result.reason
        words = f"{result.outcome} {how or f'in {format_duration(seconds)}'}"
        if trial.stage == "search":
            words += f", validation F {-elbo:.2f} nats" if result.outcome == "finished" else ""
            words += f", with {trial.values}"
        if "test/nll" in result.metrics:
            words += f", test F {-result.metrics['test/elbo']:.2f}, −ln p {result.metrics['test/nll']:.2f} nats"
        self.progress.ended(worker.number, trial, words, self.done, self.total, self._left())

    def _description(self, trial: Trial, result: TrialResult) -> str:
        unit = unit_of_settings(trial.settings)
        return describe(Described(trial.stage, result.outcome, result.reason, result.metrics, unit), self.places.report)

    def _kill_run(self, task: Task) -> None:
        """Mark a task's run as cut off, unless it has gone."""
        if task.run_id:
            with suppress(RunGoneError):
                self.places.store.kill_run(task.run_id)

    def _at_work(self, task: Task) -> AtWork:
        """Return how long a worker at a task may be expected to say nothing: an epoch, or at its end the evaluation."""
        run = self.forecast.expected(task.trial.cost_key)
        at_end = task.record is not None and task.record.update >= task.record.updates
        return AtWork(task.trial.label, run if at_end else run * epoch_share(task.trial.settings))

    def _may_retry(self, task: Task) -> bool:
        return not self.stopping and self.failed[task.trial.identity] < self.retry.retries

    def _put_back(self, worker: Worker, task: Task, why: str) -> None:
        trial = task.trial
        self.failed[trial.identity] += 1
        del self.tasks[worker.number]
        self.scheduler.put_back(task)
        words = f"{why}; retrying"
        self.progress.ended(worker.number, trial, words, self.done, self.total, self._left())

    def _note(self, task: Task, words: str) -> None:
        self.progress.note(f"{task.trial.label}: {words}")

    def _checkpoint(self, identity: Identity) -> Path:
        return checkpoint_path(self.places.checkpoints, identity)

    def _left(self) -> float:
        """Return the seconds left, worked out from all that waits: at most 1% of the time goes there."""
        now = time.monotonic()
        if now >= self._outdated:
            waiting = [task.trial.cost_key for task in self.scheduler.waiting]
            running = [(task.trial.cost_key, task.fraction) for task in self.tasks.values()]
            # What searches have yet to propose, and what waits for them, counts as a run of mean length.
            waiting += [""] * (self.total - self.done - len(waiting) - len(running))
            self._seconds_left = self.forecast.left(waiting, running)
            self._outdated = now + 100 * (time.monotonic() - now)
        return self._seconds_left


def _described(result: TrialResult, task: Task) -> TrialResult:
    """Return a result whose file of weights says which run it is of."""
    if WEIGHTS not in result.files:
        return result
    weights = describe_weights(result.files[WEIGHTS], task.trial, task.run_id, __version__)
    return replace(result, files={**result.files, WEIGHTS: weights})
