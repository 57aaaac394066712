"""A request to stop, as a worker takes it: it saves what it is at, and leaves."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

OF_THE_GROUP = frozenset({signal.SIGINT, signal.SIGHUP})
"""Signals that a terminal sends to all processes that were started from it: Ctrl-C, and that it was closed."""


class Stopped(BaseException):
    """A worker has been asked to stop, and has saved what there was to save; nothing that handles errors sees it."""


class StopRequest:
    """SIGTERM to a worker: it ends the work wherever it is, but for contexts that hold it back until they look.

    Arguments:
        threads: the requests of other threads of the process, of each of which what is said here holds as well.
    """

    def __init__(self, threads: Sequence[StopRequest] = ()) -> None:
        self.asked = False
        self._held = False
        self._threads = threads

    def listen(self) -> None:
        """Take SIGTERM from now on. What reaches the whole group, the coordinator decides on."""
        for number in OF_THE_GROUP:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OF_THE_GROUP)
        signal.signal(signal.SIGTERM, self._note)

    def check(self) -> None:
        """Raise Stopped if it has been asked for, and no thread holds it back."""
        if self.asked and not any(thread._held for thread in self._threads):
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
        for thread in self._threads:
            thread.asked = True
        if not self._held:
            self.check()
