"""Provenance of a run: the code's commit and its uncommitted changes, library versions, machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

LOCK = "constraints.txt"
MADE = ("reports", "mlruns")
"""What runs and reports write themselves: changes there are none of the code."""
MAX_DIFF = 2_000_000
"""Bytes of an uncommitted change that are kept with each run; longer ones are cut, and say so."""


@dataclass(frozen=True)
class CodeState:
    """The state of the source tree that nfstudy was imported from."""

    commit: str
    """The commit's hash; `unknown` where the package does not stand in a git work tree."""
    dirty: bool
    diff: str
    """Changes against the commit and the names of untracked files, those under `MADE` left out; empty when clean."""


@cache
def code_state() -> CodeState:
    """Return the commit and uncommitted changes of the tree that holds this package."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(root), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD") if (root / "pyproject.toml").exists() else None
    if commit is None:
        return CodeState("unknown", False, "")
    code = ("--", ":/", *(f":(exclude){folder}" for folder in MADE))
    diff = git("diff", "HEAD", *code) or ""
    untracked = git("ls-files", "--others", "--exclude-standard", *code) or ""
    if untracked:
        diff += "".join(f"Untracked: {name}\n" for name in untracked.splitlines())
    if len(diff) > MAX_DIFF:
        diff = diff[:MAX_DIFF] + f"\n[cut: {len(diff):,} characters in all]\n"
    return CodeState(commit.strip(), bool(diff), diff)


@cache
def environment() -> dict[str, str]:
    """Return Python's and every installed distribution's version, and the machine's kind (no names, no paths).

    Where the package stands in its source tree, the digest of the file that pins the versions is among them.
    """
    versions = {dist.metadata["Name"]: dist.version for dist in metadata.distributions() if dist.metadata["Name"]}
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


def usable_cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
