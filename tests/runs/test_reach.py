"""Tracking addresses: what can be one, what has to be installed, and whether somebody answers, all said at once."""

import os
import socket
import time

import pytest
from support.processes import free_port

from nfstudy.core.errors import StoreError, StoreUnavailableError
from nfstudy.core.project import Project
from nfstudy.runs.tracking.open import load_frame, open_runs
from nfstudy.runs.tracking.reach import require_address, require_answer
from nfstudy.runs.tracking.store import open_store


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("mlruns", "tracking address mlruns: expected: sqlite:///FILE, http"),
        ("databricks", "expected: sqlite:///FILE"),
        ("file:///tmp/mlruns", "expected: sqlite:///FILE"),
        ("foo://x", "expected: sqlite:///FILE"),
        ("htp://x", "did you mean 'http'?"),
        ("postgres://u:pw@h/d", "did you mean 'postgresql'?"),
        ("SQLITE:///x", "did you mean 'sqlite'?"),
        ("sqlite://x.db", "with three slashes"),
        ("sqlite:///", "is a folder"),
        ("sqlite:///{folder}", "is a folder"),
        ("sqlite:///{folder}/file/x.db", "file is a file; expected: sqlite:///FILE, in a folder"),
        ("sqlite:///a%00b", "no file can have this name"),
        (f"sqlite:///{'x' * 300}", "no file can have this name: File name too long"),
        ("http://", "expected: http(s)://HOST"),
        ("http://h:99999", "ports to 65535"),
        ("http://alice:1/2@h", "percent-encoded, such as @ in a password as %40"),
        ("http://alice:1 2@h", "percent-encoded"),
        ("postgresql+psycopg://alice:p@w@h/d", "percent-encoded"),
        ("mysql://u:pw@h/d", "needs MySQLdb, which is not installed; hint: write mysql+pymysql://"),
        ("mssql+pyodbc://h/d", "needs pyodbc, which is not installed; hint: pip install pyodbc"),
        ("postgresql+nodriver://h/d", "no such driver; expected"),
        ("postgresql://h:x/d", "cannot be read; expected"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_by_all_that_open_it(uri, words, tmp_path):
    (tmp_path / "file").write_text("")
    address = uri.format(folder=tmp_path)
    for opened in (require_address, open_runs, open_store, lambda uri: load_frame(uri, "s")):
        with pytest.raises(StoreError) as caught:
            opened(address)
        assert words in str(caught.value)
        assert "pw" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "is a pipe, socket or device; expected: a database"),
        (lambda path: path.symlink_to("gone"), "is a link to gone, which is not there; expected: a database"),
    ],
    ids=["pipe", "link"],
)
def test_what_is_no_file_in_the_place_of_a_database_is_refused_at_once(make, words, tmp_path):
    make(tmp_path / "x.db")
    for opened in (require_address, open_runs, open_store, lambda uri: load_frame(uri, "s")):
        with pytest.raises(StoreError, match=words):
            opened(f"sqlite:///{tmp_path / 'x.db'}")


def test_which_extra_has_the_driver_is_said(monkeypatch):
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

    def missing(cls=None):
        raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")

    monkeypatch.setattr(PGDialect_psycopg, "import_dbapi", missing)
    with pytest.raises(
        StoreError, match=r"needs psycopg, which is not installed; hint: pip install 'nfstudy\[cluster\]'"
    ):
        require_address("postgresql+psycopg://h/d")


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:{port}",
        "http://a..b",
        "https://no-such-host.invalid",
        "postgresql+psycopg://127.0.0.1:{port}/d",
    ],
)
def test_a_host_that_does_not_answer_is_told_at_once(uri, monkeypatch):
    if uri.startswith("postgresql"):
        pytest.importorskip("psycopg")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    before = time.process_time()
    with pytest.raises(StoreUnavailableError, match=r"cannot be reached: .*hint: start it, or pass another"):
        open_runs(uri.format(port=free_port()))
    assert time.process_time() - before < 5


def test_a_server_that_listens_and_one_behind_a_proxy_are_asked_by_mlflow(monkeypatch):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        require_answer(f"http://127.0.0.1:{server.getsockname()[1]}")
    monkeypatch.setenv("http_proxy", "http://proxy.example.org:3128")
    require_answer("http://only-the-proxy-knows.example.org")


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://h ", "http://h"),
        (" sqlite:///x.db\n", "sqlite:///x.db"),
        ("sqlite:///~/x.db", "sqlite:///{home}/x.db"),
        (" ", "sqlite:///{root}/mlruns/mlflow.db"),
    ],
)
def test_variables_are_stripped_and_expanded(given, used, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    project = Project(tmp_path)
    expected = used.format(home=tmp_path / "home", root=tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert project.tracking_uri(given) == expected
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert project.tracking_uri() == expected


@pytest.mark.parametrize(
    ("given", "folders"), [(" ~/sets ", ["home/sets", "data"]), ("  ", ["data"]), ("~nobody/x", None)]
)
def test_the_folder_of_data_is_stripped_and_expanded(given, folders, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NFSTUDY_DATA", given)
    found = [*Project(tmp_path).data_folders]
    assert len(found) == 2 if folders is None else found == [tmp_path / folder for folder in folders]
