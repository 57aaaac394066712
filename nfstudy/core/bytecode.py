"""Python's compiled copies of sources, held to the sources themselves.

Python takes a copy for its source's where time and size are the same. An edit that keeps both (`cp -p`, rsync, a
restored archive, a disk image with one time for all) goes unseen: the old code runs, and the file shows the new one.
"""

from __future__ import annotations

import importlib.util
import marshal
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

HEAD = 16
"""Bytes before the code: a magic number, flags, and the source's time and size, or its hash."""
CHECKED = 3
"""Flags of a copy that Python holds to its source's hash."""


def drop_stale(sources: Iterable[Path]) -> set[Path]:
    """Remove the compiled copies that Python would take for, or has taken for, sources of another text.

    Arguments:
        sources: files of Python.

    Returns:
        Those sources whose copies were: what a process has loaded of them is not what they say.
    """
    stale = set()
    for source in sources:
        with suppress(OSError, NotImplementedError):  # Not there; or an interpreter without copies.
            copy = Path(importlib.util.cache_from_source(source))
            if copy.exists() and _is_stale(source, copy):
                stale.add(source)
                copy.unlink()
    return stale


def _is_stale(source: Path, copy: Path) -> bool:
    """Say whether a copy would be used, and is of another text."""
    with copy.open("rb") as file:
        head = file.read(HEAD)
        flags = int.from_bytes(head[4:8], "little")
        if head[:4] != importlib.util.MAGIC_NUMBER or flags == CHECKED:
            return False
        found = os.stat(source)
        if not flags:
            stamp = (int(found.st_mtime) & 0xFFFFFFFF, found.st_size & 0xFFFFFFFF)
            if stamp != (int.from_bytes(head[8:12], "little"), int.from_bytes(head[12:16], "little")):
                return False
            # Any write moves the time of a file's last change, which nobody can set back: most are known by that.
            if found.st_ctime_ns < os.stat(copy).st_mtime_ns:
                return False
        try:
            return bool(marshal.loads(file.read()) != compile(source.read_bytes(), source, "exec", dont_inherit=True))
        except (ValueError, EOFError, TypeError, SyntaxError):
            return True
