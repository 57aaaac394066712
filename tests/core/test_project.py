"""Where a project's things are, and that one launcher at a time runs a study."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import make_url

from nfstudy.core.errors import StoreError
from nfstudy.core.project import Project
from nfstudy.core.sqlite_uri import sqlite_path, sqlite_uri


def test_the_project_is_the_nearest_folder_above_that_holds_mlruns(tmp_path):
    (tmp_path / "mlruns").mkdir()
    inner = tmp_path / "studies" / "old"
    inner.mkdir(parents=True)
    assert Project.find(inner).root == tmp_path


def test_without_mlruns_the_project_is_the_folder_itself(tmp_path):
    assert Project.find(tmp_path).root == tmp_path


@pytest.mark.parametrize("place", [".", ".."])
def test_a_link_that_leads_nowhere_is_an_error_and_no_reason_to_take_another_store(place, tmp_path):
    (tmp_path / "mlruns").mkdir()
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    link = (inner / place).resolve() / "mlruns"
    link.symlink_to("/mnt/gone")
    with pytest.raises(StoreError, match=f"{link}: is a link to /mnt/gone, which is no folder"):
        Project.find(inner)
    link.unlink()
    link.symlink_to(tmp_path / "mlruns")
    assert Project.find(inner).root == link.parent


def test_a_file_where_the_store_should_be_is_an_error(tmp_path):
    (tmp_path / "mlruns").mkdir()
    inner = tmp_path / "a"
    inner.mkdir()
    (inner / "mlruns").write_text("")
    with pytest.raises(StoreError, match="mlruns: is no folder"):
        Project.find(inner)


NAMES = ("exp%20a", "what?", "a#b", "sp ace", "µ数", "100%", "a?b=c&d", "new\nline", "back\\slash", "c:o;l@n", "'\"")


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_folder_is_itself_in_an_address(name, tmp_path):
    path = tmp_path / name / "mlruns" / "mlflow.db"
    uri = sqlite_uri(path)
    assert sqlite_path(uri) == path
    assert make_url(uri).database == str(path), "SQLAlchemy, and so MLflow, read the same"
    path.parent.mkdir(parents=True)
    assert sqlite_path(f"sqlite:///{path}") == path, "as a person writes it"
    with closing(sqlite3.connect(path)):
        assert sqlite_path(uri) == path


def test_an_address_may_have_options_and_encoded_names(tmp_path):
    (tmp_path / "sp ace").mkdir()
    wanted = tmp_path / "sp ace" / "x.db"
    assert sqlite_path(f"sqlite:///{tmp_path}/sp%20ace/x.db?timeout=5&uri=true") == wanted
    assert sqlite_path("sqlite:///x.db") == Path("x.db").absolute()


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
        with pytest.raises(
            StoreError, match=rf"being run by another process \(pid {holder.pid} on .*, folder {tmp_path}, since"
        ):
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


@pytest.mark.parametrize("text", ['{"a": []}', '{"a": %s}' % ("9" * 400), "[" * 10_000, "[1]", '{"a": "x"}', "\xff"])
def test_costs_that_somebody_has_edited_are_none(text, tmp_path):
    project = Project(tmp_path)
    project.write_costs("s", {"a": 1.5})
    assert project.read_costs("s") == {"a": 1.5}
    (tmp_path / "mlruns" / "costs" / "s.json").write_text(text)
    assert project.read_costs("s") == {}
    project.write_costs("s", {"a": 2.5})
    assert project.read_costs("s") == {"a": 2.5}
