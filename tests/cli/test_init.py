"""A project of one's own: its study is valid and small, nothing is overwritten."""

import os

import pytest

from nfstudy.__main__ import main
from nfstudy.core.atomic import write_whole
from nfstudy.core.project import Project
from nfstudy.study.reader import read_study


def test_a_new_folder_has_a_study_that_runs_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "own"]) == 0
    assert "next: cd own && python -m nfstudy run first" in capsys.readouterr().out
    study = read_study(tmp_path / "own/studies/first.yaml")
    assert [study.under(name).runs_of(len(study.under(name).cells)) for name in ("full", "smoke")] == [6, 3]
    monkeypatch.chdir(tmp_path / "own")
    assert Project.find().root == tmp_path / "own"
    assert main(["status", "first"]) == 0
    told = capsys.readouterr()
    assert "study file: studies/first.yaml" in told.err
    assert "3 to do" in told.out
    ignored = (tmp_path / "own/.gitignore").read_text().splitlines()
    assert {"/mlruns/", "/reports/", "/data/"} <= set(ignored)


def test_what_is_there_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".gitignore").write_text("mine\n")
    assert main(["init"]) == 0
    assert (tmp_path / ".gitignore").read_text() == "mine\n"
    (tmp_path / "studies/first.yaml").write_text("edited")
    assert main(["init"]) == 2
    assert "studies/first.yaml: is there already" in capsys.readouterr().err
    assert (tmp_path / "studies/first.yaml").read_text() == "edited"
    assert main(["init", ".gitignore"]) == 2
    assert "is a file; expected: a folder" in capsys.readouterr().err


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_told(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert main(["init", str(tmp_path / "own")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_command_that_it_names_can_be_typed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "my first study"]) == 0
    assert "next: cd 'my first study' && python -m nfstudy run first" in capsys.readouterr().out


def test_what_says_that_all_is_there_is_written_last(tmp_path, monkeypatch, capsys):
    def full(path, content):
        if path.name == "first.yaml":
            raise OSError(28, "No space left on device")
        write_whole(path, content)

    monkeypatch.setattr("nfstudy.cli.init.write_whole", full)
    assert main(["init", str(tmp_path / "own")]) == 2
    assert (tmp_path / "own/.gitignore").is_file()
    monkeypatch.undo()
    assert main(["init", str(tmp_path / "own")]) == 0
    assert (tmp_path / "own/studies/first.yaml").is_file()
