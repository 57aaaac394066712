"""Runs trained again: from what they logged alone, held to the old numbers, and counted by no table."""

import json
import math
import shutil
import sqlite3
from contextlib import closing

import pytest
from support.command_line import TINY, digests, frame_of, nfstudy, numbers_of, write_study
from support.fake_copies import copy, points
from support.studies import STUDIES

from nfstudy.core.errors import UserError
from nfstudy.runner.rerun import ABSOLUTE, RELATIVE, compare
from nfstudy.runs.code import CodeState
from nfstudy.runs.conditions import differences, present_conditions, recorded_conditions, recorded_settings
from nfstudy.runs.frame import param_text
from nfstudy.study.cells import Trial
from nfstudy.study.reader import parse_study


def params_of(settings):
    return {path: param_text(value) for path, value in settings.flat().items()}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_settings_come_back_from_what_is_logged(path):
    study = parse_study(path.read_text(), path.name)
    for budget in study.budgets:
        for cell in study.under(budget).cells[:5]:
            settings = recorded_settings(params_of(cell.settings))
            assert settings.flat() == cell.settings.flat()
            assert settings.identity() == cell.settings.identity()


SPEC = parse_study(
    TINY.replace("learning_rate", "schedule: {name: MultiStepLR, milestones: [3, 7], gamma: 0.5}, learning_rate"), "x"
)
CELL = SPEC.under("default").cells[1]


def test_lists_and_runs_older_than_a_setting_are_read():
    params = params_of(CELL.settings)
    assert params["train.schedule.milestones"] == "[3, 7]"
    assert recorded_settings(params).train.schedule.milestones == (3, 7)
    for younger in ("train.precision", "train.averaging", "train.keep"):
        del params[younger]
    assert recorded_settings(params) == recorded_settings(params_of(CELL.settings))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.latnt": "3"}, "model.latnt: "),
        ({"model.latent": '"three"'}, "model.latent: "),
        ({"model.latent": "0"}, "model.latent: "),
        ({"model.latent": None}, "model.latent: is not recorded"),
        ({"data.name": None}, "data"),
        ({"data": "3"}, "data: got 3, and values within it too"),
        ({"model.latent.x": "3"}, "a value for latent too"),
        ({"flow.sylvester_columns": "8"}, "flow.sylvester_columns: got 8, which means nothing here"),
        ({"model.latent": "[" * 5000}, "model.latent: "),
    ],
    ids=str,
)
def test_settings_that_cannot_be_read_are_named(change, words):
    params = {**params_of(CELL.settings), **change}
    with pytest.raises(UserError) as caught:
        recorded_settings({path: text for path, text in params.items() if text is not None})
    assert words in str(caught.value)
    assert "expected: " in str(caught.value)


def test_what_has_changed_is_said():
    environment = {"python": "3.11.7", "processor": "A", "machine": "x86_64", "cores": "2", "package torch": "2.13.0"}
    code = CodeState("a" * 40, False, "")
    now = present_conditions(code, CELL.settings, "ab" * 32, "cpu", 1, environment)
    tags = {
        "nfstudy.commit": "a" * 40,
        "nfstudy.dirty": "false",
        "nfstudy.settings": now.settings,
        "nfstudy.data_fingerprint": "ab" * 32,
        "nfstudy.device": "cpu",
        "nfstudy.threads": "1",
    }
    then = recorded_conditions(tags, json.dumps(environment).encode(), None)
    assert [*differences(then, now)] == []
    assert then.machine() == now.machine()
    other = {**environment, "package torch": "2.12.0", "processor": "B", "cores": "64"}
    tags |= {"nfstudy.dirty": "true", "nfstudy.threads": "4", "nfstudy.data_fingerprint": "cd" * 32}
    then = recorded_conditions(tags, json.dumps(other).encode(), b"+1\n")
    told = [*differences(then, now)]
    assert [line.split(":")[0] for line in told] == [
        "uncommitted changes",
        "data",
        "threads",
        "processor",
        "package torch",
    ]
    assert told[-1] == "package torch: 2.12.0 then, 2.13.0 now"
    assert then.machine() != now.machine()
    for broken in (None, b"{", b"[" * 100_000, b"[1]"):
        assert "python: not recorded then, 3.11.7 now" in [*differences(recorded_conditions(tags, broken, None), now)]


def run(*values, outcome="finished", metric="test/nll", **more):
    history = points(*((10 * update, 1_790_000_000_000, value) for update, value in enumerate(values, 1)))
    return copy(1, outcome, {metric: history, **more})


def test_numbers_are_identical_close_or_different():
    old = run(95.0, 90.0)
    assert compare(old, run(95.0, 90.0)) == ("identical", ())
    assert compare(run(math.nan, math.inf), run(math.nan, math.inf))[0] == "identical"
    # |x' − x| ≤ max(0.1, 0.09).
    assert (ABSOLUTE, RELATIVE) == (0.1, 1e-3)
    verdict, (line,) = compare(old, run(95.0, 90.0999))
    assert verdict == "within tolerances"
    assert line == "test/nll: 90 then, 90.0999 now"
    assert compare(old, run(94.0, 90.0))[0] == "within tolerances"
    assert compare(old, run(95.0, 90.1001))[0] == "differs"
    assert compare(run(9000.0), run(9008.9))[0] == "within tolerances"
    assert compare(run(9000.0), run(9009.1))[0] == "differs"
    assert compare(old, run(95.0, math.nan))[0] == "differs"
    assert compare(old, run(95.0))[0] == "differs"
    assert compare(old, run(95.0, 90.0, outcome="diverged"))[0] == "differs"
    # What is not of the test or validation split is told of, and nothing more.
    verdict, (line,) = compare(run(5.0, metric="train/gradient_norm"), run(9.0, metric="train/gradient_norm"))
    assert verdict == "within tolerances"
    assert "train/gradient_norm" in line
    assert compare(run(5.0, metric="time/wall_seconds"), run(9.0, metric="time/wall_seconds"))[0] == "identical"
    extra = {"test/kl": points((20, 1_790_000_000_000, 1.0))}
    assert compare(run(1.0), run(1.0, **extra))[0] == "differs"


