"""Real clusters and tracking servers on this machine, for the tests of many machines."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.processes import children_of, free_port

NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


@contextmanager
def mlflow_server(backend, folder):
    """Serve a database, and artifacts through the server; give its address."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", backend, "--artifacts-destination", str(folder), "--serve-artifacts"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with open(folder / "server.txt", "w") as output:
        process = subprocess.Popen(
            command, env=os.environ | quiet, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
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
