"""What people see while a study runs: bars on a terminal, plain lines elsewhere."""

import io

from rich.console import Console

from nfstudy.runner.progress import Bars, Lines, make_progress
from nfstudy.runs.result import EpochRecord
from nfstudy.study.reader import parse_study

STUDY = parse_study(
    "study: s\ntitle: T\ndata: {name: digits}\ngrid: {flow.family: [planar], flow.length: [4]}\nrepetitions: 2\n"
    "exhibits: [summary]\n",
    "s.yaml",
)
(CELL,) = STUDY.under("default").cells
FIRST, SECOND = STUDY.under(CELL.budget).repetitions_of(CELL)


def tell(progress):
    progress.begin("s", 0, 2, 120.0)
    progress.epoch(1, FIRST, EpochRecord(0, 0, 100, {}), 120.0)
    progress.epoch(1, FIRST, EpochRecord(1, 50, 100, {"valid/elbo": -93.25}), 60.0)
    progress.ended(1, FIRST, "finished in 1 min 00 s", 1, 2, 60.0)
    progress.epoch(1, SECOND, EpochRecord(0, 0, 100, {}), 60.0)
    progress.ended(1, SECOND, "diverged (loss is nan at update 7)", 2, 2, 0.0)
    progress.close()


def test_plain_lines_tell_of_starts_and_ends_and_not_of_every_epoch():
    stream = io.StringIO()
    tell(make_progress(stream))
    assert stream.getvalue().splitlines() == [
        "s: 0 of 2 runs, about 2 min 00 s left",
        "[worker 1] planar K=4 D=40 #1: starts",
        "[worker 1] planar K=4 D=40 #1: finished in 1 min 00 s; 1 of 2 runs, about 1 min 00 s left",
        "[worker 1] planar K=4 D=40 #2: starts",
        "[worker 1] planar K=4 D=40 #2: diverged (loss is nan at update 7); 2 of 2 runs",
    ]


def test_a_long_run_is_told_of_now_and_then(monkeypatch):
    stream, clock = io.StringIO(), iter([0.0, 30.0, 61.0, 61.0])
    monkeypatch.setattr("nfstudy.runner.progress.time.monotonic", lambda: next(clock))
    lines = Lines(stream)
    lines.epoch(1, FIRST, EpochRecord(0, 0, 100, {}), 9.0)
    lines.epoch(1, FIRST, EpochRecord(1, 20, 100, {"valid/elbo": -95.0}), 9.0)
    lines.epoch(1, FIRST, EpochRecord(2, 40, 100, {"valid/elbo": -93.25}), 9.0)
    assert stream.getvalue().splitlines()[1:] == ["[worker 1] planar K=4 D=40 #1: 40 of 100 updates, valid F 93.25"]


def test_a_terminal_has_a_bar_for_the_study_and_a_line_for_each_worker():
    console = Console(file=io.StringIO(), force_terminal=True, width=110, color_system=None)
    bars = Bars(console)
    bars.begin("s", 0, 2, 120.0)
    bars.epoch(1, FIRST, EpochRecord(1, 50, 100, {"valid/elbo": -93.25}), 60.0)
    bars.epoch(2, SECOND, EpochRecord(0, 0, 100, {}), 60.0)
    shown = {task.description.strip(): task for task in bars._progress.tasks}
    assert list(shown) == ["s", "planar K=4 D=40 #1", "planar K=4 D=40 #2"]
    assert (shown["s"].completed, shown["s"].total) == (0, 2)
    assert shown["s"].fields["words"] == "0 of 2 runs, about 1 min 00 s left"
    assert (shown["planar K=4 D=40 #1"].completed, shown["planar K=4 D=40 #1"].total) == (50, 100)
    bars.ended(1, FIRST, "finished", 1, 2, 60.0)
    assert shown["s"].completed == 1
    bars.close()
    assert "planar K=4 D=40 #1: finished" in console.file.getvalue()


def test_a_narrow_terminal_has_a_line_each_that_fits():
    console = Console(file=io.StringIO(), force_terminal=True, width=40, color_system=None, legacy_windows=False)
    bars = Bars(console)
    bars.begin("a-study-with-a-name-that-is-rather-long", 3, 27, 7260.0)
    bars.epoch(1, FIRST, EpochRecord(1, 45, 100, {"valid/elbo": -93.25}), 7260.0)
    page = Console(file=io.StringIO(), width=40, color_system=None)
    page.print(bars._progress.get_renderable())
    bars.close()
    first, second = page.file.getvalue().splitlines()
    assert max(len(first), len(second)) <= 40
    assert first.split()[0].endswith("…")
    assert first.rstrip().endswith("3/27, 2 h 01 min")
    assert second.split() == ["planar", "K=4", "D=40", "#1", "45%"]
