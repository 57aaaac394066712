"""The worked examples, each in an empty folder by the commands of its README; and what becomes of a plug-in."""

import json
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from support.command_line import TINY, exhibit_digests, frame_of, nfstudy, spawned, write_study
from support.plugins import SHIFT, WRONG

from nfstudy.runs.archive.reader import read_archive

IMPORTED = "runs were imported from an archive"

pytestmark = pytest.mark.end_to_end
EXAMPLES = Path(__file__).parents[2] / "examples"
SHIFTED = TINY.replace("[planar, nice-perm]", "[shift]").replace("title: Tiny", "title: Tiny\nplugins: [shift.py]")


@pytest.fixture(scope="module")
def sinh_arcsinh(tmp_path_factory):
    """A folder in which the example has been run."""
    folder = tmp_path_factory.mktemp("empty") / "sinh-arcsinh"
    shutil.copytree(EXAMPLES / "sinh-arcsinh", folder)
    study = folder / "sinh-arcsinh.yaml"
    study.write_text(study.read_text().replace("updates: 600", "updates: 100"))
    checked = nfstudy(folder, "check-plugin", "sinh_arcsinh.py")
    assert checked.returncode == 0, checked.stderr
    assert "flows sinh-arcsinh: 16 chains satisfy the flow contract" in checked.stdout
    done = spawned(folder, "run", "sinh-arcsinh.yaml", "--workers", "2")
    assert done.returncode == 0, done.stderr
    return folder


def test_a_flow_from_outside_is_trained_reported_and_named_with_its_runs(sinh_arcsinh):
    frame = frame_of(sinh_arcsinh, "sinh-arcsinh")
    assert (frame["outcome"] == "finished").all()
    assert len(frame) == 10
    report = sinh_arcsinh / "reports" / "sinh-arcsinh"
    assert "sinh-arcsinh, K = 4" in (report / "tables" / "summary.md").read_text()
    run_id = first_run(sinh_arcsinh, "sinh-arcsinh", "sinh-arcsinh")
    kept = [*(sinh_arcsinh / "mlruns" / "artifacts").rglob(f"*{run_id}*/**/plugins/sinh_arcsinh.py")]
    assert [path.read_bytes() for path in kept] == [(EXAMPLES / "sinh-arcsinh" / "sinh_arcsinh.py").read_bytes()]


def test_it_is_trained_again_to_the_same_bits(sinh_arcsinh):
    run_id = first_run(sinh_arcsinh, "sinh-arcsinh", "sinh-arcsinh")
    done = nfstudy(sinh_arcsinh, "rerun", run_id)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical in every point of every history" in done.stdout


def test_without_the_file_it_is_refused_and_with_another_too(sinh_arcsinh, tmp_path):
    run_id = first_run(sinh_arcsinh, "sinh-arcsinh", "sinh-arcsinh")
    file = sinh_arcsinh / "sinh_arcsinh.py"
    moved = file.rename(tmp_path / "moved.py")
    try:
        refused = nfstudy(sinh_arcsinh, "rerun", run_id)
        assert refused.returncode == 2
        assert "plug-in sinh_arcsinh.py: the run used the file with SHA-256" in refused.stderr
        file.write_text(moved.read_text() + "# edited\n")
        assert nfstudy(sinh_arcsinh, "rerun", run_id).returncode == 2
        file.unlink()
        again = nfstudy(sinh_arcsinh, "rerun", run_id, "--plugin", str(moved))
        assert again.returncode == 0, again.stderr
    finally:
        shutil.copy(moved, file)
        moved.unlink()


def test_its_runs_travel_with_the_file_and_no_code_is_run_where_they_arrive(sinh_arcsinh, tmp_path):
    assert nfstudy(sinh_arcsinh, "export", "sinh-arcsinh.yaml", "all.tar.xz").returncode == 0
    archive = read_archive(sinh_arcsinh / "all.tar.xz")
    tags = [run.record.tags for run in archive.runs]
    (plugins,) = {own["nfstudy.plugins"] for own in tags if own["nfstudy.stage"] == "repetition"}
    assert [plugin["name"] for plugin in json.loads(plugins)] == ["sinh_arcsinh.py"]
    shutil.copy(sinh_arcsinh / "all.tar.xz", tmp_path)
    done = nfstudy(tmp_path, "import", "all.tar.xz")
    assert done.returncode == 0, done.stderr
    refused = nfstudy(tmp_path, "rerun", first_run(tmp_path, "sinh-arcsinh", "sinh-arcsinh"))
    assert refused.returncode == 2
    assert "hint: name it with --plugin" in refused.stderr
    for name in ("sinh_arcsinh.py", "sinh-arcsinh.yaml"):
        shutil.copy(sinh_arcsinh / name, tmp_path)
    assert nfstudy(tmp_path, "report", "sinh-arcsinh.yaml").returncode == 0
    reports = [folder / "reports" / "sinh-arcsinh" for folder in (sinh_arcsinh, tmp_path)]
    assert nfstudy(sinh_arcsinh, "report", "sinh-arcsinh.yaml").returncode == 0
    assert exhibit_digests(reports[0]) == exhibit_digests(reports[1])
    assert [IMPORTED in (report / "index.md").read_text() for report in reports] == [False, True]


