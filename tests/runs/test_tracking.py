"""The store, really written and read: what goes in comes out, wherever the folder is moved."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from mlflow.tracking.request_header.registry import resolve_request_headers
from support.fork_server import Command

from nfstudy.core.errors import StoreError, StoreUnavailableError
from nfstudy.core.launcher import Launcher
from nfstudy.core.project import Project
from nfstudy.core.sqlite_uri import sqlite_uri
from nfstudy.runs.frame import RUN_COLUMNS, cell_states, runs_left
from nfstudy.runs.metrics import METRICS
from nfstudy.runs.result import EpochRecord, TrialResult
from nfstudy.runs.tracking.claim import Claim, TakenOverError
from nfstudy.runs.tracking.open import is_live, load_frame
from nfstudy.runs.tracking.retry import Retry
from nfstudy.runs.tracking.store import Attempt, Store, open_store, resolve_artifacts
from nfstudy.runs.whole_run import DataRecord
from nfstudy.study.cells import Trial
from nfstudy.study.reader import parse_study

pytestmark = pytest.mark.slow

STUDY = parse_study(
    "study: s\ntitle: T\ndata: {name: digits}\ntrain: {updates: 10, learning_rate: 1e-3}\n"
    "grid: {flow.family: [planar, nice-perm], flow.length: [0, 2]}\nrepetitions: 2\nexhibits: [summary]\n",
    "s.yaml",
)
CELLS = STUDY.under("default").cells
DATA = DataRecord.of("digits-static", "ab" * 32, "scikit-learn", {"train": (1197, 64)})


def start(store, trial, point=None):
    trial = replace(trial, cell=replace(trial.cell, point=point or {}))
    return store.start_run(store.experiment("s"), trial, DATA, Attempt("cpu", 1))


def test_a_run_comes_back_as_it_was_logged(store):
    trial = STUDY.under(CELLS[2].budget).repetitions_of(CELLS[2])[1]
    run_id = start(store, trial, {"flow.length": 2})
    store.log_epoch(run_id, EpochRecord(1, 5, 10, {"train/elbo": -4.0, "valid/elbo": -5.0}))
    store.log_epoch(run_id, EpochRecord(2, 10, 10, {"train/elbo": -3.0, "valid/elbo": -4.5}))
    result = TrialResult("finished", 10, metrics={"test/nll": 3.25}, files={"samples.png": b"\x89PNG"})
    store.finish_run(run_id, result)

    runs = store.runs("s")
    (row,) = runs.frame().to_dict("records")
    assert {name: row[name] for name in ("run_id", "cell", "stage", "index", "budget", "outcome", "update")} == {
        "run_id": run_id,
        "cell": CELLS[2].key,
        "stage": "repetition",
        "index": 2,
        "budget": "default",
        "outcome": "finished",
        "update": 10.0,
    }
    assert row["data_fingerprint"] == "ab" * 32
    assert {path: row[path] for path in trial.settings.flat()} == trial.settings.flat()
    assert (row["test/nll"], row["valid/elbo"]) == (3.25, -4.5)
    assert np.isnan(row["test/kl"])
    history = runs.history([run_id], ["valid/elbo"])
    assert history.to_dict("list") == {
        "run_id": [run_id] * 2,
        "metric": ["valid/elbo"] * 2,
        "update": [5, 10],
        "value": [-5.0, -4.5],
    }
    assert runs.artifact(run_id, "samples.png") == b"\x89PNG"
    assert runs.artifact(run_id, "none.png") is None
    assert json.loads(runs.artifact(run_id, "settings.json")) == trial.settings.model_dump()
    assert "package torch" in json.loads(runs.artifact(run_id, "environment.json"))
    assert runs.link(run_id) is None


def test_everything_that_reproduces_a_run_is_there_before_it_trains(store):
    run_id = start(store, STUDY.under(CELLS[1].budget).repetitions_of(CELLS[1])[0])
    run = store.client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params["flow.family"] == "planar"
    assert run.data.params["train.clip_norm"] == "null"
    assert {f"nfstudy.{name}" for name in (
        "study", "cell", "repetition", "budget", "commit", "dirty", "torch", "python", "threads", "device",
        "data_fingerprint", "version",
    )} <= run.data.tags.keys()  # fmt: skip
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits-static", ("ab" * 32)[:32])
    assert "mlflow.parentRunId" not in run.data.tags


def test_a_name_that_is_not_in_the_table_of_metrics_is_refused(store):
    run_id = start(store, STUDY.under(CELLS[0].budget).repetitions_of(CELLS[0])[0])
    with pytest.raises(ValueError, match="test/bound"):
        store.log_epoch(run_id, EpochRecord(1, 1, 1, {"test/bound": 1.0}))


def test_metric_names_carry_split_unit_and_direction():
    assert all(metric.split in ("train", "valid", "test", "time") for metric in METRICS.values())
    assert METRICS["test/nll"].unit == "nats per image"
    assert METRICS["test/nll"].better == "lower"
    assert METRICS["valid/elbo"].better == "higher"


def test_what_runs_say_of_each_cell(store):
    def log(cell, repetition, outcome, reason=""):
        run_id = start(store, STUDY.under(CELLS[cell].budget).repetitions_of(CELLS[cell])[repetition - 1])
        if outcome in ("finished", "diverged", "failed"):
            store.finish_run(run_id, TrialResult(outcome, 3, reason))
        elif outcome == "killed":
            store.kill_run(run_id)
        return run_id

    killed, first, second = log(0, 1, "killed"), log(0, 1, "finished"), log(0, 2, "finished")
    log(1, 1, "finished")
    lost = log(1, 2, "diverged", "loss is nan at update 3")
    log(2, 1, "failed", "MemoryError")
    running = log(2, 2, "running")

    frame = store.runs("s").frame()
    states = cell_states(STUDY.under("default"), frame)
    assert [state.state for state in states] == ["done", "diverged", "failed"]
    assert states[0].finished == (first, second)
    assert killed not in states[0].finished
    assert states[1].diverged == (lost,)
    assert "loss is nan at update 3" in states[1].note
    assert "MemoryError" in states[2].note
    assert cell_states(STUDY.under("default"), frame, active=True)[2].running == (running,)
    assert runs_left(STUDY.under("default"), frame) == 2
    assert frame.loc[frame["outcome"] == "running", "run_id"].tolist() == [running]


def answers_lost(monkeypatch, store, name):
    """Let the server do what it is asked, and its first answer be lost."""
    ask, asked = getattr(store.client, name), []

    def ask_and_lose(*arguments, **named):
        answer = ask(*arguments, **named)
        asked.append(answer)
        if len(asked) == 1:
            raise ConnectionResetError("the connection was reset")
        return answer

    monkeypatch.setattr(store.client, name, ask_and_lose)
    return asked


def test_a_run_that_a_server_made_without_our_knowing_is_found_and_closed(store, monkeypatch):
    made = answers_lost(monkeypatch, store, "create_run")
    store.retry = Retry(60, lambda words: None)
    known = start(store, STUDY.under(CELLS[0].budget).repetitions_of(CELLS[0])[0])
    unknown = made[0].info.run_id
    assert known == made[1].info.run_id
    store.finish_run(known, TrialResult("finished", 3))
    other = store.start_run(
        store.experiment("s"), Trial("another", CELLS[0], CELLS[0].settings, "repetition", 1), DATA, Attempt("cpu", 1)
    )
    store.kill_left_over("s")
    store.kill_left_over("none")
    frame = store.runs("s").frame().set_index("run_id")
    assert frame["outcome"].to_dict() == {known: "finished", unknown: "killed"}
    assert cell_states(STUDY.under("default"), frame.reset_index())[0].finished == (known,)
    assert store.client.get_run(other).info.status == "RUNNING"


def test_nothing_is_written_once_another_launcher_has_the_study_and_readers_see_who_is_at_work(store, tmp_path):
    run_id = start(store, STUDY.under("default").repetitions_of(CELLS[0])[0])
    project, elsewhere = Project(tmp_path / "here"), Launcher.here(tmp_path / "there")
    assert not is_live(project, store.uri, "s")
    store.claim = Claim(store, "s", Launcher.here(project.root))
    store.claim.take()
    store.log_epoch(run_id, EpochRecord(1, 5, 10, {"valid/elbo": -5.0}))
    assert not is_live(project, store.uri, "s"), "the lock of a folder says who is at work there"
    assert is_live(Project(tmp_path / "there"), store.uri, "s")
    Claim(store, "s", elsewhere)._show()
    assert is_live(project, store.uri, "s")
    store.claim._last = 0.0
    with pytest.raises(TakenOverError, match=rf"pid {os.getpid()} on .*there"):
        store.finish_run(run_id, TrialResult("finished", 10))
    assert store.runs("s").frame()["outcome"].tolist() == ["running"]


@pytest.mark.parametrize("name", ["exp%20a", "what?", "a#b é"])
def test_a_store_stands_in_its_own_folder_whatever_that_is_called(store, name, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(store.folder / "mlflow.db", folder / "mlflow.db")
    there = open_store(sqlite_uri(folder / "mlflow.db"))
    run_id = start(there, STUDY.under("default").repetitions_of(CELLS[0])[0])
    assert len(load_frame(there.uri, "s")) == 1
    assert there.runs("s").artifact(run_id, "settings.json")
    assert [path.name for path in folder.rglob("settings.json")] == ["settings.json"]
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} - {store.folder.name} == {name}


def test_a_database_that_is_a_link_to_nowhere_is_not_made_anew(tmp_path):
    (tmp_path / "mlflow.db").symlink_to("/mnt/gone/mlflow.db")
    with pytest.raises(StoreError, match=r"is a link to /mnt/gone/mlflow\.db"):
        open_store(f"sqlite:///{tmp_path}/mlflow.db", create=True)


def test_what_is_written_is_there_once_though_its_answer_was_lost(store, monkeypatch):
    run_id = start(store, STUDY.under(CELLS[0].budget).repetitions_of(CELLS[0])[0])
    store.retry = Retry(60, lambda words: None)
    for name in ("log_batch", "log_artifacts", "set_terminated"):
        answers_lost(monkeypatch, store, name)
    store.log_epoch(run_id, EpochRecord(1, 5, 10, {"valid/elbo": -5.0}))
    store.finish_run(run_id, TrialResult("finished", 10, metrics={"test/nll": 3.25}, files={"a.txt": b"text"}))
    (row,) = store.runs("s").frame().to_dict("records")
    assert (row["outcome"], row["test/nll"]) == ("finished", 3.25)
    assert store.runs("s").history([run_id], ["valid/elbo"])["update"].tolist() == [5]
    assert store.runs("s").artifact(run_id, "a.txt") == b"text"


def test_a_server_is_asked_but_briefly_by_somebody_who_wants_to_end():
    """One who listens and never answers: by default MLflow would wait 16 minutes for him."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = Store(f"http://127.0.0.1:{silent.getsockname()[1]}")
        store.retry = patience = Retry(60)
        before, asked = dict(os.environ), time.monotonic()
        with store.hurried(), pytest.raises(StoreUnavailableError, match="timed out"):
            store.kill_run("0" * 32)
        assert time.monotonic() - asked < 5
        assert (dict(os.environ), store.retry) == (before, patience)


