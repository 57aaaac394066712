"""Writing beside the training: each run in order, what has come together in one call, and nothing after an error."""

import itertools
import threading
import time

import pytest
from support.filled_store import DATA, TRIALS

from nfstudy.core.errors import RunGoneError, StoreError, StoreUnavailableError
from nfstudy.runs.result import EpochRecord, TrialResult
from nfstudy.runs.tracking.claim import TakenOverError
from nfstudy.runs.tracking.entries import Entries
from nfstudy.runs.tracking.retry import Retry
from nfstudy.runs.tracking.store import Attempt
from nfstudy.runs.tracking.writing import Writing

ATTEMPT = Attempt("cpu", 1)
DONE = TrialResult("finished", 30, metrics={"test/nll": 1.5}, files={"samples.png": b"picture"})


def epoch(number):
    return EpochRecord(number, 10 * number, 30, {"valid/elbo": -1.0 * number})


class Slow:
    """A store in memory whose calls wait until they are let through."""

    uri = "http://nowhere"

    def __init__(self, open_=True, errors=None):
        self.retry, self.calls, self.errors = Retry(), [], errors or {}
        self.gate, self.abandoned, self.kept = threading.Event(), False, 0
        self.numbers = itertools.count(1)
        if open_:
            self.gate.set()

    def keep(self):
        self.kept += 1

    def abandon(self):
        self.abandoned = True

    def _call(self, *call):
        self.gate.wait(20)
        self.calls.append(call)
        if error := self.errors.pop(call[0], None):
            raise error

    def create_run(self, experiment, trial, data, attempt, started):
        self._call("create", trial.label)
        return f"run {next(self.numbers)}"

    def log_origin(self, run_id, trial, data, attempt):
        self._call("origin", run_id)
        return Entries({"flow.length": "2"})

    def log(self, run_id, entries):
        self._call("log", run_id, dict(entries.params), [point.step for point in entries.points], dict(entries.tags))

    def finish_run(self, run_id, result, description, before, ended, unseen):
        self._call("end", run_id, dict(before.params), [point.step for point in before.points], result.outcome, unseen)

    def kill_run(self, run_id, ended):
        self._call("kill", run_id)


def heard(writing, number=1, seconds=20):
    """Wait for so many words of what has been written."""
    found, deadline = [], time.monotonic() + seconds
    while len(found) < number and time.monotonic() < deadline:
        found += writing.written()
        time.sleep(0.001)
    return found


def begin(writing, trial=TRIALS[0], tags=None):
    return writing.begin("1", trial, DATA, ATTEMPT, tags or {})


def test_what_comes_while_a_call_is_under_way_goes_into_the_next(monkeypatch):
    store = Slow(open_=False)
    writing = Writing(store, threads=1)
    log = begin(writing, tags={"a": "b"})
    for number in (1, 2, 3):
        writing.epoch(log, epoch(number))
    writing.end(log, DONE, "words")
    assert writing.busy
    store.gate.set()
    begun, ended = heard(writing, 2)
    assert (begun.log, begun.ended, ended.log, ended.ended) == (log, False, log, True)
    assert store.calls == [
        ("create", TRIALS[0].label),
        ("origin", "run 1"),
        ("end", "run 1", {"flow.length": "2"}, [10, 20, 30], "finished", True),
    ]
    assert not writing.busy
    writing.close()
    assert not store.abandoned


def test_what_comes_while_the_origin_is_written_goes_with_it():
    store, at_origin, go_on = Slow(), threading.Event(), threading.Event()
    own = store.log_origin

    def slow_origin(*arguments):
        at_origin.set()
        assert go_on.wait(20)
        return own(*arguments)

    store.log_origin = slow_origin
    writing = Writing(store, threads=1)
    log = begin(writing)
    assert at_origin.wait(20)
    writing.epoch(log, epoch(1))
    writing.end(log, DONE, "words")
    go_on.set()
    heard(writing, 2)
    assert store.calls[1:] == [
        ("origin", "run 1"),
        ("end", "run 1", {"flow.length": "2"}, [10], "finished", True),
    ]
    writing.close()


