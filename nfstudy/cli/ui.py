"""The MLflow UI on the project's own store."""

from __future__ import annotations

import argparse
import ipaddress
import os
import subprocess
import sys

from nfstudy.cli.options import find_store
from nfstudy.core.errors import UserError
from nfstudy.core.sqlite_uri import SQLITE
from nfstudy.runs.tracking.store import Store, open_store
from nfstudy.runs.tracking.uris import database_file


def ui(options: argparse.Namespace) -> int:
    """Start the MLflow UI on the project's store."""
    return serve(find_store(options.tracking_uri)[1], options.host, options.port)


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
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", address_of(store), "--workers", "1"]
    command += ["--host", host, "--port", str(port)]
    if store.folder:
        command += ["--artifacts-destination", (store.folder / "artifacts").as_uri()]
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
    with subprocess.Popen(command, env=os.environ | quiet, cwd=store.folder) as server:
        try:
            return server.wait()
        except KeyboardInterrupt:
            return server.wait()


def address_of(store: Store) -> str:
    """Return the address of a store for a server that is started in its folder: MLflow reads few names as they are."""
    return f"{SQLITE}{database_file(store.uri).name}" if store.folder else store.uri


def _is_loopback(host: str) -> bool:
    """Say whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
