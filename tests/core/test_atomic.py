"""Files and folders appear whole or not at all; drafts that a kill has left are swept, and nothing else is."""

import os
import signal
import sys
from pathlib import Path

import pytest

from nfstudy.core import atomic
from nfstudy.core.atomic import draft_of, swap_files_in, swap_in, sweep, write_whole


def test_a_file_is_replaced_once_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    for text in ("first", "second"):
        before = path.read_text() if path.exists() else None
        with draft_of(path) as draft:
            draft.write_text(text)
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def break_off(path):
    with draft_of(path) as draft:
        draft.write_text("half of the n")
        raise OSError("no room")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="no room"):
        break_off(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_draft_that_cannot_be_begun_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"

    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr(Path, "open", no_memory)
    with pytest.raises(MemoryError), draft_of(path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_name_is_as_long_as_names_may_be_is_written(tmp_path):
    path = tmp_path / ("数" * 85)
    write_whole(path, b"content")
    assert path.read_bytes() == b"content"


def content_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OLD = {"index.html": b"1", "figures/a.png": b"2", "tables/b.csv": b"3"}
NEW = {"index.html": b"4", "figures/c.png": b"5"}
STALE = ["figures/a.png", "tables/b.csv", "gone"]


@pytest.mark.parametrize("exchange", ["at once", "one by one"])
@pytest.mark.parametrize("swap", [swap_in, swap_files_in])
def test_files_are_swapped_in_together_and_stale_ones_removed(tmp_path, swap, exchange, monkeypatch):
    if exchange == "one by one":

        def cannot(one, other):
            raise OSError("not on this disk")

        monkeypatch.setattr(atomic, "_exchange", cannot)
    folder = tmp_path / "report"
    swap(folder, OLD)
    (folder / "notes.txt").write_text("mine")
    (folder / "figures" / "mine.png").write_text("mine too")
    swap(folder, NEW, stale=STALE)
    assert content_of(folder) == {**NEW, "notes.txt": b"mine", "figures/mine.png": b"mine too"}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "report").symlink_to("elsewhere")
    swap_in(tmp_path / "report", NEW)
    assert (tmp_path / "report").is_symlink()
    assert content_of(tmp_path / "elsewhere") == NEW


STEPS = ("os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "ctypes.dlsym", "shutil.rmtree", "open")


def killed_at(step, work):
    """Do some work in a process that is killed before its so many-th step on the disk; say whether it was."""
    if (child := os.fork()) == 0:
        calls = iter(range(step))

        def watch(event, arguments):
            if event in STEPS and next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_a_kill_at_any_step_leaves_the_old_folder_or_the_new_one_and_the_next_write_sweeps(tmp_path):
    folder = tmp_path / "report"
    for step in range(1000):
        swap_in(folder, OLD, NEW)
        (folder / "notes.txt").write_text("mine")
        killed = killed_at(step, lambda: swap_in(folder, NEW, STALE))
        assert content_of(folder) in [{**files, "notes.txt": b"mine"} for files in (OLD, NEW)], step
        if not killed:
            break
    assert step > 20
    swap_in(folder, OLD, NEW)
    left = [path for path in tmp_path.iterdir() if path != folder]
    assert all(not [*path.iterdir()] for path in left), "what a kill left before the lock was there is empty"
    for path in left:
        os.utime(path, (0, 0))
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [folder]


def test_drafts_of_a_process_at_work_and_what_only_looks_like_one_are_left(tmp_path):
    for name in (".mine-abc.draft", ".cache", "notes.draft"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keep.txt").write_text("mine")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".link-abc.draft").symlink_to(tmp_path / ".cache")
    before = sorted(tmp_path.rglob("*"))
    with draft_of(tmp_path / "file.txt") as draft:
        draft.write_text("new")
        sweep(tmp_path)
        assert not killed_at(10**6, lambda: sweep(tmp_path))
        assert draft.read_text() == "new"
    (tmp_path / "file.txt").unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_draft_that_is_swept_before_its_lock_is_held_is_begun_again(tmp_path, monkeypatch):
    """Workers write their checkpoints beside one another, and each sweeps first."""
    locked, others = atomic._locked, iter([lambda: sweep(tmp_path)])

    def late(file, wait=False):
        if wait:
            next(others, lambda: None)()
        return locked(file, wait)

    monkeypatch.setattr(atomic, "_locked", late)
    write_whole(tmp_path / "x", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"new"


def test_processes_that_write_beside_one_another_lose_nothing(tmp_path):
    def write(name):
        for number in range(300):
            write_whole(tmp_path / name, str(number).encode())

    children = []
    for name in "abc":
        if (child := os.fork()) == 0:
            code = 1
            try:
                write(name)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert content_of(tmp_path) == dict.fromkeys("abc", b"299")


def test_what_a_killed_process_leaves_beside_a_file_is_swept(tmp_path):
    def half():
        with draft_of(tmp_path / "x") as draft:
            draft.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert killed_at(10**6, half)
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".draft")
    write_whole(tmp_path / "x", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
