"""Files appear whole or not at all."""

import pytest

from nfstudy.core.atomic import draft_of, swap_in, write_whole


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


def test_a_file_whose_name_is_as_long_as_names_may_be_is_written(tmp_path):
    path = tmp_path / ("数" * 85)
    write_whole(path, b"content")
    assert path.read_bytes() == b"content"


def test_files_are_swapped_in_together_and_stale_ones_removed(tmp_path):
    folder = tmp_path / "report"
    swap_in(folder, {"index.html": b"1", "figures/a.png": b"2", "tables/b.csv": b"3"})
    (folder / "notes.txt").write_text("mine")
    swap_in(folder, {"index.html": b"4", "figures/c.png": b"5"}, stale=["figures/a.png", "tables/b.csv", "gone"])
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert files == {"index.html": b"4", "figures/c.png": b"5", "notes.txt": b"mine"}
    assert list(tmp_path.iterdir()) == [folder]
