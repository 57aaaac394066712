"""`status`: the state of each cell, and the time that is left."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping

import pandas as pd

from nfstudy.cli.options import find_store, tell
from nfstudy.cli.studies import chosen_study
from nfstudy.core.errors import printable
from nfstudy.runner.eta import Forecast, expected_seconds, format_duration
from nfstudy.runs.frame import cell_states, notes, runs_left, trusted
from nfstudy.runs.provenance import usable_cores
from nfstudy.runs.result import RESULTS
from nfstudy.study.cells import cost_key
from nfstudy.study.plan import StudyPlan

NEEDED = ("time/wall_seconds",)
"""Metrics from which the time left is estimated."""


def status(options: argparse.Namespace) -> int:
    """Say of each cell whether it is done, running, failed, diverged or to do, and how long the rest takes."""
    from nfstudy.runs.tracking.open import is_live, load_frame

    plan = chosen_study(options.study).under(options.budget)
    project, uri = find_store(options.tracking_uri)
    frame = trusted(plan, load_frame(uri, plan.study, NEEDED))
    for note in notes(frame):
        tell(note)
    active = is_live(project, uri, plan.name)
    print(f"{plan.shown}{', running now' if active else ''}")
    expected = expected_seconds(frame, project.read_costs(plan.name))
    print_cells(plan, frame, expected, usable_cores(), active)
    return 0


def print_cells(
    plan: StudyPlan,
    frame: pd.DataFrame,
    expected: Mapping[str, float],
    workers: int,
    active: bool = False,
) -> None:
    """Print a line a cell and the time that is left.

    Arguments:
        plan: the study under one of its budgets.
        frame: its logged runs.
        expected: `cells.cost_key` -> expected seconds of one run.
        workers: how many share the work.
        active: whether a coordinator is at work now.
    """
    states, impossible = cell_states(plan, frame, active), plan.impossible
    wanted = plan.repetitions
    forecast = Forecast(expected, workers)
    names = [state.cell.label for state in states]
    width = max((len(name) for name in (*names, *(point.label for point in impossible))), default=0) + 2
    print(f"  {'cell':<16}  {'':<{width}} {'state':<10} {'runs':>7}  per run")
    for state, name in zip(states, names, strict=True):
        runs = "–" if state.state == "pruned" else f"{len(state.finished) + len(state.diverged)}/{wanted}"
        each = format_duration(forecast.expected(state.cell.key))
        note = f"  {printable(state.note)}" if state.note not in ("", "not run") else ""
        print(f"  {state.cell.key:<16}  {name:<{width}} {state.state:<10} {runs:>7}  {each}{note}")
    for point in impossible:
        print(f"  {'–':<16}  {point.label:<{width}} {'impossible':<10} {'–':>7}  {point.reason}")
    if plan.sampling:
        print(f"  ({plan.sampling.name} proposes further cells as results come in)")
    counts = Counter([*(state.state for state in states), *["impossible"] * len(impossible)])
    print("  " + ", ".join(f"{number} {state}" for state, number in counts.items()))
    left = runs_left(plan, frame)
    own = frame[(frame["budget"] == plan.budget) & (frame["stage"] == "search") & frame["outcome"].isin(RESULTS)]
    searched = own.drop_duplicates(["cell", "index"])["cell"].value_counts()
    waiting = []
    for state in (state for state in states if state.state != "pruned"):
        key, trials = state.cell.key, state.cell.search.sampler.trials if state.cell.search else 0
        waiting += [key] * (wanted - len(state.finished) - len(state.diverged))
        waiting += [cost_key(key, "search")] * (trials - int(searched.get(key, 0)))
    # Cells that a sampler has yet to propose are of none that is known.
    waiting += [""] * (left - len(waiting))
    words = format_duration(forecast.left(waiting, ())) if left else "none"
    print(f"  time left: {words}{f' on {workers} workers' if left else ''}", flush=True)
