"""What MLflow's page of a run says above its numbers: F, KL and −ln p(x), what it was, and where the report is.

It is written by nfstudy, and again whenever it is no longer true, until somebody writes something of their own there.
It is the store's own: no archive has it, since the report is elsewhere in another project.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from nfstudy.runs.metrics import FREE_ENERGY, KL, NLL, unit_of
from nfstudy.study.settings import Settings

WRITTEN = "*Written by nfstudy; what you write in its place stays.*"
"""How each ends."""


@dataclass(frozen=True)
class Described:
    """What of a run is described."""

    stage: str
    outcome: str
    """As `nfstudy.runs.result.outcome_of` says."""
    reason: str
    metrics: Mapping[str, float]
    """Its last numbers."""
    unit: str
    """Of F, KL and −ln p(x): `nfstudy.runs.metrics.unit_of`."""


def describe(run: Described, report: str) -> str:
    """Return the description of a run, in Markdown; its first line is what a table of runs shows.

    Arguments:
        run: what is described.
        report: the page of the study's report, from the project's folder; no path of this machine.
    """
    numbers = _numbers(run)
    why = f": {' '.join(run.reason.split())[:300]}" if run.reason else ""
    ended = f"{run.outcome.capitalize()}{why}."
    where = {
        "repetition": f"One of the runs behind `{report}`, a path from the project's folder.",
        "search": "A trial of a search, which never sees the test set; its validation bound is `valid/elbo`.",
        "rerun": "An earlier run trained again, to compare; it is in no table.",
    }
    about = f"{where[run.stage]} {WRITTEN}"
    return f"{numbers} {run.unit}, on the test set.\n\n{ended} {about}" if numbers else f"{ended}\n\n{about}"


def is_written(text: str) -> bool:
    """Say whether a description is as `describe` makes it, and nobody's own."""
    return text.rstrip().endswith(WRITTEN)


def unit_of_settings(settings: Settings) -> str:
    """Return what F, KL and −ln p(x) of a run are in."""
    return unit_of(settings.data.values if settings.data else None, settings.model.likelihood)


def run_name(label: str, budget: str) -> str:
    """Return the name of a run, such as `planar K=40 D=40 #2 (laptop)`."""
    return f"{label} ({budget})"


def cell_name(name: str) -> str:
    """Return the short name of a run's cell from the run's, such as `planar K=40 D=40`; of other names the whole."""
    return re.sub(r" (#|search |rerun )\d+ \(.*\)$", "", name)


def _numbers(run: Described) -> str:
    """Return such as `F = 89.014, KL ≥ 2.922, −ln p(x) ≤ 86.093`: with −ln p(x) a bound, KL is one too."""
    bounds = NLL.name in run.metrics
    shown = ((FREE_ENERGY, "="), (KL, KL.mark if bounds else "="), (NLL, NLL.mark))
    return ", ".join(
        f"{metric.label} {mark} {_text(metric.sign * run.metrics[metric.name])}"
        for metric, mark in shown
        if metric.name in run.metrics
    )


def _text(value: float) -> str:
    return f"{value:.3f}".replace("-", "−") if math.isfinite(value) else str(value)
