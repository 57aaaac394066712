"""Ctrl-C, SIGTERM and SIGHUP, as the coordinator takes them: noted, and obeyed between two steps of the work."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that ask a study to stop."""

STOP_SECONDS = 0.25
"""How long a signal to stop may go unnoticed."""

INSIST_SECONDS = 1.0
"""A signal that comes again within this time is the same one: `timeout` and service managers send it to a process and
to its group."""

PRESS_SECONDS = 1.5
"""How long a step of the work may go on after a signal; then it is broken off, for a server that does not answer can
hold it for minutes."""


DEADLINE = "the end of the time given"


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The study was stopped from outside; what had ended is saved."""


class StopSignal:
    """Notes a signal to stop while it is entered, so that the work can end between two steps and not within one.

    These are Ctrl-C, SIGTERM, and SIGHUP, which comes when a terminal is closed, unless `nohup` has it ignored.

    A step that goes on for longer than `PRESS_SECONDS` after the signal is broken off by Interrupted, and so is all
    that goes on when a second signal comes.
    """

    def __init__(self, deadline: float = math.inf) -> None:
        """Take a time of `time.monotonic` from which on it is as if a signal had come."""
        self.name = ""
        """The signal that has come, or `DEADLINE`; empty until one has."""
        self._deadline = deadline
        self._noted = 0.0
        self._held = False
        self._timer = (0.0, 0.0)

    def check(self) -> None:
        """Raise Interrupted if a signal has come, or the time is over."""
        if not self.name and time.monotonic() >= self._deadline:
            self.name = DEADLINE
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
        nohup = {number for number in STOPPING[2:] if signal.getsignal(number) is signal.SIG_IGN}
        obeyed = [number for number in STOPPING if number not in nohup]
        self._before = {number: signal.signal(number, self._note) for number in obeyed}
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
