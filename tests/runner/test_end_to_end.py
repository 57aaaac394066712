"""The real command line on a real store with real processes, some of which are killed."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.command_line import (
    TINY,
    digests,
    frame_of,
    launch,
    launch_spawned,
    nfstudy,
    numbers_of,
    spawned,
    wait_for,
    write_study,
)
from support.processes import workers_of
from support.studies import STUDIES

from nfstudy.runs.frame import cell_states
from nfstudy.runs.tracking.store import open_store
from nfstudy.runs.weights import read_description
from nfstudy.study.reader import read_study

pytestmark = pytest.mark.end_to_end


@pytest.fixture
def launched():
    """`launch_spawned`, or another, after which nothing of what it launched is left, however the test ends."""
    processes = []

    def start(folder, *arguments, by=launch_spawned):
        processes.append(by(folder, *arguments))
        return processes[-1]

    yield start
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which the tiny study has been run on two workers."""
    folder = write_study(tmp_path_factory.mktemp("finished"))
    done = spawned(folder, "run", "tiny.yaml", "--workers", "2")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_study_runs_to_its_report(finished):
    folder, done = finished
    assert "6 runs to do" in done.stdout
    assert "6 finished" in done.stdout
    assert "report: reports/tiny/index.html" in done.stdout
    assert "python -m nfstudy ui" in done.stdout
    assert "time left" in done.stdout
    numbers = numbers_of(folder)
    assert len(numbers) == 3 * 2
    for elbo, nll, error, gap, *_ in numbers.values():
        assert gap == pytest.approx(-elbo - nll, abs=1e-4)
        assert gap > 0
        assert 0 < error < 1
    table = (folder / "reports" / "tiny" / "tables" / "summary.csv").read_text()
    header = table.splitlines()[0].split(",")
    wanted = ["row", "flow", "length", "metric", "ours_mean", "ours_se", "n", "paper", "difference", "note", "run_ids"]
    assert [name for name in header if name in wanted] == wanted


def test_the_numbers_are_those_of_earlier_versions(finished):
    """Printed by `python -m nfstudy run tiny.yaml` of version 0.1.0; whoever moves them raises KEY_VERSION."""
    frame = frame_of(finished[0])
    nll = {(row["flow.family"], row["index"]): row["test/nll"] for _, row in frame.iterrows()}
    # Other processors may round otherwise, by far less than this.
    assert nll == pytest.approx(
        {
            ("none", 1): 30.300787,
            ("none", 2): 31.025278,
            ("nice-perm", 1): 30.193043,
            ("nice-perm", 2): 30.308681,
            ("planar", 1): 30.284524,
            ("planar", 2): 31.077965,
        },
        abs=1e-3,
    )


def test_every_run_has_its_curve_checkpoint_and_pictures(finished):
    folder, _ = finished
    runs = open_store(f"sqlite:///{folder}/mlruns/mlflow.db").runs("tiny")
    frame = runs.frame()
    for run_id in frame["run_id"]:
        assert runs.history([run_id], ["valid/elbo"])["update"].tolist() == [23, 46, 60]
        assert runs.artifact(run_id, "samples.png").startswith(b"\x89PNG")
        assert runs.artifact(run_id, "reconstructions.png").startswith(b"\x89PNG")
        assert read_description(runs.artifact(run_id, "checkpoint.pt"))["run_id"] == run_id


def test_running_again_does_nothing_more(finished):
    folder, _ = finished
    before, report = frame_of(folder)["run_id"].tolist(), digests(folder / "reports")
    again = nfstudy(folder, "run", "tiny.yaml")
    assert again.returncode == 0
    assert "0 runs to do" in again.stdout
    assert frame_of(folder)["run_id"].tolist() == before
    assert digests(folder / "reports") == report


def test_the_report_is_rebuilt_byte_for_byte_without_torch(finished, tmp_path):
    folder, _ = finished
    code = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch is not to be imported")
sys.meta_path.insert(0, NoTorch())
from nfstudy.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
    for output in ("a", "b"):
        command = [sys.executable, "-c", code, "report", "tiny.yaml", "--output", str(tmp_path / output)]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    assert digests(tmp_path / "a") == digests(tmp_path / "b") == digests(folder / "reports" / "tiny")


def test_numbers_do_not_depend_on_how_many_workers_there_are(finished, tmp_path):
    folder = write_study(tmp_path)
    assert nfstudy(folder, "run", "tiny.yaml", "--workers", "1").returncode == 0
    assert numbers_of(folder) == numbers_of(finished[0])


