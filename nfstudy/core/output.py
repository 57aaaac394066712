"""Standard output and error that the work outlives: whoever reads them may go away, and the work goes on.

A terminal that is closed gives EIO, a pipe without a reader EPIPE, a full disk ENOSPC; a process may be started without
a standard output at all. None of these is a reason to lose a night's training.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, TextIO, cast

from nfstudy.core.errors import without_secrets

NOBODY_READS = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO)
"""Errors that say that nobody is there to read; others, such as a full disk, are told at the end."""


class LastingStream:
    """A text stream whose writes do not fail, and which writes no secrets; else like the stream it wraps."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.trouble: OSError | None = None
        """Why nothing more is written to it."""

    def write(self, text: str) -> int:
        """Write a text, or drop it where that is no longer possible."""
        if self.trouble is None:
            try:
                self._stream.write(without_secrets(text))
            except (OSError, ValueError) as error:
                self._give_up(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write some texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Have what was written arrive, where that is still possible."""
        if self.trouble is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def isatty(self) -> bool:
        """Say whether it is a terminal that is still there."""
        return self.trouble is None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self, error: Exception) -> None:
        """Write nothing more; what is in the stream's buffer, and what libraries in C write, goes nowhere."""
        if not isinstance(error, OSError):
            if not self._stream.closed:
                raise error  # Such as a character that the terminal's encoding lacks: another matter.
            error = OSError(errno.EBADF, os.strerror(errno.EBADF))
        self.trouble = error
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        except (OSError, ValueError):
            pass  # A stream without a descriptor, such as a test's.


def outlive_readers() -> None:
    """Let this process outlive whoever reads its standard output and error, from now on.

    Descriptors that it was started without lead nowhere; else the next file that is opened, such as a database, would
    get the number of standard error, and what libraries print there would be written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Takes the lowest number that is free: this one.
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115 - it is open as long as the process is.
        if getattr(stream, "errors", "") == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # A terminal of ASCII alone is no reason either.
        if not isinstance(stream, LastingStream):
            setattr(sys, name, cast(TextIO, LastingStream(stream)))


def lost_output() -> str:
    """Say which output could not be written, for another reason than that nobody reads it; empty where all was."""
    for name in ("stdout", "stderr"):
        getattr(sys, name).flush()
    found = {"output": getattr(sys.stdout, "trouble", None), "error": getattr(sys.stderr, "trouble", None)}
    told = {name: error for name, error in found.items() if error and error.errno not in NOBODY_READS}
    return "; ".join(f"standard {name}: could not be written: {error.strerror}" for name, error in told.items())
