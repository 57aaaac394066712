"""The command `decide`: it runs further repetitions of the cells of undecided claims, and these alone."""

import json
import shutil
from contextlib import nullcontext

import pytest
from support.command_line import frame_of

from nfstudy.__main__ import main
from nfstudy.core import registry
from nfstudy.core.launcher import Launcher
from nfstudy.report.claims.baseline import read_baseline
from nfstudy.runs.frame import runs_left
from nfstudy.runs.result import TrialResult
from nfstudy.runs.tracking.claim import Claim
from nfstudy.runs.tracking.store import Attempt, open_store
from nfstudy.study.plan import Further
from nfstudy.study.reader import read_study

STUDY = """\
study: plane
title: Two flows
paper: mine
plugins: [mine.py]
energy: {name: u1}
train: {updates: 20, batch: 16, optimiser: adam, learning_rate: 1e-2}
objective: {anneal_updates: 10}
evaluation: {samples: 200}
grid: {flow.family: [planar, nice-perm], flow.length: [2, 4]}
repetitions: 3
exhibits: [summary]
"""
PLUGIN = '''
from nfstudy.core.declarations import Paper

CLAIMS = """
- id: alike
  says: Both are alike.
  where: nowhere
  exhibit: summary
  study: plane
  on: {energy.name: u1}
  quantity: F
  level: 0.95
  inequality: {form: alike, family: planar, other: nice-perm, lengths: [2, 4], margin: 1000.0}
- id: longer
  says: Longer is lower.
  where: nowhere
  exhibit: summary
  study: plane
  on: {energy.name: u1}
  quantity: F
  level: 0.95
  inequality: {form: falls, family: planar, lengths: [2, 4]}
"""
MINE = Paper(name="mine", citation="Mine (2026)", claims=lambda: CLAIMS)
'''


