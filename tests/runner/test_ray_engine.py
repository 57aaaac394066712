"""Many machines: a study on a real Ray cluster of two nodes, tracked by a real MLflow server on a real PostgreSQL."""

import os
import signal

import numpy as np
import pytest
from support.cluster import NODE, actors_of, mlflow_server, ray_cluster, wait_until
from support.command_line import TINY, frame_of, launch, nfstudy, numbers_in, numbers_of, python, wait_for, write_study
from support.plugins import SHIFT
from support.postgres import running_postgres
from support.processes import free_port

from nfstudy.runner import watch
from nfstudy.runner.worker import Died, Ready
from nfstudy.runs.tracking.open import load_frame
from nfstudy.runs.tracking.sql_runs import SqlStore
from nfstudy.runs.tracking.store import open_store

pytestmark = pytest.mark.end_to_end

LONGER = TINY.replace("updates: 60", "updates: 2000").replace("[planar, nice-perm]", "[planar]")
CLUSTER = ("--engine", "ray", "--workers", "2", "--checkpoint-every", "0.5")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The numbers of the study as this machine's own pool gives them."""
    folder = write_study(tmp_path_factory.mktemp("local"), LONGER)
    done = nfstudy(folder, "run", "tiny.yaml", "--workers", "2")
    assert done.returncode == 0, done.stderr
    return numbers_in(frame_of(folder))


@pytest.fixture
def tracked(tmp_path):
    """A PostgreSQL, and the address of the tracking server on it."""
    with running_postgres() as database:
        (tmp_path / "artifacts").mkdir()
        with mlflow_server(database.uri, tmp_path / "artifacts") as address:
            yield database, address


@pytest.fixture(scope="module")
def head():
    """A cluster of one node."""
    with ray_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(head, monkeypatch):
    """That cluster; nodes that a test adds go with it."""
    monkeypatch.setenv("RAY_ADDRESS", head.address)
    yield head
    for node in [*head.worker_nodes]:
        head.remove_node(node, allow_graceful=False)
    head.wait_for_nodes()  # Else the next test's actors are sent to a node that is gone, and not yet known to be.


def test_a_lost_worker_a_lost_node_a_restarted_database_and_a_killed_driver_change_nothing(
    undisturbed, tracked, cluster, tmp_path
):
    database, address = tracked
    second = cluster.add_node(**NODE)
    folder = write_study(tmp_path / "study", LONGER)
    arguments = ("run", "tiny.yaml", *CLUSTER, "--tracking-uri", address)
    driver = launch(folder, *arguments)
    try:
        wait_for(folder, r"\[worker 2\] .*starts")
        wait_until(lambda: list(folder.glob("mlruns/checkpoints/tiny/*.checkpoint")))
        os.kill(wait_until(lambda: actors_of(cluster.head_node))[0], signal.SIGKILL)
        wait_for(folder, "lost its worker: .*worker process has died.*; retrying")
        wait_for(folder, "1 of 4 runs")

        cluster.remove_node(second, allow_graceful=False)
        wait_for(folder, "its worker or node is unreachable; retrying")
        cluster.add_node(**NODE)

        database.stop()
        wait_for(folder, "retrying for 120 s")
        database.start()
        wait_for(folder, "the tracking store is available again")
        assert driver.poll() is None, "the kill comes before the end"
    finally:
        driver.kill()
        driver.wait()
    nodes = [cluster.head_node, *cluster.worker_nodes]
    wait_until(lambda: not any(actors_of(node) for node in nodes))

    runs = open_store(address).runs("tiny")
    before = runs.frame()
    assert (before["outcome"] == "finished").sum() < 4
    assert (done := nfstudy(folder, *arguments)).returncode == 0, done.stderr
    frame = runs.frame()
    assert numbers_in(frame) == undisturbed
    assert SqlStore(database.uri).is_known()
    assert numbers_in(load_frame(database.uri, "tiny")) == undisturbed, "as the database itself says"
    assert set(frame["outcome"]) == {"finished", "killed"}
    assert "resumes after update" in (folder / "out.txt").read_text() + done.stderr
    for run_id in frame.loc[frame["outcome"] == "finished", "run_id"]:
        assert runs.history([run_id], ["valid/elbo"])["update"].tolist()[-1] == 2000
        assert runs.artifact(run_id, "samples.png").startswith(b"\x89PNG")
    assert "0 runs to do" in nfstudy(folder, *arguments).stdout


