"""New stores without the second or two that MLflow's migrations take: each begins as a copy of one empty store."""

import tempfile
from functools import cache
from pathlib import Path

from nfstudy.runs.tracking import store
from nfstudy.runs.tracking.uris import ARTIFACTS, SQLITE, database_file

MIGRATING = store.SqlAlchemyStore
"""MLflow's own, which makes a new database by all its migrations."""


@cache
def template():
    """Return the content of an empty store's database, as MLflow makes it, before nfstudy does anything to it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mlflow.db")
        MIGRATING(f"{SQLITE}{path}", ARTIFACTS).engine.dispose()
        return path.read_bytes()


def make_stores_from_a_template():
    """Have SQLite stores that this process and its forks create begin with the template; all else is as ever."""

    def copying(uri, artifacts):
        database_file(uri).write_bytes(template())
        return MIGRATING(uri, artifacts)

    store.SqlAlchemyStore = copying
