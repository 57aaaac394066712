"""What a trial takes: the work alone, not the loops that are compiled for it once."""

import time

import pytest

from nfstudy.core.kernels import cache
from nfstudy.inference.training.cost import _seconds


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
