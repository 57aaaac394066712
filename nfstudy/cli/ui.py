"""The MLflow UI on the project's own store, and Optuna's dashboard on its searches."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

from nfstudy.cli.options import find_store
from nfstudy.core.errors import StoreError, UserError
from nfstudy.core.guard import start_guarded
from nfstudy.core.project import Project, variable
from nfstudy.core.sqlite_uri import SQLITE
from nfstudy.runs.tracking.presented import show_study
from nfstudy.runs.tracking.store import Store, open_store
from nfstudy.runs.tracking.uris import database_file, is_served
from nfstudy.runs.views import budgets_of, runs_page
from nfstudy.study.find import study_now

_HOSTS, _ORIGINS = "MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"
STUDIES = "#/experiments?workflowType=machine_learning"
"""The page of the studies: without it, MLflow opens on one for language models."""
_ALWAYS = ("localhost", "localhost:*", "127.0.0.1", "127.0.0.1:*", "[::1]", "[[]::1]:*")


def ui(options: argparse.Namespace) -> int:
    """Start the MLflow UI on the project's store, or Optuna's dashboard on its searches."""
    if options.optuna:
        if options.allowed_hosts:
            raise UserError("--allowed-hosts: got --optuna, which serves this machine alone; expected: one of the two")
        return dashboard(options.tracking_uri, options.host, options.port or 8080)
    _, uri = find_store(options.tracking_uri)
    return serve(uri, options.host, options.port or 5000, options.allowed_hosts)


def serve(uri: str, host: str, port: int, allowed: Sequence[str] = ()) -> int:
    """Run MLflow's server until it is stopped, and return 0; or 2 where it ends by itself.

    MLflow's own `ui` would start fifteen processes, and ignore the tracking address: one web worker and no job runner
    are enough to browse. They end with this process, also when that is killed.

    Raises:
        StoreError: there is no store yet.
        UserError: the store is itself served elsewhere, or nobody can listen there.
    """
    if is_served(uri):
        raise UserError(f"{uri}: is already served; hint: open that address in a browser")
    require_free(host, port)
    store = open_store(uri)
    _bring_up_to_date(store)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", host, "--port", str(port)]
    if store.folder:
        command += ["--artifacts-destination", (store.folder / "artifacts").as_uri()]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    # Not on the command line, which every user of the machine can read: it may hold a password.
    quiet |= {"MLFLOW_BACKEND_STORE_URI": address_of(store)}
    names = [host] if _is_loopback(host) and not allowed else [*_names(host), *allowed]
    quiet |= _allowing(names, port)
    address, *others = [_address(name, port) for name in names if "*" not in name]
    also = f"; also on {', '.join(others)}" if others else ""
    print(f"MLflow UI on {address}/{STUDIES}{also} (ready in a few seconds; stop with Ctrl-C)")
    if not _is_loopback(host):
        print(f"no authentication: anyone who can reach {host} can read, change and delete the runs")
    for study, (experiment, tags) in sorted(store.study_tags().items()):
        for budget in budgets_of(tags) or (None,):
            print(f"  {study}{f', {budget}' if budget else ''}: {runs_page(address, experiment, budget)}")
    sys.stdout.flush()
    server = start_guarded(command, os.environ | quiet, store.folder)
    try:
        code = server.wait()
    except KeyboardInterrupt:
        assert server.stdin
        server.stdin.close()
        server.wait()
        return 0
    raise UserError(f"the MLflow server ended by itself, with exit code {code}; what it has printed says why")


def _bring_up_to_date(store: Store) -> None:
    """Make the views of studies that have none yet: those of earlier versions."""
    project = Project.find()
    for study, (_, tags) in store.study_tags().items():
        if not budgets_of(tags):
            with suppress(StoreError):  # Another program is writing; the runs are shown all the same.
                show_study(store, study, project.page(project.report(study_now(study))))


def require_free(host: str, port: int) -> None:
    """Make sure that a program can listen at an address; raises UserError that says why not."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host}: {reason}; expected: an address or a name of this machine") from None
    for family, kind, protocol, _, place in found[:1]:
        try:
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(place)
                listener.listen()
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise UserError(f"--host {host}: expected: an address or a name of this machine") from None
            if error.errno == errno.EADDRINUSE:
                raise UserError(f"--port {port}: another program listens there; hint: choose another --port") from None
            raise UserError(f"--port {port}: {error.strerror}; expected: a port that this user may listen on") from None


def _names(host: str) -> list[str]:
    """Return names and addresses under which browsers reach what listens at an address; the best for links first."""
    if host not in ("0.0.0.0", "::"):
        return [host]
    own = socket.gethostname()
    with suppress(OSError, UnicodeError):
        full, _, addresses = socket.gethostbyname_ex(own)
        return list(dict.fromkeys((own, full, *addresses, "127.0.0.1")))
    return ["127.0.0.1"]


def _allowing(names: Sequence[str], port: int) -> dict[str, str]:
    """Return the variables by which MLflow answers requests under these names, beside those that it always answers."""
    hosts, origins = list(_ALWAYS), []
    for name in names:
        shown = _address(name, port).removeprefix("http://")
        hosts += [name, shown]
        origins += [f"http://{shown}", f"https://{name}"]
    given = {name: variable(name) for name in (_HOSTS, _ORIGINS)}
    return {
        _HOSTS: ",".join(dict.fromkeys((*hosts, *(given[_HOSTS] or "").split(",")))).strip(","),
        _ORIGINS: ",".join(dict.fromkeys((*origins, *(given[_ORIGINS] or "").split(",")))).strip(","),
    }


def _address(name: str, port: int) -> str:
    """Return the address of a page; a name that says its own port keeps it."""
    if ":" in name and name.count(":") == 1:
        return f"http://{name}"
    return f"http://[{name}]:{port}" if ":" in name and not name.startswith("[") else f"http://{name}:{port}"


def address_of(store: Store) -> str:
    """Return the address of a store for a server that is started in its folder: MLflow reads few names as they are."""
    return f"{SQLITE}{database_file(store.uri).name}" if store.folder else store.uri


def dashboard(uri: str | None, host: str, port: int) -> int:
    """Run Optuna's dashboard on a copy of the project's searches until it is stopped.

    Raises:
        StoreError: no search has been run, or a journal cannot be read.
        UserError: it is not installed, nobody can listen there, or it could be reached from other machines.
    """
    from nfstudy.runner.dashboard import serve_dashboard
    from nfstudy.runs.tracking.uris import database_file, is_sqlite

    if not _is_loopback(host):
        raise UserError(f"--host {host}: got --optuna, which knows no password; expected: 127.0.0.1, ::1 or localhost")
    require_free(host, port)
    project, store = find_store(uri)
    folder = database_file(store).parent if is_sqlite(store) else project.store
    journals = sorted((folder / "optuna").glob("*.journal"))
    print(f"Optuna's dashboard on {_address(host, port)}, on a copy of the searches as they are now (stop with Ctrl-C)")
    sys.stdout.flush()
    with suppress(KeyboardInterrupt):
        serve_dashboard(journals, host, port)
    return 0


def _is_loopback(host: str) -> bool:
    """Say whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