@pytest.fixture(scope="module", autouse=True)
def own_registry():
    """Have the plug-in declare into a copy of what there is."""
    registry.all_of("papers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_declared", {kind: dict(found) for kind, found in registry._declared.items()})
        patch.setattr("nfstudy.core.plugins._installed", {})
        registry._version += 1
        yield
    registry._version += 1


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A folder with a study and a store that holds three repetitions of each cell, with planted F.

    At K = 2 planar and NICE differ by 5, 900 and 300 nats, which is undecided; at K = 4 by 1, 2 and 3; and
    planar's F at K = 4 lies 50 nats below that at K = 2.
    """
    folder = tmp_path_factory.mktemp("planted")
    (folder / "studies").mkdir()
    (folder / "studies/plane.yaml").write_text(STUDY)
    (folder / "studies/mine.py").write_text(PLUGIN)
    plan = read_study(folder / "studies/plane.yaml").under()
    store = open_store(f"sqlite:///{folder}/mlruns/mlflow.db", create=True)
    numbers_of = {
        ("planar", 2): [60.0, 61.0, 62.5],
        ("nice-perm", 2): [55.0, -839.0, -237.5],
        ("planar", 4): [10.0, 11.0, 12.0],
        ("nice-perm", 4): [9.0, 9.0, 9.0],
    }
    for cell in plan.cells:
        own = numbers_of[cell.settings.flow.family, cell.settings.flow.length]
        for trial, f in zip(plan.repetitions_of(cell), own, strict=True):
            run = store.start_run(store.experiment("plane"), trial, None, Attempt("cpu", 1))
            numbers = {"test/elbo": -f, "test/elbo_mc_se": 0.01, "time/wall_seconds": 2.0, "valid/elbo": -f}
            store.finish_run(run, TrialResult("finished", 20, metrics=numbers))
    return folder


@pytest.fixture
def project(planted, tmp_path, monkeypatch):
    """A copy of it, in which commands run."""
    shutil.copytree(planted, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def repetitions(project):
    """Cell -> the repetitions that the store holds."""
    frame = frame_of(project, "plane")
    labels = frame["flow.family"].astype(str) + " " + frame["flow.length"].astype(str)
    return {label: sorted(own["index"]) for label, own in frame.groupby(labels)}


def test_a_forecast_names_cells_runs_and_time_and_runs_nothing(project, capsys):
    assert main(["decide", "--dry-run", "--workers", "2"]) == 0
    text = capsys.readouterr().out
    assert "alike on plane default: look 2 at 6 repetitions, undecided parts: 1\n" in text
    # Six runs of 2 s on two workers.
    assert "\n  runs: 6, 6 s with 2 at once; decides with a probability of " in text
    assert "\n  cells: u1 planar K=2; u1 nice-perm K=2\n" in text
    assert "longer" not in text
    assert {len(own) for own in repetitions(project).values()} == {3}
    assert not (project / "reports").exists()

    # The studies may stand elsewhere.
    shutil.move(project / "studies", project / "mine")
    assert main(["decide", "--dry-run", "--workers", "2", "--study", "mine/plane.yaml"]) == 0
    assert capsys.readouterr().out == text


def test_a_forecast_counts_what_is_to_do_where_a_stopped_look_has_left_a_gap(project, capsys):
    plan = read_study(project / "studies/plane.yaml").under()
    store = open_store(f"sqlite:///{project}/mlruns/mlflow.db")
    cell = next(cell for cell in plan.cells if cell.label == "u1 planar K=2")
    *_, killed, fifth, sixth = plan.repetitions_of(cell, further=Further(6, '{"first": 3}'))
    store.kill_run(store.start_run(store.experiment("plane"), killed, None, Attempt("cpu", 1)))
    for trial in (fifth, sixth):
        run = store.start_run(store.experiment("plane"), trial, None, Attempt("cpu", 1))
        store.finish_run(run, TrialResult("finished", 20, metrics={"test/elbo": -61.0, "time/wall_seconds": 2.0}))
    assert main(["decide", "--dry-run", "--workers", "1"]) == 0
    text = capsys.readouterr().out
    assert "\n  runs: 4, 8 s with 1 at once; " in text
    assert "these looks together: at most 4 runs" in text


@pytest.mark.end_to_end
def test_only_the_cells_of_undecided_parts_get_repetitions_until_the_claim_is_decided(project, capsys):
    assert main(["decide", "--workers", "2"]) == 0
    text = capsys.readouterr().out
    assert "supported    alike on plane default  (2 of 2 parts supported)" in text
    assert repetitions(project) == {
        **{cell: [1, 2, 3, 4, 5, 6] for cell in ("planar 2", "nice-perm 2")},
        **{cell: [1, 2, 3] for cell in ("planar 4", "nice-perm 4")},
    }
    # What they were run for, and what came of it, stands in the store ...
    frame = frame_of(project, "plane")
    (look,) = frame.loc[frame["index"] > 3, "look"].unique()
    assert set(frame.loc[frame["index"] <= 3, "look"]) == {""}
    told = json.loads(look)
    assert (told["first"], told["look"], told["repetitions"], told["claim"]) == (3, 2, 6, "alike")
    assert told["share"] == pytest.approx(0.1)
    store = open_store(f"sqlite:///{project}/mlruns/mlflow.db")
    run = store.client.get_run(frame.loc[frame["index"] == 6, "run_id"].iloc[0])
    assert json.loads(run.data.tags["nfstudy.looked"]) == {"alike": "supported", "longer": "supported"}
    # ... and in the report, whose tables are still of the study's own repetitions.
    page = (project / "reports/plane/index.md").read_text()
    assert "look 1 at 3: " in page
    assert "look 2 at 6: " in page
    assert "99.5 % t interval, look 2" in page
    assert "3 of 3" in page
    assert "6 of 3" not in page

    assert main(["decide"]) == 0
    assert "no claim is undecided" in capsys.readouterr().out
    # They are what the study's own would be, were there more of them.
    for asked, left in ((3, 0), (6, 6)):
        (project / "studies/plane.yaml").write_text(STUDY.replace("repetitions: 3", f"repetitions: {asked}"))
        assert runs_left(read_study(project / "studies/plane.yaml").under(), frame) == left


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--max-seeds", "5"], "its next look is at 6 repetitions, beyond the limit of 5"),
        (["--hours", "0.0001"], "the next look takes 12 s, more than is left of the time given"),
    ],
    ids=["seeds", "hours"],
)
def test_a_claim_that_the_limits_leave_undecided_is_told_and_is_exit_code_1(project, capsys, arguments, told):
    assert main(["decide", "alike", "--workers", "1", *arguments]) == 1
    text = capsys.readouterr().out
    assert told in text
    assert "undecided    alike on plane default" in text
    assert {len(own) for own in repetitions(project).values()} == {3}


def test_what_needs_no_deciding_or_is_unknown_is_said(project, capsys):
    assert main(["decide", "longer"]) == 0
    assert "no claim is undecided" in capsys.readouterr().out
    assert main(["decide", "alik"]) == 2
    assert "decide: no claim 'alik'; expected: " in capsys.readouterr().err
    assert main(["decide", "--budget", "huge"]) == 2
    assert "--budget huge: no study has it; expected: default" in capsys.readouterr().err
    assert main(["check", "--update-baseline"]) == 0
    assert read_baseline(project / "reports/claims-baseline.json")["plane default"]["alike"] == "undecided"


def test_a_study_that_a_launcher_elsewhere_is_at_work_on_is_left_to_it(project, monkeypatch, capsys):
    store = open_store(f"sqlite:///{project}/mlruns/mlflow.db")
    Claim(store, "plane", Launcher("far", 22, "/elsewhere", "2026-01-02", "aa")).take()
    monkeypatch.setattr("nfstudy.cli.run.open_engine", lambda launch, left: nullcontext())
    assert main(["decide", "--workers", "1"]) == 2
    told = capsys.readouterr().err
    assert "study 'plane' is being run by another launcher: pid 22 on far, folder /elsewhere" in told
    assert "go on with: python -m nfstudy decide --workers 1" in told
    assert {len(own) for own in repetitions(project).values()} == {3}