def test_an_empty_study_has_all_its_columns(store, tmp_path):
    for frame in (store.runs("none").frame(), load_frame(f"sqlite:///{tmp_path}/nowhere/mlflow.db", "s")):
        assert len(frame) == 0
        assert {*RUN_COLUMNS, *METRICS} <= set(frame.columns)
        assert [state.state for state in cell_states(STUDY.under("default"), frame)] == ["to do"] * 3
        assert runs_left(STUDY.under("default"), frame) == 6
    assert not (tmp_path / "nowhere").exists()


def test_the_folder_can_be_moved(store, tmp_path):
    run_id = start(store, STUDY.under(CELLS[0].budget).repetitions_of(CELLS[0])[0])
    store.finish_run(run_id, TrialResult("finished", 3, files={"samples.png": b"picture"}))
    shutil.move(tmp_path / "mlruns", tmp_path / "elsewhere")
    moved = open_store(f"sqlite:///{tmp_path}/elsewhere/mlflow.db").runs("s")
    assert moved.artifact(run_id, "samples.png") == b"picture"
    dump = "\n".join(sqlite3.connect(tmp_path / "elsewhere" / "mlflow.db").iterdump())
    assert str(tmp_path) not in dump


def test_mlflow_itself_reaches_the_artifacts(store, tmp_path):
    run_id = start(store, STUDY.under(CELLS[0].budget).repetitions_of(CELLS[0])[0])
    store.finish_run(run_id, TrialResult("finished", 3, files={"samples.png": b"picture"}))
    code = f"import mlflow; print(open(mlflow.artifacts.download_artifacts('runs:/{run_id}/samples.png'), 'rb').read())"
    environment = os.environ | {"MLFLOW_TRACKING_URI": store.uri}
    done = subprocess.run([sys.executable, "-W", "error::UserWarning:mlflow", "-c", code], env=environment,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout == "b'picture'\n"


def test_the_store_is_in_wal_mode(store, tmp_path):
    with sqlite3.connect(tmp_path / "mlruns" / "mlflow.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_processes_that_make_one_store_at_once_all_succeed(tmp_path):
    code = (
        "import sys; from support.template_store import MIGRATING; from nfstudy.runs.tracking import store; "
        "store.SqlAlchemyStore = MIGRATING; store.open_store(sys.argv[1], create=True).experiment(sys.argv[2])"
    )
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    with open(tmp_path / "out.txt", "w") as output:
        processes = [Command([uri, f"study-{i}"], tmp_path, output, output, code=code) for i in range(4)]
        codes = [process.wait() for process in processes]
    assert codes == [0] * 4, (tmp_path / "out.txt").read_text()
    store = open_store(uri)
    assert {e.name for e in store.client.search_experiments()} == {f"study-{i}" for i in range(4)}


def test_an_address_out_of_the_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match="leads out of"):
        resolve_artifacts("mlflow-artifacts:/../../etc", f"sqlite:///{tmp_path}/mlflow.db", None)


def test_stores_that_cannot_be_used_are_clear_errors(tmp_path):
    with pytest.raises(StoreError, match=r"mlflow\.db: no store"):
        open_store(f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(StoreError, match=r"tracking address \./mlruns"):
        open_store("./mlruns")
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    with pytest.raises(StoreError, match="not a SQLite database"):
        open_store(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_copy_of_nfstudy_that_is_not_installed_says_so(store, monkeypatch):
    """MLflow finds by an entry point of the installed package what an address of an artifact means."""
    from mlflow.store.artifact import artifact_repository_registry as registry
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

    monkeypatch.setitem(registry._artifact_repository_registry._registry, "mlflow-artifacts", MlflowArtifactsRepository)
    with pytest.raises(StoreError, match=r"nfstudy is not installed where it runs; hint: run `pip install -e \.`"):
        store.experiment("s")


def test_an_experiment_of_another_tool_is_not_written_into(store, tmp_path):
    store.client.create_experiment("s", artifact_location=str(tmp_path / "theirs"))
    with pytest.raises(StoreError, match="experiment 's' keeps its artifacts at"):
        store.experiment("s")


def test_a_request_to_a_server_imports_nothing_of_databricks(monkeypatch):
    tried = []

    class Watching:
        def find_spec(self, name, path=None, target=None):
            tried.append(name)

    monkeypatch.setattr(sys, "meta_path", [Watching(), *sys.meta_path])
    assert resolve_request_headers()["User-Agent"].startswith("mlflow-python-client/")
    assert not any(name.startswith("dbruntime") for name in tried)
