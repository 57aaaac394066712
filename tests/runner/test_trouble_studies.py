"""Whole studies in bad weather: impossible cells, disks that fill up, data that change, servers that fall silent."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from support import disks, small_mnist
from support.cluster import SERVER_GROUP, mlflow_server
from support.command_line import TINY, frame_of, launch, nfstudy, numbers_in, numbers_of, wait_for, write_study
from support.processes import workers_of

from nfstudy.__main__ import main
from nfstudy.core.errors import SpecError
from nfstudy.data import mnist
from nfstudy.runner import local_engine as workers
from nfstudy.runs.result import TrialResult
from nfstudy.runs.tracking.store import Attempt, Store, open_store
from nfstudy.study.reader import parse_study, read_studies

pytestmark = pytest.mark.end_to_end

ONE_EACH = TINY.replace("repetitions: 2", "repetitions: 1")
MIXED = ONE_EACH.replace("flow.length: [0, 2]", "flow.length: [2], model.latent: [1, 3]")
REASON = (
    "model.latent: got 1; expected: at least 2 with flow.family nice-perm, which splits the latent variables in two"
)
SHORT = ONE_EACH.replace("[planar, nice-perm]", "[planar]")
LONG = SHORT.replace("updates: 60", "updates: 4000")  # Seconds: a stopped one is not at its end.
LONG = LONG.replace("[0, 2]", "[1, 2]")
STOP_SECONDS = 10
STUDIES = Path(__file__).parents[2] / "studies"


@pytest.fixture
def command(monkeypatch, capfd):
    """Give the function that runs a command in a folder, in this patched process: (exit code, output, errors)."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fork = multiprocessing.get_context("fork")  # For workers without the seconds of their imports.
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: fork)

    def run(folder, *arguments):
        monkeypatch.chdir(folder)
        capfd.readouterr()
        code = main([*arguments])
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def small_disk(tmp_path):
    with disks.small_disk(tmp_path / "disk", "24m") as (disk, _):
        yield disk


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Give the numbers of `LONG`, left alone."""
    folder = write_study(tmp_path_factory.mktemp("calm"), LONG)
    process = launch(folder, "run", "tiny.yaml", "--workers", "2")
    assert process.wait(120) == 0, (folder / "out.txt").read_text()
    return numbers_of(folder)


def test_an_impossible_cell_is_named_and_the_others_go_on(tmp_path):
    folder = write_study(tmp_path, MIXED)
    done = nfstudy(folder, "run", "tiny.yaml", "--workers", "1")
    assert done.returncode == 1
    assert "3 runs to do, 1 impossible grid points skipped" in done.stdout
    assert "3 to do, 1 impossible" in done.stdout
    assert f"impossible: flow.family nice-perm, flow.length 2, model.latent 1: {REASON}" in done.stderr
    assert len(numbers_of(folder)) == 3
    page = (folder / "reports" / "tiny" / "index.md").read_text()
    assert "incomplete: 3 of 3 cells, 1 impossible" in page
    assert "at least 2 with flow.family nice-perm" in page
    done = nfstudy(folder, "status", "tiny.yaml")
    assert done.returncode == 0
    assert "3 done, 1 impossible" in done.stdout
    assert REASON in done.stdout
    done = nfstudy(folder, "report", "tiny.yaml")
    assert done.returncode == 2
    assert "1 of 4 cells are unfinished" in done.stderr
    assert f"flow.family nice-perm, flow.length 2, model.latent 1: impossible ({REASON})" in done.stderr
    done = nfstudy(folder, "run", "tiny.yaml")
    assert done.returncode == 1
    assert "0 runs to do" in done.stdout


def test_a_run_left_over_beside_a_finished_study_is_closed_by_the_next_launch(tmp_path):
    folder, study = write_study(tmp_path, SHORT), parse_study(SHORT, "tiny.yaml")
    store = open_store(f"sqlite:///{folder}/mlruns/mlflow.db", create=True)
    for cell in study.under("default").cells:
        (trial,) = study.under(cell.budget).repetitions_of(cell)
        twice = [store.start_run(store.experiment("tiny"), trial, None, Attempt("cpu", 1)) for _ in range(2)]
        store.finish_run(twice[1], TrialResult("finished", 60))
    assert sorted(frame_of(folder)["outcome"]) == ["finished"] * 2 + ["running"] * 2
    done = nfstudy(folder, "run", "tiny.yaml")
    assert (done.returncode, "0 runs to do" in done.stdout) == (0, True)
    assert sorted(frame_of(folder)["outcome"]) == ["finished"] * 2 + ["killed"] * 2


def test_a_study_without_a_possible_cell_or_whose_sampler_may_come_to_an_impossible_one_is_refused():
    grid = "grid: {flow.family: [planar, nice-perm], flow.length: [2], model.latent: [1, 3]}"
    assert grid in MIXED
    assert [point.reason for point in parse_study(MIXED, "s.yaml").under("default").impossible] == [REASON]
    for text in (
        MIXED.replace(grid, "grid: {flow.family: [nice-perm, nice-orth], flow.length: [2], model.latent: [1]}"),
        MIXED + "sampler: {name: random, trials: 3}\n",
        MIXED + "budgets: {huge: {train.batch: 5000}, default: {}}\n",
    ):
        with pytest.raises(SpecError, match=r"s\.yaml:.*(model\.latent: got 1|train\.batch: got 5000); expected"):
            parse_study(text, "s.yaml")


def test_a_cell_whose_search_can_come_to_impossible_settings_is_impossible():
    search = "search: {sampler: {name: tpe, trials: 2}, space: {model.latent: {low: 1, high: 9}}}\n"
    study = parse_study(ONE_EACH + search, "s.yaml")
    (point,) = study.under("default").impossible
    assert (point.label, point.reason) == ("flow.family nice-perm, flow.length 2", REASON)


def test_our_own_studies_have_no_impossible_cells():
    studies = read_studies(STUDIES)
    assert not [study for study in studies.values() for budget in study.budgets if study.under(budget).impossible]


def test_a_disk_that_fills_up_ends_a_study_with_a_clear_message_and_it_goes_on(small_disk, command, calm, monkeypatch):
    disk = write_study(small_disk, LONG)
    monkeypatch.setattr("nfstudy.runner.launch.RETRY_SECONDS", 1)
    logged, fillers = Store.log, []

    def log_and_fill(store, run_id, entries):
        if not fillers and any(point.metric == "valid/elbo" for point in entries.points):
            fillers.append(disks.fill(disk))
        logged(store, run_id, entries)

    monkeypatch.setattr(Store, "log", log_and_fill)
    code, _, err = command(disk, "run", "tiny.yaml", "--workers", "2")
    assert code == 2
    assert "retrying for 1 s" in err
    assert "mlflow.db: database or disk is full" in err.replace("(sqlite3.OperationalError) ", "")
    assert "resume with: python -m nfstudy run tiny.yaml" in err
    assert "Traceback" not in err
    # And from the start: neither lock nor costs nor report can be written.
    code, _, err = command(disk, "run", "tiny.yaml", "--workers", "2")
    assert code == 2
    assert "full" in err or "No space left" in err
    assert "Traceback" not in err
    fillers[0].unlink()
    assert command(disk, "run", "tiny.yaml", "--workers", "2")[0] == 0
    assert numbers_of(disk) == calm
    disks.fill(disk)
    code, _, err = command(disk, "run", "tiny.yaml")
    assert code == 2
    assert "reports/tiny: cannot be written: No space left on device; no run is lost" in err


def test_data_altered_while_a_study_runs_are_noticed_by_the_next_worker_and_what_is_done_stays(
    tmp_path, command, monkeypatch
):
    monkeypatch.setattr(mnist, "AMAT_FILES", small_mnist.files())
    monkeypatch.setattr(workers, "_work", small_mnist.work)
    text = SHORT.replace("{name: digits}", "{name: mnist, train_images: 100}")
    folder = write_study(tmp_path, text)
    kept = folder / "data" / small_mnist.FOLDER
    kept.mkdir(parents=True)
    for name, content in small_mnist.contents().items():
        (kept / name).write_bytes(content)
    train, finish = kept / mnist.AMAT_FILES[0].name, Store.finish_run
    whole, altered = train.read_bytes(), []

    def finish_and_alter(store, *run):
        finish(store, *run)
        if not altered:
            altered.append(train.write_bytes(b"1" + whole[1:] if whole[:1] == b"0" else b"0" + whole[1:]))
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid, signal.SIGKILL)

    monkeypatch.setattr(Store, "finish_run", finish_and_alter)
    code, out, err = command(folder, "run", "tiny.yaml", "--workers", "1")
    assert code == 1
    assert "1 failed, 1 finished" in out
    assert f"DataError: {train} is altered: {len(whole):,} bytes" in err
    first = numbers_of(folder)
    assert len(first) == 1
    train.write_bytes(whole)
    assert command(folder, "run", "tiny.yaml", "--workers", "1")[0] == 0
    assert numbers_of(folder).items() > first.items()


def stop_at_work(process, folder, again=None):
    """Send SIGTERM to a study with two runs under way, and once more after so many seconds; return the exit code."""
    before = time.monotonic()
    process.terminate()
    if again:
        time.sleep(again)
        process.terminate()
    code = process.wait(30)
    assert time.monotonic() - before < STOP_SECONDS, (folder / "out.txt").read_text()
    return code


def wait_for_checkpoints(process, folder, number=2):
    wait_for(folder, r"(?s)starts.*starts")
    while len(list(folder.glob("mlruns/checkpoints/tiny/*.checkpoint"))) < number:
        assert process.poll() is None, (folder / "out.txt").read_text()
        time.sleep(0.01)


def test_a_second_signal_ends_a_study_at_once_and_it_goes_on(tmp_path, calm):
    folder = write_study(tmp_path, LONG)
    process = launch(folder, "run", "tiny.yaml", "--workers", "2", "--checkpoint-every", "0.05")
    try:
        wait_for_checkpoints(process, folder)
        for worker in workers_of(process.pid):
            os.kill(worker, signal.SIGSTOP)  # Else they would be gone before the second signal.
        assert stop_at_work(process, folder, again=1.5) == 130
    finally:
        process.kill()
    out = (folder / "out.txt").read_text()
    assert "stopped by SIGTERM; resume with: python -m nfstudy run tiny.yaml" in out
    assert "Traceback" not in out
    assert set(frame_of(folder)["outcome"]) == {"killed"}
    process = launch(folder, "run", "tiny.yaml", "--workers", "2")
    assert process.wait(120) == 0, (folder / "out.txt").read_text()
    assert numbers_of(folder) == calm
    assert (folder / "out.txt").read_text().count("resumes after update") == 2


def test_a_study_whose_server_has_fallen_silent_stops_in_time_and_goes_on(tmp_path, calm):
    (tmp_path / "server").mkdir()
    folder = write_study(tmp_path / "client", LONG)
    with mlflow_server(f"sqlite:///{tmp_path}/server/mlflow.db", tmp_path / "server") as address:
        group = int((tmp_path / "server" / SERVER_GROUP).read_text())
        arguments = ("run", "tiny.yaml", "--workers", "2", "--tracking-uri", address)
        process = launch(folder, *arguments, "--checkpoint-every", "0.05")
        try:
            wait_for_checkpoints(process, folder)
            os.killpg(group, signal.SIGSTOP)
            time.sleep(1)  # By then the coordinator waits for an answer.
            assert stop_at_work(process, folder) == 130
        finally:
            process.kill()
            os.killpg(group, signal.SIGCONT)
        out = (folder / "out.txt").read_text()
        assert "2 of 2 runs under way" in out
        assert "Traceback" not in out
        process = launch(folder, *arguments)
        assert process.wait(120) == 0, (folder / "out.txt").read_text()
        frame = open_store(address).runs("tiny").frame()
        assert numbers_in(frame) == calm
        assert sorted(frame["outcome"]) == ["finished"] * 2 + ["killed"] * 2
