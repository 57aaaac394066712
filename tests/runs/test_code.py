"""What a run's code is said to be: by git, asked in real work trees, and by the digest of the sources."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest

from nfstudy.core.errors import UserError
from nfstudy.core.plugins import Plugin
from nfstudy.runs import code, provenance
from nfstudy.runs.code import CodeState, code_state, differing, package_sources, plugin_sources, state_of
from nfstudy.runs.provenance import environment, usable_cores


def git(tree, *arguments, **options):
    command = ["git", "-C", str(tree), "-c", "user.name=n", "-c", "user.email=e@invalid", *arguments]
    return subprocess.run(command, capture_output=True, check=True, **options).stdout


@pytest.fixture
def tree(tmp_path):
    """A work tree with one commit."""
    (tmp_path / "nfstudy").mkdir()
    (tmp_path / "nfstudy" / "one.py").write_bytes(b"one\n\xc2\xb5\n")
    (tmp_path / ".gitignore").write_text("*.log\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        git(tmp_path, *command)
    return tmp_path


def head(tree):
    return git(tree, "rev-parse", "HEAD").decode().strip()


def restored(tree, diff, folder):
    """Apply a kept patch to the commit it was made against, in a new clone, and return its files."""
    git(tree, "clone", "-q", str(tree), str(folder))
    git(folder, "apply", "-", input=diff)
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.parts
    }


def test_a_clean_tree_is_its_commit(tree):
    assert state_of(tree / "nfstudy") == CodeState(head(tree), False)


CONFIGURED = (
    [],
    ["diff.external=/no/such/program"],
    ["color.ui=always", "diff.noprefix=true", "diff.mnemonicPrefix=true", "diff.renames=copies"],
    ["status.showUntrackedFiles=no", "diff.ignoreSubmodules=all", "core.fsmonitor=/no/such/program"],
    ["diff.context=0", "diff.orderFile=/no/such/file", "core.quotePath=false", "diff.relative=true"],
    ["core.excludesFile=ignore-all"],
)


@pytest.mark.parametrize("settings", CONFIGURED, ids=lambda settings: settings[0] if settings else "plain")
def test_changes_are_kept_as_a_patch_that_applies_however_git_is_configured(tree, settings, tmp_path_factory):
    (tree / ".git" / "info" / "attributes").write_text("*.py diff=mine\n")
    for setting in ["diff.mine.textconv=true", *settings]:
        git(tree, "config", *setting.split("=", 1))
    (tree / "nfstudy" / "one.py").write_bytes(b"two\r\n\xff\n")
    (tree / "nfstudy" / "new é.py").write_text("new\n")
    (tree / "binary").write_bytes(bytes(range(256)))
    (tree / "ignored.log").write_text("none of the code")
    state = state_of(tree / "nfstudy")
    assert (state.commit, state.dirty, state.problem) == (head(tree), True, "")
    found = restored(tree, state.diff, tmp_path_factory.mktemp("clone") / "c")
    names = ("nfstudy/one.py", "nfstudy/new é.py", "binary", ".gitignore")
    assert found == {Path(name): (tree / name).read_bytes() for name in names}
    assert git(tree, "diff", "--cached", "--no-ext-diff", "--name-only") == b"", "the user's index is as it was"


def hidden_by_the_index(tree):
    git(tree, "update-index", "--assume-unchanged", "nfstudy/one.py")
    (tree / "nfstudy" / "one.py").write_text("two\n")


def hidden_from_sparse_trees(tree):
    git(tree, "update-index", "--skip-worktree", "nfstudy/one.py")
    (tree / "nfstudy" / "one.py").write_text("two\n")


def ignored(tree):
    (tree / ".git" / "info" / "exclude").write_text("two.py\n")
    (tree / "nfstudy" / "two.py").write_text("two\n")


def staged(tree):
    (tree / "nfstudy" / "one.py").write_text("two\n")
    git(tree, "add", ".")


def same_time(tree):
    path = tree / "nfstudy" / "one.py"
    before = path.stat()
    path.write_bytes(b"two\n\xc2\xb5\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [hidden_by_the_index, hidden_from_sparse_trees, ignored, staged, same_time])
def test_no_change_of_a_source_is_overlooked(tree, change):
    change(tree)
    state = state_of(tree / "nfstudy")
    assert state.dirty
    assert b"+two\n" in state.diff


def test_what_runs_and_reports_write_is_no_change_of_the_code(tree):
    (tree / "reports").mkdir()
    (tree / "reports" / "index.md").write_text("")
    assert state_of(tree / "nfstudy").dirty is False
    git(tree, "add", "reports")
    assert state_of(tree / "nfstudy").dirty is False


def test_a_long_change_is_cut_and_a_large_file_named_and_both_are_said(tree, monkeypatch):
    monkeypatch.setattr(code, "MAX_DIFF", 200)
    (tree / "nfstudy" / "one.py").write_text("x\n" * 1000)
    (tree / "large").write_bytes(bytes(201))
    diff = state_of(tree / "nfstudy").diff
    assert b"[cut: " in diff
    assert diff.startswith(b"Untracked, not kept: large (201 bytes)\n")


def without_git(tree, monkeypatch):
    monkeypatch.setenv("PATH", "")
    return "git is not installed"


def slow(tree, monkeypatch):
    monkeypatch.setattr(code, "GIT_SECONDS", 0.0)
    return "did not answer"


def of_another_user(tree, monkeypatch):
    for path in (tree, tree / ".git"):
        os.chown(path, 12345, 12345)
    return "dubious ownership"


def no_repository(tree, monkeypatch):
    (tree / ".git").rename(tree / "was")
    monkeypatch.setenv("GIT_DIR", str(tree / "was"))  # The environment's is not the sources'.
    monkeypatch.setenv("GIT_WORK_TREE", str(tree))
    return "not a git repository"


def no_commit(tree, monkeypatch):
    git(tree, "update-ref", "-d", "HEAD")
    return "rev-parse"


def in_somebody_elses(tree, monkeypatch):
    git(tree, "rm", "-rq", "--cached", "nfstudy")
    git(tree, "commit", "-qm", "without")
    return "no part of the repository"


def with_its_files_elsewhere(tree, monkeypatch):
    (tree / "elsewhere").mkdir()
    (tree / "nfstudy").rename(tree / "elsewhere" / "nfstudy")
    (tree / "nfstudy").mkdir()
    (tree / "nfstudy" / "one.py").write_text("edited\n")
    git(tree, "config", "core.worktree", str(tree / "elsewhere"))
    return "no part of the repository"


TROUBLES = [
    without_git,
    slow,
    of_another_user,
    no_repository,
    no_commit,
    in_somebody_elses,
    with_its_files_elsewhere,
]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_where_git_cannot_say_nothing_is_known_and_why_is_told(tree, trouble, monkeypatch):
    if trouble is of_another_user and os.geteuid():
        pytest.skip("only root can give files away")
    words = trouble(tree, monkeypatch)
    state = state_of(tree / "nfstudy")
    assert (state.commit, state.dirty, state.cleanliness, state.diff) == ("unknown", None, "unknown", b"")
    assert words in state.problem


def test_a_commit_is_known_though_its_changes_are_not(tree):
    (tree / "nfstudy" / "one.py").write_text("two\n")
    git(tree, "config", "filter.broken.clean", "false")
    git(tree, "config", "filter.broken.required", "true")
    (tree / ".git" / "info" / "attributes").write_text("*.py filter=broken\n")
    state = state_of(tree / "nfstudy")
    assert (state.commit, state.dirty) == (head(tree), None)
    assert state.problem


def test_a_commit_is_what_its_hash_says_whatever_is_shown_in_its_place(tree):
    first = head(tree)
    (tree / "nfstudy" / "one.py").write_text("edited\n")
    git(tree, "commit", "-qam", "edited")
    edited = head(tree)
    git(tree, "checkout", "-q", first)
    git(tree, "replace", first, edited)
    git(tree, "reset", "-q", "--hard")
    assert (tree / "nfstudy" / "one.py").read_text() == "edited\n"
    state = state_of(tree / "nfstudy")
    assert (state.commit, state.dirty) == (first, True)
    assert b"+edited" in state.diff


def test_the_repository_of_the_environment_is_not_asked(tree, monkeypatch, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "-q")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"):
        monkeypatch.setenv(name, str(other / ".git"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "/no/such/program")
    state = state_of(tree / "nfstudy")
    monkeypatch.undo()
    assert state == CodeState(head(tree), False)


def test_every_source_counts_and_is_named(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.py").write_text("a")
    (tmp_path / "inner" / "b.py").write_text("b")
    before = package_sources("mine", tmp_path)
    assert [*before] == ["mine/a.py", "mine/inner/b.py"]
    (tmp_path / "inner" / "b.py").write_text("c")
    (tmp_path / "d.py").write_text("")
    assert differing(before, package_sources("mine", tmp_path)) == ["mine/d.py", "mine/inner/b.py"]
    state = code_state()
    assert state.sources == package_sources()
    assert len(state.digest) == 64


def test_a_plug_in_that_is_a_module_counts_with_all_of_its_package(tmp_path, monkeypatch):
    package = tmp_path / "some_package_of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("1")
    monkeypatch.syspath_prepend(tmp_path)
    plugins = {
        Plugin("some_package_of_mine", digest="ab"): (),
        Plugin("f.py", path="/f.py", source="x", digest="cd"): (),
    }
    monkeypatch.setattr(code, "installed", lambda: plugins)
    before = plugin_sources()
    assert before["f.py"] == "cd"
    (package / "part.py").write_text("import some_module_of_mine")
    assert differing(before, plugin_sources()) == ["some_package_of_mine/part.py"]
    (tmp_path / "some_module_of_mine.py").write_text("")
    assert differing(before, plugin_sources()) == ["some_module_of_mine", "some_package_of_mine/part.py"]


def test_the_environment_names_versions_and_no_paths():
    found = environment()
    assert found["package torch"].startswith("2.13")
    assert {"python", "platform", "processor", "cores", "package mlflow", "package optuna"} <= found.keys()
    assert not any(value.startswith("/") for value in found.values())
    assert usable_cores() >= 1


SAY = "import sys; sys.dont_write_bytecode = False; import one; print(one.TEXT)"


@pytest.mark.parametrize("mode", ["timestamp", "unchecked-hash"])
def test_a_compiled_copy_of_an_earlier_text_is_told_of_and_is_gone(tmp_path, mode):
    source = tmp_path / "one.py"
    source.write_text("TEXT = 'old'\n")

    def say():
        return subprocess.run([sys.executable, "-c", SAY], cwd=tmp_path, capture_output=True, text=True, check=True)

    say()
    compiling = ["-m", "compileall", "-q", "-f", "--invalidation-mode", mode, str(source)]
    subprocess.run([sys.executable, *compiling], check=True)
    assert package_sources("mine", tmp_path)["mine/one.py"], "a copy of the same text is no trouble"
    stamp = source.stat()
    source.write_text("TEXT = 'new'\n")
    os.utime(source, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert say().stdout == "old\n", "the trouble"
    assert package_sources("mine", tmp_path) == {"mine/one.py": ""}
    assert say().stdout == "new\n"
    assert package_sources("mine", tmp_path)["mine/one.py"]


def test_a_launch_is_refused_where_what_it_has_loaded_is_not_known(monkeypatch):
    monkeypatch.setattr(code, "package_sources", lambda: {"nfstudy/one.py": "", "nfstudy/two.py": "ab"})
    with pytest.raises(UserError, match=r"nfstudy/one.py: Python took a compiled copy .* run the command again"):
        code_state.__wrapped__()


def test_threads_that_ask_for_the_environment_at_once_read_the_distributions_once(monkeypatch):
    asked, own = [], metadata.distributions

    def counted():
        asked.append(1)
        return own()

    monkeypatch.setattr(provenance.metadata, "distributions", counted)
    provenance._environment.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda _: environment(), range(8))]
    assert len(asked) == 1
    assert all(each == found[0] for each in found)
    for name in ("torch", "numpy", "mlflow", "optuna"):
        assert found[0][f"package {name}"] == metadata.version(name)
