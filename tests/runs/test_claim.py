"""Two launchers of one study, wherever their folders are: one works, and the other is told who does."""

import json
import time
from contextlib import nullcontext
from dataclasses import dataclass, field

import pytest

from nfstudy.core.errors import StoreError
from nfstudy.core.launcher import Launcher
from nfstudy.runs.tags import Tag
from nfstudy.runs.tracking import claim as claims
from nfstudy.runs.tracking.claim import BEAT_SECONDS, STALE_SECONDS, Claim, TakenOverError, at_work_elsewhere, claimed
from nfstudy.runs.tracking.retry import RETRY_SECONDS

HERE = Launcher("one", 11, "/home/a/project", "2026-01-02 03:04:05 UTC", "aa")
THERE = Launcher("two", 22, "/data/b", "2026-01-02 04:00:00 UTC", "bb")


@dataclass
class Tags:
    """A store of nothing but the tags of studies."""

    uri: str = "http://somewhere"
    kept: dict = field(default_factory=dict)

    def study_tag(self, study, name):
        return self.kept.get((study, name), "")

    def tag_study(self, study, name, text):
        self.kept[study, name] = text

    hurried = nullcontext


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves, and sleep with it."""
    now = [1_000_000.0]
    monkeypatch.setattr(claims.time, "time", lambda: now[0])
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(claims.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def test_a_second_launcher_elsewhere_is_refused_and_told_who_is_at_work(clock):
    store = Tags()
    Claim(store, "s", HERE).take()
    clock[0] += 40
    with pytest.raises(StoreError) as refused:
        Claim(store, "s", THERE).take()
    words = str(refused.value)
    assert "pid 11 on one, folder /home/a/project, since 2026-01-02 03:04:05 UTC; last sign of life 40 s ago" in words
    assert "--take-over" in words
    assert f"after {STALE_SECONDS:.0f} s" in words
    Claim(store, "another", THERE).take()


def test_a_launcher_that_lives_is_not_taken_for_gone_and_one_that_is_silent_is(clock):
    store = Tags()
    own = Claim(store, "s", HERE)
    own.take()
    for _ in range(40):
        clock[0] += BEAT_SECONDS
        own.keep()
    with pytest.raises(StoreError, match="last sign of life 0 s ago"):
        Claim(store, "s", THERE).take()
    clock[0] += STALE_SECONDS
    Claim(store, "s", THERE).take()
    with pytest.raises(TakenOverError, match="taken over by pid 22 on two, folder /data/b"):
        own.keep()
    assert STALE_SECONDS > RETRY_SECONDS + 2 * BEAT_SECONDS


def test_one_that_crashed_in_this_folder_would_hold_its_lock_so_it_is_gone(clock):
    store = Tags()
    Claim(store, "s", HERE).take()
    again = Launcher("one", 99, "/home/a/project", "2026-01-02 05:00:00 UTC", "cc")
    Claim(store, "s", again).take()
    assert Launcher.read(store.study_tag("s", Tag.LAUNCHER)) == again


def test_who_insists_takes_over_and_the_other_stops_at_its_next_beat_whoever_writes_last(clock, monkeypatch):
    store, told = Tags(), []
    first = Claim(store, "s", HERE)
    first.take()
    mine, second = store.study_tag("s", Tag.LAUNCHER), Claim(store, "s", THERE)

    def sleep(seconds):
        clock[0] += seconds
        if mine and clock[0] > 1_000_005:  # The first had read its own claim just before, and writes it again.
            store.tag_study("s", Tag.LAUNCHER, mine)
            monkeypatch.setattr(claims.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))

    monkeypatch.setattr(claims.time, "sleep", sleep)
    second.take(insist=True, tell=told.append)
    assert told == [f"taking over from {HERE}: it stops as soon as it notices"]
    assert clock[0] >= 1_000_000 + BEAT_SECONDS, "the other has had the time to notice"
    second.keep()
    with pytest.raises(TakenOverError):
        first.keep()
    first.release()
    assert Launcher.read(store.study_tag("s", Tag.LAUNCHER)) == THERE


def test_of_two_that_claim_at_once_one_stops_before_it_writes(clock):
    store = Tags()
    one, two = Claim(store, "s", HERE), Claim(store, "s", THERE)
    one.take()
    store.kept.clear()  # As `two` saw it, a moment before.
    two.take()
    with pytest.raises(TakenOverError, match="pid 22"):
        one.keep()
    two.keep()


def test_a_machine_that_slept_looks_before_it_goes_on(clock):
    store = Tags()
    own = Claim(store, "s", HERE)
    own.take()
    own.keep()
    store.tag_study("s", Tag.LAUNCHER, "")
    own.keep()  # It has just looked.
    clock[0] -= 3600  # And so does one whose clock was put back.
    with pytest.raises(TakenOverError, match="who left no name"):
        own.keep()


def test_a_claim_ends_with_its_work_also_where_that_fails(clock):
    store, seen = Tags(), []
    with pytest.raises(ZeroDivisionError), claimed(Claim(store, "s", HERE)):
        seen.append(at_work_elsewhere(store.study_tag("s", Tag.LAUNCHER), THERE) or 1 / 0) or 1 / 0
    assert seen == [HERE]
    assert store.study_tag("s", Tag.LAUNCHER) == ""


INFINITE = '{"host": "a", "pid": 1e999, "folder": "/", "since": "", "token": ""}'


@pytest.mark.parametrize("text", ["", "two", "[]", '{"host": "a"}', '{"pid": []}', INFINITE, "[" * 10_000])
def test_a_tag_that_somebody_has_edited_is_no_claim(text, clock):
    store = Tags(kept={("s", Tag.LAUNCHER): text})
    Claim(store, "s", HERE).take()
    assert Launcher.read(store.study_tag("s", Tag.LAUNCHER)) == HERE


@pytest.mark.parametrize("alive", ["9" * 400, "1e999", "NaN", '"x"', "[" * 10_000])
def test_a_sign_of_life_at_no_time_is_none(alive, clock):
    text = THERE.text()[:-1] + f', "alive": {alive}}}'
    if alive == "1e999":  # Ahead of every clock: somebody may be at work.
        assert at_work_elsewhere(text, HERE) == THERE
    else:
        assert at_work_elsewhere(text, HERE) is None


def test_a_clock_that_has_been_set_back_is_said_to_be_the_trouble(clock):
    store = Tags()
    Claim(store, "s", HERE).take()
    clock[0] -= 3600
    with pytest.raises(StoreError, match="last sign of life 3600 s ahead of this machine's clock, so that one of the"):
        Claim(store, "s", THERE).take()


def test_a_launcher_comes_back_as_it_was_written(tmp_path):
    here = Launcher.here(tmp_path)
    assert Launcher.read(here.text()) == here
    assert json.loads(here.text())["folder"] == str(tmp_path)
    assert here.token != Launcher.here(tmp_path).token
    assert time.strftime("%Y") in here.since