def test_more_on_the_grid_runs_only_what_is_new_and_shifts_nothing(finished, tmp_path):
    folder = write_study(tmp_path, TINY.replace("[planar, nice-perm]", "[radial, planar, nice-perm]"))
    subprocess.run(["cp", "-r", str(finished[0] / "mlruns"), str(folder)], check=True)
    done = nfstudy(folder, "run", "tiny.yaml")
    assert "2 runs to do" in done.stdout
    assert numbers_of(finished[0]).items() <= numbers_of(folder).items()
    assert len(numbers_of(folder)) == 4 * 2


def test_killed_workers_and_a_killed_coordinator_lose_nothing_and_double_nothing(finished, launched, tmp_path):
    folder = write_study(tmp_path)
    process = launched(folder, "run", "tiny.yaml", "--workers", "2")
    wait_for(folder, r"\[worker 2\] .*starts")
    workers = workers_of(process.pid)
    os.kill(workers[0], signal.SIGKILL)
    wait_for(folder, "exited with signal SIGKILL; retrying")
    wait_for(folder, r"[12] of 6 runs")
    process.kill()
    process.wait()
    assert (frame_of(folder)["outcome"] == "finished").sum() < 6, "the kill came before the end"
    status = nfstudy(folder, "status", "tiny.yaml").stdout
    assert "to do" in status
    assert "running" not in status.replace("at work", "")

    assert nfstudy(folder, "run", "tiny.yaml", "--workers", "2").returncode == 0
    assert numbers_of(folder) == numbers_of(finished[0])
    assert "killed" in set(frame_of(folder)["outcome"])
    # The workers of the killed coordinator went with it.
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers[1:])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_study_is_stopped_and_gone_on_with(finished, launched, tmp_path, number):
    folder = write_study(tmp_path)
    process = launched(folder, "run", "tiny.yaml", "--workers", "1", by=launch)
    wait_for(folder, r"[12] of 6 runs")
    os.killpg(process.pid, signal.SIGSTOP)  # It holds its lock while others look.
    second = nfstudy(folder, "run", "tiny.yaml")
    assert second.returncode == 2
    assert f"is being run by another process (pid {process.pid} on " in second.stderr
    assert ", running now" in nfstudy(folder, "status", "tiny.yaml").stdout
    os.killpg(process.pid, signal.SIGCONT)
    os.killpg(process.pid, number)
    assert process.wait(10) == 130
    assert f"stopped by {number.name}" in (folder / "out.txt").read_text()
    assert "resume with: python -m nfstudy run tiny.yaml" in (folder / "out.txt").read_text()
    assert set(frame_of(folder)["outcome"]) <= {"finished", "killed"}
    assert nfstudy(folder, "run", "tiny.yaml").returncode == 0
    assert numbers_of(folder) == numbers_of(finished[0])


def test_a_study_that_is_stopped_while_its_workers_start_says_so_in_a_word(launched, tmp_path):
    folder = write_study(tmp_path)
    process = launched(folder, "run", "tiny.yaml", "--workers", "2")
    wait_for(folder, "6 runs to do")
    time.sleep(1)  # Workers are seconds from being ready, and have their signal handlers yet to set.
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130  # The imports that are under way are waited for, on a crowded machine for long.
    *others, last = (folder / "out.txt").read_text().splitlines()[3:]
    assert last == "stopped by SIGINT; resume with: python -m nfstudy run tiny.yaml --workers 2"
    assert others in ([], ["timing a few updates of each cell ..."])  # As far as it had come.


def test_a_diverged_cell_is_a_result_and_the_others_go_on(tmp_path):
    text = TINY.replace("optimiser: adam, learning_rate: 3e-3", "optimiser: rmsprop").replace(
        "grid: {flow.family: [planar, nice-perm], flow.length: [0, 2]}", "grid: {train.learning_rate: [1e-3, 1e+30]}"
    )
    folder = write_study(tmp_path, text)
    done = nfstudy(folder, "run", "tiny.yaml")
    assert done.returncode == 0
    assert "2 diverged, 2 finished" in done.stdout
    frame = frame_of(folder)
    diverged = frame[frame["outcome"] == "diverged"]
    assert diverged["reason"].str.contains("at update|after update").all()
    assert (diverged["update"] > 0).all()
    assert "0 runs to do" in nfstudy(folder, "run", "tiny.yaml").stdout
    study = read_study(folder / "tiny.yaml")
    assert [state.state for state in cell_states(study.under("default"), frame)] == ["done", "diverged"]
    assert "diverged" in (folder / "reports" / "tiny" / "index.md").read_text()


