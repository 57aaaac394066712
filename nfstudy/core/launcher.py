"""Who is at work on a study: a process on some machine, in the folder of some project."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Launcher:
    """One process that runs a study, imports into it, or trains one of its runs again."""

    host: str
    pid: int
    folder: str
    """The project's."""
    since: str
    """UTC, to the second."""
    token: str = ""
    """That of no other launcher."""

    @classmethod
    def here(cls, folder: Path) -> Launcher:
        """Return this process, as from now."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        return cls(socket.gethostname(), os.getpid(), str(folder), since, uuid.uuid4().hex)

    @classmethod
    def read(cls, text: str) -> Launcher | None:
        """Return what `text` was made from; None where that is not known."""
        try:
            found = json.loads(text)
            words = (str(found[name]) for name in ("folder", "since", "token"))
            return cls(str(found["host"]), int(found["pid"]), *words)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None

    def text(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self))

    def shares_lock(self, other: Launcher) -> bool:
        """Say whether the two use one lock, which only one of them can hold."""
        return (self.host, self.folder) == (other.host, other.folder)

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}, folder {self.folder}, since {self.since}"
