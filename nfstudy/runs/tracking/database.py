"""The file of a SQLite store: that it is MLflow's, and that it is still the one that was opened; free of mlflow."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

from nfstudy.core.errors import StoreError, StoreUnavailableError
from nfstudy.runs.tracking.uris import database_file, is_sqlite

TABLES = frozenset({"alembic_version", "experiments", "runs"})
"""Some of those that MLflow makes, and no other program makes all."""
FileIdentity = tuple[int, int] | None


def require_ours(path: Path) -> None:
    """Make sure that a file is MLflow's database, or empty, before MLflow makes its tables in it.

    It is read by SQLite alone. A process that opens and closes a file by itself gives up all its locks on it (POSIX has
    it so), those of its connections too; then whoever else leaves the store takes himself for the last, removes its
    `-wal`, and what this process writes from then on is lost, or the database destroyed.

    Raises:
        StoreError: it is another program's database, another file, or no file.
    """
    try:
        found = os.stat(path)
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path}: is a pipe, socket, device or folder; expected: a store of MLflow's, or a new name")
    if not found.st_size:
        return
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", timeout=0, uri=True)) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
            raise StoreError(
                f"{path}: is not a SQLite database; expected: a store of MLflow's, or a new name"
            ) from None
        return  # Locked, or damaged: MLflow will say what it makes of it.
    if names and not names >= TABLES:
        raise StoreError(
            f"{path}: is a database of another program (tables {', '.join(sorted(names))[:200]}); "
            "expected: a store of MLflow's, or a new name"
        )


def file_identity(uri: str) -> FileIdentity:
    """Return what tells a SQLite store's file from any other; None where it is not there, and for other stores."""
    try:
        found = database_file(uri).stat() if is_sqlite(uri) else None
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found else None


def require_same_file(uri: str, opened: FileIdentity) -> None:
    """Make sure that a SQLite store's file has neither been moved nor replaced since it was opened.

    A connection goes on with the old file, wherever that is now, and a run's files would go where it was.

    Raises:
        StoreUnavailableError: it has been; it may come back.
    """
    if opened == (now := file_identity(uri)):
        return
    what = "has been replaced by another" if now else "is no longer there"
    raise StoreUnavailableError(
        f"{database_file(uri)}: {what} since it was opened; expected: the same file until the study ends; "
        "hint: put it back, with the folder it is in"
    )
