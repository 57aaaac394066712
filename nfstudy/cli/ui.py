"""The MLflow UI on the project's own store."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys

from nfstudy.core.errors import UserError
from nfstudy.core.guard import start_guarded
from nfstudy.core.project import Project
from nfstudy.runs.tracking.store import open_store


def ui(options: argparse.Namespace) -> int:
    """Start the MLflow UI on the project's store."""
    return serve(Project.find().tracking_uri(options.tracking_uri), options.host, options.port)


def serve(uri: str, host: str, port: int) -> int:
    """Run MLflow's server until it is stopped, and return its exit code.

    MLflow's own `ui` would start fifteen processes, and ignore the tracking address: one web worker and no job runner
    are enough to browse. They end with this process, also when that is killed.

    Raises:
        StoreError: there is no store yet.
        UserError: the store is itself served elsewhere.
    """
    if is_served(uri):
        raise UserError(f"{uri}: is already served; hint: open that address in a browser")
    store = open_store(uri)
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", host, "--port", str(port)]
    if store.folder:
        command += ["--artifacts-destination", str(store.folder / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    # Not on the command line, which every user of the machine can read: it may hold a password.
    quiet |= {"MLFLOW_BACKEND_STORE_URI": store.uri}
    address = f"http://{host}:{port}"
    print(f"MLflow UI on {address} (ready in a few seconds; stop with Ctrl-C)")
    if not _is_loopback(host):
        print(f"no authentication: anyone who can reach {host} can read, change and delete the runs")
    for study, experiment in store.studies().items():
        print(
            f"  {study}: {address}/#/experiments/{experiment}/runs?compareRunsMode=CHART&workflowType=machine_learning"
        )
    sys.stdout.flush()
    server = start_guarded(command, os.environ | quiet)
    try:
        return server.wait()
    except KeyboardInterrupt:
        assert server.stdin
        server.stdin.close()
        server.wait()
        return 0


def _is_loopback(host: str) -> bool:
    """Say whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