def test_a_run_that_has_been_there_for_a_while_may_have_been_described(monkeypatch):
    monkeypatch.setattr("nfstudy.runs.tracking.writing.UNSEEN_SECONDS", 0.0)
    store = Slow()
    writing = Writing(store)
    log = begin(writing)
    heard(writing)
    writing.end(log, DONE, "words")
    heard(writing)
    assert store.calls[-1][-1] is False
    writing.close()


def test_each_run_is_written_in_order_by_many_threads():
    store = Slow()
    writing = Writing(store, threads=4)
    logs = [begin(writing, trial) for trial in TRIALS for _ in range(20)]
    for number in range(1, 30):
        for log in logs:
            writing.epoch(log, epoch(number))
    for log in logs:
        writing.end(log, DONE, "")
    found = heard(writing, 2 * len(logs))
    assert {each.log for each in found if each.ended} == set(logs)
    writing.close()
    steps = {}
    for kind, run_id, *rest in store.calls:
        if kind in ("log", "end"):
            steps.setdefault(run_id, []).append(rest[1])
    assert len(steps) == len(logs)
    for own in steps.values():
        assert [step for part in own for step in part] == [10 * number for number in range(1, 30)]


def test_workers_that_wait_for_a_run_come_before_what_is_to_be_written():
    store = Slow(open_=False)
    writing = Writing(store, threads=1)
    first = begin(writing)
    while not writing.busy or writing._new:
        time.sleep(0.001)
    writing.epoch(first, epoch(1))
    begin(writing, TRIALS[1])
    store.gate.set()
    heard(writing, 2)
    assert [call[:2] for call in store.calls[:2]] == [("create", TRIALS[0].label), ("create", TRIALS[1].label)]
    writing.close(20)


def test_one_that_is_cut_off_before_it_is_made_is_not_made():
    store = Slow(open_=False)
    writing = Writing(store, threads=1)
    begin(writing)
    while writing._new:
        time.sleep(0.001)
    log = begin(writing, TRIALS[1])
    writing.kill(log)
    (told,) = heard(writing)
    assert (told.log, told.ended) == (log, True)
    store.gate.set()
    writing.close(20)
    assert ("create", TRIALS[1].label) not in store.calls[1:]
    assert [call[0] for call in store.calls] == ["create", "origin", "log"]


def test_one_that_is_cut_off_has_all_that_came_of_it_first():
    store = Slow()
    writing = Writing(store)
    log = begin(writing)
    heard(writing)
    writing.epoch(log, epoch(1))
    writing.kill(log)
    writing.epoch(log, epoch(2))  # Said before it was killed, and heard after.
    (told,) = heard(writing)
    assert told.ended
    assert store.calls[-1] == ("kill", "run 1")
    writing.close()


def test_a_run_that_is_gone_is_told_and_others_are_written():
    store = Slow(errors={"end": RunGoneError("gone")})
    writing = Writing(store, threads=1)
    first, second = begin(writing), begin(writing, TRIALS[1])
    heard(writing, 2)
    writing.end(first, DONE, "")
    (told,) = heard(writing)
    assert (told.log, told.ended, str(told.gone)) == (first, False, "gone")
    writing.epoch(first, epoch(1))
    writing.kill(first)
    writing.end(second, DONE, "")
    (told,) = heard(writing)
    assert (told.log, told.ended, told.gone) == (second, True, None)
    writing.close()


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), TakenOverError("another"), ValueError("a bug")])
def test_what_went_wrong_is_raised_where_it_is_asked_for_and_nothing_more_is_written(error):
    store = Slow(errors={"origin": error})
    writing = Writing(store, threads=3)
    begin(writing)
    with pytest.raises(type(error), match=str(error)):
        heard(writing, 99, seconds=20)
    before = len(store.calls)
    begin(writing, TRIALS[1])
    time.sleep(0.05)
    assert len(store.calls) == before
    assert store.abandoned
    assert not writing.busy
    with pytest.raises(type(error)):
        writing.written()


