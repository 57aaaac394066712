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
from nfstudy.core.errors import StoreError
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
from nfstudy.runs.tags import THEN, Tag, tag_of
from nfstudy.runs.tracking.store import Attempt, Store
from nfstudy.runs.tracking.writing import RunLog, Writing, Written
from nfstudy.runs.weights import WEIGHTS, describe_weights
from nfstudy.runs.whole_run import DataRecord
from nfstudy.study.cells import Identity, Trial
from nfstudy.study.sections import DataSpec

GRACE_SECONDS = 5.0
"""How long workers that are to stop may take to save what they are at; a launch has 10 s to end in all, of which
`signals.PRESS_SECONDS` may have gone before."""

WRITING_SECONDS = 0.01
"""How often it is looked what has been written, while anything is to be."""
LAST_SECONDS = 1.0
"""How long, when all workers are gone, the store is waited for."""
MOST_UNWRITTEN = 16
"""Results that may wait to be written before no more trials are started: they hold files, in memory."""


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
    """Runs that have ended, and those that are not to do, as their cells were pruned."""
    total: int = 1
    """Runs in all."""


@dataclass(frozen=True)
class Ending:
    """A task that no worker is at any more, and that has ended when the end of its run is written."""

    worker: int
    """The number of the worker that was at it."""
    task: Task
    result: TrialResult | None = None
    """None: its run was cut off, and it is to be tried again."""
    why: str = ""
    """What cut it off."""


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
        self.writing = Writing(self.places.store)
        self.logs: dict[Task, RunLog] = {}
        """What a worker is at, and its run as far as it is to be written; none where that has been deleted."""
        self.endings: dict[RunLog, Ending] = {}
        """What is to happen when the end of a run is written."""
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
                for worker in self.pool.workers:
                    if worker.device and worker.number not in self.tasks and (task := self._next()):
                        self._start(worker, task)
                        stop.check()
                self._turn(stop)
                self.watch.look({number: self._at_work(task) for number, task in self.tasks.items() if task.run_id})
                stop.check()
        except (Interrupted, StoreError, OtherCodeError) as error:
            stop.obey()
            with self.places.store.hurried():
                saved = self._wind_down(unavailable=isinstance(error, StoreError))
            if stop.name:
                raise Interrupted(f"{stop.name}; {saved}") from None
            raise type(error)(f"{error}; {saved}") from None
        finally:
            with self.places.store.hurried():
                for task in self.tasks.values():
                    if log := self.logs.get(task):
                        self.writing.kill(log)
                self.writing.close(LAST_SECONDS)
            sweep(self.places.checkpoints)  # What workers were writing when they were killed.
        return Summary(self.ran, time.monotonic() - started, tuple(self.failures))

    def _next(self) -> Task | None:
        """Return what is to be done next, if anything is and the store keeps up."""
        return self.scheduler.next() if len(self.endings) < MOST_UNWRITTEN else None

    def _turn(self, stop: StopSignal) -> None:
        """Hear what workers say and what has been written, after a short wait for either."""
        for worker, message in self.pool.events(WRITING_SECONDS if self.writing.busy else STOP_SECONDS):
            self._handle(worker, message)
            stop.check()
        for written in self.writing.written():
            self._written(written)
        stop.check()

    def _wind_down(self, unavailable: bool) -> str:
        """Have the workers save what they are at and leave, within `GRACE_SECONDS`; say what came of it.

        An `unavailable` store is not asked again: what it lacks is found out when the study is resumed.
        """
        self.stopping = True
        if unavailable:
            self.writing.close()
        under_way = len(self.tasks) + self._unwritten()
        left: Counter[bool] = Counter()
        self.pool.stop()
        deadline = time.monotonic() + GRACE_SECONDS
        while (self.tasks or (self.writing.busy and not unavailable)) and time.monotonic() < deadline:
            if not self.pool.workers:  # Nothing makes `events` wait.
                time.sleep(WRITING_SECONDS)
            for worker, message in self.pool.events(WRITING_SECONDS if self.writing.busy else STOP_SECONDS):
                gone = message if isinstance(message, Died) and worker.number in self.tasks else None
                if gone:
                    left[gone.clean_exit] += 1
                if not unavailable:
                    self._handle(worker, message)
                if gone:
                    self.tasks.pop(worker.number, None)
            try:
                for written in [] if unavailable else self.writing.written():
                    self._written(written)
            except StoreError:
                unavailable = True
        lost = left[False] + len(self.tasks) + self._unwritten()
        ended = under_way - left[True] - lost
        if unavailable:
            self.tasks.clear()
        words = f"finished runs are saved, and so are {left[True]} of {under_way - ended} runs under way"
        return words + (f"; the other {lost} resume from their last checkpoints" if lost else "")

    def _unwritten(self) -> int:
        """Return how many results the store does not have yet."""
        return sum(ending.result is not None for ending in self.endings.values())

    def _start(self, worker: Worker, task: Task) -> None:
        """Have a task's run made; its worker begins when the store has it."""
        trial = task.trial
        self.attempts[trial.identity] += 1
        spec = trial.settings.data
        self.logs[task] = self.writing.begin(
            self.places.experiment,
            trial,
            self.data[spec.source()] if spec else None,
            Attempt(worker.device or "", self.pool.threads, self.attempts[trial.identity], worker.environment),
            task.tags() if task.tags else {},
        )
        self.tasks[worker.number] = task

    def _written(self, written: Written) -> None:
        """Go on with what was waiting for a run to be written."""
        log = written.log
        if ending := self.endings.get(log):
            if written.ended or written.gone:
                del self.endings[log]
                if written.gone and ending.result:
                    ending = replace(ending, result=TrialResult("failed", ending.result.update, str(written.gone)))
                self._ended(ending)
            return
        task = next(task for task, own in self.logs.items() if own is log)
        worker = next(worker for worker in self.pool.workers if self.tasks.get(worker.number) is task)
        trial = task.trial
        if written.gone:  # It goes on from its checkpoint, in another run.
            task.run_id = ""
            del self.logs[task]
            self.pool.give_up(worker, str(written.gone))
            return
        task.run_id = log.run_id
        if self.stopping:
            return
        plan = CheckpointPlan(self._checkpoint(trial.identity), self.retry.checkpoint_every)
        spec = trial.settings.data
        numbers = self.data[spec.source()].fingerprint if spec else ""
        worker.run(trial, task.should_continue is not None, plan, numbers)
        self.progress.epoch(worker.number, trial, EpochRecord(0, 0, trial.settings.train.updates, {}), self._left())

    def _handle(self, worker: Worker, message: object) -> None:
        task = self.tasks.get(worker.number)
        if task is None:
            return
        if not task.run_id and not isinstance(message, Died):
            return  # Said before it was given up.
        if isinstance(message, EpochRecord):
            self._epoch(worker, task, message)
        elif isinstance(message, Resumed):
            self._resumed(task, message)
        elif isinstance(message, Notice):
            self._note(task, message.words)
            self.writing.tag(self.logs[task], {Tag.NOTICE: message.words})
        elif isinstance(message, Compiling):
            self.progress.note(f"compiling for this processor, once, some seconds each: {message.loop}")
        elif isinstance(message, Died):
            self._died(worker, task, message)
        elif isinstance(message, TrialResult):
            self._end(worker, task, message)

    def _epoch(self, worker: Worker, task: Task, record: EpochRecord) -> None:
        self.writing.epoch(self.logs[task], record)
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
        for name, history in message.made_by.items():
            tags[tag_of(name)] = THEN.join(history)
            words += f"; {name}: {THEN.join(history)}"
        self.writing.tag(self.logs[task], tags)
        self._note(task, words)

    def _died(self, worker: Worker, task: Task, message: Died) -> None:
        if self.stopping or self._may_retry(task):
            self._leave(worker, task, Ending(worker.number, task, why=message.reason))
        else:
            update = task.record.update if task.record else 0
            self._end(worker, task, TrialResult("failed", update, f"{message.reason}, {self.retry.attempts} times"))

    def _end(self, worker: Worker, task: Task, result: TrialResult) -> None:
        self._leave(worker, task, Ending(worker.number, task, _described(result, task)))

    def _leave(self, worker: Worker, task: Task, ending: Ending) -> None:
        """Take a task from its worker, which is free for the next; it has ended when the end of its run is written."""
        del self.tasks[worker.number]
        log = self.logs.pop(task, None)
        if log is None:
            self._ended(ending)
            return
        self.endings[log] = ending
        if ending.result:
            self.writing.end(log, ending.result, self._description(task.trial, ending.result))
        else:
            self.writing.kill(log)

    def _ended(self, ending: Ending) -> None:
        task, trial, result = ending.task, ending.task.trial, ending.result
        if result is None:
            if not self.stopping:
                self._put_back(ending, ending.why)
            return
        if result.outcome == "failed" and result.retry and self._may_retry(task):
            self._put_back(ending, f"failed ({result.reason})")
            return
        if result.outcome in RESULTS:
            with suppress(OSError):  # Else it is swept when the study is next run.
                self._checkpoint(trial.identity).unlink(missing_ok=True)
        self.ran[result.outcome] += 1
        self.done += result.outcome in RESULTS
        if result.outcome == "pruned":
            self.done += task.others
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
        self.progress.ended(ending.worker, trial, words, self.done, self.total, self._left())

    def _description(self, trial: Trial, result: TrialResult) -> str:
        unit = unit_of_settings(trial.settings)
        return describe(Described(trial.stage, result.outcome, result.reason, result.metrics, unit), self.places.report)

    def _at_work(self, task: Task) -> AtWork:
        """Return how long a worker at a task may be expected to say nothing: an epoch, or at its end the evaluation."""
        run = self.forecast.expected(task.trial.cost_key)
        at_end = task.record is not None and task.record.update >= task.record.updates
        return AtWork(task.trial.label, run if at_end else run * epoch_share(task.trial.settings))

    def _may_retry(self, task: Task) -> bool:
        return not self.stopping and self.failed[task.trial.identity] < self.retry.retries

    def _put_back(self, ending: Ending, why: str) -> None:
        trial = ending.task.trial
        self.failed[trial.identity] += 1
        self.scheduler.put_back(ending.task)
        self.progress.ended(ending.worker, trial, f"{why}; retrying", self.done, self.total, self._left())

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
            known = len(waiting) + len(running) + len(self.endings) + len(self.failures)
            waiting += [""] * (self.total - self.done - known)
            self._seconds_left = self.forecast.left(waiting, running)
            self._outdated = now + 100 * (time.monotonic() - now)
        return self._seconds_left


def _described(result: TrialResult, task: Task) -> TrialResult:
    """Return a result whose file of weights says which run it is of."""
    if WEIGHTS not in result.files:
        return result
    weights = describe_weights(result.files[WEIGHTS], task.trial, task.run_id, __version__)
    return replace(result, files={**result.files, WEIGHTS: weights})
