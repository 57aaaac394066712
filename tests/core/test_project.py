"""Where a project's things are, and that one launcher at a time runs a study."""

import subprocess
import sys

import pytest

from nfstudy.core.errors import StoreError
from nfstudy.core.project import Project


def test_the_project_is_the_nearest_folder_above_that_holds_mlruns(tmp_path):
    (tmp_path / "mlruns").mkdir()
    inner = tmp_path / "studies" / "old"
    inner.mkdir(parents=True)
    assert Project.find(inner).root == tmp_path


def test_without_mlruns_the_project_is_the_folder_itself(tmp_path):
    assert Project.find(tmp_path).root == tmp_path


def test_data_is_looked_for_under_the_variable_and_then_in_data(monkeypatch, tmp_path):
    monkeypatch.setenv("NFSTUDY_DATA", str(tmp_path / "elsewhere"))
    assert Project(tmp_path).data_folders == (tmp_path / "elsewhere", tmp_path / "data")
    monkeypatch.delenv("NFSTUDY_DATA")
    assert Project(tmp_path).data_folders == (tmp_path / "data",)


def test_the_asked_address_wins_over_the_variable_and_that_over_the_default(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = Project(tmp_path)
    assert project.tracking_uri() == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5")
    assert project.tracking_uri() == "http://127.0.0.1:5"
    assert project.tracking_uri("sqlite:///x.db") == "sqlite:///x.db"


def test_a_second_launcher_is_told_who_holds_the_study(tmp_path):
    project = Project(tmp_path)
    code = (
        "import sys, pathlib; from nfstudy.core.project import Project\n"
        "with Project(pathlib.Path(sys.argv[1])).study_lock('s'): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        assert project.is_running("s")
        assert not project.is_running("another")
        with pytest.raises(StoreError, match=rf"study 's' is being run by another process \(pid {holder.pid}\)"):
            project.study_lock("s").__enter__()
        holder.kill()
        holder.wait()
        with project.study_lock("s"):
            assert project.is_running("s")
    assert not project.is_running("s")


def test_a_store_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "mlruns").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="mlruns: cannot be written"):
        Project(tmp_path).study_lock("s").__enter__()
