"""What a trial takes: the work alone, not the loops that are compiled for it once."""

import time
from types import SimpleNamespace

import pytest

from nfstudy.core.kernels import cache
from nfstudy.inference.training import cost
from nfstudy.inference.training.cost import _seconds
from nfstudy.runs.result import EpochRecord
from nfstudy.study.settings import Settings


@pytest.mark.parametrize(("new", "calls"), [(False, 1), (True, 2)])
def test_work_that_needed_a_new_loop_is_timed_once_more(monkeypatch, new, calls):
    now, called = 0.0, 0

    def work():
        nonlocal now, called
        called += 1
        compiles = new and called == 1
        monkeypatch.setattr(cache, "first_uses", cache.first_uses + compiles)
        now += 30.0 if compiles else 0.25

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    assert _seconds(work) == 0.25
    assert called == calls


def test_the_epoch_in_which_graphs_are_captured_is_no_part_of_an_update(monkeypatch):
    ends = ((50, 9.0), (100, 9.5), (150, 10.0))
    clock = iter([end for _, end in ends])
    trained = []

    def fit(problem, settings, on_epoch):
        trained.append(settings.train.updates)
        for number, (update, _) in enumerate(ends, start=1):
            assert on_epoch(EpochRecord(number, update, settings.train.updates, {}))

    monkeypatch.setattr(cost, "fit", fit)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    settings = Settings.model_validate({"data": {"name": "digits"}})
    assert cost._after_first_epoch(SimpleNamespace(epoch_updates=50), settings) == pytest.approx(0.01)
    assert trained == [cost.TIMED_ON_GPU]


def test_a_training_that_diverges_at_once_is_still_timed(monkeypatch):
    settings = Settings.model_validate({"data": {"name": "digits"}})
    monkeypatch.setattr(cost, "fit", lambda problem, settings, on_epoch: SimpleNamespace(update=4, seconds=2.0))
    assert cost._after_first_epoch(SimpleNamespace(epoch_updates=50), settings) == pytest.approx(0.5)