def test_a_store_that_does_not_answer_is_left_after_a_while_and_nothing_is_written_later(store):
    gate, reached = threading.Event(), threading.Event()
    log_inputs = store.client.log_inputs

    def silent(*call, **named):
        reached.set()
        gate.wait(20)
        return log_inputs(*call, **named)

    store.client.log_inputs = silent
    writing = Writing(store)
    log = writing.begin(store.experiment("s"), TRIALS[0], DATA, ATTEMPT, {})
    assert reached.wait(20)
    writing.end(log, DONE, "")
    before = time.monotonic()
    writing.close(0.1)
    assert time.monotonic() - before < 5
    gate.set()
    writing._threads[0].join(20)
    assert not writing._threads[0].is_alive()
    assert store.runs("s").frame(())["outcome"].tolist() == ["running"]
    assert store.runs("s").artifact(log.run_id, "settings.json") is None
    with pytest.raises(StoreError, match="nothing more is written"):
        store.kill_run(log.run_id)


def test_a_run_is_the_same_as_one_written_call_by_call(store, monkeypatch):
    """But for its id and times: parameters, every point, tags, files, data."""
    monkeypatch.setattr("nfstudy.runs.tracking.writing.is_sqlite", lambda uri: False)
    experiment = store.experiment("s")
    by_call = store.start_run(experiment, TRIALS[0], DATA, ATTEMPT)
    for number in (1, 2, 3):
        store.log_epoch(by_call, epoch(number))
    store.tag_run(by_call, {"nfstudy.notice": "words"})
    store.finish_run(by_call, DONE, "described")
    writing = Writing(store)
    log = writing.begin(experiment, TRIALS[0], DATA, ATTEMPT, {})
    for number in (1, 2, 3):
        writing.epoch(log, epoch(number))
    writing.tag(log, {"nfstudy.notice": "words"})
    writing.end(log, DONE, "described")
    heard(writing, 2)
    writing.close()
    first, second = (store.client.get_run(run_id) for run_id in (by_call, log.run_id))
    assert first.data.to_dictionary() == second.data.to_dictionary()
    assert first.inputs.to_dictionary() == second.inputs.to_dictionary()
    assert (first.info.status, second.info.status) == ("FINISHED", "FINISHED")
    assert second.info.start_time == log.started <= second.info.end_time
    histories = store.runs("s").history([by_call, log.run_id], ["valid/elbo"])
    points = [[*own[["update", "value"]].itertuples(index=False, name=None)] for _, own in histories.groupby("run_id")]
    assert points[0] == points[1] == [(10, -1.0), (20, -2.0), (30, -3.0)]
    for name in ("settings.json", "environment.json", "samples.png"):
        assert store.runs("s").artifact(by_call, name) == store.runs("s").artifact(log.run_id, name) != None  # noqa: E711


def test_more_numbers_than_one_call_takes_are_all_there(store):
    curve = {step: float(step) for step in range(1, 2500)}
    run_id = store.start_run(store.experiment("s"), TRIALS[0], DATA, ATTEMPT)
    store.finish_run(run_id, TrialResult("finished", 30, curves={"test/nll_curve": curve}), "")
    history = store.client.get_metric_history(run_id, "test/nll_curve")
    assert {point.step: point.value for point in history} == curve


def test_threads_that_wait_for_a_store_tell_of_it_once():
    told, barrier, down = [], threading.Barrier(3), threading.Event()
    retry = Retry(60, told.append)

    def work():
        if not down.is_set():
            raise StoreUnavailableError("away")

    def thread():
        barrier.wait()
        retry.retry_while_unavailable(work)

    threads = [threading.Thread(target=thread) for _ in range(3)]
    for each in threads:
        each.start()
    time.sleep(0.3)
    down.set()
    for each in threads:
        each.join(20)
    assert told == ["away; retrying for 60 s", "the tracking store is available again"]
