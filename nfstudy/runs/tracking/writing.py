"""Writing runs beside the training: threads write what the coordinator hands over, and tell it what has been written.

Each run is written in order, by one thread at a time, and several runs at once where the store is a server. All that
has come of a run since its last call to the store goes into the next: so a store that is slow is called less often, not
later and later. A kill loses what was handed over and not yet written, as if it had struck that much earlier: a run is
marked finished only when all of it is there, and what counts as done is what is marked so.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from nfstudy.core.errors import RunGoneError
from nfstudy.runs.result import EpochRecord, TrialResult
from nfstudy.runs.tracking.entries import Entries, now, of_epoch, together
from nfstudy.runs.tracking.store import Attempt, Store
from nfstudy.runs.tracking.uris import is_sqlite
from nfstudy.runs.whole_run import DataRecord
from nfstudy.study.cells import Trial

THREADS = 4
"""That write to a server or its database at once. A SQLite file has one writer at a time, and so one thread."""
UNSEEN_SECONDS = 5.0
"""How long after a run was made nobody can have opened its page and written a description of it."""
IDLE_SECONDS = 1.0
"""After so long without work a thread sees to it that the study's claim is kept."""


@dataclass(frozen=True)
class _End:
    when: int
    result: TrialResult | None = None
    """None: it was cut off."""
    description: str = ""


@dataclass(eq=False)
class RunLog:
    """One run, as far as it is still to be written."""

    experiment: str
    trial: Trial
    data: DataRecord | None
    attempt: Attempt
    started: int
    run_id: str = ""
    """Empty until the store has it."""
    made: float = -math.inf
    """When it had it, by `time.monotonic`."""
    entries: list[Entries] = field(default_factory=list)
    end: _End | None = None
    has_origin: bool = False
    """Whether the store has what would reproduce it."""
    at_work: bool = False
    """Whether a thread is at it, or it waits for one."""
    over: bool = False
    """Whether its end has been written, or it has been deleted."""


@dataclass(frozen=True)
class Written:
    """What has become of a run."""

    log: RunLog
    ended: bool
    """Whether the store has its end, or only its beginning."""
    gone: RunGoneError | None = None
    """Where somebody has deleted it."""


