"""One launch of a study at work: gives trials to workers, writes what comes back, looks after what is cut off."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nfstudy.core.errors import StoreError
from nfstudy.inference.training.checkpoints import CheckpointPlan, checkpoint_path
from nfstudy.runner.engine import Engine, Worker
from nfstudy.runner.eta import Forecast, in_words
from nfstudy.runner.progress import StudyProgress
from nfstudy.runner.scheduler import Request, Scheduler, Told
from nfstudy.runner.signals import Interrupted, StopSignal
from nfstudy.runner.worker import Died
from nfstudy.runs.frame import RESULTS
from nfstudy.runs.result import EpochRecord, Notice, Resumed, TrialResult
from nfstudy.runs.tracking.store import Attempt, DataRecord, Store
from nfstudy.study.cells import Identity
from nfstudy.study.sections import DataSpec

STOP_SECONDS = 0.25
"""How long a signal to stop may go unnoticed."""

GRACE_SECONDS = 5.0
"""How long workers that are to stop may take to save what they are at; a launch has 10 s to end in all, of which
`stopping.PRESS_SECONDS` may have gone before."""


@dataclass(frozen=True)
class Care:
    """How a launch looks after its trials; changes no number."""

    checkpoint_every: float = 60.0
    """Seconds between two checkpoints of a trial."""
    retries: int = 2
    """How often a trial that fails, or whose worker dies, is tried again before it counts as failed.

    Attempts that end further on than the one before are not counted: a machine may take a worker away any number of
    times.
    """


@dataclass(frozen=True)
class Summary:
    """What a launch did."""

    ran: Counter[str]
    """Outcome -> how many of the runs of this launch."""
    seconds: float
    failures: tuple[str, ...]
    """The failed trials with their reasons."""


@dataclass
class Task:
    """A trial on a worker."""

    request: Request
    run_id: str
    record: EpochRecord | None = None

    @property
    def fraction(self) -> float:
        """How much of its training is done."""
        return self.record.update / self.record.updates if self.record else 0.0


@dataclass(frozen=True)
class Places:
    """Where a launch reads and writes."""

    store: Store
    experiment: str
    journal: Path
    """Optuna's."""
    checkpoints: Path
    """The folder of the study's."""


