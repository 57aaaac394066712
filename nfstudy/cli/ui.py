"""The MLflow UI on the project's own store."""

from __future__ import annotations

import argparse
import ipaddress
import os
import subprocess
import sys
from contextlib import suppress

from nfstudy.core.errors import UserError
from nfstudy.core.project import Project
from nfstudy.runs.tracking.store import open_store


def ui(options: argparse.Namespace) -> int:
    """Start the MLflow UI on the project's store, or Optuna's dashboard on its searches."""
    if options.optuna:
        return dashboard(options.tracking_uri, options.host, options.port or 8080)
    return serve(Project.find().tracking_uri(options.tracking_uri), options.host, options.port or 5000)


def serve(uri: str, host: str, port: int) -> int:
    """Run MLflow's server until it is stopped, and return its exit code.

    MLflow's own `ui` would start fifteen processes, and ignore the tracking address: one web worker and no job runner
    are enough to browse.

    Raises:
        StoreError: there is no store yet.
        UserError: the store is itself served elsewhere.
    """
    if uri.startswith(("http://", "https://")):
        raise UserError(f"{uri}: is already served; hint: open that address in a browser")
    store = open_store(uri)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri, "--workers", "1"]
    command += ["--host", host, "--port", str(port)]
    if store.folder:
        command += ["--artifacts-destination", str(store.folder / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    address = f"http://{host}:{port}"
    print(f"MLflow UI on {address} (ready in a few seconds; stop with Ctrl-C)")
    if not _is_loopback(host):
        print(f"no authentication: anyone who can reach {host} can read, change and delete the runs")
    for study, experiment in store.studies().items():
        print(
            f"  {study}: {address}/#/experiments/{experiment}/runs?compareRunsMode=CHART&workflowType=machine_learning"
        )
    sys.stdout.flush()
    with subprocess.Popen(command, env=os.environ | quiet) as server:
        try:
            return server.wait()
        except KeyboardInterrupt:
            return server.wait()


def dashboard(uri: str | None, host: str, port: int) -> int:
    """Run Optuna's dashboard on a copy of the project's searches until it is stopped.

    Raises:
        StoreError: no search has been run, or a journal cannot be read.
        UserError: it is not installed, the address is taken, or is reached from other machines.
    """
    from nfstudy.runner.dashboard import serve_dashboard
    from nfstudy.runs.tracking.uris import database_file, is_sqlite

    if not _is_loopback(host):
        raise UserError(f"--host {host}: got --optuna, which knows no password; expected: an address of this machine")
    project = Project.find()
    store = project.tracking_uri(uri)
    folder = database_file(store).parent if is_sqlite(store) else project.store
    journals = sorted((folder / "optuna").glob("*.journal"))
    print(f"Optuna's dashboard on http://{host}:{port}, on a copy of the searches as they are now (stop with Ctrl-C)")
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
