"""Time to the paper's number: from a cold start to a test −ln p(x) as low as Table 2's, on this machine.

A cold start is a folder without a store or a report and a command line: imports, the data, the store, an estimate of
the time, the worker's start, training, and −ln p(x) of all 10,000 test images by 200 samples are all counted.

What all seeds reach in less time than any before is a record: see `benchmarks.records`.
"""

from __future__ import annotations

import datetime
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from benchmarks.records import FILE, Record, add, read_records, standing
from benchmarks.result import Result, Row, Verdict, machine
from benchmarks.timing import plain_environment
from nfstudy.core.project import Project
from nfstudy.report.plots.curves import figure_style, finish
from nfstudy.runs.provenance import usable_cores
from nfstudy.runs.tracking.open import open_runs

STUDY = Path(__file__).parents[1] / "studies" / "time-to-paper.yaml"


class Goal(NamedTuple):
    """A number of the paper to be reached."""

    budget: str
    """Of the study, which holds the settings."""
    what: str
    nll: float
    """−ln p(x) on the test set that every seed is to reach, in nats."""
    most: float
    """Within so many seconds each."""


GOALS = (
    Goal("gaussian", "K = 0", 89.9, 200.0),
    Goal("planar", "a planar chain", 87.5, 200.0),
    Goal("record", "a planar chain, the paper's best number", 85.1, 480.0),
)
SMOKE = Goal("smoke", "smoke", 0.0, 200.0)


def measure(quick: bool, goal: str = "", change: str = "", folder: Path | None = None) -> Result:
    """Run the study's budgets, each in a new folder, one worker on all cores.

    Arguments:
        quick: the study's `smoke` alone, which reaches nothing.
        goal: the budget of the one goal that is wanted; empty for all.
        change: what a record is due to, in a line; empty for the subject of the code's commit.
        folder: where the table of records is; None where none is kept.

    Raises:
        UserError: the table of records cannot be read.
    """
    goals = (SMOKE,) if quick else tuple(each for each in GOALS if goal in ("", each.budget))
    if folder:
        read_records(folder / FILE)  # Before hours are spent.
    where = machine()
    rows: list[Row] = []
    said: list[str] = []
    verdicts: list[Verdict] = []
    curves = []
    for each in goals:
        found, points = reach(each)
        rows += found
        curves.append(points.assign(goal=each.what))
        worst, slowest = max(row["nll"] for row in found), max(row["seconds"] for row in found)
        verdicts.append(
            Verdict(
                f"{each.what}: highest −ln p(x), longest time of {len(found)} seeds",
                f"{worst:.2f} nats, {slowest:.0f} s",
                f"at most {each.nll} nats within {each.most:g} s",
                worst <= each.nll and slowest <= each.most,
            )
        )
        attempt = attempt_of(each, found, where, change or subject())
        if folder:
            records = read_records(folder / FILE)
            said.append(f"{each.what}, {each.nll:g} nats: {add(folder / FILE, attempt)}")
            if before := standing(records, attempt):
                asked = f"at most {each.nll} nats in less than {before.seconds:.1f} s"
                ours = f"{worst:.2f} nats, {slowest:.1f} s"
                beaten = worst <= each.nll and slowest < before.seconds
                verdicts.append(Verdict(f"{each.what}: the record", ours, asked, beaten))
    title = f"from a cold start to −ln p(x) of MNIST's test set, one worker with {usable_cores()} threads"
    return Result(title, rows, verdicts, figure=_draw(pd.concat(curves), rows, goals), notes=said)


def attempt_of(goal: Goal, rows: Sequence[Row], where: dict[str, str], change: str) -> Record:
    """Return what a goal's rows, one a seed, would be as a record, on a machine as `result.machine` tells of it."""
    return Record(
        goal.nll,
        goal.what,
        max(row["nll"] for row in rows),
        max(row["seconds"] for row in rows),
        len(rows),
        usable_cores(),
        f"{where['processor']} ({where['generation']})",
        where["commit"],
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        change,
    )


def subject() -> str:
    """Return the first line of the message of the commit that is checked out; empty where git cannot say."""
    command = ["git", "-C", str(STUDY.parent), "log", "-1", "--format=%s"]
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def reach(goal: Goal) -> tuple[list[Row], pd.DataFrame]:
    """Run one budget of the study; return a row a seed, and the validation bounds against the time they were known."""
    with tempfile.TemporaryDirectory(prefix="nfstudy-bench-") as name:
        folder = Path(name)
        (folder / "mlruns").mkdir()
        command = [sys.executable, "-m", "nfstudy", "run", str(STUDY), "--budget", goal.budget]
        command += ["--workers", "1", "--threads", str(usable_cores())]
        launched = time.time()
        subprocess.run(command, cwd=folder, env=environment(), check=True, stdout=sys.stderr)
        runs = open_runs(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")("time-to-paper")
        frame = runs.frame()
        start_up = frame["started"].min() / 1000 - launched
        rows: list[Row] = [
            {
                "goal": goal.what,
                "seed": int(run["index"]),
                "nll": run["test/nll"],
                "free_energy": -run["test/elbo"],
                "seconds": start_up + run["time/wall_seconds"],
                "start_up_seconds": start_up,
                "evaluation_seconds": run["time/evaluation_seconds"],
            }
            for _, run in frame.sort_values("index").iterrows()
        ]
        return rows, _curves(runs.history(list(frame["run_id"]), ["valid/elbo"]), frame, start_up)


def environment() -> dict[str, str]:
    """Return the environment of a command that is run as a person would, and finds our data."""
    ours = {"NFSTUDY_DATA": str(Project.find().data_folders[0]), "PYTHONPATH": str(STUDY.parents[1])}
    return plain_environment() | ours


def _curves(history: pd.DataFrame, frame: pd.DataFrame, start_up: float) -> pd.DataFrame:
    """Return columns seed, seconds and F, of images that are trained on too; an epoch takes its share of the time."""
    runs = frame.set_index("run_id")
    training = runs["time/wall_seconds"] - runs["time/evaluation_seconds"]
    points = history.assign(seed=history["run_id"].map(runs["index"]), F=-history["value"])
    share = points["update"] / points.groupby("run_id")["update"].transform("max")
    return points.assign(seconds=start_up + share * points["run_id"].map(training))[["seed", "seconds", "F"]]


def _draw(points: pd.DataFrame, rows: Sequence[Row], goals: Sequence[Goal]) -> Figure:
    ends = pd.DataFrame(rows)
    with figure_style():
        figure = Figure(figsize=(8.4, 4.4), layout="constrained")
        axes = figure.subplots()
        shown = points[points["F"] < points["F"].min() + 25]
        sns.lineplot(shown, x="seconds", y="F", hue="goal", units="seed", estimator=None, lw=1, ax=axes)
        sns.scatterplot(ends, x="seconds", y="nll", hue="goal", marker="*", s=120, legend=False, ax=axes)
        axes.set(xlabel="seconds since a cold start", ylabel="nats", xlim=(0, None))
        for goal in goals:
            axes.plot([0, goal.most, goal.most], [goal.nll, goal.nll, 0], color="0.6", lw=0.8, ls="--")
        axes.set_ylim(min(ends["nll"].min(), *(goal.nll for goal in goals)) - 1, None)
        finish(figure, "F while training (lines), test −ln p(x) (stars), and what was asked for (dashed)", "")
    return figure