class Session:
    """One launch at work."""

    def __init__(
        self,
        study: str,
        places: Places,
        data: Mapping[DataSpec, DataRecord],
        scheduler: Scheduler,
        pool: Engine,
        progress: StudyProgress,
        expected: Mapping[str, float],
        care: Care,
        attempts: Counter[Identity],
        done: int,
        total: int,
    ) -> None:
        """Take over a study's work.

        Arguments:
            study: its name.
            places: where it reads and writes.
            data: what a data set is loaded by -> what runs say of it.
            scheduler: the order of work.
            pool: the workers.
            progress: what is told.
            expected: cell key -> expected seconds of one run.
            care: how it looks after its trials.
            attempts: how many runs of each trial the store holds.
            done: runs that have ended.
            total: runs in all.
        """
        self.study, self.places, self.data = study, places, data
        self.scheduler, self.pool, self.progress, self.care = scheduler, pool, progress, care
        self.forecast = Forecast(expected, len(pool.workers))
        self.tasks: dict[int, Task] = {}
        """Worker number -> what it is at."""
        self.attempts = attempts
        self.failed: Counter[Identity] = Counter()
        """Attempts of this launch that ended without a result, and no further on than the one before."""
        self.furthest: Counter[Identity] = Counter()
        """The update from which a trial was gone on with last."""
        self.stopping = False
        self.ran: Counter[str] = Counter()
        self.failures: list[str] = []
        self.done, self.total = done, total
        self._seconds_left, self._outdated = math.nan, -math.inf

    def work(self, stop: StopSignal) -> Summary:
        """Run all that the scheduler asks for.

        Raises:
            Interrupted: asked to stop; says what became of the trials under way.
            StoreError: the store or the journal cannot be used any more; trials under way are saved.
        """
        started = time.monotonic()
        self.progress.begin(self.study, self.done, self.total, self._left())
        try:
            while not self.scheduler.done:
                for worker in self.pool.workers:
                    if worker.device and worker.number not in self.tasks and (request := self.scheduler.next()):
                        self._start(worker, request)
                        stop.check()
                for worker, message in self.pool.events(STOP_SECONDS):
                    self._handle(worker, message)
                    stop.check()
                stop.check()
        except (Interrupted, StoreError) as error:
            stop.obey()
            with self.places.store.hurried():
                saved = self._wind_down(away=isinstance(error, StoreError))
            if stop.name:
                raise Interrupted(f"{stop.name}; {saved}") from None
            raise type(error)(f"{error}; {saved}") from None
        finally:
            with suppress(StoreError), self.places.store.hurried():
                for task in self.tasks.values():
                    self.places.store.kill_run(task.run_id)
        return Summary(self.ran, time.monotonic() - started, tuple(self.failures))

    def _wind_down(self, away: bool) -> str:
        """Have the workers save what they are at and leave, within `GRACE_SECONDS`; say what came of it.

        A store that is `away` is not asked again: what it lacks is found out when the study is gone on with.
        """
        self.stopping = True
        under_way, left = len(self.tasks), Counter()
        self.pool.stop()
        deadline = time.monotonic() + GRACE_SECONDS
        while self.tasks and time.monotonic() < deadline:
            for worker, message in self.pool.events(STOP_SECONDS):
                gone = isinstance(message, Died) and worker.number in self.tasks
                if gone:
                    left[message.saved] += 1
                try:
                    if not away:
                        self._handle(worker, message)
                except StoreError:
                    away = True
                if gone:
                    self.tasks.pop(worker.number, None)
        ended = under_way - left.total() - len(self.tasks)
        lost = left[False] + len(self.tasks)
        if away:
            self.tasks.clear()
        words = f"what had ended is saved, and {left[True]} of the {under_way - ended} runs under way"
        return words + (f"; the other {lost} will go on from their last checkpoints" if lost else "")

    def _start(self, worker: Worker, request: Request) -> None:
        trial = request.trial
        self.attempts[trial.identity] += 1
        spec = trial.settings.data
        run_id = self.places.store.start_run(
            self.places.experiment,
            trial,
            self.data[spec.source()] if spec else None,
            Attempt(worker.device or "", self.pool.threads, self.attempts[trial.identity], worker.environment),
        )
        self.tasks[worker.number] = Task(request, run_id)
        plan = CheckpointPlan(self._checkpoint(trial.identity), self.care.checkpoint_every)
        worker.run(trial, request.should_continue is not None, plan)
        self.progress.epoch(worker.number, trial, EpochRecord(0, 0, trial.settings.train.updates, {}), self._left())

    def _handle(self, worker: Worker, message: object) -> None:
        task = self.tasks.get(worker.number)
        if task is None:
            return
        if isinstance(message, EpochRecord):
            self._epoch(worker, task, message)
        elif isinstance(message, Resumed):
            self._resumed(task, message.update)
        elif isinstance(message, Notice):
            self._note(task, message.words)
            self.places.store.tag_run(task.run_id, {"notice": message.words})
        elif isinstance(message, Died):
            self._died(worker, task, message)
        elif isinstance(message, TrialResult):
            self._end(worker, task, message)

    def _epoch(self, worker: Worker, task: Task, record: EpochRecord) -> None:
        self.places.store.log_epoch(task.run_id, record)
        task.record = record
        if task.request.should_continue:
            with journal_errors(self.places.journal):
                answer = task.request.should_continue(record.epoch, -record.metrics["valid/elbo"])
            worker.answer(answer)
        self.progress.epoch(worker.number, task.request.trial, record, self._left())

    def _resumed(self, task: Task, update: int) -> None:
        identity = task.request.trial.identity
        if update > self.furthest[identity]:
            self.furthest[identity] = update
            self.failed[identity] = 0
        self.places.store.tag_run(task.run_id, {"resumed_at": str(update)})
        self._note(task, f"goes on after update {update:,}")

    def _died(self, worker: Worker, task: Task, message: Died) -> None:
        if self.stopping:
            self.places.store.kill_run(task.run_id)
            del self.tasks[worker.number]
        elif self._may_retry(task):
            self.places.store.kill_run(task.run_id)
            self._put_back(worker, task, message.reason)
        else:
            update = task.record.update if task.record else 0
            self._end(worker, task, TrialResult("failed", update, f"{message.reason}, {self._tries} times"))

    def _end(self, worker: Worker, task: Task, result: TrialResult) -> None:
        trial = task.request.trial
        self.places.store.finish_run(task.run_id, result)
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
        if result.outcome == "finished" and trial.stage == "repetition":
            self.forecast.ended(trial, seconds)
        elbo = task.record.metrics["valid/elbo"] if task.record else math.nan
        with journal_errors(self.places.journal):
            self.scheduler.tell(task.request, told(result.outcome, elbo))
        words = f"{result.outcome}{f' ({result.reason})' if result.reason else f' in {in_words(seconds)}'}"
        if "test/nll" in result.metrics:
            words += f", test F {-result.metrics['test/elbo']:.2f}, −ln p {result.metrics['test/nll']:.2f} nats"
        self.progress.ended(worker.number, trial, words, self.done, self.total, self._left())

    @property
    def _tries(self) -> int:
        return self.care.retries + 1

    def _may_retry(self, task: Task) -> bool:
        return not self.stopping and self.failed[task.request.trial.identity] < self.care.retries

    def _put_back(self, worker: Worker, task: Task, why: str) -> None:
        trial = task.request.trial
        self.failed[trial.identity] += 1
        del self.tasks[worker.number]
        self.scheduler.put_back(task.request)
        words = f"{why}; it is started again"
        self.progress.ended(worker.number, trial, words, self.done, self.total, self._left())

    def _note(self, task: Task, words: str) -> None:
        self.progress.note(f"{task.request.trial.label}: {words}")

    def _checkpoint(self, identity: Identity) -> Path:
        return checkpoint_path(self.places.checkpoints, identity)

    def _left(self) -> float:
        """Return the seconds left, worked out from all that waits: at most 1% of the time goes there."""
        now = time.monotonic()
        if now >= self._outdated:
            waiting = [request.trial.cell.key for request in self.scheduler.waiting]
            running = [(task.request.trial.cell.key, task.fraction) for task in self.tasks.values()]
            self._seconds_left = self.forecast.left(waiting, running)
            self._outdated = now + 100 * (time.monotonic() - now)
        return self._seconds_left


def told(outcome: str, elbo: float) -> Told:
    """Return what a plan is told: F where the run finished, inf where it did not or logged none."""
    value = -elbo if outcome == "finished" and math.isfinite(elbo) else math.inf
    return Told(outcome, value)  # type: ignore[arg-type]


@contextmanager
def journal_errors(journal: Path) -> Iterator[None]:
    """Tell of a journal that cannot be written as of a store: it is rebuilt from what the runs say."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{journal}: cannot be written: {error.strerror or error}") from error
