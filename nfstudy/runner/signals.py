"""Ctrl-C and SIGTERM, as the coordinator and as a worker take them: noted, and obeyed between two steps of the work."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INSIST_SECONDS = 1.0
"""A signal that comes again within this time is the same one: `timeout` and service managers send it to a process and
to its group."""

PRESS_SECONDS = 1.5
"""How long a step of the work may go on after a signal; then it is broken off, for a server that does not answer can
hold it for minutes."""


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The study was stopped from outside; what had ended is saved."""


class StopSignal:
    """Notes Ctrl-C and SIGTERM while it is entered, so that the work can end between two steps and not within one.

    A step that goes on for longer than `PRESS_SECONDS` after the signal is broken off by Interrupted, and so is all
    that goes on when a second signal comes.
    """

    def __init__(self) -> None:
        self.name = ""
        """The signal that has come; empty until one has."""
        self._noted = 0.0
        self._held = False
        self._timer = (0.0, 0.0)

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.name:
            self.obey()
            raise Interrupted(self.name)

    def obey(self) -> None:
        """Break off nothing more by ourselves: the work has ended, and is being saved."""
        if self.name:
            signal.setitimer(signal.ITIMER_REAL, 0)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Break off nothing in this context, but end with it: an import that is broken off can fail in odd ways."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.check()

    def __enter__(self) -> StopSignal:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        self.obey()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.name:
            signal.setitimer(signal.ITIMER_REAL, *self._timer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.name:
            self.name, self._noted = signal.Signals(number).name, time.monotonic()
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._press)
            # Again each second, for others' code may take the exception for an error of its own, and go on.
            self._timer = signal.setitimer(signal.ITIMER_REAL, PRESS_SECONDS, 1.0)
        elif time.monotonic() - self._noted > INSIST_SECONDS:  # Somebody insists.
            raise Interrupted(self.name)

    def _press(self, number: int, frame: FrameType | None) -> None:
        if not self._held:
            raise Interrupted(self.name)


class Stopped(BaseException):
    """A worker has been asked to stop, and has saved what there was to save; nothing that handles errors sees it."""


class StopRequest:
    """SIGTERM to a worker: it ends the work wherever it is, but for contexts that hold it back until they look."""

    def __init__(self) -> None:
        self.asked = False
        self._held = False

    def listen(self) -> None:
        """Take SIGTERM from now on. Ctrl-C reaches the whole group, where the coordinator decides."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGTERM, self._note)

    def check(self) -> None:
        """Raise Stopped if it has been asked for."""
        if self.asked:
            raise Stopped

    @contextmanager
    def held(self) -> Iterator[None]:
        """Only note a request while in this context."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not self._held:
            raise Stopped
