"""A real MLflow server: studies run against it, and the UI command serves a project's own store."""

import lzma
import os
import re
import signal
import time
import urllib.error
import urllib.request

import pytest
from support.command_line import TINY, frame_of, launch, nfstudy, write_study
from support.processes import free_port

from nfstudy.runs.tracking.store import open_store

pytestmark = pytest.mark.end_to_end

USER, PASSWORD = "alice17", "hunter2"
ONE_CELL = TINY.replace("[planar, nice-perm]", "[planar]").replace("[0, 2]", "[2]").replace("repetitions: 2", "")


@pytest.fixture
def served(tmp_path):
    """A project with one finished run, and `nfstudy ui` on its store; (folder, address)."""
    folder = write_study(tmp_path / "project", ONE_CELL)
    assert nfstudy(folder, "run", "tiny.yaml").returncode == 0
    port = free_port()
    process = launch(folder, "ui", "--port", str(port))
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        else:
            raise AssertionError((folder / "out.txt").read_text())
        yield folder, address
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(90)


def files_with(folder, *words):
    """Return the files of a folder in which one of some words stands; archives are looked into."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            content += lzma.decompress(content) if path.suffix == ".xz" else b""
            found += [path] if any(word.encode() in content for word in words) else []
    return found


def test_the_ui_serves_the_store_and_a_study_runs_against_a_server(served, tmp_path):
    folder, address = served
    assert re.search(rf"tiny, default: {address}/#/experiments/\d+/runs", (folder / "out.txt").read_text())
    (run_id,) = frame_of(folder)["run_id"]
    with urllib.request.urlopen(f"{address}/get-artifact?path=samples.png&run_uuid={run_id}") as picture:
        assert picture.read().startswith(b"\x89PNG")

    # With a password, which a proxy would ask for, and which is to be found nowhere afterwards.
    plain, address = address, address.replace("http://", f"http://{USER}:{PASSWORD}@")
    client = write_study(tmp_path / "client", ONE_CELL.replace("study: tiny", "study: remote"))
    done = nfstudy(client, "run", "tiny.yaml", "--tracking-uri", address)
    assert done.returncode == 0, done.stderr
    assert not (client / "mlruns" / "mlflow.db").exists()
    runs = open_store(address).runs("remote")
    (row,) = runs.frame().to_dict("records")
    assert row["outcome"] == "finished"
    assert row["test/nll"] == frame_of(folder)["test/nll"].item(), "the same cell, whichever store it is logged to"
    page = (client / "reports" / "remote" / "index.html").read_text()
    assert runs.link(row["run_id"]).startswith(f"{plain}/#/experiments/")
    assert runs.link(row["run_id"]) in page
    assert "0 runs to do" in nfstudy(client, "run", "tiny.yaml", "--tracking-uri", address).stdout

    refused = nfstudy(client, "ui", "--tracking-uri", address)
    assert refused.returncode == 2
    assert "is already served" in refused.stderr
    assert nfstudy(client, "export", "tiny.yaml", "x.tar.xz", "--tracking-uri", address).returncode == 0
    words = [done.stdout, done.stderr, refused.stdout, refused.stderr, runs.frame().to_csv()]
    assert not any(secret in text for text in words for secret in (USER, PASSWORD))
    assert files_with(client, USER, PASSWORD) == []


def test_a_server_that_is_not_there_is_a_clear_error(tmp_path):
    folder = write_study(tmp_path, ONE_CELL)
    done = nfstudy(folder, "run", "tiny.yaml", "--tracking-uri", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 2
    assert "error: tracking store http://127.0.0.1:" in done.stderr
    assert "Traceback" not in done.stderr
