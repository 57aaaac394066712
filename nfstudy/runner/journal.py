"""The file in which Optuna keeps a study's trials: mended after a crash, and errors about it; free of optuna."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from nfstudy.core.errors import StoreError


@contextmanager
def journal_errors(journal: Path) -> Iterator[None]:
    """Tell of a journal that cannot be written as of a store: it is rebuilt from what the runs say."""
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
    if journal.exists() and not (content := journal.read_bytes()).endswith(b"\n"):
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def odd_line(journal: Path, known: Collection[int]) -> str:
    """Say which line Optuna cannot have written, or only a later Optuna; empty where each by itself is in order.

    Arguments:
        journal: its file.
        known: the codes of the operations that Optuna knows.
    """
    for number, line in enumerate(journal.read_bytes().splitlines(), start=1):
        try:
            operation = json.loads(line)["op_code"]
        except (ValueError, KeyError, TypeError):
            return f"line {number} is no record of a trial"
        if operation not in known:
            return f"line {number} has operation {operation!r}, where it knows {min(known)} to {max(known)}"
    return ""
