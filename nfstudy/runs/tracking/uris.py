"""Where a store's address leads: its database file, and the folder of a run's files; free of mlflow."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlparse

from nfstudy.core.errors import StoreError
from nfstudy.core.sqlite_uri import SQLITE, sqlite_path

ARTIFACTS = "mlflow-artifacts:/"
"""Our artifact addresses name no folder, so that the store can be moved."""


def is_sqlite(uri: str) -> bool:
    """Say whether a tracking address is a SQLite file's."""
    return uri.startswith(SQLITE)


def is_served(uri: str) -> bool:
    """Say whether a tracking address is a server's."""
    return uri.startswith(("http://", "https://"))


def database_file(uri: str) -> Path:
    """Return the file of a SQLite address, absolute."""
    return sqlite_path(uri)


def artifact_folder(artifact_uri: str, uri: str) -> Path:
    """Return the folder that an `mlflow-artifacts:` address means in a SQLite store.

    Raises:
        StoreError: it leads out of the store's artifact folder.
    """
    root = (database_file(uri).parent / "artifacts").resolve()
    folder = (root / unquote(urlparse(artifact_uri).path).lstrip("/")).resolve()
    if root not in (folder, *folder.parents):
        raise StoreError(f"artifact address {artifact_uri}: leads out of {root}")
    return folder
