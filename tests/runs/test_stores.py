"""Runs read by SQL: the same as by MLflow's API, from real stores, of which nothing is changed."""

import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import pandas as pd
import pytest
from mlflow.entities import Metric
from support.command_line import digests

from benchmarks.big_store import CELLS, make_big_store, study_text
from nfstudy.core.errors import StoreError
from nfstudy.report.build import build_report
from nfstudy.report.exhibits import general as exhibits
from nfstudy.runs.result import EpochRecord, TrialResult
from nfstudy.runs.tracking import sql_runs as store_sql
from nfstudy.runs.tracking.open import SqlRuns, load_frame, open_runs
from nfstudy.runs.tracking.sql_runs import SqlStore
from nfstudy.runs.tracking.store import Attempt, open_store
from nfstudy.runs.whole_run import DataRecord
from nfstudy.study.reader import parse_study

pytestmark = pytest.mark.slow

STUDY = parse_study(
    "study: s\ntitle: T\ndata: {name: digits}\ntrain: {updates: 10, learning_rate: 1e-3}\n"
    "grid: {flow.family: [planar, nice-perm], flow.length: [0, 2]}\nrepetitions: 3\nexhibits: [summary]\n",
    "s.yaml",
)
TRIALS = [trial for cell in STUDY.under("default").cells for trial in STUDY.under(cell.budget).repetitions_of(cell)]
DATA = DataRecord.of("digits-static", "ab" * 32, "scikit-learn", {"train": (1197, 64)})
ODD = 'µ\'s "quoted" `tick` %s :name ; -- 数'


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store with all that may befall a run, made once; its folder, with an odd name, and its address."""
    folder = tmp_path_factory.mktemp("odd") / "a folder, 100 % #1"
    store = open_store(f"sqlite:///{folder}/mlflow.db", create=True)
    ours = store.experiment("s")

    def log(trial, experiment=ours):
        trial = replace(trial, cell=replace(trial.cell, point={"odd": ODD}))
        return store.start_run(experiment, trial, DATA, Attempt("cpu", 1))

    finished = log(TRIALS[0])
    store.client.log_param(finished, "odd.text", ODD)
    store.client.log_param(finished, "odd.long", "x" * 6000)
    store.client.log_param(finished, "odd.list", "[1, 2.5, null]")
    for update, value in ((5, -5.0), (10, math.nan), (15, math.inf), (20, -math.inf), (25, -1e-300)):
        store.log_epoch(finished, EpochRecord(1, update, 25, {"train/elbo": value, "valid/elbo": -value}))
    repeated = [
        Metric("valid/elbo", value, 1_700_000_000_000 + after, 30) for value, after in ((2.0, 9), (1.0, 9), (3.0, 1))
    ]
    store.client.log_batch(finished, metrics=repeated)
    ending = {"test/nll": math.inf, "test/kl": math.nan, "test/elbo": -math.inf, "time/wall_seconds": 3.0}
    store.finish_run(finished, TrialResult("finished", 25, metrics=ending, files={"samples.png": b"\x89PNG"}))
    store.finish_run(log(TRIALS[1]), TrialResult("diverged", 3, ODD, metrics={"test/nll": 1.5}))
    store.finish_run(log(TRIALS[2]), TrialResult("failed", 0, "MemoryError"))
    store.kill_run(log(TRIALS[3]))
    log(TRIALS[4])
    store.client.delete_run(log(TRIALS[5]))
    store.client.create_run(ours, run_name="of another tool")
    log(TRIALS[6], store.client.create_experiment(ODD))
    store.client.delete_experiment(store.experiment("t"))
    return folder, store.uri


@pytest.fixture
def copied(filled, tmp_path):
    """A copy of the filled store, which nobody has open; its folder and address."""
    with closing(sqlite3.connect(filled[0] / "mlflow.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (tmp_path / "copy").mkdir()
    for name in ("mlflow.db", "artifacts"):
        source, there = filled[0] / name, tmp_path / "copy" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, there)
    return tmp_path / "copy", f"sqlite:///{tmp_path}/copy/mlflow.db"


def both(uri, study="s"):
    fast, reference = open_runs(uri)(study), open_store(uri).runs(study)
    assert isinstance(fast, SqlRuns)
    return fast, reference


@pytest.mark.parametrize("metrics", [None, ["test/nll"], ["time/wall_seconds", "valid/elbo", "of/no_run"], []])
def test_both_ways_of_reading_give_the_same_frame(filled, metrics):
    fast, reference = both(filled[1])
    pd.testing.assert_frame_equal(fast.frame(metrics), reference.frame(metrics))
    assert sorted(fast.frame(metrics)["outcome"]) == ["diverged", "failed", "finished", "killed", "running"]


def test_both_ways_of_reading_give_the_same_histories(filled):
    fast, reference = both(filled[1])
    names = ["valid/elbo", "test/nll", "train/elbo"]
    runs = fast.frame()["run_id"].tolist()[::-1]
    points = fast.history(runs, names)
    pd.testing.assert_frame_equal(points, reference.history(runs, names))
    found = points.loc[points["metric"] == "valid/elbo", ["update", "value"]].to_dict("list")
    assert found["update"] == [5, 10, 15, 20, 25, 30, 30, 30]
    assert [str(value) for value in found["value"]] == ["5.0", "nan", "-inf", "inf", "1e-300", "3.0", "1.0", "2.0"]
    for none in (fast.history([], names), reference.history([], names)):
        pd.testing.assert_frame_equal(none, points.iloc[:0].reset_index(drop=True))


def test_numbers_and_texts_come_back_as_they_were_logged(filled):
    frame = both(filled[1])[0].frame()
    (row,) = frame[frame["outcome"] == "finished"].to_dict("records")
    assert (row["test/nll"], row["test/elbo"], row["time/wall_seconds"]) == (math.inf, -math.inf, 3.0)
    assert math.isnan(row["test/kl"])
    assert (row["odd.text"], row["odd.long"], row["odd.list"]) == (ODD, "x" * 6000, [1, 2.5, None])
    assert json.loads(row["point"]) == {"odd": ODD}
    assert frame.loc[frame["outcome"] == "diverged", "reason"].tolist() == [ODD]


def test_a_study_that_is_not_there_has_no_runs(filled):
    fast, reference = both(filled[1], "u")
    pd.testing.assert_frame_equal(fast.frame(), reference.frame())
    assert len(fast.frame()) == 0


def test_files_are_read_from_where_the_store_is_now(copied):
    fast, reference = both(copied[1])
    for run_id in fast.frame()["run_id"]:
        for name in ("samples.png", "settings.json", "none"):
            assert fast.artifact(run_id, name) == reference.artifact(run_id, name)
    assert fast.artifact("no such run", "samples.png") is None
    assert b"\x89PNG" in [fast.artifact(run_id, "samples.png") for run_id in fast.frame()["run_id"]]
    assert fast.link("any") is None


def test_files_that_another_tool_keeps_elsewhere_are_read_by_mlflow(copied, tmp_path):
    store = open_store(copied[1])
    experiment = store.client.create_experiment("theirs", artifact_location=str(tmp_path / "theirs"))
    run_id = store.client.create_run(experiment, tags={"nfstudy.study": "theirs"}).info.run_id
    store.client.log_text(run_id, "text", "note.txt")
    assert open_runs(copied[1])("theirs").artifact(run_id, "note.txt") == b"text"


def test_reading_changes_nothing_and_leaves_nothing_behind(copied):
    folder, uri = copied
    before = digests(folder)
    runs = open_runs(uri)("s")
    runs.history(runs.frame()["run_id"].tolist(), ["valid/elbo"])
    assert digests(folder) == before


def test_what_a_writer_at_work_has_committed_is_seen(copied):
    folder, uri = copied
    with closing(sqlite3.connect(folder / "mlflow.db")) as writer:
        writer.execute("UPDATE latest_metrics SET value = 7 WHERE key = 'time/wall_seconds'")
        writer.commit()
        assert (folder / "mlflow.db-wal").stat().st_size > 0
        writer.execute("UPDATE latest_metrics SET value = 8 WHERE key = 'time/wall_seconds'")
        assert open_runs(uri)("s").frame()["time/wall_seconds"].max() == 7


def test_a_file_that_changes_while_it_is_read_is_read_again(copied):
    folder, uri = copied
    seen = []

    def work(connection):
        seen.append(
            connection.exec_driver_sql("SELECT max(value) FROM latest_metrics WHERE key = 'time/wall_seconds'").scalar()
        )
        if len(seen) == 1:
            with closing(sqlite3.connect(folder / "mlflow.db")) as writer:
                writer.execute("UPDATE latest_metrics SET value = 7 WHERE key = 'time/wall_seconds'")
                writer.commit()
        return seen[-1]

    assert SqlStore(uri).read(work) == 7
    assert seen == [3, 7]


def test_a_schema_that_is_not_known_is_read_by_mlflow(copied, monkeypatch):
    known = open_runs(copied[1])("s").frame()
    monkeypatch.setattr(store_sql, "REVISIONS", ("another",))
    runs = open_runs(copied[1])("s")
    assert not isinstance(runs, SqlRuns)
    pd.testing.assert_frame_equal(runs.frame(), known)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE latest_metrics RENAME COLUMN is_nan TO nan",
        "ALTER TABLE tags RENAME TO labels",
        "UPDATE alembic_version SET version_num = 'newer'",
        "DELETE FROM alembic_version",
    ],
)
def test_tables_that_differ_are_not_known(copied, change):
    assert SqlStore(copied[1]).is_known()
    with closing(sqlite3.connect(copied[0] / "mlflow.db")) as connection:
        connection.execute(change)
        connection.commit()
    assert not SqlStore(copied[1]).is_known()


def test_stores_that_cannot_be_read_are_clear_errors(tmp_path):
    with pytest.raises(StoreError, match=r"mlflow\.db: no store"):
        open_runs(f"sqlite:///{tmp_path}/mlflow.db")
    assert not list(tmp_path.iterdir())
    with pytest.raises(StoreError, match=r"tracking address \./mlruns"):
        open_runs("./mlruns")
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    with pytest.raises(StoreError, match="is not a SQLite database"):
        open_runs(f"sqlite:///{tmp_path}/mlflow.db")
    assert not SqlStore("mysql+nodriver://u@localhost/mlflow").is_known()
    assert len(load_frame(f"sqlite:///{tmp_path}/nowhere/mlflow.db", "s", ["test/nll"])) == 0


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A project whose store is made as that of the benchmark, with 3 runs a cell; its folder and study."""
    folder = tmp_path_factory.mktemp("big")
    (folder / "mlruns").mkdir()
    study = make_big_store(folder / "mlruns" / "mlflow.db", 3 * CELLS, points=20)
    (folder / "big.yaml").write_text(study_text(3 * CELLS))
    return folder, study


