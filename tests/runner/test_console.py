"""What `run` and `status` say of searches and pruned cells."""

import pytest
from support.fake_runs import FakeRuns

from nfstudy.cli.run import _heading, _not_run
from nfstudy.cli.status import print_cells
from nfstudy.runs.frame import cell_states
from nfstudy.study.cells import Trial
from nfstudy.study.reader import parse_study

STUDY = """\
study: s
title: T
data: {name: digits}
grid: {flow.family: [planar], flow.length: [2, 4]}
repetitions: 3
exhibits: [summary]
"""
SEARCH = (
    STUDY
    + "search: {sampler: {name: random, trials: 4}, space: {train.batch: [20, 50]}, settings: {train.updates: 7}}\n"
)


def test_a_title_moves_no_cursor():
    plan = parse_study(STUDY.replace("title: T", 'title: "T\\e[31m\\u202E\\a"'), "s.yaml").under()
    assert _heading(plan, 6) == r"T\x1b[31m\u202e\x07" + "\ns, budget default: 6 runs to do"


@pytest.fixture
def pruned():
    """A sampled study, one cell of which was pruned in its first repetition, and one finished."""
    plan = parse_study(STUDY + "sampler: {name: random, trials: 2}\n", "s.yaml").under()
    runs = FakeRuns()
    cut, whole = (plan.repetitions_of(plan.cell_at({"flow.family": "planar", "flow.length": k})) for k in (2, 4))
    point = '{"flow.family": "planar", "flow.length": %d}'
    runs.add(cut[0], "pruned", reason="at epoch 3 at F 101.20", point=point % 2)
    for trial in whole:
        runs.add(trial, point=point % 4)
    return plan, runs.frame()


def test_a_pruned_cell_is_not_called_done_and_says_where_it_was_pruned(pruned, capsys):
    plan, frame = pruned
    assert [(state.state, state.note) for state in cell_states(plan, frame)] == [
        ("pruned", "pruned at epoch 3 at F 101.20"),
        ("done", ""),
    ]
    print_cells(plan, frame, {}, 2)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith("unknown  pruned at epoch 3 at F 101.20") and "0/3" not in line for line in lines)
    assert "  1 pruned, 1 done" in lines
    assert lines[-1] == "  time left: none"


def test_the_last_line_counts_what_will_not_run(pruned):
    plan, frame = pruned
    assert _not_run(plan, frame, 0) == "; not run: 2 repetitions of pruned cells"
    searched = parse_study(SEARCH, "s.yaml").under()
    runs, cell = FakeRuns(), searched.cells[0]
    for number in range(4):
        settings = cell.tried({"train.batch": 20})
        runs.add(Trial("s", cell, settings, "search", number), "failed" if number == 3 else "finished")
    # Of two cells with four trials and three repetitions each, three have run and one failed.
    assert _not_run(searched, runs.frame(), 1) == "; not run: 10 that wait for those that failed"
    assert _not_run(searched, FakeRuns().frame()[:0], 14) == ""


def test_a_trial_of_a_search_says_what_it_tries():
    cell = parse_study(SEARCH, "s.yaml").under().cells[0]
    trial = Trial("s", cell, cell.tried({"train.batch": 20}), "search", 1)
    assert (trial.label, trial.values) == ("planar K=2 D=40 search 1", "train.batch 20")
    assert trial.cost_key == f"{cell.key} search"
    assert Trial("s", cell, cell.settings, "repetition", 1).values == ""
