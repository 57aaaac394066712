"""Archives: what goes in comes out bit for bit, in another store too; whatever export would not write is refused."""

import getpass
import hashlib
import json
import lzma
import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
import urllib.request
from contextlib import closing

import numpy as np
import pytest
from support.archives import members_of
from support.command_line import TINY, digests, frame_of, launch, nfstudy, numbers_of, python, write_study
from support.fake_copies import CONTENTS, STUDY, consistent, copy, points, rebuilt, small_archive
from support.filled_store import fill
from support.processes import free_port

from nfstudy.core.errors import StoreError
from nfstudy.runs.archive import reader
from nfstudy.runs.archive.manifest import ArchiveError
from nfstudy.runs.archive.reader import read_archive
from nfstudy.runs.archive.runs import ArchivedRuns
from nfstudy.runs.archive.transfer import export_runs, import_runs
from nfstudy.runs.archive.writer import END, packed_member, write_archive
from nfstudy.runs.consistency import OF_A_SEARCH, OF_PLUGINS
from nfstudy.runs.evaluations import Evaluation, EvaluationRequest
from nfstudy.runs.tracking.mlflow_export import ServedSource
from nfstudy.runs.tracking.open import open_runs
from nfstudy.runs.tracking.sql_export import read_copies
from nfstudy.runs.tracking.sql_runs import SqlStore
from nfstudy.runs.tracking.store import open_store
from nfstudy.runs.whole_run import is_inside

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def filled_once(tmp_path_factory):
    """A store with all that may befall a run; its folder."""
    folder = tmp_path_factory.mktemp("filled") / "store"
    fill(folder)
    return folder


@pytest.fixture
def filled(filled_once, tmp_path):
    """A copy of that store; its address."""
    (tmp_path / "from").mkdir()
    shutil.copy(filled_once / "mlflow.db", tmp_path / "from")
    shutil.copytree(filled_once / "artifacts", tmp_path / "from" / "artifacts")
    return f"sqlite:///{tmp_path}/from/mlflow.db"


def tables(uri):
    """Return all rows of a store that tell of runs, without what every store makes up for itself."""
    columns = {
        "runs": "*",
        "tags": "*",
        "params": "*",
        "metrics": "*",
        "latest_metrics": "*",
        "experiment_tags": "key, value",
        "datasets": "name, digest, dataset_source_type, dataset_source, dataset_schema, dataset_profile",
        "inputs": "source_type, destination_type, destination_id, step",
        "input_tags": "name, value",
    }
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection:
        gone = "SELECT run_uuid FROM runs WHERE status = 'RUNNING' OR lifecycle_stage = 'deleted' OR name LIKE 'of %'"
        gone = {run_id for (run_id,) in connection.execute(gone)}
        return {
            name: sorted(
                repr(row) for row in connection.execute(f"SELECT {what} FROM {name}") if not gone & {*map(str, row)}
            )
            for name, what in columns.items()
        }


def test_an_import_writes_what_mlflow_has_written(filled, tmp_path):
    assert export_runs(filled, "s", tmp_path / "s.tar.xz") == 4
    archive = read_archive(tmp_path / "s.tar.xz")
    uri = f"sqlite:///{tmp_path}/to/mlflow.db"
    done = import_runs(archive, uri)
    assert (done.new, done.known, done.conflicts) == (4, 0, ())
    before, after = tables(filled), tables(uri)
    after["tags"] = [row for row in after["tags"] if "'nfstudy.imported'" not in row]
    before["runs"] = [row.replace(repr(getpass.getuser()), "'unknown'") for row in before["runs"]]
    before["tags"] = [row for row in before["tags"] if not re.match(r"\('(nfstudy\.cell_name|mlflow\.user)'", row)]
    for name in ("inputs", "input_tags", "tags"):  # Rows of a run's that is left out do not name it, but for its tags.
        assert set(after[name]) <= set(before[name])
    for name in before.keys() - {"inputs", "input_tags"}:
        assert after[name] == before[name], name
    files, there = digests(tmp_path / "from" / "artifacts"), digests(tmp_path / "to" / "artifacts")
    kept = {run.record.id for run in archive.runs}
    wanted = {name: digest for name, digest in files.items() if name.split("/")[1] in kept and "checkpoint" not in name}
    assert there == wanted
    assert any(name.endswith("artifacts/a/b/c.txt") for name in there)


