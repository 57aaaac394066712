"""`evaluate`: kept weights evaluated again, once each, into the records of runs that stay as they were logged."""

import json
import shutil
import sqlite3
from contextlib import closing
from functools import partial

import numpy as np
import pytest
from support.command_line import TINY, frame_of, write_study

from nfstudy.__main__ import main
from nfstudy.core.launcher import Launcher
from nfstudy.data import load_dataset
from nfstudy.runner import evaluate as module
from nfstudy.runner import worker
from nfstudy.runner.worker import Evaluated
from nfstudy.runs.evaluations import Evaluation, EvaluationRequest, make_request, read_evaluations
from nfstudy.runs.tags import Tag
from nfstudy.runs.tracking.claim import Claim
from nfstudy.runs.tracking.store import open_store

pytestmark = pytest.mark.end_to_end

STUDY = TINY.replace("[0, 2]", "[2]").replace("[planar, nice-perm]", "[planar]").replace("updates: 60", "updates: 12")
STUDY = STUDY.replace("[summary, flow-length]", "[evaluations]")
FAST = ("--samples", "30", "--images", "10", "--workers", "1")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with a study of two finished runs."""
    folder = write_study(tmp_path_factory.mktemp("made"), STUDY)
    (folder / "mlruns").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert run("run", "tiny.yaml", "--workers", "1") == 0
    return folder


class Here:
    """An engine of one worker, in this process."""

    number, device = 1, "cpu"

    def __init__(self, *arguments):
        self.workers, self.orders = [self], []
        self.evaluate = self.orders.append

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def events(self, timeout):
        datasets = worker._Datasets(partial(load_dataset, folders=(), download=False))
        return [(self, worker._evaluate(self.device, datasets, self.orders.pop()))] if self.orders else []


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr("nfstudy.runner.local_engine.Pool", Here)


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    copy = shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(copy)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return copy


def run(*arguments):
    try:
        return main([*map(str, arguments)])
    except SystemExit as end:
        return end.code


def kept(folder):
    frame = frame_of(folder)
    pairs = zip(frame["run_id"], frame["evaluations"], strict=True)
    return {run_id: list(read_evaluations(text, run_id)) for run_id, text in pairs}


def test_runs_are_evaluated_once_and_keep_what_they_had_logged(folder, capsys):
    before = frame_of(folder).drop(columns="evaluations")
    assert run("evaluate", "tiny.yaml", *FAST) == 0
    assert "2 evaluated" in capsys.readouterr().out
    found = kept(folder)
    assert frame_of(folder).drop(columns="evaluations").equals(before)
    for (each,) in found.values():
        assert each.request == EvaluationRequest(samples=30, images=10)
        assert each.numbers["images"] == 10
        assert 15 < each.numbers["nll"] < 60
    assert run("evaluate", "tiny", *FAST) == 0
    assert "0 evaluated, 2 had been before" in capsys.readouterr().out
    assert kept(folder) == found


def test_evaluations_add_up_and_travel_with_archives(folder, here, capsys):
    run_id = next(iter(kept(folder)))
    assert run("evaluate", run_id, *FAST, "--seed", "7") == 0
    assert run("evaluate", run_id, "--estimator", "ais", "--images", "4", "--temperatures", "5", "--workers", "1") == 0
    assert run("evaluate", run_id, "--estimator", "bdmc", "--images", "4", "--temperatures", "5", "--workers", "1") == 0
    assert [len(each) for each in kept(folder).values()] == [3, 0]
    # Archives carry them, and reports show them.
    assert run("export", "tiny.yaml", "a.tar.xz") == 0
    after = kept(folder)
    (folder / "other" / "mlruns").mkdir(parents=True)
    other = ("--tracking-uri", f"sqlite:///{folder}/other/mlruns/mlflow.db")
    assert run("import", "a.tar.xz", *other) == 0
    assert kept(folder / "other") == after
    assert run("report", "tiny.yaml", *other) == 0
    assert "ais, 8 chains, 5 temperatures, 4 images, seed 1" in (folder / "reports" / "tiny" / "index.md").read_text()
    # The archive has no weights.
    capsys.readouterr()
    assert run("evaluate", run_id, *FAST, *other, "--seed", "8") == 2
    assert "has no kept weights (checkpoint.pt)" in capsys.readouterr().err
    assert run("evaluate", "tiny.yaml", *FAST, *other, "--seed", "8") == 2
    assert kept(folder / "other") == after
    # One with the weights brings them to the runs that are there.
    assert run("export", "tiny.yaml", "weights.tar.xz", "--with-checkpoints") == 0
    assert run("import", "weights.tar.xz", *other) == 0
    told = "0 runs imported, 2 already present, of which 2 got evaluations or files that they lacked"
    assert told in capsys.readouterr().out
    assert run("evaluate", run_id, *FAST, *other, "--seed", "8") == 0
    assert [len(each) for each in kept(folder / "other").values()] == [4, 0]


def test_images_are_coded_and_the_report_has_the_length(folder, here, monkeypatch, capsys):
    run_id = next(iter(kept(folder)))
    (folder / "tiny.yaml").write_text(STUDY.replace("[evaluations]", "[evaluations, code-lengths]"))
    assert (
        run("evaluate", run_id, "--estimator", "bits-back", "--images", "10", "--samples", "20", "--workers", "1") == 0
    )
    assert "10 images came back as they were" in capsys.readouterr().out
    (found,) = kept(folder)[run_id]
    assert 8 * found.numbers["message_bytes"] == pytest.approx(found.numbers["bits_per_pixel"] * 10 * 64)
    assert found.numbers["bits_per_pixel_net"] < found.numbers["bits_per_pixel"]
    assert run("report", "tiny.yaml") == 0
    assert "20 samples, seed 1" in (folder / "reports" / "tiny" / "index.md").read_text()
    # A decoder that makes other images of it is an error, and nothing is kept.
    monkeypatch.setattr("nfstudy.inference.models.bits_back.decode", lambda *_: (np.zeros((10, 64)), None))
    assert run("evaluate", run_id, "--estimator", "bits-back", "--images", "10", "--workers", "1", "--seed", "2") == 2
    assert "images were decoded to others, the first in place 0" in capsys.readouterr().err
    assert len(kept(folder)[run_id]) == 1


def test_inference_gaps_are_evaluated_and_shown_and_what_does_not_fit_is_refused(folder, here, capsys):
    (folder / "tiny.yaml").write_text(STUDY.replace("[evaluations]", "[inference-gaps, evaluations]"))
    asked = ("--estimator", "local", "--images", "5", "--samples", "60", "--temperatures", "4", "--updates", "100")
    assert run("report", "tiny.yaml") == 0
    page = folder / "reports" / "tiny" / "index.md"
    assert "python -m nfstudy evaluate tiny --budget default --estimator local" in page.read_text()
    assert run("evaluate", "tiny.yaml", *asked, "--workers", "1") == 0
    assert "gaps of approximation" in capsys.readouterr().out
    for (each,) in kept(folder).values():
        n = each.numbers
        assert n["approximation_gap"] + n["amortisation_gap"] == pytest.approx(n["inference_gap"])
        assert n["images"] == 5
        assert each.request.label == "local, 60 samples, 4 temperatures, 100 updates, 5 images, seed 1"
    assert run("report", "tiny.yaml") == 0
    assert "amortisation gap" in page.read_text()
    assert run("evaluate", "tiny.yaml", "--updates", "100") == 2
    assert "updates: got 100; expected: a number with local alone" in capsys.readouterr().err


def test_after_an_interruption_the_others_are_done(folder, here, monkeypatch, capsys):
    class Stopped(module.StopSignal):
        def check(self):
            if len([each for each in kept(folder).values() if each]) == 1:
                from nfstudy.runner.signals import Interrupted

                raise Interrupted("SIGTERM")

    with monkeypatch.context() as patch:
        patch.setattr(module, "StopSignal", Stopped)
        assert run("evaluate", "tiny.yaml", *FAST) == 130
    assert sorted(map(len, kept(folder).values())) == [0, 1]
    assert run("evaluate", "tiny.yaml", *FAST) == 0
    assert "1 evaluated, 1 had been before" in capsys.readouterr().out


def test_what_cannot_be_evaluated_is_refused(folder, here, capsys):
    frame = frame_of(folder)
    cut, altered = frame["run_id"]
    with closing(sqlite3.connect(folder / "mlruns" / "mlflow.db")) as connection:
        connection.execute("UPDATE runs SET status = 'KILLED' WHERE run_uuid = ?", (cut,))
        connection.commit()
    (weights,) = (folder / "mlruns" / "artifacts").rglob(f"{altered}/**/checkpoint.pt")
    weights.write_bytes(b"no weights")
    assert run("evaluate", cut, *FAST) == 2
    assert f"run {cut}: got repetition, killed; expected: a finished repetition" in capsys.readouterr().err
    assert run("evaluate", "tiny.yaml", *FAST) == 2
    assert "checkpoint.pt cannot be read into the model" in capsys.readouterr().err
    assert run("evaluate", "tiny.yaml", "--temperatures", "4") == 2
    assert "temperatures: got 4" in capsys.readouterr().err
    assert run("evaluate", cut, "--budget", "default") == 2
    assert run("evaluate", "nowhere.yaml") == 2
    assert not any(kept(folder).values())


def test_numbers_that_are_not_finite_are_told_and_not_kept(folder, here, monkeypatch, capsys):
    # They would be written as null, which no report could read.
    made = worker._evaluate
    monkeypatch.setattr(worker, "_evaluate", lambda *given: Evaluated({**made(*given).numbers, "nll": float("inf")}))
    assert run("evaluate", "tiny.yaml", *FAST) == 2
    assert "numbers.nll: Input should be a finite number; expected: finite numbers" in capsys.readouterr().err
    assert not any(kept(folder).values())
    assert run("report", "tiny.yaml") == 0


def test_errors_over_seeds_that_are_not_known_are_left_out():
    numbers = {"nll_below": 1.0, "nll_above": 2.0, "nll_above_seed_se": 0.5}
    request = make_request("bdmc", 1)
    found = Evaluation(request=request, numbers=numbers, version="", commit="", dirty=None, device="", ended="")
    assert module.numbers_text(found).startswith("−ln p(x) from 1.000 to 2.000 ± 0.500 nats")


def test_what_is_asked_has_one_key_and_a_text_that_is_none_of_an_evaluation_is_told_of():
    request = make_request("ais", 1, samples=None, images=5, temperatures=None)
    assert (request.samples, request.images, request.temperatures) == (8, 5, 200)
    assert request.key == make_request("ais", 1, images=5).key != make_request("ais", 2, images=5).key
    # Keys of before there was `updates` stay as they are in stores.
    assert make_request("importance", 1).key == "0587db2c691f2b34"
    assert make_request("local", 1).key != make_request("local", 1, updates=50).key
    with pytest.raises(Exception, match=r"run r: tag nfstudy\.evaluation"):
        list(read_evaluations(json.dumps(["{}"]), "r"))


def test_a_study_that_a_launcher_elsewhere_is_at_work_on_is_left_to_it(folder, here, capsys):
    store = open_store(f"sqlite:///{folder}/mlruns/mlflow.db")
    Claim(store, "tiny", Launcher("far", 22, "/elsewhere", "2026-01-02", "aa")).take()
    assert run("evaluate", "tiny.yaml", *FAST) == 2
    assert "is being run by another launcher: pid 22 on far, folder /elsewhere" in capsys.readouterr().err
    assert [each for each in kept(folder).values() if each] == []
    store.tag_study("tiny", Tag.LAUNCHER, "")
    assert run("evaluate", "tiny.yaml", *FAST) == 0
    assert store.study_tag("tiny", Tag.LAUNCHER) == "", "given back"
