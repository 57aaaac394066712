"""Flows against their peers: one forward and backward pass of a chain, all families, K = 10 and 80."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure

from benchmarks import ours
from benchmarks.contest import Contest, Contestant
from benchmarks.peers import Entry, find_peers
from benchmarks.result import Result, Row, Verdict
from benchmarks.timing import FULL, QUICK, Plan, ratio, spread, take_turns
from nfstudy.flows.full_covariance.flow import full_covariance
from nfstudy.flows.householder.flow import householder_flow
from nfstudy.flows.planar.flow import planar_flow
from nfstudy.flows.radial.flow import radial_flow
from nfstudy.report.plots.curves import figure_style, finish

FAMILIES = (
    "planar",
    "radial",
    "nice-perm",
    "iaf",
    "sylvester",
    "householder",
    "full-covariance",
    "realnvp",
    "glow",
    "spline",
)
LENGTHS = (10, 80)
ONE_STEP = ("full-covariance",)
"""Families of one step whatever K."""
TORCH_PEERS = ("normflows", "pyro", "pythae")
COLOURS = dict(
    zip(("nfstudy", "normflows", "pyro", "pythae", "flowjax"), sns.color_palette("colorblind"), strict=False)
)
GOALS = {
    ("planar", 80): ((TORCH_PEERS, 25.0), (("flowjax",), 3.0)),
    ("planar", 10): ((TORCH_PEERS, 10.0),),
}
"""Family and K -> how many times faster than the fastest of some peers; all else is to be faster than every peer."""


def measure(quick: bool) -> Result:
    """Time every family that a peer has, and hold the ratios against what was asked for.

    Arguments:
        quick: few rounds, and K = 10 alone.
    """
    entries, missing = find_peers()
    plan, lengths = (QUICK, LENGTHS[:1]) if quick else (FULL, LENGTHS)
    rows: list[Row] = []
    verdicts: list[Verdict] = []
    for family in FAMILIES:
        for length in (1,) if family in ONE_STEP else lengths:
            contest = Contest(family, length)
            found = race(contest, entries, plan)
            rows += found
            verdicts += judge(contest, found)
    names = [f"{peer.name}: {peer.reason}" for peer in missing]
    title = "forward + backward, float32, batch 100, D = 40, one thread; times as fast: theirs / ours"
    return Result(title, rows, verdicts, names, _draw(pd.DataFrame(rows)))


def race(contest: Contest, entries: dict[str, Entry], plan: Plan) -> list[Row]:
    """Time our entries and the peers' by turns, and return one row each.

    A row's ratio is its median over that of our amortised entry or, for a peer's shared Sylvester flow, which has more
    directions than our amortised one, over that of our shared entry; its quartiles are those of the rounds' ratios.
    """
    entered = [*ours.contestants(contest)]
    for enter in entries.values():
        entered += enter(contest)
    labels = [f"{one.name} {one.amortised} {one.note}" for one in entered]
    own = {one.amortised: label for label, one in zip(labels, entered, strict=True) if one.name == "nfstudy"}
    seconds = take_turns(dict(zip(labels, (one.step for one in entered), strict=True)), plan)
    rows: list[Row] = []
    for label, one in zip(labels, entered, strict=True):
        reference = own[contest.family != "sylvester" or one.amortised]
        milliseconds = spread([1e3 * second for second in seconds[label]])
        times = ratio(seconds[label], seconds[reference])
        rows.append(
            {
                "family": contest.family,
                "K": contest.length,
                "library": one.name,
                "amortised": one.amortised,
                "median_ms": milliseconds.median,
                "lower_ms": milliseconds.lower,
                "upper_ms": milliseconds.upper,
                "times_as_fast": times.median,
                "times_lower": times.lower,
                "times_upper": times.upper,
                "off_by": disagreement(contest, one),
                "note": one.note,
            }
        )
    return rows


def disagreement(contest: Contest, one: Contestant) -> float:
    """Return the largest difference of z_K and of the log-determinants (nats) from `nfstudy.flows`' plain functions.

    NaN for a map of another library's own weights, with which there is nothing to compare.
    """
    if not one.same:
        return float("nan")
    plain: dict[str, tuple[Callable, Callable]] = {
        "planar": (planar_flow, contest.planar),
        "radial": (radial_flow, contest.radial),
        "householder": (householder_flow, contest.householder),
        "full-covariance": (full_covariance, contest.full_covariance),
    }
    function, numbers = plain[contest.family]
    right = function(torch.tensor(contest.z_0()), *map(torch.tensor, numbers(one.amortised)))
    return max(float(np.abs(a - b.numpy()).max()) for a, b in zip(one.outcome(), right, strict=True))


def judge(contest: Contest, rows: list[Row]) -> list[Verdict]:
    """Hold the ratios of one contest against `GOALS`; no verdict of peers that are missing or lack the family.

    Of a peer that has both kinds of parameters, the amortised ones count, as ours are.
    """
    own = {row["library"] for row in rows if row["amortised"]}
    counted = [row for row in rows if row["library"] != "nfstudy" and (row["amortised"] or row["library"] not in own)]
    verdicts = []
    everybody = tuple(dict.fromkeys(str(row["library"]) for row in counted))
    for peers, least in GOALS.get((contest.family, contest.length), ((everybody, 1.0),)):
        against = [row for row in counted if row["library"] in peers]
        if against:
            fastest = min(against, key=lambda row: row["times_as_fast"])
            times = fastest["times_as_fast"]
            what = f"{contest.family}, K = {contest.length}, fastest of {', '.join(peers)}: {fastest['library']}"
            verdicts.append(Verdict(what, f"{times:.2f} times", f"at least {least:g} times", times >= least))
    return verdicts


def _draw(rows: pd.DataFrame) -> Figure:
    """Draw the medians as bars, a panel a family and length; entries alike are told apart by how their notes begin."""
    rows = rows.assign(entry=rows["library"] + np.where(rows["amortised"], "", ", shared"))
    alike = rows.duplicated(["family", "K", "entry"], keep=False)
    rows["entry"] += np.where(alike, ", " + rows["note"].str.split(";").str[0], "")
    panels = list(rows.groupby(["family", "K"], sort=False))
    columns = len(LENGTHS)
    lines = -(-len(panels) // columns)
    with figure_style():
        figure = Figure(figsize=(5.6 * columns, 2.3 * lines + 0.6), layout="constrained")
        places = np.ravel(figure.subplots(lines, columns))
        for axes in places[len(panels) :]:
            axes.remove()  # An odd number of panels: some families are one step whatever K.
        for axes, ((family, length), panel) in zip(places, panels, strict=False):
            sns.barplot(panel, x="median_ms", y="entry", hue="library", palette=COLOURS, dodge=False, ax=axes)
            axes.get_legend().remove()
            for bars in axes.containers:
                axes.bar_label(bars, fmt="%.3g", padding=3, fontsize=9)
            axes.margins(x=0.12)
            axes.set(xlabel="milliseconds", ylabel="", title=f"{family}, K = {length}")
        finish(figure, "One forward and backward pass, batch 100, D = 40", "")
    return figure
