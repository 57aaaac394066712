"""Provenance of a run: library versions, machine, data; its code is `nfstudy.runs.code`'s."""

from __future__ import annotations

import getpass
import hashlib
import os
import platform
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from threading import Lock

LOCK = "constraints.txt"


_first = Lock()
"""Held while the environment is found: threads that begin runs at once would each read every distribution."""


def environment() -> dict[str, str]:
    """Return Python's and every installed distribution's version, and the machine's kind (no names, no paths).

    Where the package stands in its source tree, the digest of the file that pins the versions is among them.
    """
    with _first:
        return _environment()


@cache
def _environment() -> dict[str, str]:
    found = [each.metadata for each in metadata.distributions()]  # Read and parsed anew each time it is asked for.
    versions = {each["Name"]: each["Version"] for each in found if each["Name"]}
    lock = Path(__file__).resolve().parents[2] / LOCK
    return {
        "python": sys.version.split()[0],
        LOCK: hashlib.sha256(lock.read_bytes()).hexdigest() if lock.exists() else "none",
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        **{f"package {name}": versions[name] for name in sorted(versions, key=str.lower)},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def user() -> str:
    """Return the name of who runs this, as the operating system has it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # In a container, a user id may have no name.
        return "unknown"


def usable_cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
