"""Workers of every engine: sharing the cores, replaced when they die, and given up when they cannot start."""

import os
import signal
import time
from dataclasses import replace

import pytest

from nfstudy.data import load_dataset
from nfstudy.inference.training.checkpoints import CheckpointPlan
from nfstudy.runner.engine import OtherCodeError, WorkerError
from nfstudy.runner.local_engine import Pool
from nfstudy.runner.signals import Interrupted, StopSignal
from nfstudy.runner.worker import Compiling, Died, Ready, load_sources, worker_sources
from nfstudy.runs.provenance import environment
from nfstudy.runs.result import Cost, EpochRecord, TrialResult
from nfstudy.study.reader import parse_study

pytestmark = pytest.mark.end_to_end

STUDY = parse_study(
    "study: s\ntitle: T\ndata: {name: digits}\nmodel: {latent: 2, hidden: 4, layers: 1, maxout: 2}\n"
    "train: {updates: 46, batch: 50}\nevaluation: {samples: 2, test_images: 4}\nexhibits: [summary]\n",
    "s.yaml",
)
(CELL,) = STUDY.under("default").cells
(TRIAL,) = STUDY.under(CELL.budget).repetitions_of(CELL)
LONG_TRIAL = replace(TRIAL, settings=TRIAL.settings.replace({"train.updates": 10**6}))


def local_pool():
    return Pool(1, 1, "cpu", ())


def ray_engine():
    pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[cluster]')")
    from nfstudy.runner.ray_engine import open_cluster

    source = TRIAL.settings.data.source()
    return open_cluster(1, 1, 1, "auto", 0.0, {source: load_dataset(source, ())})