def test_the_big_store_is_one_that_mlflow_reads(big):
    fast, reference = both(f"sqlite:///{big[0]}/mlruns/mlflow.db", "big")
    frame = fast.frame()
    pd.testing.assert_frame_equal(frame, reference.frame())
    assert len(frame) == 3 * CELLS
    assert set(frame["outcome"]) == {"finished"}
    assert frame.groupby("cell")["index"].apply(sorted).tolist() == [[1, 2, 3]] * CELLS
    assert len(frame.columns.difference(store_sql.make_frame([]).columns)) >= 30, "parameters"
    run = reference.client.get_run(frame["run_id"].iloc[7])
    assert len(run.data.metrics) == 30
    points = fast.history([run.info.run_id], [*run.data.metrics])
    assert points.groupby("metric").size().tolist() == [20] * 30
    last = points.drop_duplicates("metric", keep="last").set_index("metric")["value"]
    assert last.to_dict() == run.data.metrics
    pd.testing.assert_frame_equal(points, reference.history([run.info.run_id], [*run.data.metrics]))


def test_a_report_is_the_same_twice_and_however_its_runs_are_read(big, tmp_path, monkeypatch):
    folder, study = big
    monkeypatch.setattr(exhibits, "MAX_LINES", 2 * CELLS)
    fast, reference = both(f"sqlite:///{folder}/mlruns/mlflow.db", "big")
    for name, runs in (("first", fast), ("second", fast), ("reference", reference)):
        build_report(study.under("default"), runs, tmp_path / name)
    assert digests(tmp_path / "first") == digests(tmp_path / "second") == digests(tmp_path / "reference")
    page = (tmp_path / "first" / "index.md").read_text()
    assert "the first 2 repetitions of each cell, 80 of 120 runs" in page
    manifest = json.loads((tmp_path / "first" / "manifest.json").read_text())
    assert len(manifest["exhibits"]["summary"]["runs"]) == 120