class Writing:
    """The threads, and what they are to write."""

    def __init__(self, store: Store, threads: int | None = None) -> None:
        """Begin to write to a store.

        Arguments:
            store: which.
            threads: how many runs are written at once; None for as many as is good for the store.
        """
        self._store = store
        self._changed = threading.Condition()
        self._new: deque[RunLog] = deque()
        """Runs that are to be made: workers wait for them."""
        self._waiting: deque[RunLog] = deque()
        self._open = 0
        """How many runs threads are at, or are waiting for one."""
        self._written: SimpleQueue[Written] = SimpleQueue()
        self._error: BaseException | None = None
        self._closed = False
        number = threads or (1 if is_sqlite(store.uri) else THREADS)
        # A store that does not answer must not keep this process from ending.
        self._threads = [threading.Thread(target=self._work, name="writing", daemon=True) for _ in range(number)]
        for thread in self._threads:
            thread.start()

    def begin(
        self, experiment: str, trial: Trial, data: DataRecord | None, attempt: Attempt, tags: Mapping[str, str]
    ) -> RunLog:
        """Have a run made that starts now; `written` tells when the store has it.

        Arguments:
            experiment: the study's, by its id.
            trial: what is run.
            data: what it is run on.
            attempt: where.
            tags: beside those that say so.
        """
        log = RunLog(experiment, trial, data, attempt, now())
        if tags:
            log.entries.append(Entries(tags=tags))
        with self._changed:
            self._wake(log)
        return log

    def epoch(self, log: RunLog, record: EpochRecord) -> None:
        """Have an epoch's numbers written."""
        self._add(log, of_epoch(record, now()))

    def tag(self, log: RunLog, tags: Mapping[str, str]) -> None:
        """Have tags put on a run."""
        self._add(log, Entries(tags=tags))

    def end(self, log: RunLog, result: TrialResult, description: str) -> None:
        """Have a run's end written, after all else of it."""
        self._finish(log, _End(now(), result, description))

    def kill(self, log: RunLog) -> None:
        """Have a run marked as cut off, after all else of it; one that has not been made need not be."""
        self._finish(log, _End(now()))

    @property
    def busy(self) -> bool:
        """Whether anything is still to be written, or to be told of."""
        return self._at_work or not self._written.empty()

    @property
    def _at_work(self) -> bool:
        return self._open > 0 and not self._closed

    def written(self) -> list[Written]:
        """Return what has been written since this was last asked.

        Raises:
            StoreError: the store cannot be used; nothing more is written.
        """
        found = []
        try:
            while True:
                found.append(self._written.get_nowait())
        except Empty:
            pass
        if not found and self._error:
            raise self._error
        return found

    def close(self, seconds: float = 0.0) -> None:
        """Write nothing more, after so many seconds for what is still to be written."""
        with self._changed:
            self._changed.wait_for(lambda: not self._at_work, seconds)
            if self._at_work:
                self._store.abandon()
            self._closed = True
            self._changed.notify_all()

    def _add(self, log: RunLog, entries: Entries) -> None:
        with self._changed:
            if not log.over:
                log.entries.append(entries)
                self._wake(log)

    def _finish(self, log: RunLog, end: _End) -> None:
        with self._changed:
            if log.over or log.end:
                return
            log.end = end
            if not end.result and log in self._new:
                self._new.remove(log)
                self._leave(log)
                log.over = True
                self._written.put(Written(log, ended=True))
            else:
                self._wake(log)

    def _wake(self, log: RunLog) -> None:
        """Let a thread see to a run, unless one is: it looks again when it is done."""
        if not log.at_work:
            log.at_work = True
            self._open += 1
            (self._waiting if log.run_id else self._new).append(log)
            self._changed.notify()

    def _leave(self, log: RunLog) -> None:
        log.at_work = False
        self._open -= 1
        self._changed.notify_all()

    def _work(self) -> None:
        try:
            while not self._closed:
                if log := self._next():
                    self._see_to(log)
                else:
                    self._store.retry.retry_while_unavailable(self._store.keep)
        except BaseException as error:  # It is raised again where it is asked for.
            with self._changed:
                self._error = self._error or error
                self._closed = True
                self._changed.notify_all()
            self._store.abandon()

    def _next(self) -> RunLog | None:
        """Wait for a run that something is to be written of; None where there is none for a while."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._new or self._waiting, IDLE_SECONDS)
            if self._closed:
                return None
            queue = self._new or self._waiting
            return queue.popleft() if queue else None

    def _see_to(self, log: RunLog) -> None:
        """Write what has come of a run; it is put at the end of the queue if more comes meanwhile."""
        made, end, gone = bool(log.run_id), None, None
        try:
            if made:
                end = self._write(log)
            else:
                run_id = self._store.create_run(log.experiment, log.trial, log.data, log.attempt, log.started)
                log.made, log.run_id = time.monotonic(), run_id
        except RunGoneError as error:
            gone = error
        with self._changed:
            log.over = bool(end or gone)
            if log.over or not made:
                self._written.put(Written(log, bool(end), gone))
            self._leave(log)
            if not log.over and (log.entries or log.end or not log.has_origin):
                self._wake(log)

    def _write(self, log: RunLog) -> _End | None:
        """Write all that has come of a run that the store has; return its end if it was among it."""
        origin = Entries()
        if not log.has_origin:
            origin = self._store.log_origin(log.run_id, log.trial, log.data, log.attempt)
            log.has_origin = True
        with self._changed:  # What came while that was written is among it.
            come, end = log.entries, log.end
            log.entries = []
        entries = together([origin, *come])
        if end and end.result:
            unseen = time.monotonic() - log.made < UNSEEN_SECONDS
            self._store.finish_run(log.run_id, end.result, end.description, entries, end.when, unseen)
        else:
            self._store.log(log.run_id, entries)
            if end:
                self._store.kill_run(log.run_id, end.when)
        return end
