"""Import through MLflow's API: a server and a PostgreSQL get runs whole or not at all, known by their original ids."""

import re
import signal
from dataclasses import replace

import pytest
from mlflow.tracking import MlflowClient
from support.cluster import GUNICORN, mlflow_server
from support.command_line import TINY, digests, frame_of, nfstudy, python, write_study
from support.filled_store import fill
from support.postgres import running_postgres

from nfstudy.core.errors import StoreError, UserError
from nfstudy.runs.archive.reader import read_archive
from nfstudy.runs.archive.runs import ArchivedRuns
from nfstudy.runs.archive.transfer import export_runs, import_runs
from nfstudy.runs.evaluations import Evaluation, EvaluationRequest
from nfstudy.runs.original import IMPORTING, ORIGINAL_RUN_ID
from nfstudy.runs.tracking.mlflow_export import read_copy
from nfstudy.runs.tracking.open import open_runs
from nfstudy.runs.tracking.store import open_store

pytestmark = pytest.mark.slow

ONE_CELL = TINY.replace("[planar, nice-perm]", "[planar]").replace("[0, 2]", "[2]").replace("repetitions: 2", "")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """An archive of a store with all that may befall a run: files in folders, nan, infinities, killed runs."""
    folder = tmp_path_factory.mktemp("filled")
    fill(folder / "store")
    path = folder / "s.tar.xz"
    assert export_runs(f"sqlite:///{folder}/store/mlflow.db", "s", path) == 4
    return path


@pytest.fixture
def server(tmp_path, request):
    """A server's address; of one with other options where a test says so."""
    (tmp_path / "server").mkdir()
    options = getattr(request, "param", ())
    with mlflow_server(f"sqlite:///{tmp_path}/server/mlflow.db", tmp_path / "server", options) as address:
        yield address


def exported(uri, path):
    export_runs(uri, "s", path)
    return path.read_bytes()


def assert_same_runs(uri, archive):
    """Hold all that reports ask of a store to what they find in an archive."""
    theirs, ours = open_runs(uri)("s"), ArchivedRuns(archive)
    frame = ours.frame()
    assert theirs.frame().equals(frame)
    ids = [*frame["run_id"]]
    metrics = ["train/elbo", "valid/elbo", "test/nll"]
    assert theirs.history(ids, metrics).equals(ours.history(ids, metrics))
    for run in archive.runs:
        for name in (*run.record.files, "absent.txt"):
            assert theirs.artifact(run.record.id, name) == ours.artifact(run.record.id, name)


@pytest.mark.parametrize("server", [(), GUNICORN], indirect=True, ids=["uvicorn", "gunicorn"])
def test_a_server_gives_back_the_archive_it_was_given(packed, server, tmp_path):
    archive = read_archive(packed)
    done = import_runs(archive, server)
    assert (done.new, done.known, done.conflicts) == (4, 0, ())
    assert exported(server, tmp_path / "back") == packed.read_bytes()
    assert_same_runs(server, archive)
    again = import_runs(archive, server)
    assert (again.new, again.known, again.conflicts) == (0, 4, ())
    client = MlflowClient(server)
    own = {run.data.tags[ORIGINAL_RUN_ID]: run for run in client.search_runs(["1"])}
    assert own.keys() == {run.record.id for run in archive.runs}
    assert not any(IMPORTING in run.data.tags for run in own.values())
    for run in archive.runs:
        found = own[run.record.id].info
        assert found.run_id != run.record.id
        assert (found.start_time, found.end_time, found.status) == (
            run.record.started,
            run.record.ended,
            run.record.status,
        )
        assert open_runs(server)("s").link(run.record.id).endswith(f"/runs/{found.run_id}")
    # The server's own database, opened as a file, is read by SQL.
    assert exported(f"sqlite:///{tmp_path}/server/mlflow.db", tmp_path / "file")
    files = read_archive(tmp_path / "file").runs
    assert [run.record.model_copy(update={"files": {}}) for run in files] == [
        run.record.model_copy(update={"files": {}}) for run in archive.runs
    ]
    assert import_runs(archive, f"sqlite:///{tmp_path}/server/mlflow.db").known == 4

    one = archive.runs[0].record.id
    store = open_store(server)
    for known in (one, own[one].info.run_id):
        assert read_copy(store, known).record.id == one
    with pytest.raises(UserError, match="run 00000000000000000000000000000000: "):
        read_copy(store, "0" * 32)
    client.delete_run(own[one].info.run_id)
    done = import_runs(archive, server)
    assert (done.new, done.known) == (0, 3)
    assert "already present, but deleted" in done.conflicts[0]


def test_a_run_on_a_server_gets_the_evaluations_and_files_that_it_lacks(packed, server, tmp_path):
    import_runs(read_archive(packed), f"sqlite:///{tmp_path}/from/mlflow.db")
    first = open_store(f"sqlite:///{tmp_path}/from/mlflow.db")
    frame = first.runs("s").frame()
    run_id = frame.loc[frame["outcome"] == "finished", "run_id"].iloc[0]
    export_runs(first.uri, "s", tmp_path / "early", without=("*.png",))
    assert import_runs(read_archive(tmp_path / "early"), server).new == 4
    request = EvaluationRequest(samples=30, images=10)
    found = Evaluation(request=request, numbers={"nll": 1}, version="", commit="", dirty=None, device="cpu", ended="")
    first.tag_run(run_id, dict([found.tag()]))
    export_runs(first.uri, "s", tmp_path / "late")
    done = import_runs(read_archive(tmp_path / "late"), server)
    assert (done.new, done.known, done.conflicts) == (0, 4, ())
    assert done.completed > 0
    assert exported(server, tmp_path / "back") == (tmp_path / "late").read_bytes()
    assert import_runs(read_archive(tmp_path / "late"), server).completed == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from mlflow.tracking import MlflowClient