def test_a_study_on_a_cluster_is_stopped_and_gone_on_with(undisturbed, cluster, tmp_path):
    cluster.add_node(**NODE)
    folder = write_study(tmp_path / "study", LONGER)
    driver = launch(folder, "run", "tiny.yaml", *CLUSTER)
    try:
        wait_for(folder, r"\[worker 2\] .*starts")
        os.killpg(driver.pid, signal.SIGTERM)
        assert driver.wait(15) == 130
    finally:
        driver.kill()
        driver.wait()
    words = (folder / "out.txt").read_text()
    assert "stopped by SIGTERM; finished runs are saved, and so are 2 of 2 runs under way" in words
    assert "resume with: python -m nfstudy run tiny.yaml --engine ray" in words
    assert nfstudy(folder, "run", "tiny.yaml", *CLUSTER).returncode == 0
    assert numbers_of(folder) == undisturbed


def test_actors_have_the_plug_in_and_the_file_of_data(cluster, tmp_path):
    text = TINY.replace("[planar, nice-perm]", "[shift]").replace("repetitions: 2", "plugins: [shift.py]")
    text = text.replace("{name: digits}", "{name: file, path: own.npz}").replace(", test_images: 50", "")
    pixels = (np.random.default_rng(1).random((150, 16)) < 0.3).astype(np.uint8)
    found = []
    for name, engine in (("cluster", ["--engine", "ray"]), ("alone", [])):
        folder = write_study(tmp_path / name, text)
        (folder / "shift.py").write_text(SHIFT)
        np.savez(folder / "own.npz", train=pixels[:100], test=pixels[100:])
        done = nfstudy(folder, "run", "tiny.yaml", "--workers", "1", *engine)
        assert done.returncode == 0, done.stderr
        found.append(numbers_of(folder))
    assert len(found[0]) == 2
    assert found[0] == found[1]


def test_workers_share_a_gpu_and_wait_for_room(cluster):
    from nfstudy.runner.ray_engine import open_cluster

    cluster.add_node(num_cpus=3, num_gpus=1, object_store_memory=NODE["object_store_memory"])
    with open_cluster(None, 9, 1, "auto", 0.4, {}) as engine:
        assert len(engine.workers) == 2, "two shares of 0.4 are all that a GPU has"
    with open_cluster(3, 9, 1, "auto", 0.4, {}) as engine:
        ready = [until(engine, Ready)[0] for _ in range(2)]
        (waiting,) = (worker for worker in engine.workers if worker not in ready)
        assert waiting.device is None
        ready[0].stop()
        left, died = until(engine, Died)
        assert left is ready[0]
        assert died.clean_exit
        assert until(engine, Ready)[0] is waiting


def test_a_worker_that_stands_still_and_stays_connected_is_given_up(cluster, monkeypatch):
    from nfstudy.runner.ray_engine import open_cluster

    monkeypatch.setattr(watch, "LOST_SECONDS", 3.0)
    with open_cluster(1, 1, 1, "auto", 0.0, {}) as engine:
        first, _ = until(engine, Ready)
        (pid,) = actors_of(cluster.head_node)
        os.kill(pid, signal.SIGSTOP)
        watcher, told = watch.Watch(engine, None, print), []
        while not told:
            told = [message for _, message in engine.events(0.2) if isinstance(message, Died)]
            watcher.look({})
        assert told == [Died("its worker gave no sign of life for 3 s")]
        second, _ = until(engine, Ready)
        assert second is not first
    wait_until(lambda: pid not in actors_of(cluster.head_node))


def until(engine, kind):
    """Return the first worker with a message of a kind, and the message; what comes after it stays to be received."""
    while True:
        for worker, message in engine.events(60):
            if isinstance(message, kind):
                return worker, message


WRONG = {
    "a GPU of this machine's pool": (["--gpus", "0.5"], "", "--gpus 0.5: expected: with --engine ray"),
    "a GPU that was not asked for": (["--engine", "ray", "--device", "cuda"], "", "--device cuda: expected"),
    "more than a GPU": (["--engine", "ray", "--gpus", "2"], "", "got 2; expected: a share of one GPU"),
    "a cluster that is not there": (["--engine", "ray"], "127.0.0.1:{port}", "RAY_ADDRESS=127.0.0.1:"),
    "an address of Ray's client": (["--engine", "ray"], "ray://127.0.0.1:{port}", "expected: HOST:PORT, or auto"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_users_mistake_about_engines_is_told(name, tmp_path, monkeypatch):
    arguments, address, message = WRONG[name]
    if address:
        pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[cluster]')")
        monkeypatch.setenv("RAY_ADDRESS", address.format(port=free_port()))
    done = nfstudy(write_study(tmp_path), "run", "tiny.yaml", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*.db")) == []


def test_without_ray_the_engine_says_how_to_get_it(tmp_path):
    code = "import sys; sys.modules['ray'] = None; from nfstudy.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = python(write_study(tmp_path), code, "run", "tiny.yaml", "--engine", "ray")
    assert done.returncode == 2
    assert "hint: pip install 'nfstudy[cluster]'" in done.stderr
