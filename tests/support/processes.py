"""Processes and ports of this machine."""

import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def loaded_by(code):
    """Return the modules that a fresh process has loaded after running some code."""
    code += "\nimport sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}, set(done.stdout.split())


def children_of(pid):
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def workers_of(pid):
    """Return the process ids of a coordinator's workers, spawned or forked."""
    found = []
    for child in children_of(pid):
        with suppress(OSError):  # It has gone.
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"spawn_main" in command or b"fork_server" in command:
                found.append(child)
    return found