def test_status_check_and_report_load_neither_mlflow_nor_torch_nor_optuna(big):
    code = (
        "import sys; from nfstudy.__main__ import main; code = main(sys.argv[1:]); "
        "print(sorted({'mlflow', 'torch', 'optuna'} & set(sys.modules))); sys.exit(code)"
    )
    (big[0] / "studies").mkdir(exist_ok=True)
    shutil.copy(big[0] / "big.yaml", big[0] / "studies")
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    for arguments in (("status", "big.yaml"), ("report", "big.yaml"), ("check",)):
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=big[0], env=environment,
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "[]", arguments
        if arguments[0] == "status":
            assert "40 done" in done.stdout


def test_statistics_lead_mlflow_to_a_runs_own_points(big, tmp_path):
    path = tmp_path / "mlflow.db"
    shutil.copy(big[0] / "mlruns" / "mlflow.db", path)
    asked = (
        "EXPLAIN QUERY PLAN SELECT * FROM metrics WHERE run_uuid = 'a' AND key = 'b' ORDER BY timestamp, step, value"
    )
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE IF EXISTS sqlite_stat1")
    store = open_store(f"sqlite:///{path}")
    store.tidy()
    with closing(sqlite3.connect(path)) as connection:
        assert "(run_uuid=? AND key=?)" in connection.execute(asked).fetchone()[3]