@pytest.mark.parametrize("fault", ["log-determinant", "no class"])
def test_a_flow_that_is_wrong_is_refused_before_anything_is_trained(fault, tmp_path):
    folder = write_study(tmp_path, SHIFTED)
    text, _ = WRONG[fault]
    (folder / "shift.py").write_text(text)
    done = nfstudy(folder, "run", "tiny.yaml", "--workers", "1")
    assert done.returncode == 2
    assert "error: plug-in shift.py: flow shift" in done.stderr
    assert "nothing has been trained" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_changed_file_is_another_flow_and_its_runs_stand_apart(tmp_path):
    folder = write_study(tmp_path, SHIFTED.replace("repetitions: 2", "repetitions: 1"))
    (folder / "shift.py").write_text(SHIFT)
    assert nfstudy(folder, "run", "tiny.yaml", "--workers", "1").returncode == 0
    (folder / "shift.py").write_text(SHIFT + "# another version\n")
    status = nfstudy(folder, "status", "tiny.yaml")
    assert "1 done, 1 to do" in status.stdout


def first_run(folder, study, family):
    frame = frame_of(folder, study)
    return frame[frame["flow.family"] == family]["run_id"].iloc[0]


def test_an_exhibit_from_outside_is_shown_with_a_metric_that_its_runs_log_and_that_travels(tmp_path):
    folder = tmp_path / "exhibit"
    shutil.copytree(EXAMPLES / "exhibit", folder)
    checked = nfstudy(folder, "check-plugin", "active_units.py")
    assert checked.returncode == 0, checked.stderr
    assert "metrics test/active_units: computed reproducibly on 1 small problems" in checked.stdout
    study = folder / "active-units.yaml"
    study.write_text(study.read_text().replace("updates: 1000", "updates: 100"))
    done = nfstudy(folder, "run", "active-units.yaml", "--workers", "2")
    assert done.returncode == 0, done.stderr
    report = folder / "reports" / "active-units"
    assert "active units" in (report / "tables" / "active-units.csv").read_text()
    rerun = nfstudy(folder, "rerun", frame_of(folder, "active-units")["run_id"].iloc[0])
    assert "identical in every point of every history" in rerun.stdout, rerun.stdout + rerun.stderr
    assert nfstudy(folder, "export", "active-units.yaml", "all.tar.xz").returncode == 0
    runs = read_archive(folder / "all.tar.xz").runs
    units = [count for run in runs for _, count in run.numbers("test/active_units")]
    assert len(units) == len(runs) >= 4
    assert all(0 <= count <= 40 and count == int(count) for count in units)
    there = tmp_path / "there"
    there.mkdir()
    for name in ("active_units.py", "active-units.yaml", "all.tar.xz"):
        shutil.copy(folder / name, there)
    assert nfstudy(there, "import", "all.tar.xz").returncode == 0
    for place in (folder, there):
        assert nfstudy(place, "report", "active-units.yaml").returncode == 0
    assert exhibit_digests(report) == exhibit_digests(there / "reports" / "active-units") != {}
    assert IMPORTED in (there / "reports" / "active-units" / "index.md").read_text()


def test_data_and_a_likelihood_from_outside_are_trained_and_compared(tmp_path):
    folder = tmp_path / "table"
    shutil.copytree(EXAMPLES / "table", folder)
    checked = nfstudy(folder, "check-plugin", "tumours.py")
    assert checked.returncode == 0, checked.stderr
    assert "likelihoods student-t: satisfies the contract of likelihoods of 1 kinds of numbers" in checked.stdout
    study = folder / "tumours.yaml"
    short = {
        "updates: 2000": "updates: 200",
        "repetitions: 2": "repetitions: 1",
        "flow.length: [0, 8]": "flow.length: [2]",
    }
    text = study.read_text()
    for whole, part in short.items():
        assert whole in text
        text = text.replace(whole, part)
    study.write_text(text)
    done = nfstudy(folder, "run", "tumours.yaml", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "nats per example" in (folder / "reports" / "tumours" / "tables" / "summary.md").read_text()
    frame = frame_of(folder, "tumours")
    assert set(frame["model.likelihood"]) == {"gaussian", "student-t"}
    assert (frame["outcome"] == "finished").all()
    assert (frame["test/nll"] < -frame["test/elbo"]).all()


def test_the_likelihood_of_the_example_is_students_t():
    """Against SciPy's density, at 1 and 40 degrees of freedom."""
    student_t = runpy.run_path(str(EXAMPLES / "table" / "tumours.py"))["student_t"]()
    x = torch.linspace(-50, 50, 12).view(2, 6)
    features = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    for degrees in (1.0, 40.0):
        made = student_t(6, 3, SimpleNamespace(degrees=degrees, initialisation="glorot"))
        made.initialise(lambda part: torch.Generator().manual_seed(2))
        torch.nn.init.constant_(made.raw_scale, 3.0)
        scale, location = torch.tensor(3.0).exp().log1p(), made.picture(features)
        expected = stats.t.logpdf(x.numpy(), degrees, location.detach().numpy(), scale.numpy()).sum(-1)
        np.testing.assert_allclose(made(x, features).detach().numpy(), expected, rtol=1e-5)


def test_a_metric_that_is_wrong_is_refused_before_anything_is_trained(tmp_path):
    folder = tmp_path / "exhibit"
    shutil.copytree(EXAMPLES / "exhibit", folder)
    file = folder / "active_units.py"
    file.write_text(file.read_text().replace("problem.dataset.test,", "problem.dataset.tests,"))
    done = nfstudy(folder, "run", "active-units.yaml", "--workers", "1")
    assert done.returncode == 2
    assert "error: plug-in active_units.py: metric test/active_units, of images: AttributeError" in done.stderr
    assert "nothing has been trained" in done.stderr
