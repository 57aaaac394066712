"""Studies that were merged: a budget that was formerly another study has that one's keys, and its runs, old and new."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from support.studies import STUDIES

from nfstudy.__main__ import main
from nfstudy.core.errors import SpecError, StudyDeletedError
from nfstudy.report.statistics.estimates import gather_results
from nfstudy.runner.evaluate import finished_runs
from nfstudy.runs.archive.reader import read_archive
from nfstudy.runs.archive.runs import ArchivedRuns
from nfstudy.runs.former import runs_of_study
from nfstudy.runs.frame import cell_states, notes
from nfstudy.runs.original import CHECKED
from nfstudy.runs.result import TrialResult
from nfstudy.runs.tags import Tag
from nfstudy.runs.tracking.open import load_frame, open_runs, open_study
from nfstudy.runs.tracking.store import Attempt, open_store
from nfstudy.runs.whole_run import DataRecord
from nfstudy.study.reader import parse_study, read_study

pytestmark = pytest.mark.slow

SHORT = """\
study: small
title: Trained for a short time
data: {name: digits}
model: {latent: 3, hidden: 8, layers: 1, maxout: 2}
train: {batch: 50}
grid: {flow.family: [planar], flow.length: [0, 4]}
budgets: {laptop: {train.updates: 100, train.optimiser: adam, train.clip_norm: 5.0}}
exhibits: [summary]
"""
LONG = SHORT.replace("study: small", "study: small-long").replace("100, train.optimiser: adam", "200")
MERGED = """\
study: small
title: Both, and a new laptop
data: {name: digits}
model: {latent: 3, hidden: 8, layers: 1, maxout: 2}
train: {batch: 50}
grid: {flow.family: [planar], flow.length: [0, 4]}
budgets:
  laptop: {train.updates: 300}
  short: {formerly: {study: small, budget: laptop}, train.updates: 100, train.optimiser: adam, train.clip_norm: 5.0}
  long: {formerly: {study: small-long, budget: laptop}, train.updates: 200, train.clip_norm: 5.0}
exhibits: [summary]
"""
DATA = DataRecord.of("digits", "ab" * 32, "", {"train": (1000, 64)})


def study(text):
    return parse_study(text, "small.yaml")


def log(uri, plan, outcome="finished"):
    """Log a run of each cell; return their ids."""
    store, ids = open_store(uri, create=True), []
    for cell in plan.cells:
        for trial in plan.repetitions_of(cell):
            run_id = store.start_run(store.experiment(plan.name), trial, DATA, Attempt("cpu", 1))
            updates = trial.settings.train.updates
            store.finish_run(run_id, TrialResult(outcome, updates, metrics={"test/elbo": -updates}))
            ids.append(run_id)
    return ids


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A project with the runs of both studies from before they were merged; and their ids, by study."""
    folder = tmp_path_factory.mktemp("before")
    uri = f"sqlite:///{folder}/mlruns/mlflow.db"
    return folder, {name: log(uri, study(text).under()) for name, text in (("small", SHORT), ("small-long", LONG))}


