"""Time to the paper's number: from a cold start to a test −ln p(x) as low as Table 2's, on this machine.

A cold start is a folder without a store or a report and a command line: imports, the data, the store, an estimate of
the time, the worker's start, training, and −ln p(x) of all 10,000 test images by 200 samples are all counted.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from benchmarks.result import Result, Row, Verdict
from benchmarks.timing import plain_environment
from nfstudy.core.project import Project
from nfstudy.report.plots.curves import figure_style, finish
from nfstudy.runs.provenance import usable_cores
from nfstudy.runs.tracking.open import open_runs

STUDY = Path(__file__).parents[1] / "studies" / "time-to-paper.yaml"
MOST_SECONDS = 200.0


class Goal(NamedTuple):
    """A number of the paper to be reached."""

    budget: str
    """Of the study, which holds the settings."""
    what: str
    nll: float
    """−ln p(x) on the test set, in nats."""


GOALS = (Goal("gaussian", "K = 0", 89.9), Goal("planar", "a planar chain", 87.5))


def measure(quick: bool) -> Result:
    """Run the study's budgets, each in a new folder, one worker on all cores.

    Arguments:
        quick: the study's `smoke` alone, which reaches nothing.
    """
    goals = (Goal("smoke", "smoke", 0.0),) if quick else GOALS
    rows: list[Row] = []
    verdicts: list[Verdict] = []
    curves = []
    for goal in goals:
        found, points = reach(goal)
        rows += found
        curves.append(points.assign(goal=goal.what))
        worst, slowest = max(row["nll"] for row in found), max(row["seconds"] for row in found)
        verdicts.append(
            Verdict(
                f"{goal.what}: highest −ln p(x), longest time of {len(found)} seeds",
                f"{worst:.2f} nats, {slowest:.0f} s",
                f"below {goal.nll} nats within {MOST_SECONDS:g} s",
                worst < goal.nll and slowest < MOST_SECONDS,
            )
        )
    title = f"from a cold start to −ln p(x) of MNIST's test set, one worker with {usable_cores()} threads"
    return Result(title, rows, verdicts, figure=_draw(pd.concat(curves), rows))


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


def _draw(points: pd.DataFrame, rows: list[Row]) -> Figure:
    ends = pd.DataFrame(rows)
    with figure_style():
        figure = Figure(figsize=(8.4, 4.4), layout="constrained")
        axes = figure.subplots()
        shown = points[points["F"] < points["F"].min() + 25]
        sns.lineplot(shown, x="seconds", y="F", hue="goal", units="seed", estimator=None, lw=1, ax=axes)
        sns.scatterplot(ends, x="seconds", y="nll", hue="goal", marker="*", s=120, legend=False, ax=axes)
        axes.set(xlabel="seconds since a cold start", ylabel="nats", xlim=(0, None))
        for goal in GOALS:
            axes.axhline(goal.nll, color="0.6", lw=0.8, ls="--")
        axes.axvline(MOST_SECONDS, color="0.6", lw=0.8, ls="--")
        finish(figure, "F while training (lines), test −ln p(x) (stars), and what was asked for (dashed)", "")
    return figure
