"""What the coordinator does with workers that hang, and with runs that somebody deletes under them."""

import signal
import sys
import threading
import time

import pytest
from support.fake_engine import FakeEngine

from nfstudy.core.atomic import LOCK
from nfstudy.core.errors import StoreUnavailableError
from nfstudy.data import load_dataset
from nfstudy.runner import coordinator, watch
from nfstudy.runner.coordinator import Assignment, Coordinator, Places
from nfstudy.runner.options import RetryPolicy
from nfstudy.runner.prepare import data_record
from nfstudy.runner.progress import Lines
from nfstudy.runner.scheduler import Scheduler, Task
from nfstudy.runner.signals import Interrupted, StopSignal
from nfstudy.runs.result import EpochRecord, TrialResult
from nfstudy.study.reader import parse_study

STUDY = parse_study(
    "study: s\ntitle: T\ndata: {name: digits}\ngrid: {flow.family: [planar], flow.length: [1, 2, 3]}\n"
    "repetitions: 1\nexhibits: [summary]\n",
    "s.yaml",
)
TRIALS = [trial for cell in STUDY.under("default").cells for trial in STUDY.under("default").repetitions_of(cell)]
DATA = TRIALS[0].settings.data.source()
EPOCH = EpochRecord(1, 10, 20, {"valid/elbo": -1.0})
DONE = TrialResult("finished", 20, metrics={"test/elbo": -1.0, "time/wall_seconds": 1.0})


def conduct(store, tmp_path, script, capsys, workers=1, others=0, **retry):
    """Run the trials with scripted workers; return (summary, frame of the store, what was told, the engine).

    Where a trial is pruned, so many `others` are not run.
    """

    def plan():
        yield [Task(trial, others=others) for trial in TRIALS]

    places = Places(
        store, store.experiment("s"), tmp_path / "journal", tmp_path / "checkpoints", "reports/s/index.html"
    )
    data, total = {DATA: data_record(load_dataset(DATA, ()))}, len(TRIALS) * (1 + others)
    assignment = Assignment("s", places, data, {"another": 10.0}, RetryPolicy(**retry), total=total)
    engine = FakeEngine(workers, script)
    with StopSignal() as stop:
        summary = Coordinator(assignment, Scheduler(plan(), {}), engine, Lines(sys.stderr)).work(stop)
    return summary, store.runs("s").frame(()), capsys.readouterr().err, engine


def test_a_worker_that_hangs_is_killed_and_its_trial_is_tried_again_as_another_attempt(
    store, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.0)
    seen = []

    def script(trial):
        seen.append(trial)
        return [EPOCH] if seen.count(trial) == 1 and trial is TRIALS[1] else [EPOCH, DONE]

    summary, frame, told, engine = conduct(store, tmp_path, script, capsys, worker_timeout=0.05)
    assert summary.ran == {"finished": 3}
    assert sorted(frame["outcome"]) == ["finished"] * 3 + ["killed"]
    assert "planar K=2 D=40 #1: its worker gave no word for 0.05 s (--worker-timeout); retrying" in told
    assert [worker.killed for worker in engine.started] == [True, False]
    again = frame[frame["cell"] == TRIALS[1].cell.key].set_index("attempt")["outcome"]
    assert again.to_dict() == {1: "killed", 2: "finished"}


def test_what_a_killed_worker_was_writing_is_swept_when_the_study_ends(store, tmp_path, capsys):
    def script(trial):
        if trial is TRIALS[-1]:  # The last: no later checkpoint sweeps it.
            draft = tmp_path / "checkpoints" / ".k1-abc.draft"
            draft.mkdir(parents=True)
            for name in (LOCK, "k1.checkpoint"):
                (draft / name).write_bytes(b"half")
        return [EPOCH, DONE]

    conduct(store, tmp_path, script, capsys)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_trial_whose_worker_hangs_each_time_fails_and_the_others_end(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.0)
    script = lambda trial: None if trial is TRIALS[0] else [EPOCH, DONE]  # noqa: E731
    summary, frame, _, _ = conduct(store, tmp_path, script, capsys, worker_timeout=0.02, retries=1)
    assert summary.ran == {"finished": 2, "failed": 1}
    assert sorted(frame["outcome"]) == ["failed", "finished", "finished", "killed"]
    assert "no word for 0.02 s (--worker-timeout), 2 times" in summary.failures[0]


@pytest.mark.parametrize(
    ("outcome", "others", "words"),
    [
        ("pruned", 2, "pruned at epoch 1; 3 of 9 runs, about"),
        ("failed", 0, "finished in 1 s; 2 of 3 runs, about 0 s left"),
    ],
)
def test_what_will_not_run_any_more_is_not_waited_for(store, tmp_path, capsys, monkeypatch, outcome, others, words):
    """The other repetitions of a cell that was pruned, and a run that has failed for good."""
    left = Coordinator._left

    def left_now(coordinator):
        coordinator._outdated = 0.0
        return left(coordinator)

    monkeypatch.setattr(Coordinator, "_left", left_now)
    ended = TrialResult(outcome, 10, "at epoch 1", retry=False)
    script = lambda trial: [EPOCH, ended if trial is TRIALS[0] else DONE]  # noqa: E731
    _, _, told, _ = conduct(store, tmp_path, script, capsys, others=others)
    assert words in told


