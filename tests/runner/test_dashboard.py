"""Optuna's dashboard: on a copy of the journals, under readable names, from this machine alone."""

import json
import socket
import threading
import urllib.request
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from optuna_dashboard import wsgi

from nfstudy.__main__ import main
from nfstudy.core.errors import StoreError
from nfstudy.runner.dashboard import OBJECTIVE, copy_of_journals
from nfstudy.runner.scheduler import Scheduler
from nfstudy.runner.search import study_plan
from nfstudy.runs.result import TrialResult
from nfstudy.study.reader import parse_study

pytestmark = pytest.mark.slow

STUDY = """\
study: s
title: T
data: {name: digits}
grid: {flow.family: [planar], flow.length: [2]}
search: {sampler: {name: random, trials: 3}, space: {train.learning_rate: {low: 1e-4, high: 1e-2, log: true}}}
exhibits: [summary]
"""


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def journal(tmp_path):
    path = tmp_path / "mlruns" / "optuna" / "s.journal"
    scheduler = Scheduler(study_plan(parse_study(STUDY, "s.yaml").under(), path), {})
    while task := scheduler.next():
        scheduler.tell(task, TrialResult("finished", value=90.0 + task.trial.index))
    return path


def test_searches_have_names_for_people_and_what_is_written_stays_in_the_copy(journal):
    before = journal.read_bytes()
    copy = copy_of_journals([journal])
    names = {study.study_name: study for study in copy.get_all_studies()}
    assert list(names) == ["s, default: cells", "s, default: search in planar K=2 D=40"]
    search = names["s, default: search in planar K=2 D=40"]
    assert [trial.value for trial in copy.get_all_trials(search._study_id)] == [90.0, 91.0, 92.0]
    with make_server("127.0.0.1", 0, wsgi(copy), handler_class=Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/api/studies/{search._study_id}?after=0"
        with urllib.request.urlopen(address) as answer:
            shown = json.load(answer)
        server.shutdown()
    assert shown["objective_names"] == [OBJECTIVE] == ["validation F (nats)"]
    copy.delete_study(search._study_id)
    assert journal.read_bytes() == before
    assert [path.name for path in journal.parent.iterdir()] == ["s.journal"]


def test_a_journal_with_a_torn_line_is_read_and_one_that_is_none_is_told(journal):
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "wor')
    assert len(copy_of_journals([journal]).get_all_studies()) == 2
    assert journal.read_bytes() == whole + b'{"op_code": 4, "wor'
    journal.write_text("not a journal\nnor this\n")
    with pytest.raises(StoreError, match=r"s\.journal: is not a journal"):
        copy_of_journals([journal])


def test_the_command_serves_this_machine_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["ui", "--optuna", "--host", "0.0.0.0"]) == 2
    assert "--host 0.0.0.0: got --optuna" in capsys.readouterr().err
    assert main(["ui", "--optuna", "--allowed-hosts", "lab.example.org"]) == 2
    assert "--allowed-hosts: got --optuna" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert main(["ui", "--optuna", "--port", str(other.getsockname()[1])]) == 2
    assert "another program listens there" in capsys.readouterr().err
    assert main(["ui", "--optuna"]) == 2
    assert "no search has been run here" in capsys.readouterr().err
