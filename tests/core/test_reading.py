"""Only regular files of a sane size are read, whatever they are read as: study, plug-in, data, journal, verdicts."""

import io
import os
import struct
import zipfile

import numpy as np
import pytest

from nfstudy.core.errors import DataError, ReportError, SpecError, UserError
from nfstudy.core.plugins import read_plugin
from nfstudy.core.project import Project
from nfstudy.core.reading import read_regular
from nfstudy.data.arrays import list_arrays
from nfstudy.data.files import DataFile, read_files
from nfstudy.report.build import write_files
from nfstudy.report.claims.baseline import read_baseline
from nfstudy.runner.journal import drop_torn_line, odd_line
from nfstudy.runs.tracking.database import require_ours
from nfstudy.study.reader import read_study


@pytest.fixture(params=["pipe", "device", "sparse"])
def odd(request, tmp_path):
    """A path that is no regular file of a sane size, of the name that is asked for."""

    def make(name):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "device":
            path.symlink_to("/dev/zero")
        else:
            with path.open("wb") as file:
                file.truncate(40 * 10**9)
        return path

    return make


READERS = {
    "a.yaml": (read_study, SpecError),
    "a.py": (lambda path: read_plugin(path.name, path.parent), SpecError),
    "a.bin": (lambda path: read_files([DataFile(path.name, 10, "ab" * 32, "", ())], [path.parent], False), DataError),
    "a.npz": (list_arrays, DataError),
    "a.mat": (list_arrays, DataError),
    "claims.json": (read_baseline, ReportError),
    "report/manifest.json": (lambda path: write_files(path.parent, {}, "tiny"), ReportError),
    "journal": (drop_torn_line, OSError),
    "other journal": (lambda path: odd_line(path, ()), OSError),
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_a_device_and_a_huge_file_are_refused_at_once(odd, name):
    read, error = READERS[name]
    path = odd(name)
    with pytest.raises(error, match=r"pipe, socket or device|bytes|larger") as caught:
        read(path)
    assert path.name in str(caught.value)


def test_costs_that_cannot_be_read_are_none(odd, tmp_path):
    odd("mlruns/costs/s.json")
    assert Project(tmp_path).read_costs("s") == {}


def test_a_file_that_is_as_large_as_it_may_be_is_read(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert read_regular(tmp_path / "x", 5) == b"12345"
    with pytest.raises(OSError, match="has 5 bytes; expected: at most 4"):
        read_regular(tmp_path / "x", 4)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, 5)


@pytest.mark.parametrize(
    ("content", "kept"), [(b"", b""), (b"{}\n", b"{}\n"), (b"{}\n{", b"{}\n"), (b"{" * 200_000, b"")], ids=len
)
def test_a_torn_last_line_of_a_journal_is_cut_off(tmp_path, content, kept):
    (tmp_path / "journal").write_bytes(b"{}\n" * 3 * bool(kept) + content)
    drop_torn_line(tmp_path / "journal")
    assert (tmp_path / "journal").read_bytes() == b"{}\n" * 3 * bool(kept) + kept


def test_a_header_that_says_it_is_huge_is_not_read(tmp_path):
    head = b"\x93NUMPY\x02\x00" + struct.pack("<L", 2**32 - 1)
    with zipfile.ZipFile(tmp_path / "own.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.npy", head + b" " * 10**7)
    entry = list_arrays(tmp_path / "own.npz")["train"]
    assert "its header has more than 65,536 bytes" in entry.trouble


def test_a_list_of_members_that_would_fill_the_memory_is_not_read(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number in range(10_001):
            archive.writestr(f"{number}.npy", b"")
    (tmp_path / "own.npz").write_bytes(stream.getvalue())
    with pytest.raises(DataError, match="lists more members than a set of arrays has"):
        list_arrays(tmp_path / "own.npz")
    np.savez(tmp_path / "fine.npz", train=np.zeros(3), test=np.ones(3))
    assert set(list_arrays(tmp_path / "fine.npz")) == {"train", "test"}


def test_an_operation_that_is_no_number_is_an_odd_line(tmp_path):
    for line in ("[]", "{}", "1.5", "null"):
        (tmp_path / "j").write_text(f'{{"op_code": {line}}}\n')
        assert odd_line(tmp_path / "j", frozenset({1, 2})).startswith("line 1 has operation")


def test_another_program_s_database_is_no_store(tmp_path):
    import sqlite3

    with sqlite3.connect(tmp_path / "mail.db") as connection:
        connection.execute("CREATE TABLE mails (text)")
    connection.close()
    before = (tmp_path / "mail.db").read_bytes()
    with pytest.raises(UserError, match=r"mail.db: is a database of another program \(tables mails\)"):
        require_ours(tmp_path / "mail.db")
    (tmp_path / "tiny.yaml").write_text("study: tiny, and more words than a magic number has")
    with pytest.raises(UserError, match=r"tiny.yaml: is not a SQLite database"):
        require_ours(tmp_path / "tiny.yaml")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a pipe"):
        require_ours(tmp_path / "pipe")
    assert (tmp_path / "mail.db").read_bytes() == before
