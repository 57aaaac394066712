"""Workers that fall silent: somebody is told, and where that was asked for they are killed and their trials retried.

A worker that dies is noticed at once. One that was stopped (SIGSTOP), hangs in a loop or waits for a disk that does not
answer only says nothing, and would be waited for for ever.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from nfstudy.runner.engine import Engine, Worker
from nfstudy.runner.eta import format_duration

PATIENCE_SECONDS = 600.0
"""A silence of less is not told of,"""
PATIENCE_EPOCHS = 20.0
"""nor one of less than so many expected epochs."""
LIFE_SECONDS = 30.0
"""A worker on another machine gives a sign of life whenever it has said nothing for so long;"""
LOST_SECONDS = 300.0
"""one that has given none for so long is lost: its process or its machine stands still."""
LOOK_SECONDS = 0.5
"""Between two looks at all workers, at least."""
STEP_SECONDS = 5.0
"""What the time between two looks counts at most. If we have been stopped ourselves, or waited for a store, workers may
have spoken meanwhile."""


@dataclass(frozen=True)
class AtWork:
    """What a worker is at, and the silence to be expected of it."""

    label: str
    epoch: float = math.nan
    """Expected seconds until it says something; nan if unknown."""


@dataclass
class _Silence:
    words: int = 0
    messages: int = 0
    since_words: float = 0.0
    since_messages: float = 0.0
    told: float = 0.0
    """After which silence somebody was told last."""
    label: str | None = None


class Watch:
    """Looks at an engine's workers again and again."""

    def __init__(self, pool: Engine, timeout: float | None, tell: Callable[[str], None]) -> None:
        """Begin to watch.

        Arguments:
            pool: the workers.
            timeout: seconds of silence after which a worker is killed; None: it is only told of.
            tell: told of silent workers.
        """
        self._pool, self._timeout, self._tell = pool, timeout, tell
        self._silences: dict[Worker, _Silence] = {}
        self._looked = time.monotonic()

    def look(self, at_work: Mapping[int, AtWork]) -> None:
        """Look at all workers; `at_work` says what each is at, by its number, idle ones left out."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        step, self._looked = min(now - self._looked, STEP_SECONDS), now
        before, self._silences = self._silences, {}
        for worker in list(self._pool.workers):
            silence = self._silences[worker] = before.get(worker, _Silence(worker.words, worker.messages))
            work = at_work.get(worker.number) if worker.device else None
            label = work.label if work else None
            spoke, lives = worker.words != silence.words, worker.messages != silence.messages
            idle = worker.device is not None and work is None
            if spoke or idle or label != silence.label:
                silence.since_words = silence.told = 0.0
            else:
                silence.since_words += step
            silence.since_messages = 0.0 if lives else silence.since_messages + step
            silence.words, silence.messages, silence.label = worker.words, worker.messages, label
            self._judge(worker, silence, work)
        if late := [number for number, silence in self._starting() if self._is_due(silence, PATIENCE_SECONDS)]:
            who = f"worker {late[0]} has" if len(late) == 1 else f"{len(late)} workers have"
            why = "; they wait for room in the cluster, or their start hangs" if self._pool.starts_wait else ""
            self._tell(f"{who} not started for {format_duration(PATIENCE_SECONDS)} or longer{why}")

    def _judge(self, worker: Worker, silence: _Silence, work: AtWork | None) -> None:
        passed, timeout = silence.since_words, self._timeout
        if self._pool.shows_life and worker.device and silence.since_messages >= LOST_SECONDS:
            self._pool.give_up(worker, f"its worker gave no sign of life for {format_duration(LOST_SECONDS)}")
        elif work and timeout is not None and passed >= timeout:
            self._pool.give_up(worker, f"its worker gave no word for {timeout:g} s (--worker-timeout)")
        elif worker.device or self._pool.starts_wait or timeout is None:
            pass
        elif passed >= max(timeout, PATIENCE_SECONDS):
            self._pool.give_up(worker, f"it had not started after {format_duration(passed)}")
        if work and self._is_due(silence, max(PATIENCE_SECONDS, PATIENCE_EPOCHS * _finite(work.epoch))):
            known = f" (one was expected after some {format_duration(work.epoch)})" if _finite(work.epoch) else ""
            hint = "" if timeout else "; hint: --worker-timeout SECONDS kills such a worker and retries its run"
            self._tell(
                f"{work.label}: worker {worker.number} has given no word for {format_duration(passed)}{known}; "
                f"it may hang{hint}"
            )

    def _starting(self) -> Iterator[tuple[int, _Silence]]:
        return ((worker.number, silence) for worker, silence in self._silences.items() if not worker.device)

    def _is_due(self, silence: _Silence, limit: float) -> bool:
        """Say whether somebody is to be told: after the limit, and after as long again."""
        if silence.since_words < silence.told + limit:
            return False
        silence.told = silence.since_words
        return True


def _finite(seconds: float) -> float:
    return seconds if math.isfinite(seconds) else 0.0