@pytest.fixture(params=[local_pool, ray_engine])
def open_engine(request, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return request.param


def answers(engine, worker, until):
    """Return a worker's messages up to the first of a kind."""
    seen = []
    while not (seen and isinstance(seen[-1], until)):
        seen += [message for source, message in engine.events(60) if source is worker]
    return seen


def of_all(engine, kind, count):
    """Return number -> the last message of a kind, once so many workers have sent one."""
    seen = {}
    while len(seen) < count:
        seen |= {worker.number: message for worker, message in engine.events(60) if isinstance(message, kind)}
    return seen


def test_a_worker_lives_over_trials_failures_and_questions(open_engine):
    with open_engine() as engine:
        (worker,) = engine.workers
        (ready,) = answers(engine, worker, Ready)
        assert ready.device == "cpu"
        # Ray brings some packages of its own.
        assert ready.environment is None or environment().items() <= ready.environment.items()

        worker.run(TRIAL, asks=False)
        *said, result = answers(engine, worker, TrialResult)
        epochs = [message for message in said if not isinstance(message, Compiling)]
        assert [(record.epoch, record.update) for record in epochs] == [(1, 23), (2, 46)]
        assert result.outcome == "finished"

        worker.run(TRIAL, asks=True)
        answers(engine, worker, EpochRecord)
        worker.answer(False)
        assert answers(engine, worker, TrialResult)[-1].outcome == "pruned"

        worker.measure(TRIAL.settings)
        (cost,) = answers(engine, worker, Cost)
        assert min(cost.update, cost.validation, cost.test) > 0

        worker.run(TRIAL, asks=False, numbers="0" * 64)
        (other,) = answers(engine, worker, TrialResult)
        assert (other.outcome, other.retry) == ("failed", False)
        assert "data digits-static: a worker got other numbers, SHA-256 76713e93c6…, than the launcher" in other.reason

        mnist = type(TRIAL)("s", CELL, TRIAL.settings.replace({"data.name": "mnist"}), "repetition", 1)
        worker.run(mnist, asks=False)
        (failed,) = answers(engine, worker, TrialResult)
        assert failed.outcome == "failed"
        assert b"Traceback" in failed.files["traceback.txt"]
        assert failed.retry == ("DataError" not in failed.reason)  # Of which the user has a file to fetch.
        assert engine.workers == [worker]


def test_a_worker_asked_to_stop_saves_what_it_is_at(open_engine, tmp_path):
    plan = CheckpointPlan(tmp_path / "a.checkpoint", every=1e9)
    with open_engine() as engine:
        (worker,) = engine.workers
        answers(engine, worker, Ready)
        worker.run(LONG_TRIAL, False, plan)
        answers(engine, worker, EpochRecord)
        engine.stop()
        assert answers(engine, worker, Died)[-1].clean_exit
        assert engine.workers == []
    assert plan.path.exists()


def test_a_worker_process_that_dies_is_replaced():
    with local_pool() as pool:
        (worker,) = pool.workers
        answers(pool, worker, Ready)
        os.kill(worker.process.pid, signal.SIGKILL)
        assert answers(pool, worker, Died) == [Died("its worker process exited with signal SIGKILL")]
        (other,) = pool.workers
        assert other.process.pid != worker.process.pid
        assert answers(pool, other, Ready) == [Ready("cpu", sources=worker_sources())]
    assert not other.process.is_alive()


def test_workers_of_one_process_run_side_by_side_save_together_and_die_together(tmp_path):
    """As on a CUDA device, which they share."""
    alone = {}
    with local_pool() as pool:
        (worker,) = pool.workers
        worker.run(TRIAL, asks=False)
        alone = answers(pool, worker, TrialResult)[-1].metrics
    plans = [CheckpointPlan(tmp_path / f"{number}.checkpoint", every=1e9) for number in range(3)]
    with Pool(3, 1, "cpu", (), together=True) as pool:
        workers = list(pool.workers)
        assert len({worker.process.pid for worker in workers}) == 1
        of_all(pool, Ready, 3)
        for worker in workers:
            worker.run(TRIAL, asks=False)
        results = of_all(pool, TrialResult, 3)
        for result in results.values():
            assert {n: v for n, v in result.metrics.items() if n.startswith("test/")} == {
                n: v for n, v in alone.items() if n.startswith("test/")
            }
        # One dies: so do all, and each is replaced.
        os.kill(workers[0].process.pid, signal.SIGKILL)
        of_all(pool, Died, 3)
        others = sorted(pool.workers, key=lambda worker: worker.number)
        assert [worker.number for worker in others] == [1, 2, 3]
        assert {worker.process.pid for worker in others}.isdisjoint({workers[0].process.pid})
        of_all(pool, Ready, 3)
        # Asked to stop, those that are at work save it, and the process leaves when all have.
        for worker, plan in zip(others[:2], plans, strict=False):
            worker.run(LONG_TRIAL, False, plan)
        of_all(pool, EpochRecord, 2)
        pool.stop()
        assert all(message.clean_exit for message in of_all(pool, Died, 3).values())
        assert pool.workers == []
    assert [plan.path.exists() for plan in plans] == [True, True, False]


def test_a_worker_of_other_code_than_runs_are_logged_with_is_refused(open_engine):
    with open_engine() as engine:
        (worker,) = engine.workers
        answers(engine, worker, Ready)
        # As if it had been edited since: what is on the disk now is not what the launch began with.
        engine.sources["nfstudy/inference/training/optimisers.py"] = "of before"
        worker.stop()
        answers(engine, worker, Died)
        with pytest.raises(OtherCodeError, match=r"logged with \(nfstudy/inference/training/optimisers.py\)"):
            wait_for_a_start(engine)


def test_a_file_that_is_written_while_a_worker_loads_has_no_digest(monkeypatch):
    found = iter([{"a": "1", "b": "1"}, {"a": "1", "b": "2", "c": "1"}])
    monkeypatch.setattr("nfstudy.runner.worker.worker_sources", lambda: next(found))
    assert load_sources() == {"a": "1", "b": "", "c": ""}


def wait_for_a_start(engine):
    while not any(isinstance(message, Ready) for _, message in engine.events(60)):
        pass


def test_workers_that_cannot_start_are_given_up(open_engine, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("raise ImportError('half installed')")
    monkeypatch.syspath_prepend(tmp_path)  # Which a spawned process has from its parent,
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # and an actor from its node.
    with open_engine() as engine, pytest.raises(WorkerError, match=r"do not start .*(exit code 1|half installed)"):
        wait_for_a_start(engine)


def test_a_signal_breaks_off_a_step_that_goes_on_but_not_one_that_is_held(monkeypatch):
    monkeypatch.setattr("nfstudy.runner.signals.PRESS_SECONDS", 0.05)
    ended = []

    def step(name):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        ended.append(name)

    with StopSignal(), pytest.raises(Interrupted, match="SIGTERM"):
        step("broken off")
    with StopSignal() as stop, pytest.raises(Interrupted, match="SIGTERM"), stop.held():
        step("held")
    assert ended == ["held"]
