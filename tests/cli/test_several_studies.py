"""Commands over several studies take files, folders and names."""

import pytest

from nfstudy.__main__ import main

STUDY = """\
study: {0}
title: Study {0}
data: {{name: digits}}
train: {{updates: 1, learning_rate: 1e-3}}
exhibits: [summary]
"""


@pytest.fixture
def project(store, tmp_path, monkeypatch):
    """A project with an empty store, one study in `mine/` and one beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.yaml").write_text(STUDY.format("a"))
    (tmp_path / "b.yaml").write_text(STUDY.format("b"))
    return tmp_path


def commands_on(page):
    """Return of which studies the front page says how to run them."""
    text = page.read_text()
    return [name for name in ("mine/a.yaml", "b.yaml", "quickstart", "mnist") if f"nfstudy run {name}<" in text]


def test_the_overview_is_of_the_files_folders_and_names_that_are_given(project, capsys):
    assert main(["report", "--all", "mine", "b", "quickstart"]) == 0
    assert commands_on(project / "reports/index.html") == ["mine/a.yaml", "b.yaml", "quickstart"]
    assert "taking the studies" not in capsys.readouterr().err
    assert main(["report", "--all", "mine/a.yaml"]) == 0
    assert commands_on(project / "reports/index.html") == ["mine/a.yaml"]


def test_a_project_without_studies_has_the_shipped_ones_and_is_told(project, capsys):
    assert main(["report", "--all"]) == 0
    assert commands_on(project / "reports/index.html") == ["quickstart", "mnist"]
    assert "no folder studies: taking the studies that come with nfstudy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report"], "got neither STUDY nor --all; expected: one STUDY, or --all"),
        (["report", "b", "quickstart"], "got 2 studies; expected: one STUDY, or --all"),
        (["report", "--all", "c"], "c: no such study"),
        (["status", "quikstart"], "did you mean 'quickstart'?"),
    ],
)
def test_mistakes_are_told(project, capsys, words, message):
    assert main(words) == 2
    assert message in capsys.readouterr().err
