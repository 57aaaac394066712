"""A store's runs as reports and status read them: by SQL where that can be, else through MLflow, loaded only then."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from nfstudy.core.errors import StoreError, StudyDeletedError
from nfstudy.core.launcher import Launcher
from nfstudy.core.project import Project
from nfstudy.core.reading import read_regular
from nfstudy.runs.former import runs_of_study
from nfstudy.runs.frame import LoggedRuns, make_frame, with_notes
from nfstudy.runs.tags import Tag
from nfstudy.runs.tracking.claim import at_work_elsewhere
from nfstudy.runs.tracking.reach import require_address, require_answer
from nfstudy.runs.tracking.sql_runs import SqlStore, find_experiment
from nfstudy.runs.tracking.uris import ARTIFACTS, artifact_folder, database_file, is_served, is_sqlite
from nfstudy.study.spec import StudySpec

ARTIFACT_BYTES = 2**28
"""Of one file of a run."""

if TYPE_CHECKING:
    from nfstudy.runs.tracking.store import Store


@dataclass(frozen=True)
class SqlRuns:
    """A study's runs in a database; what `nfstudy.runs.frame.LoggedRuns` asks for."""

    store: SqlStore
    study: str

    def frame(self, metrics: Collection[str] | None = None) -> pd.DataFrame:
        """Return one row a run; see `nfstudy.runs.frame.LoggedRuns`."""
        return self.store.frame(self.study, metrics)

    def history(self, run_ids: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
        """Return the logged points: columns run_id, metric, update, value; sorted by these."""
        own = {run_id: self._own_ids.get(run_id, run_id) for run_id in run_ids}
        points = self.store.history([*own.values()], metrics)
        originals = {own_id: run_id for run_id, own_id in own.items() if own_id != run_id}
        if not originals:
            return points
        points["run_id"] = points["run_id"].replace(originals)
        return points.sort_values(["run_id", "metric", "update"], kind="stable", ignore_index=True)

    def artifact(self, run_id: str, name: str) -> bytes | None:
        """Return a file of a run, or None where it has no such file."""
        address = self.store.artifact_address(self._own_ids.get(run_id, run_id))
        if address is None:
            return None
        if not is_sqlite(self.store.uri) or not address.startswith(ARTIFACTS):
            return self._by_api.artifact(run_id, name)
        try:
            return read_regular(artifact_folder(address, self.store.uri) / name, ARTIFACT_BYTES)
        except OSError:
            return None

    def link(self, run_id: str) -> None:
        """Return None: a database has no pages."""

    @cached_property
    def _own_ids(self) -> dict[str, str]:
        return self.store.own_ids(self.study)

    @cached_property
    def _by_api(self) -> LoggedRuns:
        return _by_mlflow(self.store.uri)(self.study)


def open_runs(uri: str) -> Callable[[str], LoggedRuns]:
    """Return what gives the runs of a study, by its name, in the store at a tracking address.

    Raises:
        StoreError: there is no store, or it cannot be opened or understood.
    """
    require_address(uri)
    if is_sqlite(uri) and not database_file(uri).exists():
        raise StoreError(f"{database_file(uri)}: no store; hint: run a study first, or pass another --tracking-uri")
    require_answer(uri)
    if not is_served(uri):
        store = SqlStore(uri)
        if store.is_known():
            return lambda study: SqlRuns(store, study)
    return _by_mlflow(uri)


def open_study(uri: str, study: StudySpec) -> LoggedRuns:
    """Return the runs of a study, each under the budget that it is of now; raises StoreError as `open_runs`."""
    return runs_of_study(study, open_runs(uri))


def load_frame(uri: str, study: StudySpec | str, metrics: Collection[str] | None = None) -> pd.DataFrame:
    """Return the runs of a study, none where the store has not been made yet; see `LoggedRuns.frame`.

    A name in place of a study is what runs are logged with, whatever they are now.
    """
    require_address(uri)
    if is_sqlite(uri) and not database_file(uri).exists():
        return make_frame([], metrics)
    runs = open_runs(uri)(study) if isinstance(study, str) else open_study(uri, study)
    return runs.frame(metrics)


def load_undeleted(uri: str, study: StudySpec, metrics: Collection[str] | None = None) -> pd.DataFrame:
    """Return the runs of a study as `load_frame` does; of one that has been deleted none, and a note that says so."""
    try:
        return load_frame(uri, study, metrics)
    except StudyDeletedError as error:
        return with_notes(make_frame([], metrics), [str(error)])


def experiment_of(uri: str, study: str) -> str | None:
    """Return the id of a study's experiment; None where there is none. Raises StoreError."""
    store = SqlStore(uri)
    if not is_served(uri) and store.is_known():
        found = store.read(lambda connection: find_experiment(connection, uri, study))
        return str(found.id) if found else None
    return _open_store(uri).study_tags().get(study, (None,))[0]


def is_live(project: Project, uri: str, study: str) -> bool:
    """Say whether a launcher is at work on a study now: one of this project, or of another with the same store."""
    if project.is_running(study):
        return True
    if is_sqlite(uri) and not database_file(uri).exists():
        return False
    text = ""
    with suppress(StoreError):
        store = SqlStore(uri)
        own = not is_served(uri) and store.is_known()
        text = store.study_tag(study, Tag.LAUNCHER) if own else _open_store(uri).study_tag(study, Tag.LAUNCHER)
    return at_work_elsewhere(text, Launcher.here(project.root)) is not None


def _open_store(uri: str) -> Store:
    from nfstudy.runs.tracking.store import open_store

    return open_store(uri)


def _by_mlflow(uri: str) -> Callable[[str], LoggedRuns]:
    return _open_store(uri).runs
