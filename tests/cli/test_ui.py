"""`ui`: where it can listen, who may open it, and links that lead there; MLflow's server itself is not started."""

import socket
from types import SimpleNamespace

import pytest
from mlflow.server import security_utils

from nfstudy.cli import ui
from nfstudy.core.errors import UserError


@pytest.fixture
def started(store, monkeypatch):
    """What the server would have been started with."""
    store.experiment("tiny")
    seen = SimpleNamespace(uri=store.uri, code=0)

    def start(command, environment, folder):
        seen.command, seen.environment, seen.folder = command, environment, folder
        return SimpleNamespace(
            wait=interrupt if seen.code == 0 else lambda: seen.code, stdin=SimpleNamespace(close=int)
        )

    def interrupt(interrupted=[]):  # noqa: B006 - the second wait is after the interruption.
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        return 0

    monkeypatch.setattr(ui, "start_guarded", start)
    return seen


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(environment, host, monkeypatch, port):
    """Whether MLflow would answer a browser that opens it under a name: the page, and what the page asks for."""
    for name in ("MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"):
        monkeypatch.setenv(name, environment.get(name, ""))
    hosts = security_utils.get_allowed_hosts_from_env() or security_utils.get_default_allowed_hosts()
    origins = security_utils.get_allowed_origins_from_env()
    blocked = security_utils.should_block_cors_request(f"http://{host}:{port}", "POST", origins)
    return security_utils.is_allowed_host_header(hosts, f"{host}:{port}") and not blocked


def test_a_server_for_everybody_answers_under_the_names_of_the_machine_and_those_that_are_allowed(
    started, monkeypatch, capsys
):
    port = free_port()
    monkeypatch.setattr(ui.socket, "gethostname", lambda: "lab")
    monkeypatch.setattr(ui.socket, "gethostbyname_ex", lambda name: ("lab.example.org", [], ["8.8.4.4"]))
    assert ui.serve(started.uri, "0.0.0.0", port, ("proxy.example.org",)) == 0
    for host in ("lab", "lab.example.org", "8.8.4.4", "127.0.0.1", "localhost", "proxy.example.org"):
        assert answers(started.environment, host, monkeypatch, port), host
    assert not answers(started.environment, "evil.example.org", monkeypatch, port)
    told = capsys.readouterr().out
    assert f"  tiny: http://lab:{port}/#/experiments/1/runs" in told
    assert f"http://8.8.4.4:{port}" in told
    assert "no authentication" in told


def test_a_server_for_this_machine_answers_this_machine_alone(started, monkeypatch, capsys):
    port = free_port()
    ui.serve(started.uri, "127.0.0.1", port)
    assert answers(started.environment, "localhost", monkeypatch, port)
    assert not answers(started.environment, "lab.example.org", monkeypatch, port)
    assert f"http://127.0.0.1:{port}/#/experiments/1/runs" in capsys.readouterr().out
    # Started in the store's folder, for of most names MLflow takes the file's own alone as it is.
    assert started.environment["MLFLOW_BACKEND_STORE_URI"] == "sqlite:///mlflow.db"
    assert (started.folder / "mlflow.db").exists()


def test_an_address_of_version_6_stands_in_brackets(started, monkeypatch, capsys):
    monkeypatch.setattr(ui, "require_free", lambda host, port: None)
    ui.serve(started.uri, "fd00::7", 5000)
    assert answers(started.environment, "[fd00::7]", monkeypatch, 5000)
    assert "http://[fd00::7]:5000/#/experiments" in capsys.readouterr().out


def test_a_port_in_use_is_refused_and_another_programs_links_are_not_printed(started, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UserError, match=rf"--port {other.getsockname()[1]}: another program listens there"):
            ui.serve(started.uri, "127.0.0.1", other.getsockname()[1])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "192.0.2.1"])
def test_a_host_that_is_not_this_machine_is_refused(host):
    with pytest.raises(UserError, match=rf"--host {host}: .*expected: an address or a name of this machine"):
        ui.require_free(host, 5000)


def test_a_server_that_ends_by_itself_is_an_error(started):
    started.code = 3
    with pytest.raises(UserError, match="ended by itself, with exit code 3"):
        ui.serve(started.uri, "127.0.0.1", free_port())
