"""An MLflow server of a new SQLite database on this machine, started as docs/scaling.md says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STARTS_WITHIN = 180.0
"""Seconds: it makes its tables first."""
QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


@contextmanager
def tracking_server() -> Iterator[str]:
    """Serve one while it is needed, and give its address.

    Raises:
        RuntimeError: it did not start; with what it said.
    """
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="nfstudy-server-") as folder:
        said = Path(folder) / "server.txt"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += [
            "--backend-store-uri",
            f"sqlite:///{folder}/mlflow.db",
            "--artifacts-destination",
            f"{folder}/files",
        ]
        # One process: SQLite has one writer at a time.
        command += ["--serve-artifacts", "--workers", "1", "--gunicorn-opts", "--threads 4"]
        with said.open("w") as output:
            server = subprocess.Popen(
                command, env=os.environ | QUIET, stdout=output, stderr=output, start_new_session=True
            )
        try:
            _wait_for(server, f"http://127.0.0.1:{port}", said)
            yield f"http://127.0.0.1:{port}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _wait_for(server: subprocess.Popen[bytes], address: str, said: Path) -> None:
    until = time.monotonic() + STARTS_WITHIN
    while server.poll() is None and time.monotonic() < until:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"mlflow server did not start:\n{said.read_text()}")
