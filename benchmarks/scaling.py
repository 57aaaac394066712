"""How our cost grows: time of one forward and backward pass against K and against the batch, all families."""

from __future__ import annotations

from functools import partial

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from benchmarks import ours
from benchmarks.contest import Contest
from benchmarks.flows import FAMILIES
from benchmarks.result import Result, Row, Verdict
from benchmarks.timing import FULL, QUICK, Plan, log_slope, spread, take_turns
from nfstudy.report.plots.curves import figure_style, finish

LENGTHS = (20, 40, 80, 160, 320)
BATCHES = (100, 200, 400, 800, 1600)
MOST_SLOPE = 1.1
"""Of ln time against ln K or ln batch: linear but for the caches, which the largest chains overflow."""
PLAN = Plan(rounds=9, turn=FULL.turn)


def measure(quick: bool) -> Result:
    """Time our amortised chains over K at batch 100, and over the batch at K = 20.

    Arguments:
        quick: few rounds, and the three smallest sizes alone.
    """
    plan, last = (QUICK, 3) if quick else (PLAN, None)
    rows: list[Row] = []
    verdicts: list[Verdict] = []
    for family in FAMILIES:
        for axis, sizes, contest in (
            ("K", LENGTHS[:last], partial(Contest, family)),
            ("batch", BATCHES[:last], partial(Contest, family, LENGTHS[0])),
        ):
            seconds = take_turns({str(size): ours.amortised(contest(size)).step for size in sizes}, plan)
            medians = [spread(seconds[str(size)]).median for size in sizes]
            rows += [
                {"family": family, "axis": axis, "size": size, "median_ms": 1e3 * median}
                for size, median in zip(sizes, medians, strict=True)
            ]
            slope = log_slope(sizes, medians)
            what = f"{family}: time grows as {axis} to the power"
            verdicts.append(Verdict(what, f"{slope:.2f}", f"at most {MOST_SLOPE}", slope <= MOST_SLOPE))
    title = "nfstudy, amortised, forward + backward, float32, D = 40, one thread"
    return Result(title, rows, verdicts, figure=_draw(pd.DataFrame(rows)))


def _draw(rows: pd.DataFrame) -> Figure:
    labels = {"K": f"K, at batch {BATCHES[0]}", "batch": f"batch, at K = {LENGTHS[0]}"}
    with figure_style():
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        for axes, axis in zip(figure.subplots(1, 2, sharey=True), labels, strict=True):
            points = rows[rows["axis"] == axis]
            sns.lineplot(points, x="size", y="median_ms", hue="family", style="family", markers=True, ax=axes)
            sizes = points["size"].unique()
            axes.set(xscale="log", yscale="log", xlabel=labels[axis], ylabel="milliseconds")
            axes.set_xticks(sizes, sizes)
            axes.minorticks_off()
            handles, names = axes.get_legend_handles_labels()
            axes.get_legend().remove()
        figure.legend(handles, names, loc="outside right upper", frameon=False)
        finish(figure, "Cost of one forward and backward pass", "")
    return figure
