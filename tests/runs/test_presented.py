"""What MLflow's pages show of a study, in real stores: it follows from the runs, and what people wrote there stays."""

import getpass
import sqlite3
from contextlib import closing

import pytest
from support.filled_store import PLAN, TRIALS, fill

from nfstudy.runs.archive.reader import read_archive
from nfstudy.runs.archive.transfer import export_runs, import_runs
from nfstudy.runs.result import TrialResult
from nfstudy.runs.tags import MlflowTag, Tag
from nfstudy.runs.tracking.mlflow_export import read_copy
from nfstudy.runs.tracking.presented import show_study
from nfstudy.runs.tracking.store import Attempt, open_store
from nfstudy.runs.views import view_tag

pytestmark = pytest.mark.slow

REPORT = "reports/s/index.html"
NUMBERS = {"test/elbo": -24.0, "test/kl": 0.5, "test/nll": 23.5, "time/wall_seconds": 3.0}


def finished(store, trial=TRIALS[0]):
    run_id = store.start_run(store.experiment("s"), trial, None, Attempt("cpu", 1))
    store.finish_run(run_id, TrialResult("finished", 30, metrics=NUMBERS), "")
    return run_id


def tags_of(store, run_id):
    return store.client.get_run(run_id).data.tags


def test_what_is_logged_at_the_end_is_at_step_0_and_f_is_positive(store):
    run_id = finished(store)
    for name, value in {**NUMBERS, "test/free_energy": 24.0}.items():
        assert [(point.step, point.value) for point in store.client.get_metric_history(run_id, name)] == [(0, value)]
    assert tags_of(store, run_id)["mlflow.user"] == getpass.getuser()
    assert store.client.search_experiments()[0].tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_run_whose_end_stands_at_its_last_update_has_the_same_numbers(store):
    """As version 0.1 logged it: reruns are held to such runs, and an import finds them again."""
    now = finished(store)
    before = store.start_run(store.experiment("s"), TRIALS[0], None, Attempt("cpu", 1, 2))
    for name, value in NUMBERS.items():
        store.client.log_metric(before, name, value, step=30)
    store.client.log_metric(before, "test/free_energy", 24.0, step=30)
    store.tag_run(before, {Tag.OUTCOME: "finished", Tag.UPDATE: "30"})
    store.client.set_terminated(before, "FINISHED")
    assert read_copy(store, now).same_numbers(read_copy(store, before))
    store.client.log_metric(before, "test/nll", 23.6, step=31)
    assert not read_copy(store, now).same_numbers(read_copy(store, before))


@pytest.mark.parametrize("by_sql", [True, False])
def test_descriptions_become_true_and_those_of_people_stay(store, by_sql, monkeypatch):
    ours, theirs = finished(store), finished(store, TRIALS[1])
    store.client.set_tag(theirs, MlflowTag.NOTE, "Look at this one.")
    if not by_sql:
        monkeypatch.setattr(type(store), "tag_runs", lambda self, tags: [self.tag_run(*pair) for pair in tags.items()])
    show_study(store, "s", "reports/elsewhere/index.html")
    show_study(store, "s", REPORT)
    assert tags_of(store, ours)[MlflowTag.NOTE].startswith("F = 24.000, KL ≥ 0.500, −ln p(x) ≤ 23.500 nats")
    assert REPORT in tags_of(store, ours)[MlflowTag.NOTE]
    assert tags_of(store, theirs)[MlflowTag.NOTE] == "Look at this one."
    writes = []
    monkeypatch.setattr(type(store), "tag_runs", lambda self, tags: writes.append(tags))
    monkeypatch.setattr(type(store), "tag_study", lambda self, *given: writes.append(given))
    show_study(store, "s", REPORT)
    assert writes == [{}], "nothing is written twice"


def test_a_description_that_was_written_while_the_run_went_on_stays(store):
    run_id = store.start_run(store.experiment("s"), TRIALS[0], None, Attempt("cpu", 1))
    store.client.set_tag(run_id, MlflowTag.NOTE, "Watch its gradient.")
    store.finish_run(run_id, TrialResult("finished", 30, metrics=NUMBERS), "another")
    assert tags_of(store, run_id)[MlflowTag.NOTE] == "Watch its gradient."


def test_there_is_a_view_of_each_budget_before_it_has_runs(store):
    store.experiment("s")
    show_study(store, "s", REPORT, PLAN)
    _, tags = store.study_tags()["s"]
    assert '"Cells, budget default"' in tags[view_tag("default")]


def test_archives_hold_nothing_of_it(tmp_path):
    fill(tmp_path / "from")
    uri = f"sqlite:///{tmp_path}/from/mlflow.db"
    export_runs(uri, "s", tmp_path / "a")
    show_study(open_store(uri), "s", REPORT)
    export_runs(uri, "s", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    archive = read_archive(tmp_path / "b")
    assert not any({MlflowTag.NOTE, MlflowTag.USER, Tag.CELL_NAME} & run.record.tags.keys() for run in archive.runs)
    other = f"sqlite:///{tmp_path}/to/mlflow.db"
    import_runs(archive, other)
    show_study(open_store(other), "s", REPORT)
    notes = [run.data.tags[MlflowTag.NOTE] for run in open_store(other).runs("s").entities()]
    assert len(notes) == len(archive.runs)
    assert all(note.endswith("stays.*") for note in notes)
    export_runs(other, "s", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == (tmp_path / "a").read_bytes()


def test_a_new_store_shows_no_empty_experiment_and_one_of_somebodys_own_stays(store, tmp_path):
    assert [each.name for each in store.client.search_experiments()] == []
    with closing(sqlite3.connect(tmp_path / "mlruns" / "mlflow.db")) as connection:
        connection.execute("UPDATE experiments SET lifecycle_stage = 'active' WHERE experiment_id = 0")
        connection.commit()
    again = open_store(store.uri, create=True)
    assert [each.name for each in again.client.search_experiments()] == ["Default"]
