"""What a run stood on, found in real git work trees."""

import subprocess

import pytest

from nfstudy.runs import provenance
from nfstudy.runs.provenance import CodeState, code_state, environment, usable_cores


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A work tree with one commit, taken for the one that this package stands in."""
    (tmp_path / "nfstudy" / "runs").mkdir(parents=True)
    (tmp_path / "nfstudy" / "runs" / "provenance.py").write_text("one\n")
    (tmp_path / "pyproject.toml").write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@invalid"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "nfstudy" / "runs" / "provenance.py"))
    code_state.cache_clear()
    yield tmp_path
    code_state.cache_clear()


def test_a_clean_tree_is_its_commit(tree):
    head = subprocess.run(["git", "-C", str(tree), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert code_state() == CodeState(head.stdout.strip(), False, "")


def test_a_changed_tree_is_dirty_and_its_change_is_kept(tree):
    (tree / "nfstudy" / "runs" / "provenance.py").write_text("two\n")
    (tree / "new.py").write_text("")
    state = code_state()
    assert state.dirty
    assert "-one\n+two\n" in state.diff
    assert "Untracked: new.py" in state.diff


def test_what_runs_and_reports_write_is_no_change_of_the_code(tree):
    (tree / "reports").mkdir()
    (tree / "reports" / "index.md").write_text("")
    assert code_state().diff == ""
    subprocess.run(["git", "-C", str(tree), "add", "reports"], check=True)
    code_state.cache_clear()
    assert not code_state().dirty


def test_a_long_change_is_cut_and_says_so(tree, monkeypatch):
    monkeypatch.setattr(provenance, "MAX_DIFF", 100)
    (tree / "nfstudy" / "runs" / "provenance.py").write_text("x\n" * 1000)
    assert "[cut: " in code_state().diff


def test_a_package_that_stands_in_no_work_tree_has_an_unknown_commit(tmp_path, monkeypatch):
    (tmp_path / "nfstudy" / "runs").mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "nfstudy" / "runs" / "provenance.py"))
    code_state.cache_clear()
    assert code_state() == CodeState("unknown", False, "")
    code_state.cache_clear()


def test_the_environment_names_versions_and_no_paths():
    found = environment()
    assert found["package torch"].startswith("2.13")
    assert {"python", "platform", "processor", "cores", "package mlflow", "package optuna"} <= found.keys()
    assert not any(value.startswith("/") for value in found.values())
    assert usable_cores() >= 1