from nfstudy.runs.archive.reader import read_archive
from nfstudy.runs.archive.transfer import import_runs
function, calls = getattr(MlflowClient, sys.argv[3]), iter(range(int(sys.argv[4])))
def call(*arguments, **named):
    if next(calls, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*arguments, **named)
setattr(MlflowClient, sys.argv[3], call)
import_runs(read_archive(Path(sys.argv[1])), sys.argv[2])
"""


def test_an_import_that_is_killed_is_made_whole_by_the_next(packed, server, tmp_path):
    archive = read_archive(packed)
    # Each kill leaves what those before it have left; the runs that are whole stay as they are.
    for name, calls, whole in (
        ("log_batch", 0, 0),
        ("log_artifacts", 0, 0),
        ("set_terminated", 0, 0),
        ("delete_tag", 1, 1),
        ("log_inputs", 1, 2),
    ):
        done = python(tmp_path, KILLED, packed, server, name, calls)
        assert done.returncode == -signal.SIGKILL, name
        half = [run for run in MlflowClient(server).search_runs(["1"]) if IMPORTING in run.data.tags]
        assert len(half) == 1, name
        for runs in (open_runs(server)("s"), open_runs(f"sqlite:///{tmp_path}/server/mlflow.db")("s")):
            assert len(runs.frame()) == whole, f"{name}: a half-imported run is no run"
        with pytest.raises(UserError, match="its import was interrupted"):
            read_copy(open_store(server), half[0].info.run_id)
    # A study that starts meanwhile marks the half-imported run as killed, and that does not make it whole.
    open_store(server).kill_left_over("s")
    done = import_runs(archive, server)
    assert (done.new, done.known, done.conflicts) == (2, 2, ())
    assert exported(server, tmp_path / "back") == packed.read_bytes()
    assert_same_runs(server, archive)
    assert len(MlflowClient(server).search_runs(["1"])) == 4


def test_a_postgresql_gives_back_the_archive_it_was_given(packed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MLflow keeps the files of a database's runs below the working folder.
    archive = read_archive(packed)
    with running_postgres() as postgres:
        assert import_runs(archive, postgres.uri).new == 4
        assert exported(postgres.uri, tmp_path / "back") == packed.read_bytes()
        assert_same_runs(postgres.uri, archive)
        assert import_runs(archive, postgres.uri).known == 4


def test_what_a_server_would_keep_otherwise_is_refused(packed, server):
    """MLflow cuts parameters of more than 6,000 characters, and says so only in a log."""
    archive = read_archive(packed)
    first = archive.runs[0]
    record = first.record.model_copy(update={"params": first.record.params | {"odd.text": "x" * 7000}})
    changed = replace(archive, runs=(type(first)(record, first.histories), *archive.runs[1:]))
    with pytest.raises(StoreError, match=f"run {record.id} was not stored as it was sent"):
        import_runs(changed, server)
    assert open_runs(server)("s").frame().empty
    assert import_runs(archive, server).new == 4


IMPORTED = "all runs were imported from an archive"


@pytest.mark.end_to_end
@pytest.mark.timeout(600)
def test_a_study_moves_to_a_server_and_its_report_says_the_same(server, tmp_path):
    first = write_study(tmp_path / "first", ONE_CELL)
    assert nfstudy(first, "run", "tiny.yaml").returncode == 0
    assert nfstudy(first, "export", "tiny.yaml", "s.tar.xz").returncode == 0
    second = write_study(tmp_path / "second", ONE_CELL)
    there = ("--tracking-uri", server)
    done = nfstudy(second, "import", str(first / "s.tar.xz"), *there)
    assert done.returncode == 0, done.stderr
    assert not (second / "mlruns" / "mlflow.db").exists()
    assert "0 runs to do" in nfstudy(second, "run", "tiny.yaml", *there).stdout
    assert nfstudy(first, "report", "tiny.yaml").returncode == 0
    assert nfstudy(second, "report", "tiny.yaml", *there).returncode == 0
    ours, theirs = (digests(folder / "reports" / "tiny") for folder in (first, second))
    assert ours.keys() == theirs.keys()
    pages = ["index.html", "index.md"]  # They link each run's page on a server, and the manifest has their digests.
    assert {name for name in ours if ours[name] != theirs[name]} == {*pages, "manifest.json"}
    for name in pages:
        one, other = ((folder / "reports" / "tiny" / name).read_text() for folder in (first, second))
        assert server in other
        assert _without_links(other).count(IMPORTED) == 1
        kept = [line for line in _without_links(other).splitlines() if IMPORTED not in line]
        assert kept == one.splitlines()

    (run_id,) = frame_of(first)["run_id"]
    again = nfstudy(second, "rerun", run_id, *there)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "identical in every point" in again.stdout
    reruns = open_runs(server)("tiny").frame().query("stage == 'rerun'")
    assert [*reruns["rerun_of"]] == [run_id]


def _without_links(page):
    page = re.sub(r'<a href="http://127[^"]*">(.*?)</a>', r"\1", page)
    return re.sub(r"\[([^]]*)\]\(<http://127[^)]*\)", r"\1", page)
