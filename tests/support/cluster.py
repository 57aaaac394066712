"""Real clusters and tracking servers on this machine, for the tests of many machines."""

import os
import signal
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from nfstudy.runs.tracking.uris import database_file, is_sqlite
from support.fork_server import Command
from support.processes import children_of, free_port
from support.template_store import template

SERVER_GROUP = "server.pid"
"""The file that names the server's process group."""
GUNICORN = ("--gunicorn-opts", "--threads 4")
"""How docs/scaling.md starts a server that many trials are written to."""
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


@contextmanager
def mlflow_server(backend, folder, options=()):
    """Serve a database, which is new if it is SQLite, and artifacts through the server; give its address."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    arguments = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--serve-artifacts"]
    arguments += ["--backend-store-uri", backend, "--artifacts-destination", str(folder), *options]
    if is_sqlite(backend):
        database_file(backend).write_bytes(template())
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with open(folder / "server.txt", "w") as output:
        process = Command(
            arguments,
            folder,
            output,
            output,
            code="from mlflow.cli import cli; cli()",
            environment=os.environ | quiet,
            own_session=True,
        )
    (folder / SERVER_GROUP).write_text(str(process.pid))
    try:
        wait_until(lambda: is_served(f"{address}/health") or process.poll() is not None, 120)
        assert process.poll() is None, (folder / "server.txt").read_text()
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_served(address):
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def ray_cluster():
    """Give a cluster of one node with one core; skip the test where Ray is not installed."""
    pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[cluster]')")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        yield cluster
    finally:
        cluster.shutdown()


def actors_of(node):
    """Return the process ids of our actors on a node."""
    (raylet,) = node.all_processes["raylet"]
    found = []
    for pid in children_of(raylet.process.pid):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::_Actor"):
                found.append(pid)
        except OSError:
            pass  # It has gone.
    return found


def wait_until(condition, seconds=60):
    for _ in range(int(seconds / 0.1)):
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not so within {seconds} s")
