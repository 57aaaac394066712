"""A process between us and a program that we start, which ends that program when we end, however that is.

Run as a file, `python guard.py COMMAND ...`, in a session of its own, with standard input a pipe whose other end we
hold: the kernel closes it when we are gone, also when we are killed. Then, or at SIGTERM, the program and all that it
has started are asked to end, and killed where they do not. Imports nothing of ours, so that it starts at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 5.0
"""How long the program may take to end."""


def start_guarded(
    command: list[str], environment: dict[str, str], folder: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a program that ends when this process does; closing the standard input of what is returned ends it too.

    Arguments:
        command: the program and its arguments.
        environment: its variables.
        folder: where it is started; None for the current one.
    """
    return subprocess.Popen(
        [sys.executable, __file__, *command], stdin=subprocess.PIPE, env=environment, start_new_session=True, cwd=folder
    )


def main(command: list[str]) -> int:
    """Run a program until it ends or standard input does; return its exit code."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_listen) as program:
        signal.signal(signal.SIGTERM, _leave)
        threading.Thread(target=_wait_for_the_end, daemon=True).start()
        try:
            return program.wait()
        except SystemExit:
            _end_all(program)
            raise


def _listen() -> None:
    """Let the program take the signals that we ignore."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _wait_for_the_end() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _end_all(program: subprocess.Popen[bytes]) -> None:
    """Ask the whole session to end, and kill what is left of it, ourselves included."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    until = time.monotonic() + GRACE_SECONDS
    while program.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