@pytest.fixture
def project(before, tmp_path, monkeypatch):
    """A copy of it, with the merged study's file; and the address of its store."""
    shutil.copytree(before[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "small.yaml").write_text(MERGED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return f"sqlite:///{tmp_path}/mlruns/mlflow.db"


def runs_by_budget(frame):
    return {budget: sorted(own["run_id"]) for budget, own in frame.groupby("budget")}


def test_cells_keep_the_keys_that_they_had():
    merged = study(MERGED)
    for budget, text in (("short", SHORT), ("long", LONG)):
        assert [cell.key for cell in merged.under(budget).cells] == [cell.key for cell in study(text).under().cells]
    assert len({cell.key for budget in merged.budgets for cell in merged.under(budget).cells}) == 6


def test_runs_of_before_are_those_of_the_budget_that_their_study_is_now(before, project):
    merged, ids = study(MERGED), before[1]
    found = load_frame(project, merged)
    assert runs_by_budget(found) == {"short": sorted(ids["small"]), "long": sorted(ids["small-long"])}
    assert found["train.optimiser"].isna().sum() == 0
    assert {*found.loc[found["flow.length"] == 0, "flow.constraint"]} == {None}, "not in use is None, not NaN"
    new = log(project, merged.under("laptop"))
    store = open_study(project, merged)
    assert runs_by_budget(store.frame()) == {
        "laptop": sorted(new),
        "short": sorted(ids["small"]),
        "long": sorted(ids["small-long"]),
    }
    for budget, updates in (("laptop", 300), ("short", 100), ("long", 200)):
        results = gather_results(merged.under(budget), store)
        assert [cell.state.state for cell in results.cells] == ["done", "done"]
        assert {*results.runs["test/elbo"]} == {-updates}
        points = store.history([*results.runs["run_id"]], ["test/elbo"])
        assert [*points["value"]] == [-updates] * 2
        run_id = results.runs["run_id"].iloc[0]
        assert b'"updates"' in store.artifact(run_id, "settings.json")
        assert finished_runs(open_store(project), merged.under(budget)) == [*results.runs["run_id"]]
    assert store.artifact("?", "settings.json") is store.link("?") is None
    assert store.history(["?"], ["test/elbo"]).empty


def test_without_any_run_there_are_the_same_columns(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    open_store(uri, create=True)
    found = load_frame(uri, study(MERGED))
    pd.testing.assert_frame_equal(found, load_frame(uri, "small"))
    assert {"valid/elbo", "budget"} <= {*found.columns}


def test_what_is_run_anew_is_logged_as_before(project):
    plan = study(MERGED).under("long")
    again = [trial for cell in plan.cells for trial in plan.repetitions_of(cell)]
    assert [trial.study for trial in again] == ["small-long"] * 2
    log(project, plan, "diverged")
    tags = {(run.data.tags[Tag.STUDY], run.data.tags[Tag.BUDGET]) for run in open_runs_of(project, "small-long")}
    assert tags == {("small-long", "laptop")}
    assert len(load_frame(project, study(MERGED))) == 6
    assert len(load_frame(project, study(LONG))) == 4, "and the study file of before, where there is one, shows it too"


def open_runs_of(uri, name):
    store = open_store(uri)
    return store.client.search_runs([store.experiment(name)])


def test_commands_find_them(before, project, capsys):
    ids = before[1]
    assert main(["status", "small.yaml", "--budget", "long"]) == 0
    output = capsys.readouterr().out
    assert "small, budget long (logged as study small-long, budget laptop)" in output
    assert "2 done" in output
    assert main(["run", "small.yaml", "--budget", "short", "--dry-run"]) == 0
    assert "0 runs to do" in capsys.readouterr().out
    assert main(["report", "small.yaml", "--budget", "long"]) == 0
    page = Path("reports/small/index.html").read_text()
    assert all(run_id in page for run_id in ids["small-long"])
    assert "logged as study small-long, budget laptop" in page


def test_a_budget_is_exported_as_its_runs_are_logged_and_no_other(before, project, tmp_path, capsys):
    log(project, study(MERGED).under("laptop"))
    for budget, name, expected in (
        ("long", "small-long", before[1]["small-long"]),
        ("short", "small", before[1]["small"]),
    ):
        path = tmp_path / f"{budget}.tar.xz"
        assert main(["export", "small.yaml", str(path), "--budget", budget]) == 0
        archive = read_archive(path)
        assert archive.manifest.study == name
        assert sorted(run.record.id for run in archive.runs) == sorted(expected)
        assert {run.imported for run in archive.runs} == {CHECKED}
    assert main(["export", "small.yaml", str(tmp_path / "new.tar.xz"), "--budget", "laptop"]) == 0
    assert len(read_archive(tmp_path / "new.tar.xz").runs) == 2
    capsys.readouterr()
    assert main(["export", "small.yaml", str(tmp_path / "all.tar.xz")]) == 0
    assert "without the runs of budget long, which are logged as small-long; hint: export" in capsys.readouterr().err
    elsewhere = f"sqlite:///{tmp_path}/elsewhere/mlflow.db"
    for budget in ("long", "short"):
        assert main(["import", f"{budget}.tar.xz", "--tracking-uri", elsewhere]) == 0
    merged = study(MERGED)
    archives = {"small": "short", "small-long": "long"}
    of_archives = runs_of_study(merged, lambda name: ArchivedRuns(read_archive(tmp_path / f"{archives[name]}.tar.xz")))
    pd.testing.assert_frame_equal(load_frame(elsewhere, merged), of_archives.frame())
    assert len(of_archives.frame()) == 4


def test_a_deleted_study_of_before_is_told_of_and_no_more(project):
    store, merged = open_store(project), study(MERGED)
    store.client.delete_experiment(store.experiment("small-long"))
    frame = load_frame(project, merged)
    assert {*frame["budget"]} == {"short"}
    assert "small-long" in " ".join(notes(frame))
    assert {state.state for state in cell_states(merged.under("long"), frame)} == {"to do"}
    store.client.delete_experiment(store.experiment("small"))
    with pytest.raises(StudyDeletedError):
        load_frame(project, merged)


def test_runs_of_before_that_are_of_no_budget_now_are_left_alone(project):
    moved = study(MERGED.replace("train.updates: 200", "train.updates: 201"))
    assert {*load_frame(project, moved)["budget"]} == {"short"}
    assert len(open_runs(project)("small-long").frame()) == 2


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("study: small-long,", "study: Small Long,", "budgets.long.formerly.study: got 'Small Long'; expected: "),
        ("{study: small-long, budget: laptop}", "small-long", "budgets.long.formerly: got 'small-long'; expected: "),
        ("study: small-long, budget: laptop", "study: small-long", "budgets.long.formerly.budget: is missing"),
        ("study: small-long, budget", "studi: small-long, budget", "budgets.long.formerly.studi: unknown"),
        (
            "laptop: {train.updates: 300}",
            "laptop: {train.updates: 100, train.optimiser: adam, train.clip_norm: 5.0}",
            "budgets.short.formerly: has cells that budget laptop has too; expected: other settings, or one budget",
        ),
        (
            "exhibits: [summary]",
            "exhibits: [summary]\nsampler: {name: random, trials: 2}",
            "budgets.short.formerly: got a study with a sampler; expected: sampler exhaustive",
        ),
    ],
)
def test_a_mistake_in_what_a_budget_was_is_told(old, new, told):
    assert old in MERGED
    with pytest.raises(SpecError) as raised:
        study(MERGED.replace(old, new))
    assert told in str(raised.value)


SHIPPED = Path(__file__).parents[2] / "mlruns/reference"
MNIST = next(path for path in STUDIES if path.stem == "mnist")


@pytest.mark.parametrize(
    ("archive", "budget", "keys"),
    [
        ("mnist", "first-20000", ["9af5196ee2d5f5ef", "b8aca0d46c96cfe0", "01628d19fde7d857"]),
        ("mnist-long", "first-40000", ["74dd6ba9138ba755", "29c05ab6022dfe6a", "9d904828fec5c719"]),
    ],
)
def test_the_runs_of_the_first_edition_are_those_of_its_two_budgets(archive, budget, keys):
    """Keys of K = 0, and of planar and NICE at K = 80, pinned when `mnist-long.yaml` was merged into `mnist.yaml`."""
    spec, shipped = read_study(MNIST), read_archive(SHIPPED / f"{archive}.tar.xz")
    cells = spec.under(budget).cells
    assert [cells[place].key for place in (0, 4, 8)] == keys
    assert {run.record.tags[Tag.CELL] for run in shipped.runs} == {cell.key for cell in cells}
    results = gather_results(
        spec.under(budget), runs_of_study(spec, lambda name: ArchivedRuns(*[shipped] if name == archive else ()))
    )
    finished = {run.record.id for run in shipped.runs if run.record.outcome == "finished"}
    assert {*results.runs["run_id"]} == finished
    assert len(finished) == 27
    assert not results.stamp
