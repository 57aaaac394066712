"""Durations: worked by hand."""

import math

import pandas as pd
import pytest

from nfstudy.runner.eta import Forecast, cost_signature, expected_seconds, format_duration, run_seconds
from nfstudy.runs.result import Cost
from nfstudy.study.cells import cost_key
from nfstudy.study.reader import parse_study
from nfstudy.study.sections import DataSpec

STUDY = parse_study(
    "study: s\ntitle: T\ndata: {name: digits}\ntrain: {updates: 100, batch: 50}\nexhibits: [summary]\n", "s.yaml"
)
(CELL,) = STUDY.under("default").cells


def test_a_run_is_its_updates_its_validations_and_its_test():
    # 1197 images make 23 batches of 50; 100 updates are 5 epochs, the last of 8 updates.
    cost = Cost(update=0.5, validation=2.0, test=7.0)
    assert run_seconds(CELL.settings, cost) == 100 * 0.5 + 5 * 2 + 7
    assert run_seconds(CELL.settings, cost, "search") == 60


def test_runs_of_another_precision_are_timed_apart():
    plain = CELL.settings
    assert cost_signature(plain) == cost_signature(plain.replace({"train.learning_rate": 1e-4}))
    assert cost_signature(plain) != cost_signature(plain.replace({"train.precision": "bfloat16"}))


def test_time_left_is_shared_by_the_workers_but_no_shorter_than_the_longest_run():
    forecast = Forecast({"a": 10.0, "b": 30.0}, workers=2)
    assert forecast.left(["a", "a", "b"], [("b", 0.5)]) == (10 + 10 + 30 + 15) / 2
    assert forecast.left(["b"], []) == 30
    assert forecast.left([], []) == 0


def test_an_unknown_cell_counts_as_the_mean_and_nothing_known_as_unknown():
    assert Forecast({"a": 10.0, "b": 30.0}, 1).left(["c"], []) == 20
    assert math.isnan(Forecast({}, 1).left(["c"], []))


def test_runs_that_took_twice_as_long_double_what_is_left():
    forecast = Forecast({CELL.key: 10.0}, workers=1)
    (trial,) = STUDY.under(CELL.budget).repetitions_of(CELL)
    forecast.ended(trial, 20.0)
    assert forecast.left([CELL.key], []) == 20


def test_a_run_that_a_busy_machine_held_up_is_not_what_others_are_expected_to_take():
    rows = [("a", "repetition", "finished", seconds) for seconds in (454.0, 2349.0, 273.0)]
    rows += [("a", "search", "finished", 90.0), ("a", "search", "pruned", 10.0), ("a", "rerun", "finished", 1.0)]
    frame = pd.DataFrame(rows, columns=["cell", "stage", "outcome", "time/wall_seconds"]).assign(imported="")
    assert sorted(expected_seconds(frame, {}).values()) == [90.0, 454.0]


def test_what_runs_took_elsewhere_counts_at_the_pace_of_this_machine():
    rows = [("a", "", 30.0), ("a", "checked", 300.0), ("b", "checked", 500.0), ("c", "checked", 700.0)]
    frame = pd.DataFrame(rows, columns=["cell", "imported", "time/wall_seconds"])
    frame = frame.assign(stage="repetition", outcome="finished")
    a, b, c = (cost_key(cell, "repetition") for cell in "abc")
    # Of a, runs took 30 s here and 300 there; of b, so much was measured here where runs took 500 there.
    assert expected_seconds(frame, {a: 20.0, b: 50.0}) == {a: 30.0, b: 50.0, c: pytest.approx(70.0)}
    assert expected_seconds(frame[1:], {}) == {a: 300.0, b: 500.0, c: 700.0}
    assert expected_seconds(frame[3:], {b: 50.0}) == {b: 50.0}  # What is not known counts as the mean of what is.


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3600, "1 h 00 min"),
        (36_059, "10 h 00 min"),
        (math.nan, "unknown"),
    ],
)
def test_durations_in_words(seconds, words):
    assert format_duration(seconds) == words


def test_data_whose_size_is_not_known_count_as_one_epoch(monkeypatch):
    monkeypatch.setattr(DataSpec, "examples", lambda data: None)
    cost = Cost(update=0.5, validation=2.0, test=7.0)
    assert run_seconds(CELL.settings, cost) == 100 * 0.5 + 2 + 7
