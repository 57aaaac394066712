"""What somebody may do to a study in the MLflow UI: edited tags and numbers, renamed and deleted experiments."""

import json
import shutil
import sqlite3
from contextlib import closing

import pytest
from support.fake_runs import FakeRuns
from support.filled_store import PLAN, SPEC, TRIALS, fill

from nfstudy.cli.status import print_cells
from nfstudy.core.errors import ReportError, StoreError, StudyDeletedError, UserError
from nfstudy.report.build import build_report
from nfstudy.report.pages.overview import build_front
from nfstudy.report.statistics.estimates import gather_results
from nfstudy.runner.eta import Forecast, expected_seconds, format_duration
from nfstudy.runs.archive.reader import read_archive
from nfstudy.runs.archive.transfer import export_runs
from nfstudy.runs.frame import cell_states, latest_per_identity, notes, runs_left, study_cells, trusted
from nfstudy.runs.original import CHECKED, OF_A_SEARCH
from nfstudy.runs.tags import Tag
from nfstudy.runs.tracking.mlflow_export import read_copy
from nfstudy.runs.tracking.open import load_frame, open_runs
from nfstudy.runs.tracking.store import open_store
from nfstudy.study.cells import Trial
from nfstudy.study.reader import parse_study

FINISHED = "SELECT run_uuid FROM tags WHERE key = 'nfstudy.outcome' AND value = 'finished'"
PLACES = (Tag.CELL, Tag.STAGE, Tag.INDEX, Tag.SETTINGS, Tag.POINT)
"""Without which a run has no place."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filled")
    fill(folder)
    return folder


@pytest.fixture
def edited(filled, tmp_path):
    """Give the address of the store after some SQL, and the id of its one finished run."""
    shutil.copy(filled / "mlflow.db", tmp_path)
    shutil.copytree(filled / "artifacts", tmp_path / "artifacts")

    def edit(*statements):
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
            (run_id,) = connection.execute(FINISHED).fetchone()
            for statement, *values in statements:
                connection.execute(statement.replace("RUN", f"run_uuid = '{run_id}'"), values)
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return f"sqlite:///{tmp_path}/mlflow.db", run_id

    return edit


def tag(key, value):
    """The statement that sets a tag of the finished run."""
    return "UPDATE tags SET value = ? WHERE key = ? AND RUN", value, key


def both_frames(uri):
    return open_runs(uri)("s").frame(), open_store(uri).runs("s").frame()


@pytest.mark.parametrize("key", [*PLACES, Tag.ATTEMPT, Tag.OUTCOME, Tag.UPDATE])
@pytest.mark.parametrize("value", ["two", "", "-1", "9" * 30, "\x1b[2J"])
def test_a_run_with_an_edited_tag_is_named_and_left_out(key, value, edited):
    uri, run_id = edited(tag(key, value))
    frame = load_frame(uri, "s")
    assert run_id not in frame["run_id"].tolist()
    told = [line for line in notes(frame) if run_id in line]
    assert len(told) == 1
    assert f"tag {key}: got {value!r}" in told[0]
    assert "left out" in told[0]
    assert "expected" in told[0]
    assert cell_states(PLAN, frame)
    assert runs_left(PLAN, frame) > 0


@pytest.mark.parametrize("key", PLACES)
def test_a_run_without_a_tag_is_named_and_left_out_whichever_way_it_is_read(key, edited):
    uri, run_id = edited((f"DELETE FROM tags WHERE key = '{key}' AND RUN",))
    for frame in both_frames(uri):
        assert run_id not in frame["run_id"].tolist()
        (note,) = (note for note in notes(frame) if run_id in note)
        assert f"tag {key}: is missing; expected:" in note


@pytest.mark.parametrize("key", [Tag.REASON, Tag.COMMIT, Tag.DIRTY, Tag.DEVICE, "mlflow.runName", Tag.DATA])
@pytest.mark.parametrize("value", ["two", None, "\x1b[2J<b>'\""])
def test_a_tag_that_places_no_run_is_shown_as_what_it_is(key, value, edited):
    uri, run_id = edited(tag(key, value))
    frame = load_frame(uri, "s").set_index("run_id")
    assert frame.loc[run_id, "outcome"] == "finished"
    column = {"mlflow.runName": "run_name"}.get(key, key.removeprefix("nfstudy."))
    assert frame.loc[run_id, column] == ((value or "") if key != Tag.DIRTY else False)


def test_a_run_under_another_cell_or_index_is_left_out(edited):
    other = next(cell for cell in PLAN.cells if cell.key != TRIALS[0].cell.key)
    uri, run_id = edited(tag(Tag.CELL, other.key))
    frame = load_frame(uri, "s")
    assert run_id in frame["run_id"].tolist()
    kept = trusted(PLAN, frame)
    assert run_id not in kept["run_id"].tolist()
    assert any(f"run {run_id}" in note and "contradict each other" in note for note in notes(kept))
    uri, run_id = edited(tag(Tag.INDEX, "2"))
    assert any(f"run {run_id}" in note and "expected: that of nfstudy.repetition, 1" in note
               for note in notes(load_frame(uri, "s")))  # fmt: skip


def test_runs_that_are_as_they_were_are_all_trusted(edited):
    uri, _ = edited()
    frame = load_frame(uri, "s")
    assert trusted(PLAN, frame)["run_id"].tolist() == frame["run_id"].tolist()


SEARCHED = parse_study(
    "study: s\ntitle: T\ndata: {name: digits}\ntrain: {updates: 10, optimiser: adam}\n"
    "grid: {flow.family: [planar], flow.length: [0, 2]}\nrepetitions: 1\nexhibits: [summary]\n"
    "search:\n  sampler: {name: random, trials: 2}\n"
    "  space: {train.learning_rate: {low: 1e-3, high: 1e-1}, flow.initial_scale: [0.5, 2.0]}\n"
    "  settings: {train.updates: 5}\n",
    "s.yaml",
).under()


def searched_runs():
    """Return imported runs of both cells: a trial each, and the repetition at what it drew."""
    runs = FakeRuns()
    for cell in SEARCHED.cells:
        drawn = {"train.learning_rate": 0.0123456789, "flow.initial_scale": 2.0}
        for stage, settings in (("search", cell.tried(drawn)), ("repetition", cell.chosen(drawn))):
            runs.add(Trial("s", cell, settings, stage, int(stage == "repetition")), imported=OF_A_SEARCH)
    return runs


def test_runs_of_a_search_are_held_to_the_study_with_what_was_drawn():
    runs = searched_runs()
    kept = trusted(SEARCHED, runs.frame())
    assert kept["imported"].tolist() == [CHECKED] * 4
    assert notes(kept) == ()


def test_a_null_that_a_search_drew_is_what_its_run_has():
    text = (
        "study: s\ntitle: T\ndata: {name: digits}\ntrain: {updates: 10, clip_norm: 1.0}\n"
        "grid: {flow.family: [planar], flow.length: [2]}\nrepetitions: 1\nexhibits: [summary]\n"
        "search: {sampler: {name: random, trials: 3}, space: {train.clip_norm: [null, 1.0, 10.0]}}\n"
    )
    plan, runs = parse_study(text, "s.yaml").under(), FakeRuns()
    (cell,) = plan.cells
    for number, value in enumerate((None, 1.0, 10.0)):
        runs.add(Trial("s", cell, cell.tried({"train.clip_norm": value}), "search", number))
    runs.add(Trial("s", cell, cell.chosen({"train.clip_norm": None}), "repetition", 1))
    kept = trusted(plan, runs.frame())
    assert (len(kept), notes(kept)) == (4, ())


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("column", ["cell", "train.batch", "train.learning_rate"])
def test_a_run_of_a_search_that_is_not_of_its_cell_is_left_out(place, column):
    runs = searched_runs()
    record = runs.records[place]
    if column == "cell":
        record["cell"] = next(cell.key for cell in SEARCHED.cells if cell.key != record["cell"])
    elif column == "train.learning_rate":
        record[column] = 0.05
    else:  # What no search draws is the study's, whatever a run says; its own digest is then another.
        record["settings"] = "0" * 16
    kept = trusted(SEARCHED, runs.frame())
    assert record["run_id"] not in kept["run_id"].tolist()
    (note,) = notes(kept)
    assert note.startswith(f"run {record['run_id']} (")
    assert len(kept) == 3


@pytest.mark.parametrize("value", [[1, 2], [], {"a": 1}, "abc", -1.0, True, None], ids=str)
@pytest.mark.parametrize("place", range(2))
def test_a_run_of_a_search_with_a_value_that_is_impossible_is_left_out(place, value):
    runs = searched_runs()
    runs.records[place]["train.learning_rate"] = value
    kept = trusted(SEARCHED, runs.frame())
    assert runs.records[place]["run_id"] not in kept["run_id"].tolist()
    assert len(kept) == 3


SAMPLED = parse_study(
    "study: s\ntitle: T\ndata: {name: digits}\ntrain: {updates: 10, learning_rate: 1e-3}\n"
    "grid: {flow.family: [planar], flow.length: [0, 2]}\nrepetitions: 3\nexhibits: [summary]\n"
    "sampler: {name: tpe, trials: 4}\n",
    "s.yaml",
).under()


@pytest.mark.parametrize(
    "point", [{}, {"nonsense": 1}, {"flow.family": 3, "flow.length": "x"}, {"flow.family": "planar", "flow.length": 7}]
)
def test_a_point_that_is_not_the_runs_own_makes_no_cell(point, edited):
    uri, _ = edited(("UPDATE tags SET value = ? WHERE key = 'nfstudy.point'", json.dumps(point)))
    assert study_cells(SAMPLED, load_frame(uri, "s")) == []


@pytest.mark.parametrize("value", ["9e999", "-1e308", "1e308", "-5.0", "0.0"])
def test_numbers_that_can_be_no_times_break_no_estimate(value, edited, capsys):
    uri, _ = edited((f"UPDATE latest_metrics SET value = {value}",), (f"UPDATE metrics SET value = {value}",))
    frame = load_frame(uri, "s")
    frame["time/wall_seconds"] = float(value)
    print_cells(PLAN, frame, expected_seconds(frame, {}) | {"x": float(value)}, 2)
    assert "time left: " in capsys.readouterr().out
    assert Forecast({"a": float(value)}, 1).expected("a") != float(value) or value == "0.0"
    assert format_duration(float("inf")) == format_duration(-1.0) == "unknown"


def test_a_report_of_edited_runs_names_those_that_are_left_out_and_shows_the_others(edited, tmp_path):
    statements = [
        ("UPDATE latest_metrics SET value = 1e308 WHERE key LIKE 'test/%'",),
        ("UPDATE metrics SET value = 1e308 WHERE step = 10",),
        ("UPDATE metrics SET step = -5 WHERE step = 5",),
        ("INSERT INTO params (key, value, run_uuid) SELECT 'outcome', 'NaN', run_uuid FROM runs WHERE RUN",),
        ("UPDATE params SET value = 'Infinity' WHERE key = 'train.momentum'",),
        ("UPDATE runs SET name = NULL",),
        ("UPDATE tags SET value = 'two' WHERE key = 'nfstudy.attempt' AND NOT RUN",),
    ]
    uri, run_id = edited(*statements)
    told = []
    runs = open_runs(uri)("s")
    page = build_report(PLAN, runs, tmp_path / "s", partial=True, tell=told.append).read_text()
    assert run_id in page
    assert "tag nfstudy.attempt: got &#39;two&#39;" in page
    assert told == list(gather_results(PLAN, runs).notes)
    assert told
    build_front({"s.yaml": SPEC}, open_runs(uri), tmp_path / "all", tell=told.append)


def test_an_export_leaves_out_what_cannot_be_exported_and_says_so(edited, tmp_path):
    uri, run_id = edited(tag(Tag.ATTEMPT, "two"))
    told = []
    exported = export_runs(uri, "s", tmp_path / "a.tar.xz", tell=told.append)
    assert exported == len(read_archive(tmp_path / "a.tar.xz").runs) > 0
    (line,) = told
    assert f"run {run_id}" in line
    assert "tag nfstudy.attempt: got 'two'; expected: a whole number; left out" in line


def test_an_export_without_the_runs_files_says_so(edited, tmp_path):
    uri, _ = edited()
    told = []
    assert export_runs(uri, "s", tmp_path / "a.tar.xz", tell=told.append) == 4
    assert told == []
    shutil.rmtree(tmp_path / "artifacts")
    assert export_runs(uri, "s", tmp_path / "a.tar.xz", tell=told.append) == 4
    assert "4 of 4 runs have no files in the store" in told[0]


def test_a_renamed_experiment_is_found_again_and_the_name_is_told(edited, tmp_path):
    uri, run_id = edited(("UPDATE experiments SET name = 'put aside' WHERE name = 's'",))
    for frame in both_frames(uri):
        assert run_id in frame["run_id"].tolist()
        assert any("is named 'put aside' in this store" in note and "rename it to s" in note for note in notes(frame))
    store = open_store(uri)
    assert store.client.get_experiment(store.experiment("s")).name == "put aside", "no second one is made"
    assert export_runs(uri, "s", tmp_path / "a.tar.xz") == 4
    # A store of before has no tag on its experiments, but its runs have.
    uri, run_id = edited(("DELETE FROM experiment_tags",))
    assert all(run_id in frame["run_id"].tolist() for frame in both_frames(uri))


def test_two_experiments_of_one_study_are_told_apart_by_nobody(edited):
    uri, _ = edited(
        ("UPDATE experiments SET name = 'one' WHERE name = 's'",),
        ("DELETE FROM experiment_tags",),
        ("INSERT INTO experiments (name, artifact_location, lifecycle_stage, workspace) "
         "VALUES ('two', 'x', 'active', 'default')",),
        ("UPDATE runs SET experiment_id = (SELECT max(experiment_id) FROM experiments) WHERE RUN",),
    )  # fmt: skip
    for read in (open_runs(uri)("s").frame, open_store(uri).runs("s").frame):
        with pytest.raises(
            StoreError, match="2 have runs of that study: 'one', 'two'; hint: rename the right one to s"
        ):
            read()


def test_a_deleted_experiment_is_an_error_that_says_how_to_have_it_back_and_no_report_is_lost(edited, tmp_path):
    uri, _ = edited()
    good = build_report(PLAN, open_runs(uri)("s"), tmp_path / "reports" / "s", partial=True).read_bytes()
    store = open_store(uri)
    experiment = store.experiment("s")
    store.client.delete_experiment(experiment)
    for read in (open_runs(uri)("s").frame, store.runs("s").frame, lambda: store.experiment("s")):
        with pytest.raises(StudyDeletedError, match=f"experiments restore --experiment-id {experiment}"):
            read()
    with pytest.raises(StudyDeletedError):
        build_report(PLAN, open_runs(uri)("s"), tmp_path / "reports" / "s", partial=True)
    told = []
    build_front({"s.yaml": SPEC}, open_runs(uri), tmp_path / "reports", tell=told.append)
    assert "restore" in told[0]
    assert (tmp_path / "reports" / "s" / "index.html").read_bytes() == good
    store.client.restore_experiment(experiment)
    assert len(load_frame(uri, "s")) == 6, "and with it the run that had been deleted alone"


def test_an_empty_report_takes_no_good_ones_place(edited, tmp_path):
    uri, _ = edited()
    good = build_report(PLAN, open_runs(uri)("s"), tmp_path / "s", partial=True).read_bytes()
    uri, _ = edited(("UPDATE runs SET lifecycle_stage = 'deleted'",))
    with pytest.raises(ReportError, match=r"no runs in this store, and .* holds an earlier report"):
        build_report(PLAN, open_runs(uri)("s"), tmp_path / "s", partial=True)
    assert (tmp_path / "s" / "index.html").read_bytes() == good


def test_a_run_is_found_by_the_beginning_of_its_id_or_of_its_cells_key(edited):
    uri, run_id = edited()
    store = open_store(uri)
    assert read_copy(store, run_id[:8]).record.id == run_id
    frame = latest_per_identity(load_frame(uri, "s"))
    key = frame.set_index("run_id").loc[run_id, "cell"]
    with pytest.raises(UserError, match=rf"run {key[:6]}: begins the cell key of \d runs; expected: one of .*{run_id}"):
        read_copy(store, key[:6])
    with pytest.raises(UserError, match="or its first digits"):
        read_copy(store, "0123abcd")
    uri, _ = edited(("UPDATE runs SET lifecycle_stage = 'deleted' WHERE NOT RUN",))
    assert read_copy(open_store(uri), key[:6]).record.id == run_id
