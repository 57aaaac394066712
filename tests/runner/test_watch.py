"""A worker that says nothing is told of, and with a time-out given up; one that speaks, or is idle, never is."""

import math

import pytest
from support.fake_engine import FakeEngine, ready

from nfstudy.runner import watch
from nfstudy.runner.watch import LOST_SECONDS, AtWork, Watch
from nfstudy.runner.worker import Alive, Died
from nfstudy.runs.result import Notice


class Scene:
    """A pool of some workers, the watch over it, and a clock."""

    def __init__(self, monkeypatch, size=1, timeout=None, **kind):
        self.now, self.told = 0.0, []
        monkeypatch.setattr(watch.time, "monotonic", lambda: self.now)
        self.pool = FakeEngine(size, lambda trial: ())
        for name, value in kind.items():
            setattr(self.pool, name, value)
        self.watch = Watch(self.pool, timeout, self.told.append)

    def pass_time(self, seconds, at_work, step=2.0):
        """Let time pass; return what `events` gave meanwhile."""
        heard = []
        for _ in range(round(seconds / step)):
            self.now += step
            heard += [message for _, message in self.pool.events(0)]
            self.watch.look(at_work)
        return heard

    def say(self, message):
        for worker in self.pool.workers:
            worker.said.append(message)


WORK = {1: AtWork("planar K=2 #1", epoch=3.0)}


def test_a_silent_worker_is_told_of_after_ten_minutes_and_again_after_as_long(monkeypatch):
    scene = Scene(monkeypatch)
    assert scene.pass_time(598, WORK) == [ready()]
    assert scene.told == []
    scene.pass_time(6, WORK)
    (words,) = scene.told
    assert "planar K=2 #1: worker 1 has given no word for 10 min 00 s (one was expected after some 3 s)" in words
    assert "--worker-timeout" in words
    scene.pass_time(590, WORK)
    assert len(scene.told) == 1
    scene.pass_time(10, WORK)
    assert len(scene.told) == 2
    assert not scene.pool.workers[0].killed


@pytest.mark.parametrize(("epoch", "seconds"), [(3.0, 600), (math.nan, 600), (100.0, 2000)])
def test_patience_is_as_long_as_twenty_expected_epochs(monkeypatch, epoch, seconds):
    scene = Scene(monkeypatch)
    scene.pass_time(seconds - 2, {1: AtWork("a", epoch)})
    assert scene.told == []
    scene.pass_time(4, {1: AtWork("a", epoch)})
    assert len(scene.told) == 1


def test_a_worker_that_speaks_or_is_idle_or_gets_another_trial_is_not_told_of(monkeypatch):
    scene = Scene(monkeypatch, timeout=400)
    for round_number in range(4):
        scene.pass_time(350, {1: AtWork(f"trial {round_number}")})
    for _ in range(4):
        scene.pass_time(350, WORK)
        scene.say(Notice("still here"))
    scene.pass_time(10_000, {})
    assert scene.told == []
    assert not scene.pool.workers[0].killed


def test_with_a_timeout_it_is_killed_and_told_of_as_one_that_died(monkeypatch):
    scene = Scene(monkeypatch, timeout=30)
    scene.pass_time(30, WORK)
    worker = scene.pool.workers[0]
    heard = scene.pass_time(4, WORK)
    assert heard == [Died("its worker gave no word for 30 s (--worker-timeout)"), ready()]
    assert worker.killed
    assert scene.pool.workers[0] is not worker


def test_time_in_which_we_stood_still_ourselves_is_nobody_s_silence(monkeypatch):
    scene = Scene(monkeypatch, timeout=30)
    scene.pass_time(4, WORK)
    scene.now += 86_400.0
    scene.pass_time(10, WORK)
    assert not scene.pool.workers[0].killed
    assert scene.told == []


def test_a_worker_far_away_that_gives_no_sign_of_life_is_lost(monkeypatch):
    scene = Scene(monkeypatch, shows_life=True)
    for _ in range(20):
        scene.pass_time(28, WORK)
        scene.say(Alive())
    assert not scene.pool.workers[0].killed
    scene.pass_time(4, WORK)
    heard = scene.pass_time(LOST_SECONDS + 4, WORK)
    assert Died("its worker gave no sign of life for 5 min 00 s") in heard


def test_workers_that_do_not_start_are_told_of_at_once_and_not_killed_where_they_may_have_to_wait(monkeypatch):
    scene = Scene(monkeypatch, size=3, timeout=30, starts_wait=True)
    for worker in scene.pool.workers:
        worker.said.clear()
    scene.pass_time(604, {})
    assert len(scene.told) == 1
    assert "3 workers have not started for 10 min 00 s or longer; they wait for room" in scene.told[0]
    assert not any(worker.killed for worker in scene.pool.workers)
