"""The user information of a tracking address is in nothing that a command prints, whatever goes wrong."""

from contextlib import nullcontext

import pytest
from support.fake_copies import small_archive
from support.processes import free_port

from nfstudy.__main__ import main
from nfstudy.core.errors import StoreError
from nfstudy.runs.tracking.mlflow_runs import StudyRuns
from nfstudy.runs.tracking.open import open_runs

STUDY = "study: s\ntitle: T\ndata: {name: digits}\nexhibits: [summary]\n"
COMMANDS = {
    "status": ["status", "s.yaml"],
    "report": ["report", "s.yaml"],
    "export": ["export", "s.yaml", "new"],
    "import": ["import", "x"],
    "rerun": ["rerun", "ab" * 16],
    "ui": ["ui"],
}
ADDRESSES = {
    "a server that is not there": "http://alice17:hunter2@127.0.0.1:{port}",
    "a database that is not there": "postgresql+psycopg://alice17:hun/ter2@127.0.0.1:{port}/mlflow?password=hunter2",
    "no address": "://alice17:hunter2@127.0.0.1:{port}",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "s.yaml").write_text(STUDY)
    small_archive(tmp_path / "x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 0)
    return tmp_path


CASES = [(command, "a server that is not there") for command in COMMANDS] + [("status", name) for name in ADDRESSES]


@pytest.mark.parametrize(("command", "address"), CASES)
def test_a_command_that_fails_prints_no_password(folder, capfd, command, address):
    uri = ADDRESSES[address].format(port=free_port())
    assert main([*COMMANDS[command], "--tracking-uri", uri]) == 2
    words = "".join(capfd.readouterr())
    assert "error: " in words
    assert not any(secret in words for secret in ("alice17", "hunter2", "ter2"))


def test_links_to_a_server_and_errors_that_others_raise_have_none():
    class Client:
        def get_experiment_by_name(self, name):
            return type("Experiment", (), {"experiment_id": "7", "lifecycle_stage": "active"})

    runs = StudyRuns(Client(), "https://alice17:hunter2@host/mlflow/", "s", nullcontext)
    runs.__dict__["_own_ids"] = {}
    assert runs.link("ab") == "https://host/mlflow/#/experiments/7/runs/ab"
    with pytest.raises(StoreError) as caught:
        open_runs(f"http://alice17:hunter2@127.0.0.1:{free_port()}")("s")
    assert "hunter2" not in str(caught.value)