@pytest.mark.parametrize("when", ["at an epoch", "at the end"])
def test_a_run_deleted_under_way_is_put_back_and_the_others_go_on(store, tmp_path, capsys, when):
    deleted = []

    def script(trial):
        if trial is TRIALS[1] and not deleted:
            deleted.append(store.runs("s").frame(()).set_index("cell")["run_id"][trial.cell.key])
            store.client.delete_run(deleted[0])
            return [EPOCH] if when == "at an epoch" else [DONE]
        return [EPOCH, DONE]

    summary, frame, told, engine = conduct(store, tmp_path, script, capsys)
    assert summary.ran == {"finished": 3}
    assert summary.failures == ()
    assert frame["outcome"].tolist() == ["finished"] * 3
    assert deleted[0] not in frame["run_id"].tolist()
    assert f"its run {deleted[0]} has been deleted from the store" in told
    assert len(engine.started) == (2 if when == "at an epoch" else 1), "a worker at a run that is gone is ended"


def test_a_trial_whose_runs_are_deleted_each_time_fails_in_the_end(store, tmp_path, capsys):
    def script(trial):
        if trial is TRIALS[0]:
            for run_id in store.runs("s").frame(()).set_index("cell").loc[[trial.cell.key], "run_id"]:
                store.client.delete_run(run_id)
        return [EPOCH, DONE]

    summary, frame, _, _ = conduct(store, tmp_path, script, capsys, retries=1)
    assert summary.ran == {"finished": 2, "failed": 1}
    assert "has been deleted from the store" in summary.failures[0]
    assert frame["outcome"].tolist() == ["finished"] * 2


@pytest.mark.parametrize("then", ["moved", "replaced"])
def test_nothing_is_written_once_the_store_s_folder_is_elsewhere(store, tmp_path, capsys, then):
    moved = tmp_path / "elsewhere"

    def script(trial):
        if trial is TRIALS[1] and not moved.exists():
            (tmp_path / "mlruns").rename(moved)
            if then == "replaced":
                (tmp_path / "mlruns").mkdir()
                (tmp_path / "mlruns" / "mlflow.db").write_bytes(b"")
        return [EPOCH, TrialResult("finished", 20, metrics=DONE.metrics, files={"samples.png": b"x"})]

    expected = {"moved": "is no longer there since it was opened", "replaced": "has been replaced by another"}[then]
    with pytest.raises(StoreUnavailableError, match=expected):
        conduct(store, tmp_path, script, capsys)
    there = [path.name for path in (tmp_path / "mlruns").rglob("*")] if (tmp_path / "mlruns").exists() else []
    assert there == ([] if then == "moved" else ["mlflow.db"])


def test_no_more_trials_begin_than_the_store_keeps_up_with(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(coordinator, "MOST_UNWRITTEN", 1)
    finish, begun, gate = type(store).finish_run, [], threading.Event()

    def wait_and_finish(store, *run):
        if not gate.is_set():
            time.sleep(0.3)  # The worker is free long before, and other trials wait.
            assert len(begun) == 1
            gate.set()
        finish(store, *run)

    monkeypatch.setattr(type(store), "finish_run", wait_and_finish)
    summary, frame, _, _ = conduct(store, tmp_path, lambda trial: begun.append(trial) or [EPOCH, DONE], capsys)
    assert summary.ran == {"finished": 3}
    assert frame["outcome"].tolist() == ["finished"] * 3


def test_results_that_the_store_does_not_take_in_time_are_told_of_and_keep_their_checkpoints(
    store, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(coordinator, "GRACE_SECONDS", 0.5)
    monkeypatch.setattr(coordinator, "LAST_SECONDS", 0.1)
    monkeypatch.setattr(coordinator, "MOST_UNWRITTEN", 1)
    gate, kept = threading.Event(), tmp_path / "checkpoints" / "kept.checkpoint"
    monkeypatch.setattr(Coordinator, "_checkpoint", lambda self, identity: kept)
    monkeypatch.setattr(type(store), "finish_run", lambda *run: gate.wait(20))
    kept.parent.mkdir()

    def script(trial):
        kept.write_bytes(b"state")
        threading.Timer(0.2, signal.raise_signal, [signal.SIGTERM]).start()
        return [EPOCH, DONE]

    words = r"SIGTERM; finished runs are saved, and so are 0 of 1 runs under way; the other 1 resume"
    try:
        with pytest.raises(Interrupted, match=words):
            conduct(store, tmp_path, script, capsys)
    finally:
        gate.set()
    assert kept.exists()
    assert store.runs("s").frame(())["outcome"].tolist() == ["running"], "the next launch marks it as cut off"
