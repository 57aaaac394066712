"""Optuna's dashboard on a copy of the searches' journals, under names for people: what it writes is lost."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from nfstudy.core.errors import StoreError, UserError
from nfstudy.core.reading import regular
from nfstudy.runner.journal import MAX_BYTES, drop_torn_line
from nfstudy.runner.proposals import LABEL, journal_read

OBJECTIVE = "validation F (nats)"


def copy_of_journals(journals: Sequence[Path]) -> InMemoryStorage:
    """Return what the journals hold, in memory: each search with its trials, named by what it searches.

    A journal may be in use: its file is copied and the copy read. Its own is left as it is.

    Raises:
        StoreError: one is no journal, or cannot be read.
    """
    found = InMemoryStorage()
    with tempfile.TemporaryDirectory() as folder:
        for journal in journals:
            copy = Path(folder) / journal.name
            with journal_read(journal):
                with regular(journal, MAX_BYTES) as source, copy.open("wb") as target:
                    shutil.copyfileobj(source, target)
                drop_torn_line(copy)
                storage = JournalStorage(JournalFileBackend(str(copy)))
                _copy_studies(storage, found)
    return found


def _copy_studies(storage: JournalStorage, found: InMemoryStorage) -> None:
    for study in storage.get_all_studies():
        label = storage.get_study_user_attrs(study._study_id).get(LABEL, study.study_name)
        taken = {other.study_name for other in found.get_all_studies()}
        # A study that was edited has searches of its former self beside it.
        name = next(each for each in (label, f"{label} ({study.study_name})") if each not in taken)
        optuna.copy_study(from_study_name=study.study_name, from_storage=storage, to_storage=found, to_study_name=name)
        optuna.load_study(study_name=name, storage=found).set_metric_names([OBJECTIVE])


def serve_dashboard(journals: Sequence[Path], host: str, port: int) -> None:
    """Serve the dashboard until Ctrl-C.

    Raises:
        UserError: it is not installed, or the address is taken.
        StoreError: no search has been run, or a journal cannot be read.
    """
    try:
        from optuna_dashboard import run_server
    except ImportError:
        raise UserError("optuna-dashboard is not installed; hint: pip install 'nfstudy[dashboard]'") from None
    storage = copy_of_journals(journals)
    if not storage.get_all_studies():
        raise StoreError("no search has been run here; hint: run a study with a search or a sampler first")
    try:
        run_server(storage, host=host, port=port)
    except OSError as error:
        raise UserError(f"{host}:{port}: cannot be listened on: {error.strerror or error}; hint: --port N") from None