def test_a_rerun_has_the_seeds_of_its_original_and_another_identity():
    original = SPEC.under(CELL.budget).repetitions_of(CELL)[1]
    again = Trial("tiny", CELL, CELL.settings, "rerun", 2, "ab" * 16)
    assert again.repetition == original.repetition == 2
    assert again.identity[1:] == ("rerun", 2, original.identity[3])
    assert again.label == f"{CELL.label} rerun 2"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a small study that has been run; to be copied."""
    folder = write_study(tmp_path_factory.mktemp("finished"), TINY.replace("[planar, nice-perm]", "[planar]"))
    done = nfstudy(folder, "run", "tiny.yaml", "--workers", "2")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.end_to_end
@pytest.mark.timeout(900)
def test_a_run_is_trained_again_to_the_same_bits(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "project")
    before, report = numbers_of(folder), digests(folder / "reports")
    frame = frame_of(folder)
    (run_id,) = frame.loc[(frame["flow.family"] == "planar") & (frame["index"] == 2), "run_id"]
    done = nfstudy(folder, "rerun", run_id)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing has changed since" in done.stdout
    assert "identical in every point of every history" in done.stdout
    frame = frame_of(folder)
    (again,) = frame[frame["stage"] == "rerun"].to_dict("records")
    assert (again["rerun_of"], again["rerun"], again["index"]) == (run_id, "identical", 2)
    # No table counts it: the same cells, repetitions and numbers; only the list of reruns is new.
    assert {key: value for key, value in numbers_of(folder).items() if key[1] != "rerun"} == before
    status = nfstudy(folder, "status", "tiny.yaml").stdout
    assert "2 done" in status
    assert "2/2" in status
    assert "0 runs to do" in nfstudy(folder, "run", "tiny.yaml").stdout
    after = digests(folder / "reports")
    assert {name for name in report if after[name] != report[name]} == {
        "tiny/index.html",
        "tiny/index.md",
        "tiny/manifest.json",
    }
    text = (folder / "reports" / "tiny" / "index.md").read_text()
    assert text.count("### Trained again") == 1
    assert any(
        line.startswith(f"| {run_id} |") and again["run_id"] in line and "identical" in line
        for line in text.splitlines()
    )
    page = (folder / "reports" / "tiny" / "index.html").read_text()
    assert f'<a href="#run-{run_id}">' in page

    refused = nfstudy(folder, "rerun", again["run_id"])
    assert refused.returncode == 2
    assert "got rerun, finished; expected: repetition" in refused.stderr
    refused = nfstudy(folder, "rerun", "ab" * 16)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


@pytest.mark.end_to_end
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("shift", "code", "words"), [(0.05, 3, "within tolerances"), (5.0, 1, "differs")])
def test_numbers_that_moved_have_their_exit_code(finished, tmp_path, shift, code, words):
    folder = shutil.copytree(finished, tmp_path / "project")
    run_id = frame_of(folder)["run_id"][0]
    with closing(sqlite3.connect(folder / "mlruns" / "mlflow.db")) as connection, connection:
        for table in ("metrics", "latest_metrics"):
            moved = f"UPDATE {table} SET value = value + ? WHERE run_uuid = ? AND key = 'test/nll'"
            connection.execute(moved, (shift, run_id))
        connection.execute("UPDATE tags SET value = '2' WHERE run_uuid = ? AND key = 'nfstudy.threads'", (run_id,))
    done = nfstudy(folder, "rerun", run_id, "--threads", "1")
    assert done.returncode == code, done.stdout + done.stderr
    assert "threads: 2 then, 1 now" in done.stdout
    assert "test/nll: " in done.stdout
    assert "to be expected" not in done.stdout, "another number of threads may change bits"
    frame = frame_of(folder)
    assert frame.loc[frame["stage"] == "rerun", "rerun"].tolist() == [words]


def test_a_run_of_before_keeps_what_decayed_in_it():
    settings = CELL.settings.replace(
        {
            **{"flow.family": "nice-perm", "flow.length": 2, "model.latent": 4},
            **{"train.optimiser": "adam", "train.weight_decay": 0.1, "train.decay_biases": True},
        }
    )
    params = params_of(settings)
    assert params.pop("train.decay_biases") == "true"
    assert recorded_settings(params).train.decay_biases
    # Where none decays, there is nothing to keep.
    assert not recorded_settings(params_of(settings.replace({"flow.family": "planar"}))).train.decay_biases


def test_metrics_that_were_not_there_yet_are_held_to_nothing():
    numbers = {"test/nll": points((10, 0, 1.5))}
    old, new = copy(1, histories=numbers), copy(2, histories=numbers | {"test/nll_tight": points((10, 0, 1.4))})
    assert compare(old, new) == ("identical", ())
    assert compare(new, old)[0] == "differs"
