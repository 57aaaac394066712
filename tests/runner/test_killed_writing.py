"""SIGKILL to a coordinator before and after any of its calls to the store, with several runs in flight, and again."""

import os
import random
import shutil
import signal
import sqlite3
import threading
from contextlib import closing

import pytest
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.tracking import MlflowClient
from support.fake_engine import FakeEngine

from nfstudy.core.project import Project
from nfstudy.runner.launch import run_study
from nfstudy.runner.options import Launch
from nfstudy.runner.prepare import prepare_data
from nfstudy.runner.signals import StopSignal
from nfstudy.runs.result import EpochRecord, TrialResult
from nfstudy.runs.tracking import writing
from nfstudy.runs.tracking.open import load_frame
from nfstudy.study.reader import parse_study

pytestmark = pytest.mark.slow

TRIALS, WORKERS, EPOCHS = 6, 4, 3
STUDY = parse_study(
    "study: s\ntitle: T\ndata: {name: digits}\ntrain: {updates: 30}\ngrid: {flow.length: [0]}\n"
    f"repetitions: {TRIALS}\nexhibits: [summary]\n",
    "s.yaml",
)
CALLS = ("create_run", "log_inputs", "log_batch", "get_run", "set_terminated")
LAUNCHES = 100
"""Enough for any storm here to end."""


def script(trial):
    """Return what a worker says of a trial: numbers that follow from the trial alone."""
    epochs = [
        EpochRecord(epoch, 10 * epoch, 10 * EPOCHS, {"train/elbo": -trial.index, "valid/elbo": -epoch - trial.index})
        for epoch in range(1, EPOCHS + 1)
    ]
    numbers = {"test/elbo": -2.0 * trial.index, "test/nll": 1.0 * trial.index, "time/wall_seconds": 1.0}
    files = {"samples.png": b"picture of %d" % trial.index, "images.csv": b"1,2"}
    return [*epochs, TrialResult("finished", 30, metrics=numbers, files=files)]


def struck(call, countdown):
    """Return a call that dies before or after its work when the countdown is over."""

    def step():
        with countdown["lock"]:
            countdown["left"] -= 1
            if not countdown["left"]:
                os.kill(os.getpid(), signal.SIGKILL)

    def done(*arguments, **named):
        step()
        found = call(*arguments, **named)
        step()
        return found

    return done


def launch(folder, left):
    """Run the study in a process that dies at its so-manieth step; 0: never. Return how it ended."""
    if (child := os.fork()) == 0:
        code = 1
        try:
            os.dup2(os.open(folder / "out.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY), 2)
            countdown = {"left": left, "lock": threading.Lock()}
            for name in CALLS:
                setattr(MlflowClient, name, struck(getattr(MlflowClient, name), countdown))
            LocalArtifactRepository.log_artifacts = struck(LocalArtifactRepository.log_artifacts, countdown)
            writing.is_sqlite = lambda uri: False  # As many threads as write to a server.
            plan = Launch(STUDY.under(), Project(folder), f"sqlite:///{folder}/mlruns/mlflow.db")
            with StopSignal() as stop:
                done = run_study(plan, prepare_data(plan.plan, plan.project), {}, FakeEngine(WORKERS, script), stop)
            code = 0 if done.failures == () else 1
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def assert_whole(folder):
    """Hold that each run that is marked finished has all that belongs to it; return how many are."""
    with closing(sqlite3.connect(folder / "mlruns" / "mlflow.db")) as connection:

        def column(query, *values):
            return [row[0] for row in connection.execute(query, values)]

        finished = column("SELECT run_uuid FROM runs WHERE status = 'FINISHED'")
        for run in finished:
            tags = dict(connection.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run,)))
            assert tags["nfstudy.outcome"] == "finished"
            assert "F = " in tags["mlflow.note.content"]
            bounds = "SELECT value FROM metrics WHERE run_uuid = ? AND key = 'valid/elbo' ORDER BY step"
            index = int(tags["nfstudy.index"])
            assert column(bounds, run) == [-epoch - index for epoch in range(1, EPOCHS + 1)]
            assert column("SELECT value FROM metrics WHERE run_uuid = ? AND key = 'test/nll'", run) == [index]
            (params,) = column("SELECT count(*) FROM params WHERE run_uuid = ?", run)
            assert params > 20
            (inputs,) = column("SELECT count(*) FROM inputs WHERE destination_id = ?", run)
            assert inputs == 1
            place = folder / "mlruns" / "artifacts" / "s" / run / "artifacts"
            assert (place / "samples.png").read_bytes() == b"picture of %d" % index
            assert {path.name for path in place.iterdir()} >= {"settings.json", "environment.json", "images.csv"}
    return len(finished)


@pytest.mark.parametrize("seed", range(2))
def test_no_run_is_lost_doubled_or_half_written_wherever_it_is_struck(empty_store, tmp_path, seed):
    shutil.copytree(empty_store, tmp_path / "mlruns")
    random_, before, kills = random.Random(seed), 0, 0
    for _ in range(LAUNCHES):
        how = launch(tmp_path, random_.randint(1, 50))
        now = assert_whole(tmp_path)
        assert now >= before, "a run that was marked finished is so no more"
        before = now
        if how == 0:
            break
        assert os.WIFSIGNALED(how), (tmp_path / "out.txt").read_text()
        kills += 1
    assert how == 0
    assert kills >= 2
    frame = load_frame(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "s")
    finished = frame[frame["outcome"] == "finished"]
    assert sorted(finished["index"]) == list(range(1, TRIALS + 1)), "each trial once"
    assert set(frame["outcome"]) <= {"finished", "killed"}
    for _, own in frame.groupby("index"):
        attempts = own.sort_values("attempt")
        assert attempts["attempt"].tolist() == list(range(1, len(own) + 1))
        assert attempts["outcome"].tolist()[-1] == "finished"