def test_the_same_runs_give_the_same_bytes_whichever_way_they_are_read(filled, tmp_path):
    for name in ("a", "b"):
        export_runs(filled, "s", tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    archive = read_archive(tmp_path / "a")
    import_runs(archive, f"sqlite:///{tmp_path}/to/mlflow.db")
    export_runs(f"sqlite:///{tmp_path}/to/mlflow.db", "s", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == (tmp_path / "a").read_bytes()
    by_sql, by_api = read_copies(SqlStore(filled), "s"), ServedSource(filled, "s").copies()
    assert [run.record for run in by_sql] == [run.record for run in by_api]
    for one, other in zip(by_sql, by_api, strict=True):
        for metric in one.histories:
            assert one.histories[metric].tobytes() == other.histories[metric].tobytes()
        assert sorted(ServedSource(filled, "s").names(one.record.id)) == sorted(
            path.relative_to(folder).as_posix()
            for folder in [tmp_path / "from" / "artifacts" / "s" / one.record.id / "artifacts"]
            for path in folder.rglob("*")
            if path.is_file()
        )


def test_numbers_come_back_bit_for_bit(tmp_path):
    odd = np.array([0.1 + 0.2, -0.0, 5e-324, 1.7976931348623155e308, math.inf, -math.inf, math.nan])
    history = points(*((update, 10 * update, value) for update, value in enumerate(odd)))
    small_archive(tmp_path / "x", [copy(1, histories={"test/nll_curve": history})])
    (run,) = read_archive(tmp_path / "x").runs
    assert run.histories["test/nll_curve"]["value"].tobytes() == odd.tobytes()


def test_checkpoints_are_left_out_unless_asked_for(filled, tmp_path):
    export_runs(filled, "s", tmp_path / "small")
    export_runs(filled, "s", tmp_path / "large", checkpoints=True)
    small, large = (read_archive(tmp_path / name) for name in ("small", "large"))
    names = [{name for run in archive.runs for name in run.record.files} for archive in (small, large)]
    assert names[1] - names[0] == {"checkpoint.pt"}
    assert b"weights" * 1000 in dict(large.files()).values()


def test_files_are_left_out_by_name_and_a_name_of_none_is_a_mistake(filled, tmp_path):
    for name in ("whole", "without"):
        export_runs(filled, "s", tmp_path / name, without=() if name == "whole" else ("sam*.png",))
    whole, without = (read_archive(tmp_path / name) for name in ("whole", "without"))
    names = [{name for run in archive.runs for name in run.record.files} for archive in (whole, without)]
    assert names[0] - names[1] == {"samples.png"}
    assert [sorted(run.histories) for run in whole.runs] == [sorted(run.histories) for run in without.runs]
    with pytest.raises(ArchiveError, match=r"--without films: no run has such a file"):
        export_runs(filled, "s", tmp_path / "none", without=("films",))


def test_runs_whose_files_were_all_asked_to_be_left_out_have_lost_none(filled, tmp_path):
    told = {}
    for name, without in (("whole", ()), ("bare", ("*",))):
        told[name] = []
        export_runs(filled, "s", tmp_path / name, without=without, tell=told[name].append)
    assert told["bare"] == told["whole"]
    assert not any(run.record.files for run in read_archive(tmp_path / "bare").runs)


def test_files_are_kept_of_each_cells_first_finished_repetition_alone(filled, tmp_path):
    export_runs(filled, "s", tmp_path / "whole")
    export_runs(filled, "s", tmp_path / "first", first_only=("*.png", "settings.json"))
    whole, first = (read_archive(tmp_path / name).runs for name in ("whole", "first"))
    finished = [
        run.record
        for run in whole
        if run.record.tags["nfstudy.stage"] == "repetition" and run.record.tags.get("nfstudy.outcome") == "finished"
    ]
    cells = {record.tags["nfstudy.cell"] for record in finished}
    kept = [run.record for run in first if "settings.json" in run.record.files]
    assert sorted(record.tags["nfstudy.cell"] for record in kept) == sorted(cells)
    for record in kept:
        others = [other for other in finished if other.tags["nfstudy.cell"] == record.tags["nfstudy.cell"]]
        assert int(record.tags["nfstudy.index"]) == min(int(other.tags["nfstudy.index"]) for other in others)
    assert sum("samples.png" in run.record.files for run in first) < sum(
        "settings.json" in run.record.files for run in whole
    )
    for before, after in zip(whole, first, strict=True):
        assert set(before.record.files) - set(after.record.files) <= {"samples.png", "settings.json"}
        assert sorted(before.histories) == sorted(after.histories)
    with pytest.raises(ArchiveError, match=r"--first-only films: no run has such a file"):
        export_runs(filled, "s", tmp_path / "none", first_only=("films",))


PLUGIN = b"raise SystemExit('the code of an archive was run')"
PLUGIN_TAG = json.dumps([{"kind": "flow", "name": "evil", "origin": "evil.py", "digest": "ab" * 32}])


def plugin_archive(path):
    """Write an archive of one run with what a plug-in adds: a tag, a metric, its source, and a module of that name."""
    digest = hashlib.sha256(PLUGIN).hexdigest()
    one = copy(1, histories={"test/smoothness": points((20, 1, 0.5))}, plugins=PLUGIN_TAG, later_field="x")
    files = {"plugins/evil.py": digest, "nfstudy_evil/__init__.py": digest}
    record = one.record.model_validate(dict(one.record) | {"files": files, "params": {"flow.family": "evil:FLOW"}})
    write_archive(path, STUDY, "", [type(one)(record, one.histories)], {digest: PLUGIN}.__getitem__)
    return path


def test_what_plugins_add_to_a_run_travels_and_is_never_run(tmp_path, monkeypatch):
    """Reading, importing and exporting import no module that an archive names, even one that could be found."""
    plugin_archive(tmp_path / "x")
    (tmp_path / "evil.py").write_bytes(PLUGIN)
    code = f"""
import sys
from pathlib import Path
from nfstudy.runs.archive.reader import read_archive
from nfstudy.runs.archive.runs import ArchivedRuns
from nfstudy.runs.archive.transfer import export_runs, import_runs
archive = read_archive(Path({str(tmp_path / "x")!r}))
runs = ArchivedRuns(archive)
assert runs.frame()["flow.family"].item() == "evil:FLOW"
assert runs.artifact({f"{1:032x}"!r}, "plugins/evil.py").startswith(b"raise")
uri = "sqlite:///" + {str(tmp_path / "to" / "mlflow.db")!r}
assert import_runs(archive, uri).new == 1
export_runs(uri, "s", Path({str(tmp_path / "y")!r}))
places = [tree for tree in sys.modules.values() if {str(tmp_path)!r} in str(getattr(tree, "__file__", ""))]
assert not places and not {{"evil", "nfstudy_evil"}} & sys.modules.keys()
"""
    paths = [str(tmp_path), str(tmp_path / "to" / "artifacts"), *sys.path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Another description aside, what comes out is what went in.
    (before,), (after,) = (read_archive(tmp_path / name).runs for name in "xy")
    assert after.record == before.record
    assert after.record.tags["nfstudy.plugins"] == PLUGIN_TAG
    assert after.histories["test/smoothness"].tobytes() == before.histories["test/smoothness"].tobytes()


def test_a_file_that_many_runs_share_is_there_once(tmp_path):
    archive = read_archive(small_archive(tmp_path / "x"))
    assert len(archive.manifest.members) == 2 + len(CONTENTS)
    assert all(run.record.files.keys() == {"environment.json", "samples.png"} for run in archive.runs)


def test_importing_twice_changes_nothing(filled, tmp_path):
    export_runs(filled, "s", tmp_path / "x")
    archive, uri = read_archive(tmp_path / "x"), f"sqlite:///{tmp_path}/to/mlflow.db"
    import_runs(archive, uri)
    before, files = tables(uri), digests(tmp_path / "to" / "artifacts")
    again = import_runs(archive, uri)
    assert (again.new, again.known, again.conflicts) == (0, 4, ())
    assert tables(uri) == before
    assert digests(tmp_path / "to" / "artifacts") == files
    # Into the store that they came from as well.
    before, files = tables(filled), digests(tmp_path / "from" / "artifacts")
    assert import_runs(archive, filled).known == 4
    assert (tables(filled), digests(tmp_path / "from" / "artifacts")) == (before, files)


def test_a_run_that_is_there_with_other_numbers_is_told_and_left_alone(tmp_path):
    uri = f"sqlite:///{tmp_path}/to/mlflow.db"
    small_archive(tmp_path / "a", [copy(1), copy(2), copy(3, "killed")])
    import_runs(read_archive(tmp_path / "a"), uri)
    before = tables(uri)
    other = {"test/nll": points((20, 1_790_000_000_300, 1.0))}
    same_numbers = copy(1)
    elsewhere = same_numbers.record.model_copy(update={"id": f"{91:032x}"})
    retried = copy(3, "killed").record.model_copy(update={"id": f"{93:032x}"})
    copies = [
        type(same_numbers)(elsewhere, same_numbers.histories),  # the same result, logged on another machine
        copy(2, histories=other),
        type(same_numbers)(retried, copy(3).histories),  # one more attempt, which is no result
        copy(4, histories=other, of=1),  # another result of the first one's cell
    ]
    small_archive(tmp_path / "b", copies)
    done = import_runs(read_archive(tmp_path / "b"), uri)
    assert (done.new, done.known) == (1, 1)
    assert len(done.conflicts) == 2
    assert f"{2:032x} already present as {2:032x}, with different numbers" in done.conflicts[0]
    assert f"{4:032x} already present as {1:032x}, with different numbers" in done.conflicts[1]
    assert set(before["metrics"]) < set(tables(uri)["metrics"])


def test_a_run_that_is_there_gets_the_evaluations_and_files_that_it_lacks(filled, tmp_path):
    """Weights that an earlier archive was made without, and what `evaluate` has found since."""
    uri, store = f"sqlite:///{tmp_path}/to/mlflow.db", open_store(filled)
    export_runs(filled, "s", tmp_path / "early", without=("*.png",))
    import_runs(read_archive(tmp_path / "early"), uri)
    frame = store.runs("s").frame()
    run_id = frame.loc[frame["outcome"] == "finished", "run_id"].iloc[0]
    store.tag_run(run_id, dict([evaluation(1).tag()]))
    export_runs(filled, "s", tmp_path / "late", checkpoints=True)
    before = tables(uri)
    done = import_runs(read_archive(tmp_path / "late"), uri)
    assert (done.new, done.known, done.conflicts) == (0, 4, ())
    assert done.completed > 0
    assert set(tables(uri)["tags"]) - set(before["tags"]) == {repr((*evaluation(1).tag(), run_id))}
    export_runs(uri, "s", tmp_path / "back", checkpoints=True)
    assert (tmp_path / "back").read_bytes() == (tmp_path / "late").read_bytes()
    before, files = tables(uri), digests(tmp_path / "to" / "artifacts")
    # An evaluation that is there stays, and so does a file.
    store.tag_run(run_id, dict([evaluation(2).tag()]))
    (kept,) = (tmp_path / "to" / "artifacts").rglob(f"{run_id}/artifacts/checkpoint.pt")
    kept.write_bytes(b"other weights")
    export_runs(filled, "s", tmp_path / "later", checkpoints=True)
    assert import_runs(read_archive(tmp_path / "later"), uri).completed == 0
    assert tables(uri) == before
    assert kept.read_bytes() == b"other weights"
    assert digests(tmp_path / "to" / "artifacts").keys() == files.keys()


def evaluation(nll):
    request = EvaluationRequest(samples=30, images=10)
    return Evaluation(
        request=request, numbers={"nll": nll}, version="0.2.0", commit="", dirty=None, device="cpu", ended=""
    )


def test_a_result_that_is_there_under_another_id_gets_evaluations_and_no_files(tmp_path):
    uri = f"sqlite:///{tmp_path}/to/mlflow.db"
    small_archive(tmp_path / "a", [copy(1)])
    import_runs(read_archive(tmp_path / "a"), uri)
    name, text = evaluation(1).tag()
    again = copy(2, of=1, histories=copy(1).histories, **{name.removeprefix("nfstudy."): text})
    record = again.record.model_copy(update={"files": again.record.files | {"more.png": next(iter(CONTENTS))}})
    small_archive(tmp_path / "b", [type(again)(record, again.histories)])
    done = import_runs(read_archive(tmp_path / "b"), uri)
    assert (done.new, done.known, done.completed, done.conflicts) == (0, 1, 1, ())
    (found,) = open_store(uri).runs("s").frame()["evaluations"]
    assert json.loads(found) == [text]
    assert not [*tmp_path.rglob("more.png")]


def test_a_run_that_was_deleted_stays_deleted(filled, tmp_path):
    export_runs(filled, "s", tmp_path / "x")
    archive, store = read_archive(tmp_path / "x"), open_store(filled)
    store.client.delete_run(archive.runs[0].record.id)
    done = import_runs(archive, filled)
    assert (done.new, done.known) == (0, 3)
    assert "deleted, running, or of another study" in done.conflicts[0]


KILLED = """
import os, signal, sys
from pathlib import Path
from nfstudy.runs.tracking import sql_export as store_copy
from nfstudy.runs.archive.reader import read_archive
from nfstudy.runs.archive.transfer import import_runs
def killed_at(number, function):
    calls = iter(range(number))
    def call(*arguments):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return call
owner, name = {"row": (store_copy, "_insert"), "file": (Path, "write_bytes")}[sys.argv[3]]
setattr(owner, name, killed_at(int(sys.argv[4]), getattr(owner, name)))
import_runs(read_archive(Path(sys.argv[1])), sys.argv[2])
"""


@pytest.mark.parametrize("when", [("row", "0"), ("row", "2"), ("file", "3")], ids=" ".join)
def test_an_import_that_is_killed_is_completed_by_the_next(filled, tmp_path, when):
    export_runs(filled, "s", tmp_path / "x")
    archive = read_archive(tmp_path / "x")
    uri, whole = f"sqlite:///{tmp_path}/to/mlflow.db", f"sqlite:///{tmp_path}/whole/mlflow.db"
    open_store(uri, create=True)
    done = python(tmp_path, KILLED, tmp_path / "x", uri, *when)
    assert done.returncode == -signal.SIGKILL
    assert read_copies(SqlStore(uri), "s") == []
    assert import_runs(archive, uri).new == 4
    import_runs(archive, whole)
    assert tables(uri) == tables(whole)
    assert digests(tmp_path / "to" / "artifacts") == digests(tmp_path / "whole" / "artifacts")


def test_what_cannot_be_exported_or_imported_is_said(filled, tmp_path):
    with pytest.raises(ArchiveError, match="nothing: no run has ended"):
        export_runs(filled, "nothing", tmp_path / "x")
    with pytest.raises(ArchiveError, match="s: no run of budget paper has ended"):
        export_runs(filled, "s", tmp_path / "x", budget="paper")
    assert not (tmp_path / "x").exists()
    store = open_store(filled)
    store.client.set_tag(store.runs("s").frame()["run_id"][0], "nfstudy.cell", "../../etc")
    told = []
    export_runs(filled, "s", tmp_path / "x", tell=told.append)
    assert "tag nfstudy.cell: got '../../etc'" in told[0]
    archive = read_archive(small_archive(tmp_path / "y"))
    with pytest.raises(StoreError, match=r"tracking store http://127\.0\.0\.1:1: "):
        import_runs(archive, "http://127.0.0.1:1")


def test_a_store_of_another_schema_is_left_alone(tmp_path):
    archive, uri = read_archive(small_archive(tmp_path / "y")), f"sqlite:///{tmp_path}/to/mlflow.db"
    open_store(uri, create=True)
    with closing(sqlite3.connect(tmp_path / "to" / "mlflow.db")) as connection, connection:
        connection.execute("ALTER TABLE latest_metrics RENAME COLUMN is_nan TO was_nan")
    with pytest.raises(StoreError, match="unknown database schema"):
        import_runs(archive, uri)


# What is written is one form alone; each of these is another. name -> (what is made of the members, what is said)
def renamed(name):
    return lambda members: [members[0], (name, members[1][1]), *members[2:]]


HOSTILE = {
    "a path": (renamed("../../x"), "is not where the manifest lists it"),
    "an absolute path": (renamed("/etc/passwd"), "is not where the manifest lists it"),
    "a member twice": (
        lambda members: [*members[:3], members[2], *members[3:]],
        "is not where the manifest lists it",
    ),
    "a member too many": (lambda members: [*members, ("files/x", b"x")], "contains more than its manifest lists"),
    "a member too few": (lambda members: members[:-1], "is not where the manifest lists it"),
    "an altered member": (lambda members: [*members[:-1], (members[-1][0], b"X" * len(members[-1][1]))], "corrupted"),
    "a longer member": (
        lambda members: [*members[:-1], (members[-1][0], members[-1][1] + b"X")],
        "is not where",
    ),
    "no manifest": (lambda members: members[1:], "does not begin with manifest.json"),
    "a manifest that is no JSON": (lambda members: [("manifest.json", b"{"), *members[1:]], "not valid JSON"),
    "a deep manifest": (lambda members: [("manifest.json", b"[" * 100_000), *members[1:]], "not valid JSON"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_archive_that_export_would_not_write_is_refused(tmp_path, name):
    change, words = HOSTILE[name]
    members = members_of(small_archive(tmp_path / "good"))
    assert len(read_archive(rebuilt(tmp_path / "again", members)).runs) == 3
    with pytest.raises(ArchiveError, match=words) as caught:
        read_archive(rebuilt(tmp_path / "bad", change(members)))
    assert "bad: " in str(caught.value)
    assert "expected: a complete archive written by `export`" in str(caught.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.XHDTYPE])
def test_links_folders_and_devices_are_refused(tmp_path, kind):
    (name, manifest), *rest = members_of(small_archive(tmp_path / "good"))
    info = tarfile.TarInfo(rest[0][0])
    info.type, info.linkname = kind, "/etc/passwd"
    tar = b"".join(packed_member(name, manifest)) + info.tobuf(tarfile.USTAR_FORMAT)
    tar += b"".join(part for item in rest for part in packed_member(*item)) + END
    (tmp_path / "bad").write_bytes(lzma.compress(tar))
    with pytest.raises(ArchiveError, match="is not where the manifest lists it"):
        read_archive(tmp_path / "bad")


def changed(**fields):
    """Return a line of a run in which some fields are others."""
    return json.dumps(json.loads(copy(1).record.model_dump_json()) | fields, separators=(",", ":")).encode()


TAGS = copy(1).record.tags
BAD_RUNS = {
    "a file out of the run's folder": (changed(files={"../../../x": "ab" * 32}), r"file '\.\./\.\./\.\./x'"),
    "an absolute file": (changed(files={"/etc/passwd": "ab" * 32}), "file '/etc/passwd'"),
    "a file that is a folder": (changed(files={"a": "ab" * 32, "a/b": "ab" * 32}), "file 'a': is a folder too"),
    "a file that is not there": (changed(files={"a": "ab" * 32}), "refers to a missing file abab"),
    "an id that is a path": (changed(id="../" * 10 + "xx"), "id: "),
    "a running run": (changed(status="RUNNING"), "status: "),
    "a number as text": (changed(started="1"), "started: "),
    "another study": (changed(tags=TAGS | {"nfstudy.study": "t"}), "tag nfstudy.study is not s"),
    "an attempt that is none": (changed(tags=TAGS | {"nfstudy.attempt": "x"}), "tag nfstudy.attempt: got 'x'"),
    "a run of another id": (
        changed(tags=TAGS | {"nfstudy.original_run_id": "ab" * 16}),
        "tag nfstudy.original_run_id: expected: only in a store",
    ),
    "a half-imported run": (changed(tags=TAGS | {"nfstudy.importing": "true"}), "tag nfstudy.importing"),
    "a metric of odd characters": (changed(points={"test/x\u0000": 1}), "should match pattern"),
    "a hidden file among plug-ins": (changed(files={"plugins/.x.py": "ab" * 32}), "file 'plugins/.x.py'"),
    "an index that is none": (changed(tags=TAGS | {"nfstudy.index": "x"}), "tag nfstudy.index: got 'x'"),
    "a point that is none": (changed(tags=TAGS | {"nfstudy.point": "[]"}), "tag nfstudy.point"),
    "no cell": (changed(tags={name: text for name, text in TAGS.items() if "cell" not in name}), "tag nfstudy.cell"),
    "a tag of too many words": (changed(tags=TAGS | {"note": "x" * 8001}), "tags.note"),
    "an unknown field": (changed(pickle="gASVIQ=="), "pickle: Extra inputs"),
    "other points than there are": (
        changed(points={"test/nll": 2, "train/elbo": 4}),
        "points or files do not match",
    ),
    "no JSON": (b"{", "line 1: "),
    "a key twice": (
        copy(1).record.model_dump_json().encode().replace(b"{", b'{"id":"x",', 1),
        "not in the form that `export` writes",
    ),
}


@pytest.mark.parametrize("name", BAD_RUNS)
def test_a_run_that_export_would_not_write_is_refused(tmp_path, name):
    line, words = BAD_RUNS[name]
    histories = [*copy(1).histories.values()]
    good = consistent(tmp_path / "good", [copy(1).record.model_dump_json().encode()], histories, CONTENTS)
    assert len(read_archive(good).runs) == 1
    with pytest.raises(ArchiveError, match=words) as caught:
        read_archive(consistent(tmp_path / "bad", [line], histories, CONTENTS))
    assert "bad: " in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([(5, 1, 1.0), (4, 1, 1.0)], "falling updates"),
        ([(5, 1, 1.0), (5, 1, 1.0)], "a point twice"),
        ([(5, 1, math.nan), (5, 1, math.nan)], "nan twice"),
        ([(5, 1, 0.0), (5, 1, -0.0)], "what a database takes for one point"),
        ([(-1, 1, 1.0), (5, 1, 1.0)], "an update before the first"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_histories_that_no_store_could_have_held_are_refused(tmp_path, rows, reason):
    line = changed(points={"test/nll": 2})
    with pytest.raises(ArchiveError, match="test/nll: its points are out of order"):
        read_archive(consistent(tmp_path / "bad", [line], [points(*rows)], CONTENTS))
    fine = consistent(tmp_path / "good", [line], [points((5, 1, -math.inf), (5, 1, math.nan))], CONTENTS)
    assert len(read_archive(fine).runs) == 1


def test_a_later_format_is_named(tmp_path):
    with pytest.raises(ArchiveError, match=r"manifest\.json: format: got 2; expected: 1"):
        read_archive(consistent(tmp_path / "x", [], [], {}, format=2))
    with pytest.raises(ArchiveError, match=r"study: .*pattern"):
        read_archive(consistent(tmp_path / "x", [], [], {}, study="../../etc"))


def test_what_is_no_archive_is_said(tmp_path):
    with pytest.raises(ArchiveError, match="no such file"):
        read_archive(tmp_path / "gone")
    with pytest.raises(ArchiveError, match="cannot be read"):
        read_archive(tmp_path)
    whole = small_archive(tmp_path / "good").read_bytes()
    for name, content in {"empty": b"", "text": b"hello", "cut": whole[:-40], "longer": whole + b"x"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ArchiveError, match=rf"{name}: "):
            read_archive(tmp_path / name)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    member = {"name": "files/" + "ab" * 32, "size": 2**31, "sha256": "ab" * 32}
    with pytest.raises(ArchiveError, match=r"members\.0\.size"):
        read_archive(consistent(tmp_path / "x", [], [], {}, members=[member, member, member]))
    zeros = lzma.compress(bytes(200 * 2**20))
    assert len(zeros) < 40_000
    (tmp_path / "zeros").write_bytes(zeros)
    read = []
    unpack = reader._Packed._more
    monkeypatch.setattr(reader._Packed, "_more", lambda self, most: read.append(unpack(self, most)) or read[-1])
    with pytest.raises(ArchiveError, match=r"does not begin with manifest\.json"):
        read_archive(tmp_path / "zeros")
    assert sum(map(len, read)) == 512
    # A dictionary that would take 1.5 GB to unpack with.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**30}]
    (tmp_path / "greedy").write_bytes(
        _with_dictionary(lzma.compress(b"x", filters=[{**filters[0], "dict_size": 2**20}]))
    )
    with pytest.raises(ArchiveError, match="memory usage limit"):
        read_archive(tmp_path / "greedy")


def _with_dictionary(packed):
    """Return an .xz whose block says that it needs a dictionary of 1 GiB, with the block header's CRC mended."""
    import zlib

    start, size = 12, (packed[12] + 1) * 4
    header = bytearray(packed[start : start + size - 4])
    place = header.index(b"\x21\x01") + 2  # The filter's id, the size of its properties, then the dictionary's size.
    header[place] = 36
    return packed[:start] + header + zlib.crc32(header).to_bytes(4, "little") + packed[start + size :]


def test_names_of_files_are_inside_the_run_s_folder():
    assert all(map(is_inside, ("samples.png", "a/b/c.txt", "x y (1).json", "数.txt")))
    bad = (
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "./a",
        ".hidden",
        "a\\b",
        "c:a",
        "a\nb",
        "a\x00",
        "a" * 251,
    )
    assert not any(map(is_inside, (*bad, "/".join("a" * 9))))


def test_a_file_that_changes_while_it_is_exported_is_noticed(tmp_path):
    contents = dict(CONTENTS)
    contents[min(contents)] = b"other"
    with pytest.raises(ArchiveError, match="changed during the export"):
        write_archive(tmp_path / "x", STUDY, "", [copy(1)], contents.__getitem__)
    assert not [*tmp_path.iterdir()]


def told_otherwise(run, tags=(), params=(), histories=(), without=()):
    """Return a run that says something else of itself."""
    record, numbers = run.record, {**run.histories, **dict(histories)}
    changed = {
        "tags": {name: text for name, text in {**record.tags, **dict(tags)}.items() if name not in without},
        "params": {path: text for path, text in {**record.params, **dict(params)}.items() if path not in without},
        "points": {metric: len(points) for metric, points in numbers.items()},
    }
    return type(run)(record.model_copy(update=changed), numbers)


def epochs(*updates):
    return points(*((update, 1_790_000_000_000 + update, 1.0) for update in updates))


def test_the_steps_of_curves_are_no_updates(tmp_path):
    curves = {"test/nll_curve": epochs(1, 5000), "test/kl_latent": epochs(0, 1, 2), "test/log_det_quantile": epochs(50)}
    path = small_archive(tmp_path / "x", [told_otherwise(copy(1), histories=curves)])
    (run,) = read_archive(path).runs
    assert run.numbers("test/nll_curve") == [(1, 1.0), (5000, 1.0)]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"params": {"flow.length": "3"}}, "flow.length is 2 in the grid and 3 among its settings"),
        ({"params": {"seed": "7"}}, "not of "),
        ({"params": {"flow.length": "0.5"}}, "flow.length: "),
        ({"without": ["flow.length"]}, "flow.length: "),
        ({"tags": {"nfstudy.cell": "0" * 16}}, "not of 0000000000000000, whose number it claims to be"),
        ({"tags": {"nfstudy.settings": "0" * 16}}, "its settings are those of cell"),
        ({"tags": {"nfstudy.budget": "smoke"}}, "its settings are those of cell"),
        ({"tags": {"nfstudy.stage": "search", "nfstudy.repetition": "1"}}, "expected: that of its stage, 0"),
        ({"tags": {"nfstudy.update": "1000000000"}}, "of update 1,000,000,000; expected: at most its train.updates"),
        ({"histories": {"test/nll": epochs(21)}}, "test/nll is of update 21"),
        ({"histories": {"train/elbo": epochs(5, 15, 20)}}, "train/elbo: its epochs have gaps"),
        ({"histories": {"train/elbo": epochs(5, 10, 15)}}, "it has finished at update 15"),
        ({"histories": {"valid/elbo": epochs(10, 20)}}, "is of other updates than"),
        ({"histories": {"test/wishes": epochs(20)}}, "metrics test/wishes are not known"),
    ],
)  # fmt: skip
def test_a_run_that_contradicts_itself_is_refused_by_name(said, words, tmp_path):
    path = small_archive(tmp_path / "x", [told_otherwise(copy(1), **said)])
    with pytest.raises(ArchiveError, match=re.escape(words)) as refused:
        read_archive(path)
    assert f"run {1:032x}, planar K=2 #1: " in str(refused.value)


def test_a_run_that_was_killed_while_an_epoch_was_logged_is_no_contradiction(tmp_path):
    ragged = {"train/elbo": epochs(5, 10), "valid/elbo": epochs(5)}
    killed = told_otherwise(copy(1, outcome="killed"), histories=ragged)
    (run,) = read_archive(small_archive(tmp_path / "x", [killed])).runs
    assert run.numbers("valid/elbo") == [(5, 1.0)]
    for outcome, histories in (("killed", {**ragged, "valid/elbo": epochs(10)}), ("diverged", ragged)):
        path = small_archive(tmp_path / "x", [told_otherwise(copy(1, outcome=outcome), histories=histories)])
        with pytest.raises(ArchiveError, match="of other updates than train/elbo; expected: both"):
            read_archive(path)


def test_an_imported_run_is_marked_with_what_of_it_was_checked(tmp_path):
    plugin = {"nfstudy.plugins": '[{"name": "mine.py"}]'}
    runs = [
        copy(1),
        told_otherwise(copy(2), params={"note": "mine"}),  # A parameter that somebody added by hand.
        told_otherwise(copy(3), plugin, {"flow.strength": "2"}, {"test/own": epochs(20)}),
        told_otherwise(copy(4), {**plugin, "nfstudy.cell": "0" * 16}, {"flow.strength": "2"}),
        told_otherwise(copy(5), {"nfstudy.cell": "1" * 16}),
        told_otherwise(copy(6), {"nfstudy.cell": "1" * 16, "nfstudy.stage": "search", "nfstudy.repetition": "0"}),
        told_otherwise(copy(7), {"nfstudy.cell": "2" * 16, "nfstudy.search": "{}"}),  # Its trials have been deleted.
    ]
    archive = read_archive(small_archive(tmp_path / "x", runs))
    uri = f"sqlite:///{tmp_path}/to/mlflow.db"
    import_runs(archive, uri)
    frames = [open_runs(uri)(STUDY).frame(), ArchivedRuns(archive).frame()]
    wanted = ["checked", "checked", "checked", OF_PLUGINS, *[OF_A_SEARCH] * 3]
    for frame in frames:
        assert frame.sort_values("run_id")["imported"].tolist() == wanted
    export_runs(uri, STUDY, tmp_path / "again")
    assert b"nfstudy.imported" not in dict(members_of(tmp_path / "again"))["runs.jsonl"]


@pytest.mark.end_to_end
@pytest.mark.timeout(900)
def test_a_study_goes_on_elsewhere_and_its_report_is_rebuilt_byte_for_byte(tmp_path):
    first = write_study(tmp_path / "first", TINY.replace("[0, 2]", "[0]"))
    assert nfstudy(first, "run", "tiny.yaml").returncode == 0
    assert nfstudy(first, "export", "tiny.yaml", "part.tar.xz").returncode == 0
    # The study grows, and another machine takes over from what is done.
    second = write_study(tmp_path / "second")
    done = nfstudy(second, "import", str(first / "part.tar.xz"))
    assert done.returncode == 0, done.stderr
    assert "tiny: 2 runs imported, 0 already present" in done.stdout
    again = nfstudy(second, "run", "tiny.yaml")
    assert "4 runs to do" in again.stdout
    assert "0 runs to do" in nfstudy(second, "run", "tiny.yaml").stdout
    assert len(numbers_of(second)) == 6
    moved = second.rename(tmp_path / "moved")
    done = nfstudy(moved, "export", "tiny.yaml", "whole.tar.xz")
    assert "6 runs of tiny" in done.stdout
    third = write_study(tmp_path / "third")
    assert nfstudy(third, "import", str(moved / "whole.tar.xz")).returncode == 0
    assert "2 already present" in nfstudy(third, "import", str(first / "part.tar.xz")).stdout
    assert nfstudy(third, "report", "tiny.yaml").returncode == 0
    for folder, words in ((moved, "2 of 6 runs were"), (third, "all runs were")):
        assert f"{words} imported from an archive" in (folder / "reports" / "tiny" / "index.md").read_text()
    ours, theirs = (
        {name: digest for name, digest in digests(folder / "reports" / "tiny").items() if "/" in name}
        for folder in (third, moved)
    )
    assert ours
    assert ours == theirs
    frame, other = frame_of(third), frame_of(moved)
    assert frame.drop(columns="imported").equals(other.drop(columns="imported"))
    assert not any("checkpoint" in name for name in digests(third / "mlruns" / "artifacts"))
    with served(third) as address:
        for run_id in frame["run_id"]:
            with urllib.request.urlopen(f"{address}/get-artifact?path=samples.png&run_uuid={run_id}") as picture:
                assert picture.read().startswith(b"\x89PNG")
        body = json.dumps({"experiment_ids": ["1"]}).encode()
        asked = urllib.request.Request(
            f"{address}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked) as answer:
            runs = json.load(answer)["runs"]
        assert {run["info"]["run_id"] for run in runs} == set(frame["run_id"])
        assert all(len(run["data"]["metrics"]) > 10 and run["inputs"]["dataset_inputs"] for run in runs)
        # A study on a server is exported too, to the same bytes.
        done = nfstudy(third, "export", "tiny.yaml", "served.tar.xz", "--tracking-uri", address)
        assert done.returncode == 0, done.stderr
        assert (third / "served.tar.xz").read_bytes() == (moved / "whole.tar.xz").read_bytes()
        # Through the server of the store they are in, they are found to be there.
        again = nfstudy(third, "import", "served.tar.xz", "--tracking-uri", address)
        assert again.returncode == 0, again.stderr
        assert "0 runs imported, 6 already present" in again.stdout
    assert frame_of(third).equals(frame)


class served:  # noqa: N801 - it reads as a word
    """MLflow's own server on a project's store; its address."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()

    def __enter__(self):
        self.process = launch(self.folder, "ui", "--port", str(self.port))
        address = f"http://127.0.0.1:{self.port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                return address
            except OSError:
                time.sleep(0.5)
        raise AssertionError((self.folder / "out.txt").read_text())

    def __exit__(self, *exception):
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(90)  # A busy machine takes its time; speed is not what is held here.


@pytest.mark.end_to_end
def test_a_conflict_and_a_bad_file_have_their_exit_codes(tmp_path):
    folder = write_study(tmp_path / "project", TINY)
    small_archive(tmp_path / "a", [copy(1)])
    small_archive(tmp_path / "b", [copy(1, histories={"test/nll": points((20, 1, 1.0))})])
    assert nfstudy(folder, "import", str(tmp_path / "a")).returncode == 0
    done = nfstudy(folder, "import", str(tmp_path / "b"))
    assert done.returncode == 1
    assert "0 runs imported" in done.stdout
    assert "not imported: planar K=2 #1" in done.stderr
    (tmp_path / "c").write_bytes(b"\x80\x04\x95")
    done = nfstudy(folder, "import", str(tmp_path / "c"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "project"]
