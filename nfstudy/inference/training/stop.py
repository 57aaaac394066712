"""A request to stop, as a worker takes it: it saves what it is at, and leaves."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
