"""Opening a store and writing runs, which `tracking_runs` reads back; with `tracking_copy` the only importer of mlflow.

One experiment a study, one top-level run a training run. Each call here returns when the store has what it writes; one
process writes, the coordinator, by the threads of `writing`. Artifacts get addresses of the form
`mlflow-artifacts:/<study>/...`, which `resolve_artifacts` turns into `<folder of the database>/artifacts` for SQLite
stores: so the folder can be moved, and served by a stock MLflow server.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# A server that does not answer is waited for by `Retry`, which tells of it; MLflow's own 7 retries of 120 s do not.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("PGCONNECT_TIMEOUT", "10")  # Else a PostgreSQL that does not answer is waited for for minutes.

import mlflow
import mlflow.store.db.utils
from filelock import FileLock, Timeout
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.artifact.artifact_repo import ArtifactRepository as ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from nfstudy import __version__
from nfstudy.core.atomic import draft_of, sweep
from nfstudy.core.errors import RunGoneError, StoreError, StoreUnavailableError, without_secrets
from nfstudy.core.plugins import installed
from nfstudy.core.project import Project
from nfstudy.core.sqlite_uri import SQLITE, sqlite_uri
from nfstudy.runs.code import code_state
from nfstudy.runs.description import WRITTEN, is_written, run_name
from nfstudy.runs.frame import param_text
from nfstudy.runs.metrics import known_metrics
from nfstudy.runs.provenance import environment, user
from nfstudy.runs.result import EpochRecord, TrialResult
from nfstudy.runs.tags import MlflowTag, Tag, tag_of
from nfstudy.runs.tracking.busy_timeout import shorten_busy_timeout
from nfstudy.runs.tracking.claim import Claim
from nfstudy.runs.tracking.database import file_identity, require_ours, require_same_file
from nfstudy.runs.tracking.entries import Entries, now, of_end, of_epoch, together
from nfstudy.runs.tracking.mlflow_runs import PAGE, StudyRuns, find_experiment
from nfstudy.runs.tracking.reach import require_address, require_answer
from nfstudy.runs.tracking.retry import Retry, may_pass, reason
from nfstudy.runs.tracking.sql_export import set_tags
from nfstudy.runs.tracking.sql_runs import SqlStore
from nfstudy.runs.tracking.uris import ARTIFACTS, artifact_folder, database_file, is_sqlite
from nfstudy.runs.views import MACHINE_LEARNING
from nfstudy.runs.whole_run import DataRecord
from nfstudy.study.cells import Trial, settings_digest

for _noisy in ("alembic", "mlflow.tracking.fluent"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # It prints errors that we tell ourselves.

# It makes the folder of a database whose address it does not decode: where `%` is in a name, not the one meant.
mlflow.store.db.utils._make_parent_dirs_if_sqlite = lambda db_uri: None

# Before each request it asks, by five imports that search all of `sys.path`, whether it is on Databricks.
if find_spec("dbruntime") is None:
    sys.modules["dbruntime"] = None  # type: ignore[assignment]  # Python's own sign of a module that is not there.

Written = TypeVar("Written")

HURRIED = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
"""How a server is asked by somebody who wants to end."""

ANALYSED_ROWS = 1000
CREATION_SECONDS = 120.0
"""How long another process may take to make a store that we wait for."""


def resolve_artifacts(artifact_uri: str, tracking_uri: str | None, registry_uri: str | None) -> ArtifactRepository:
    """Return what reads and writes the files at an `mlflow-artifacts:` address.

    Raises:
        StoreError: the address leads out of the store's artifact folder.
    """
    tracking_uri = tracking_uri or mlflow.get_tracking_uri()
    if not is_sqlite(tracking_uri):
        return MlflowArtifactsRepository(artifact_uri, tracking_uri, registry_uri)
    # As an address: MLflow decodes a plain path too, and `%20` in a folder's name would become another folder's.
    return LocalArtifactRepository(artifact_folder(artifact_uri, tracking_uri).as_uri())


@dataclass(frozen=True)
class Attempt:
    """One attempt at a trial: where it runs, and which attempt it is."""

    device: str
    threads: int
    number: int = 1
    environment: Mapping[str, str] | None = None
    """`provenance.environment` of the machine; None for that of this process."""


class Store:
    """An open tracking store."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.client = MlflowClient(tracking_uri=uri)
        self.retry = Retry()
        """With which what runs say is written; everything else is tried once."""
        self.claim: Claim | None = None
        """On the study that is run: it is kept while runs are written, and nothing is once it is another's."""
        self._file = file_identity(uri)
        self._folders: dict[str, str] = {}
        """Where the files of runs under way go: MLflow would ask for the whole run before it writes the first."""
        self._known_data: set[tuple[str, str]] = set()
        """Studies and digests of the data that runs of this process have named."""
        self._first_use = threading.Lock()
        self._abandoned = False

    @property
    def folder(self) -> Path | None:
        """The folder of a SQLite store's file; None for a server or another database."""
        return database_file(self.uri).parent if is_sqlite(self.uri) else None

    def asked(self) -> AbstractContextManager[None]:
        """Tell of what goes wrong in this context as of an error of the store."""
        return _as_store_error(self.uri)

    def experiment(self, study: str, description: str = "") -> str:
        """Return the id of the study's experiment, made if it is not there; raises StudyDeletedError."""
        with _as_store_error(self.uri):
            found = find_experiment(self.client, self.uri, study)
            if found is None:
                location = f"{ARTIFACTS}{study}" if is_sqlite(self.uri) else None
                _resolves_here(location)
                tags = {Tag.STUDY: study, MlflowTag.KIND: MACHINE_LEARNING}
                tags |= {MlflowTag.NOTE: description} if description else {}
                return self.client.create_experiment(study, artifact_location=location, tags=tags)
            if is_sqlite(self.uri) and not _resolves_here(found.artifact_location):
                raise StoreError(
                    f"{self.uri}: experiment '{study}' keeps its artifacts at {found.artifact_location}; "
                    f"expected: {ARTIFACTS}{study} (another tool made it: rename the study)"
                )
            if found.tags.get(Tag.STUDY) != study:
                self.client.set_experiment_tag(found.experiment_id, Tag.STUDY, study)
            return found.experiment_id

    def studies(self) -> dict[str, str]:
        """Return study -> id of its experiment."""
        with _as_store_error(self.uri):
            return {e.name: e.experiment_id for e in self.client.search_experiments() if e.name != "Default"}

    def study_tags(self) -> dict[str, tuple[str, dict[str, str]]]:
        """Return study -> (id of its experiment, its tags), of the experiments that are studies."""
        with _as_store_error(self.uri):
            found = self.client.search_experiments(max_results=PAGE)
            return {e.tags[Tag.STUDY]: (e.experiment_id, dict(e.tags)) for e in found if Tag.STUDY in e.tags}

    def start_run(self, experiment: str, trial: Trial, data: DataRecord | None, attempt: Attempt) -> str:
        """Create a run with everything that would reproduce it, before training starts; return its id."""
        run_id = self.create_run(experiment, trial, data, attempt)
        self.log(run_id, self.log_origin(run_id, trial, data, attempt))
        return run_id

    def create_run(
        self, experiment: str, trial: Trial, data: DataRecord | None, attempt: Attempt, started: int | None = None
    ) -> str:
        """Create a run with the tags that say what it is of and what it was made with; return its id.

        Arguments:
            experiment: the study's, by its id.
            trial: what is run.
            data: what it is run on.
            attempt: where.
            started: in milliseconds since 1970; None for now.
        """
        code, machine = code_state(), attempt.environment or environment()
        tags = {
            MlflowTag.SOURCE_NAME: "nfstudy",
            MlflowTag.SOURCE_TYPE: "LOCAL",
            MlflowTag.COMMIT: code.commit,
            Tag.STUDY: trial.study,
            Tag.BUDGET: trial.cell.budget,
            Tag.CELL: trial.cell.key,
            Tag.SETTINGS: settings_digest(trial.settings),
            Tag.STAGE: trial.stage,
            Tag.INDEX: str(trial.index),
            Tag.REPETITION: str(trial.repetition),
            Tag.ATTEMPT: str(attempt.number),
            Tag.POINT: json.dumps(trial.cell.point, sort_keys=True),
            Tag.CELL_NAME: trial.cell.label,
            MlflowTag.USER: user(),
            **({Tag.RERUN_OF: trial.rerun_of} if trial.rerun_of else {}),
            **({Tag.LOOK: trial.look} if trial.look else {}),
            Tag.COMMIT: code.commit,
            Tag.DIRTY: code.cleanliness,
            Tag.CODE: code.digest,
            Tag.DATA: data.name if data else "none",
            Tag.DATA_FINGERPRINT: data.fingerprint if data else "",
            Tag.DEVICE: attempt.device,
            Tag.THREADS: str(attempt.threads),
            Tag.VERSION: __version__,
            **{tag_of(name): machine[f"package {name}"] for name in ("torch", "numpy", "mlflow", "optuna")},
            Tag.PYTHON: machine["python"],
            **_plugin_tags(),
        }
        name = run_name(trial.label, trial.cell.budget)
        run = self._write(self.client.create_run, experiment, start_time=started or now(), tags=tags, run_name=name)
        run_id: str = run.info.run_id
        self._folders[run_id] = run.info.artifact_uri
        return run_id

    def log_origin(self, run_id: str, trial: Trial, data: DataRecord | None, attempt: Attempt) -> Entries:
        """Log the data and files that would reproduce a run; return what else is to be logged of its settings."""
        code, machine, settings = code_state(), attempt.environment or environment(), trial.settings.recorded()
        if data:
            # Of two runs that name a data set first, at once, a database would refuse one.
            known = (trial.study, data.digest)
            with nullcontext() if known in self._known_data else self._first_use:
                self._write_of(run_id, self.client.log_inputs, run_id, datasets=[dataset_input(data)])
            self._known_data.add(known)
        files = {
            "settings.json": json.dumps(settings.model_dump(), indent=2).encode(),
            "environment.json": json.dumps(machine, indent=2).encode(),
        }
        files |= {f"plugins/{Path(p.name).name}": p.source.encode() for p in installed() if p.source}
        self._log_files(run_id, files | ({"git.diff": code.diff} if code.dirty else {}))
        return Entries({path: param_text(value) for path, value in settings.flat().items()})

    def log_epoch(self, run_id: str, record: EpochRecord) -> None:
        """Log one epoch's numbers in one batch, at the step of its last update."""
        self.log(run_id, of_epoch(record, now()))

    def log(self, run_id: str, entries: Entries) -> None:
        """Log parameters, numbers and tags of a run in as few calls as MLflow allows."""
        unknown = {point.metric for point in entries.points} - known_metrics().keys()
        if unknown:
            raise ValueError(f"metric names {sorted(unknown)}; expected: those that are declared")
        params = [Param(*pair) for pair in entries.params.items()]
        tags = [RunTag(name, without_secrets(text)[:5000]) for name, text in entries.tags.items()]
        points = [Metric(point.metric, float(point.value), point.time, point.step) for point in entries.points]
        alone = max(len(points) + len(params) + len(tags) - PAGE, 0)
        for first in range(0, alone, PAGE):
            page = points[first : min(first + PAGE, alone)]
            self._write_of(run_id, self.client.log_batch, run_id, metrics=page)
        # Tags come last: the outcome is one.
        self._write_of(run_id, self.client.log_batch, run_id, metrics=points[alone:], params=params, tags=tags)

    def finish_run(
        self,
        run_id: str,
        result: TrialResult,
        description: str = "",
        before: Entries | None = None,
        ended: int | None = None,
        unseen: bool = False,
    ) -> None:
        """Log how a run ended; its status is set last, so a run marked finished has all its numbers and files.

        Arguments:
            run_id: which.
            result: how it ended.
            description: from `nfstudy.runs.description`; empty for none.
            before: what else is still to be logged of it.
            ended: in milliseconds since 1970; None for now.
            unseen: it has only just been made, so that nobody can have described it: the store is not asked.
        """
        ended = ended or now()
        self._log_files(run_id, result.files)
        tags = {Tag.OUTCOME: result.outcome, Tag.REASON: result.reason, Tag.UPDATE: str(result.update)}
        if description and (unseen or self._is_ours_to_describe(run_id)):
            tags[MlflowTag.NOTE] = description
        self.log(run_id, together([before or Entries(), of_end(result, ended), Entries(tags=tags)]))
        self._terminate(run_id, "FAILED" if result.outcome == "failed" else "FINISHED", ended)

    def tag_run(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Put tags on a run."""
        self.log(run_id, Entries(tags=tags))

    def tag_runs(self, tags: Mapping[str, Mapping[str, str]]) -> None:
        """Put tags on many runs: id in the store -> tag -> text."""
        if is_sqlite(self.uri) and SqlStore(self.uri).is_known():
            set_tags(self.uri, tags)
        else:
            for run_id, own in tags.items():
                self.tag_run(run_id, own)

    def kill_run(self, run_id: str, ended: int | None = None) -> None:
        """Mark a run that was cut off, now or at a time in milliseconds since 1970."""
        self._terminate(run_id, "KILLED", ended or now())

    def kill_left_over(self, study: str) -> None:
        """Mark the runs of a study that nobody is at work on, while we hold its lock.

        They were cut off, or were made twice: a server may have made a run and its answer got lost.
        """
        with _as_store_error(self.uri):
            found = find_experiment(self.client, self.uri, study)
            query = f"tags.`{Tag.STUDY}` = '{study}' and attributes.status = 'RUNNING'"
            while runs := self.client.search_runs([found.experiment_id], query, max_results=PAGE) if found else []:
                for run in runs:
                    self.kill_run(run.info.run_id)

    def keep(self) -> None:
        """Show that the launcher of the study is at work, if it is time to.

        Raises:
            TakenOverError: another launcher has taken the study over.
            StoreUnavailableError: its file has been moved or replaced.
        """
        if self.claim:
            require_same_file(self.uri, self._file)
            self.claim.keep()

    def abandon(self) -> None:
        """Write no run any more: what other threads are trying to write ends with the call that they wait for."""
        self._abandoned = True

    def study_tag(self, study: str, name: str) -> str:
        """Return a tag of the study's experiment, empty where there is none."""
        with _as_store_error(self.uri):
            found = find_experiment(self.client, self.uri, study)
            return str(found.tags.get(name, "")) if found else ""

    def tag_study(self, study: str, name: str, text: str) -> None:
        """Set a tag of the study's experiment, which must be there."""
        with _as_store_error(self.uri):
            found = find_experiment(self.client, self.uri, study)
            if found is None:
                raise StoreError(f"{self.uri}: there is no experiment '{study}'")
            self.client.set_experiment_tag(found.experiment_id, name, text)

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Wait for a server's answers only briefly in this context, and try once: somebody wants to end."""
        before, retry = {name: os.environ.get(name, "") for name in HURRIED}, self.retry
        os.environ.update(HURRIED)
        self.retry = Retry()
        try:
            yield
        finally:
            os.environ.update(before)
            self.retry = retry

    def runs(self, study: str) -> StudyRuns:
        """Return the study's runs, which may be none."""
        return StudyRuns(self.client, self.uri, study, self.asked)

    def tidy(self) -> None:
        """Refresh a SQLite store's statistics, without which MLflow and its UI read histories slowly.

        They are estimates from so many rows of each index: of all, 30 million points would take a minute.
        """
        if is_sqlite(self.uri):
            # Another study may be writing at this moment; then it will do this when it ends.
            with suppress(sqlite3.OperationalError), closing(sqlite3.connect(database_file(self.uri))) as connection:
                connection.execute(f"PRAGMA analysis_limit = {ANALYSED_ROWS}")
                connection.execute("ANALYZE")
                connection.commit()

    def _is_ours_to_describe(self, run_id: str) -> bool:
        """Say whether nobody has written a description of a run."""
        found = self._write_of(run_id, self.client.get_run, run_id).data.tags
        return is_written(found.get(MlflowTag.NOTE, WRITTEN))

    def _terminate(self, run_id: str, status: str, ended: int) -> None:
        self._write_of(run_id, self.client.set_terminated, run_id, status, ended)
        self._folders.pop(run_id, None)

    def _log_files(self, run_id: str, files: Mapping[str, bytes]) -> None:
        if not files:
            return

        def upload() -> None:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in files.items():
                    path = Path(folder, name)
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(content)
                if address := self._folders.get(run_id):
                    get_artifact_repository(address, tracking_uri=self.uri).log_artifacts(folder)
                else:
                    self.client.log_artifacts(run_id, folder)

        self._write_of(run_id, upload)

    def _write(self, call: Callable[..., Written], *arguments: Any, **named: Any) -> Written:
        """Write to the store as patiently as it should be; MLflow drops the second of two equal points."""

        def once() -> Written:
            if self._abandoned:
                raise StoreError(f"tracking store {self.uri}: nothing more is written")
            require_same_file(self.uri, self._file)
            self.keep()
            with _as_store_error(self.uri):
                return call(*arguments, **named)

        return self.retry.retry_while_unavailable(once)

    def _write_of(self, run_id: str, call: Callable[..., Written], *arguments: Any, **named: Any) -> Written:
        """Write what belongs to a run; raises RunGoneError where somebody has deleted it."""
        try:
            return self._write(call, *arguments, **named)
        except StoreUnavailableError:
            raise
        except StoreError as error:
            if self._is_gone(run_id):
                raise RunGoneError(f"its run {run_id} has been deleted from the store") from error
            raise

    def _is_gone(self, run_id: str) -> bool:
        """Say whether the store has a run no more, or only as a deleted one."""
        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage != "active")
        except MlflowException as error:
            return bool(error.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST))
        except (SQLAlchemyError, OSError):
            return False


