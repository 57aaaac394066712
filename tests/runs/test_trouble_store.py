"""Bad weather: full and read-only disks, locked databases, newer schemas, clocks that jump, cells that cannot be."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
from support import disks
from support.command_line import TINY, frame_of, launch, nfstudy, numbers_of, wait_for, write_study

from nfstudy.core.errors import StoreUnavailableError
from nfstudy.inference.problems import make_problem
from nfstudy.inference.training.checkpoints import CheckpointPlan, Checkpoints, read_checkpoint
from nfstudy.inference.training.fit import fit
from nfstudy.inference.training.stop import StopRequest
from nfstudy.runs.frame import cell_states, latest_per_identity
from nfstudy.runs.result import EpochRecord, TrialResult
from nfstudy.runs.tags import Tag
from nfstudy.runs.tracking.open import load_frame
from nfstudy.runs.tracking.retry import Retry
from nfstudy.runs.tracking.store import Attempt, open_store
from nfstudy.study.reader import parse_study
from nfstudy.study.settings import Settings

pytestmark = pytest.mark.slow

STUDY = parse_study(
    "study: s\ntitle: T\ndata: {name: digits}\ntrain: {updates: 10}\ngrid: {flow.length: [0]}\n"
    "repetitions: 1\nexhibits: [summary]\n",
    "s.yaml",
)
CELLS = STUDY.under("default").cells
TRIAL = STUDY.under(CELLS[0].budget).repetitions_of(CELLS[0])[0]
LOCK_SECONDS = 4


@pytest.fixture
def small_disk(tmp_path):
    with disks.small_disk(tmp_path / "disk", "4m") as disk_and_mount:
        yield disk_and_mount


def start(store, attempt=1):
    return store.start_run(store.experiment("s"), TRIAL, None, Attempt("cpu", 1, attempt))


def epoch(number):
    return EpochRecord(number, 5 * number, 10, {"train/elbo": -1.0 * number, "valid/elbo": -2.0 * number})


class Twice(Retry):
    """Does all work again that was done, as after an answer that was lost."""

    def retry_while_unavailable(self, work):
        work()
        return work()


def steps_of(store, run_id):
    return store.runs("s").history([run_id], ["valid/elbo"])["update"].tolist()


def after(seconds, work):
    timer = threading.Timer(seconds, work)
    timer.start()
    return timer


def test_a_full_disk_is_told_and_outlasted_and_what_was_logged_stays(empty_store, small_disk):
    disk, _ = small_disk
    shutil.copytree(empty_store, disk / "mlruns")
    store, told = open_store(f"sqlite:///{disk}/mlruns/mlflow.db"), []
    run_id = start(store)
    store.log_epoch(run_id, epoch(1))
    filler = disks.fill(disk)
    with pytest.raises(StoreUnavailableError, match=r"mlflow\.db.*(full|No space left)"):
        store.finish_run(run_id, TrialResult("finished", 10, files={"samples.png": bytes(100_000)}))
    assert steps_of(store, run_id) == [5]
    store.retry = Retry(60, told.append)
    timer = after(1.5, filler.unlink)
    store.finish_run(run_id, TrialResult("finished", 10, files={"samples.png": bytes(100_000)}))
    timer.join()
    assert len(told) == 2
    assert "retrying for 60 s" in told[0]
    assert told[1] == "the tracking store is available again"
    assert store.runs("s").frame()["outcome"].tolist() == ["finished"]
    assert store.runs("s").artifact(run_id, "samples.png") == bytes(100_000)


def test_a_training_goes_on_where_a_full_disk_takes_no_checkpoint(small_disk):
    disk, _ = small_disk
    path, told = disk / "checkpoints" / "x.checkpoint", []
    settings = Settings.model_validate({"energy": {"name": "u1"}, "train": {"updates": 3, "batch": 5}})
    checkpoints = Checkpoints(CheckpointPlan(path, 1e9), {}, told.append, StopRequest())
    checkpoints.save(b"before")
    disks.fill(disk)
    end = fit(make_problem(settings, None, 1, "cpu"), settings, lambda _: True, checkpoints)
    assert (end.outcome, end.update) == ("finished", 3)
    (notice,) = told[1:]  # The first: `before` is not the state of a training.
    assert f"{path}: cannot write a checkpoint: No space left on device" in notice.words
    assert read_checkpoint(path, {}).state == b"before"


def test_a_read_only_store_is_a_clear_error_at_once_and_can_still_be_read(empty_store, small_disk):
    disk, mount = small_disk
    shutil.copytree(empty_store, disk / "mlruns")
    (disk / "tiny.yaml").write_text(TINY)
    mount("remount,ro")
    assert load_frame(f"sqlite:///{disk}/mlruns/mlflow.db", "tiny").empty
    assert "3 to do" in nfstudy(disk, "status", "tiny.yaml").stdout
    done = nfstudy(disk, "run", "tiny.yaml")
    assert done.returncode == 2
    assert "cannot be written: Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_locked_database_is_waited_for_and_every_point_is_there_once(store, tmp_path):
    run_id, told = start(store), []
    store.log_epoch(run_id, epoch(1))
    store.retry = Retry(60, told.append)
    lock = sqlite3.connect(tmp_path / "mlruns" / "mlflow.db", check_same_thread=False, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    timer = after(LOCK_SECONDS, lambda: lock.execute("ROLLBACK"))
    store.log_epoch(run_id, epoch(2))
    timer.join()
    lock.close()
    store.retry = Twice()
    store.log_epoch(run_id, epoch(3))
    assert [words.split(";")[-1] for words in told] == [
        " retrying for 60 s",
        "the tracking store is available again",
    ]
    assert "locked" in told[0]
    history = store.runs("s").history([run_id], ["valid/elbo"])
    assert [*zip(history["update"], history["value"], strict=True)] == [(5, -2.0), (10, -4.0), (15, -6.0)]


def test_waiting_for_a_store_ends_with_its_time_or_when_somebody_wants_to_stop(store, tmp_path):
    run_id, told = start(store), []
    lock = sqlite3.connect(tmp_path / "mlruns" / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    for patience in (Retry(0.1, told.append), Retry(1e9, told.append, lambda: True)):
        store.retry = patience
        before = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="locked"):
            store.log_epoch(run_id, epoch(1))
        assert time.monotonic() - before < 20
    lock.close()


def test_an_answer_that_is_long_in_coming_takes_no_time_from_the_trying_again(monkeypatch):
    clock, told, tries = [0.0], [], []
    monkeypatch.setattr("nfstudy.runs.tracking.retry.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("nfstudy.runs.tracking.retry.time.sleep", lambda seconds: None)

    def silent():
        """Fail after 100 s of silence."""
        tries.append(clock[0])
        clock[0] += 100
        raise StoreUnavailableError("no answer")

    with pytest.raises(StoreUnavailableError, match="no answer"):
        Retry(250, told.append).retry_while_unavailable(silent)
    assert tries == [0, 100, 200, 300], "for 250 s from the first failure, at 100 s"
    assert told == ["no answer; retrying for 250 s"]
    tries.clear()
    with pytest.raises(StoreUnavailableError, match="no answer"):
        Retry().retry_while_unavailable(silent)
    assert len(tries) == 1, "without patience it is tried once"


def test_a_store_of_a_newer_mlflow_is_a_clear_error_and_is_left_as_it_is(store, tmp_path):
    path = tmp_path / "mlruns" / "mlflow.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'fffffffffff0'")
        connection.commit()
    done = nfstudy(tmp_path, "status", str(write_study(tmp_path) / "tiny.yaml"))
    assert done.returncode == 2
    assert "mlflow.db" in done.stderr
    assert "fffffffffff0" in done.stderr
    assert "Traceback" not in done.stderr
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("fffffffffff0",)]


@pytest.mark.parametrize("jump", [-86_400, 86_400], ids=["back", "forth"])
def test_a_clock_that_jumps_loses_and_reorders_nothing(jump, store, monkeypatch):
    def log(attempt, outcome):
        run_id = start(store, attempt)
        store.log_epoch(run_id, epoch(1))
        if outcome == "killed":
            store.kill_run(run_id)
        else:
            store.finish_run(run_id, TrialResult(outcome, 10, reason=f"attempt {attempt}"))
        return run_id

    now = time.time
    first = log(1, "killed")
    monkeypatch.setattr(time, "time", lambda: now() + jump)
    second = log(2, "failed")
    frame = store.runs("s").frame().set_index("run_id")
    assert (frame.loc[second, "started"] - frame.loc[first, "started"]) * jump > 0
    (latest,) = latest_per_identity(store.runs("s").frame()).to_dict("records")
    assert (latest["run_id"], latest["attempt"]) == (second, 2)
    third = start(store, 3)
    store.log_epoch(third, epoch(1))
    monkeypatch.setattr(time, "time", now)
    store.log_epoch(third, epoch(2))
    store.finish_run(third, TrialResult("finished", 10))
    assert steps_of(store, third) == [5, 10]
    assert store.runs("s").frame().set_index("run_id").loc[third, "valid/elbo"] == -4.0
    (state,) = cell_states(STUDY.under("default"), store.runs("s").frame())
    assert state.finished == (third,)


def test_a_loss_that_is_not_finite_at_the_first_update_diverges_there():
    settings = Settings.model_validate(
        {"energy": {"name": "u1"}, "q0": {"deviation": 1e30}, "train": {"updates": 3, "batch": 5}}
    )
    records = []
    end = fit(make_problem(settings, None, 1, "cpu"), settings, records.append)
    assert (end.outcome, end.update, records) == ("diverged", 1, [])
    assert "at update 1" in end.reason


@pytest.mark.end_to_end
def test_an_impossible_cell_is_tried_again_then_reported_and_the_others_go_on(tmp_path):
    # Forty terabytes of weights in one of the two.
    text = TINY.replace("layers: 1, maxout: 2", "layers: 2, maxout: 1000")
    text = text.replace("flow.family: [planar, nice-perm], flow.length: [0, 2]", "model.hidden: [8, 100000]")
    folder = write_study(tmp_path, text.replace("repetitions: 2", "repetitions: 1"))
    done = nfstudy(folder, "run", "tiny.yaml", "--workers", "1", "--retries", "1")
    assert done.returncode == 1
    assert "1 failed, 1 finished" in done.stdout
    assert "failed: diagonal Gaussian K=0 D=3, model.hidden 100000 #1: RuntimeError" in done.stderr
    assert done.stderr.count("; retrying") == 1
    frame = frame_of(folder)
    failed = frame[frame["outcome"] == "failed"]
    assert failed["attempt"].tolist() == [1, 2]
    runs = open_store(f"sqlite:///{folder}/mlruns/mlflow.db").runs("tiny")
    for run_id in failed["run_id"]:
        assert b"Traceback" in runs.artifact(run_id, "traceback.txt")


@pytest.mark.end_to_end
def test_a_stopped_study_goes_on_from_its_checkpoints_and_past_a_truncated_one(tmp_path):
    text = TINY.replace("updates: 60", "updates: 600").replace("flow.length: [0, 2]", "flow.length: [2]")
    text = text.replace("repetitions: 2", "repetitions: 1")
    calm, folder = write_study(tmp_path / "calm", text), write_study(tmp_path / "stopped", text)
    assert nfstudy(calm, "run", "tiny.yaml", "--workers", "2").returncode == 0
    process = launch(folder, "run", "tiny.yaml", "--workers", "2", "--checkpoint-every", "0.05")
    try:
        wait_for(folder, "starts")
        while len(list(folder.glob("mlruns/checkpoints/tiny/*.checkpoint"))) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        before = time.monotonic()
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 130
        assert time.monotonic() - before < 10
    finally:
        process.kill()
    out = (folder / "out.txt").read_text()
    assert "stopped by SIGTERM; finished runs are saved, and so are 2 of 2 runs under way" in out
    assert "resume with: python -m nfstudy run tiny.yaml" in out
    assert set(frame_of(folder)["outcome"]) == {"killed"}
    first, second = sorted((folder / "mlruns" / "checkpoints" / "tiny").glob("*.checkpoint"))
    assert all(json.loads(path.read_bytes().partition(b"\n")[0])["seconds"] > 0 for path in (first, second))
    first.write_bytes(first.read_bytes()[:-10])
    head, _, state = second.read_bytes().partition(b"\n")
    before = {"device": ["cuda:0"], "threads": ["2"], "torch": ["2.12.0"]}
    second.write_bytes(json.dumps(json.loads(head) | {"made_by": before}).encode() + b"\n" + state)
    again = nfstudy(folder, "run", "tiny.yaml", "--workers", "2")
    assert again.returncode == 0, again.stderr
    assert "truncated or altered" in again.stderr
    assert again.stderr.count("starting over") == 1
    assert again.stderr.count("resumes after update") == 1
    assert numbers_of(folder) == numbers_of(calm)
    frame = frame_of(folder)
    finished = frame[frame["outcome"] == "finished"].set_index("device")
    assert finished["attempt"].to_dict() == {"cpu": 2, "cuda:0, then cpu": 2}
    assert finished["threads"].to_dict() == {"cpu": "1", "cuda:0, then cpu": "2, then 1"}
    rerun = nfstudy(folder, "rerun", finished.loc["cuda:0, then cpu", "run_id"])
    assert "device: cuda:0, then cpu then, cpu now" in rerun.stdout + rerun.stderr
    assert "threads: 2, then 1 then, 1 now" in rerun.stdout + rerun.stderr
    assert not list((folder / "mlruns" / "checkpoints").rglob("*.checkpoint"))


def test_a_store_that_is_opened_again_keeps_its_locks(tmp_path):
    """Else another process that leaves takes itself for the last, and removes what has not been written back."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    first = open_store(uri, create=True)
    first.experiment("s", "")
    open_store(uri)
    leave = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM runs').fetchall(); c.close()"
    )
    log = tmp_path / "mlflow.db-wal"
    first.tag_study("s", Tag.LAUNCHER, "here")
    before = log.stat().st_ino
    subprocess.run([sys.executable, "-c", leave, str(tmp_path / "mlflow.db")], check=True)
    assert log.exists(), "another process took itself for the last"
    assert log.stat().st_ino == before
    assert first.study_tag("s", Tag.LAUNCHER) == "here"
