"""Worker processes: spawned, sharing the cores, replaced when they die, and given up when they cannot start."""

import os
import signal

import pytest

from nfstudy.cells import expand_cells, repetitions_of
from nfstudy.outcomes import Cost, EpochRecord, TrialResult
from nfstudy.reader import parse_study
from nfstudy.workers import Died, Pool, Ready, WorkerError

pytestmark = pytest.mark.end_to_end

STUDY = parse_study(
    "study: s\ntitle: T\ndata: {name: digits}\nmodel: {latent: 2, hidden: 4, layers: 1, maxout: 2}\n"
    "train: {updates: 46, batch: 50}\nevaluation: {samples: 2, test_images: 4}\nexhibits: [summary]\n",
    "s.yaml",
)
(CELL,) = expand_cells(STUDY, "default")
(TRIAL,) = repetitions_of(STUDY, CELL, CELL.settings)


def answers(pool, worker, until):
    """Return a worker's messages up to the first of a kind."""
    seen = []
    while not (seen and isinstance(seen[-1], until)):
        seen += [message for source, message in pool.events(60) if source is worker]
    return seen


def test_a_worker_lives_over_trials_failures_and_questions():
    with Pool(1, 1, "cpu", ()) as pool:
        (worker,) = pool.workers
        assert answers(pool, worker, Ready) == [Ready("cpu")]

        worker.run(TRIAL, asks=False)
        *epochs, result = answers(pool, worker, TrialResult)
        assert [(record.epoch, record.update) for record in epochs] == [(1, 23), (2, 46)]
        assert result.outcome == "finished"

        worker.run(TRIAL, asks=True)
        answers(pool, worker, EpochRecord)
        worker.answer(False)
        assert answers(pool, worker, TrialResult)[-1].outcome == "pruned"

        worker.measure(TRIAL.settings)
        (cost,) = answers(pool, worker, Cost)
        assert min(cost.update, cost.validation, cost.test) > 0

        mnist = type(TRIAL)("s", CELL, TRIAL.settings.replace({"data.name": "mnist"}), "repetition", 1)
        worker.run(mnist, asks=False)
        (failed,) = answers(pool, worker, TrialResult)
        assert failed.outcome == "failed"
        assert "DataError" in failed.reason
        assert b"Traceback" in failed.files["traceback.txt"]
        assert len({worker.process.pid for worker in pool.workers}) == 1


def test_a_worker_that_dies_is_replaced():
    with Pool(1, 1, "cpu", ()) as pool:
        (worker,) = pool.workers
        answers(pool, worker, Ready)
        os.kill(worker.process.pid, signal.SIGKILL)
        assert answers(pool, worker, Died) == [Died("its worker process ended with signal SIGKILL")]
        (other,) = pool.workers
        assert other.process.pid != worker.process.pid
        assert answers(pool, other, Ready) == [Ready("cpu")]
    assert not other.process.is_alive()


def wait_for_a_start(pool):
    while not any(isinstance(message, Ready) for _, message in pool.events(60)):
        pass


def test_workers_that_cannot_start_are_given_up(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)  # A spawned process has its parent's path.
    with Pool(1, 1, "cpu", ()) as pool, pytest.raises(WorkerError, match="do not start: they end with exit code 3"):
        wait_for_a_start(pool)