def _plugin_tags() -> dict[str, str]:
    """Return the tag that says which plug-ins a run was made with, if any."""
    root = Project.find().root
    records = [plugin.record(root) for plugin in installed()]
    return {Tag.PLUGINS: json.dumps(records, sort_keys=True)} if records else {}


def open_store(uri: str, create: bool = False) -> Store:
    """Open the store at a tracking address; a SQLite store is made whole, in WAL mode, under a lock.

    Raises:
        StoreError: there is no store and `create` is false, or it cannot be opened or understood.
    """
    require_address(uri)
    if is_sqlite(uri):
        path = database_file(uri)
        uri = sqlite_uri(path)
        if not uri.isascii() and any("\ud800" <= each <= "\udfff" for each in uri):
            raise StoreError(f"{path}: has a name that is no UTF-8, which MLflow cannot use; expected: another name")
        if not path.exists():
            if not create:
                raise StoreError(f"{path}: no store; hint: run a study first, or pass another --tracking-uri")
            _create_database(path, uri)
        require_ours(path)
        sweep(path.parent)
    require_answer(uri)
    shorten_busy_timeout()
    with _as_store_error(uri):
        store = Store(uri)
        store.client.search_experiments(max_results=1)
    return store


def _create_database(path: Path, uri: str) -> None:
    """Make the schema once; half-made databases are what a race or a kill would leave, so it appears by one rename."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=CREATION_SECONDS):
            if path.exists():
                return
            with draft_of(path) as draft:
                with _as_store_error(uri):
                    SqlAlchemyStore(sqlite_uri(draft), ARTIFACTS).engine.dispose()
                with closing(sqlite3.connect(draft)) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")
                    # MLflow needs it to be there and takes it for its own runs; it would stand empty among the studies.
                    connection.execute("UPDATE experiments SET lifecycle_stage = 'deleted' WHERE experiment_id = 0")
                    connection.commit()
    except Timeout:
        raise StoreError(
            f"{path}: another process has been making this store for {CREATION_SECONDS:.0f} s; hint: see what it does, "
            "or end it"
        ) from None
    except OSError as error:
        raise StoreError(f"{path.parent}: cannot be written: {error.strerror or error}") from None


def _resolves_here(location: str | None) -> bool:
    """Say whether an experiment's files lie beside its store; raises StoreError where MLflow could not find them."""
    if not location or not location.startswith(ARTIFACTS):
        return False
    try:
        found = get_artifact_repository(location, tracking_uri=f"{SQLITE}x.db")
    except MlflowException:  # MLflow's own says that such an address needs a server.
        found = None
    if not isinstance(found, LocalArtifactRepository):
        raise StoreError("nfstudy is not installed where it runs; hint: run `pip install -e .` in its folder")
    return True


@contextmanager
def _as_store_error(uri: str) -> Iterator[None]:
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        kind = StoreUnavailableError if may_pass(error) else StoreError
        raise kind(f"tracking store {uri}: {reason(error)}") from error


def dataset_input(data: DataRecord) -> DatasetInput:
    """Return what a run says of its data as MLflow takes it."""
    dataset = Dataset(
        name=data.name, digest=data.digest, source_type=data.source_type, source=data.source, profile=data.profile
    )
    return DatasetInput(dataset, [InputTag(*pair) for pair in data.tags.items()])