def test_a_nuisance_search_with_a_pruner_chooses_by_validation_and_is_not_shown_the_test_set(tmp_path):
    text = TINY.replace("flow.length: [0, 2]", "flow.length: [0]").replace("[planar, nice-perm]", "[planar]") + (
        "search:\n  sampler: {name: tpe, trials: 4, pruner: {name: median, n_startup_trials: 1}}\n"
        "  space: {train.learning_rate: [1e-5, 1e-3, 1e-2]}\n"
    )
    folder = write_study(tmp_path, text)
    assert nfstudy(folder, "run", "tiny.yaml").returncode == 0
    frame = frame_of(folder)
    search, repetitions = (frame[frame["stage"] == stage] for stage in ("search", "repetition"))
    assert (len(search), len(repetitions)) == (4, 2)
    assert search["test/nll"].isna().all()
    best = search[search["outcome"] == "finished"].sort_values("valid/elbo").iloc[-1]
    assert set(repetitions["train.learning_rate"]) == {best["train.learning_rate"]}


def test_a_report_of_an_unfinished_study_is_refused_or_marked(finished, tmp_path):
    folder = write_study(tmp_path, TINY.replace("repetitions: 2", "repetitions: 3"))
    subprocess.run(["cp", "-r", str(finished[0] / "mlruns"), str(folder)], check=True)
    refused = nfstudy(folder, "report", "tiny.yaml")
    assert refused.returncode == 2
    assert "planar" in refused.stderr
    assert "1 of 3 repetitions not run" in refused.stderr
    assert not (folder / "reports").exists()
    assert nfstudy(folder, "report", "tiny.yaml", "--partial").returncode == 0
    assert "incomplete" in (folder / "reports" / "tiny" / "index.md").read_text().lower()


def test_a_dry_run_tells_and_writes_nothing(tmp_path):
    folder = write_study(tmp_path)
    done = nfstudy(folder, "run", "tiny.yaml", "--dry-run")
    assert done.returncode == 0
    assert all(label in done.stdout for label in ("diagonal Gaussian K=0 D=3", "planar K=2 D=3", "nice-perm K=2 D=3"))
    assert re.search(r"time left: \d", done.stdout)
    assert sorted(path.name for path in folder.iterdir()) == ["tiny.yaml"]


BAD = {
    "an impossible value": (["run", "bad.yaml"], TINY.replace("latent: 3", "latent: 0"), "model.latent: got 0"),
    "a missing file": (["run", "gone.yaml"], TINY, "gone.yaml: no such study file"),
    "an unknown budget": (["run", "bad.yaml", "--budget", "huge"], TINY, "no budget 'huge'; expected: default"),
    "an unknown device": (["run", "bad.yaml", "--device", "tpu"], TINY, "--device tpu"),
    "no workers": (["run", "bad.yaml", "--workers", "0"], TINY, "got 0"),
    "no store": (["report", "bad.yaml"], TINY, "no store"),
    "no store to look at": (["ui"], TINY, "no store"),
    "no data": (["run", "bad.yaml"], TINY.replace("digits", "mnist"), "studies/quickstart.yaml"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_users_mistake_ends_with_2_one_message_and_nothing_written(name, tmp_path, monkeypatch):
    arguments, text, message = BAD[name]
    monkeypatch.delenv("NFSTUDY_DATA", raising=False)
    (tmp_path / "bad.yaml").write_text(text)
    done = nfstudy(tmp_path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"bad.yaml"}
    assert not list(tmp_path.rglob("*.db"))


def test_a_search_proposes_the_same_trials_and_gives_the_same_numbers_on_one_worker_and_on_two(tmp_path):
    """`studies/search.yaml` at its smallest."""
    found = []
    for workers in ("1", "2"):
        folder = tmp_path / workers
        folder.mkdir()
        shutil.copy(STUDIES[0].parent / "search.yaml", folder)
        done = nfstudy(folder, "run", "search.yaml", "--budget", "smoke", "--workers", workers)
        assert done.returncode == 0, done.stderr
        frame = frame_of(folder, "search")
        kept = ["cell", "stage", "index", "settings", "outcome", "reason", "valid/elbo", "test/nll"]
        found.append(frame[kept].to_dict("records"))
    assert len(found[0]) == 2 * (6 + 1)
    assert repr(found[0]) == repr(found[1])
    assert "with flow.family" in done.stderr
    assert "chosen of 6 trials: flow.family" in done.stderr
