"""The file in which Optuna keeps a study's trials: mended after a crash, and errors about it; free of optuna."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from nfstudy.core.errors import StoreError
from nfstudy.core.reading import regular

MAX_BYTES = 2**30
"""Of a journal: those of 100,000 trials are some 100 MB."""
MAX_LINE = 2**24
BLOCK = 2**16


@contextmanager
def journal_errors(journal: Path) -> Iterator[None]:
    """Raise StoreError where the journal cannot be written; it can be rebuilt from the tracking store."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{journal}: cannot be written: {error.strerror or error}") from error


def drop_lock(journal: Path) -> None:
    """Remove what a killed coordinator has left of Optuna's own lock, for which Optuna would wait half a minute.

    Nobody else is at work on the journal: we hold the study's lock.
    """
    with journal_errors(journal):
        journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)


def drop_torn_line(journal: Path) -> None:
    """Cut off a last line that a full disk or a power failure left unfinished: Optuna could not read on from it.

    What it said is lost, and found again: proposals depend on what ended before, and that stands in the tracking store.
    """
    if not journal.exists():
        return
    with regular(journal, MAX_BYTES) as file:
        end = _end_of_lines(file)
    if end < journal.stat().st_size:
        os.truncate(journal, end)


def _end_of_lines(file: BinaryIO) -> int:
    """Return where the last line of a file that has an end ends."""
    place = file.seek(0, os.SEEK_END)
    while place:
        first = max(place - BLOCK, 0)
        file.seek(first)
        if (found := file.read(place - first).rfind(b"\n")) >= 0:
            return first + found + 1
        place = first
    return 0


def odd_line(journal: Path, known: Collection[int]) -> str:
    """Say which line Optuna cannot have written, or only a later Optuna; empty where each by itself is in order.

    Arguments:
        journal: its file.
        known: the codes of the operations that Optuna knows.
    """
    with regular(journal, MAX_BYTES) as file:
        number = 0
        while line := file.readline(MAX_LINE):
            number += 1
            try:
                operation = json.loads(line)["op_code"]
            except (ValueError, KeyError, TypeError, RecursionError):
                return f"line {number} is no record of a trial"
            if not isinstance(operation, int) or operation not in known:
                return f"line {number} has operation {operation!r}, where it knows {min(known)} to {max(known)}"
    return ""
