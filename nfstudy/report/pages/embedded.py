"""The runs as data inside a page: what made each, its numbers and its learning curves, read without a server."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import pandas as pd

from nfstudy.core.declarations import Metric
from nfstudy.report.exhibits.general import free_energies, runs_with_curves, spread
from nfstudy.report.pages.study_page import absent, run_line, runs_by_cell, web_address
from nfstudy.report.statistics.estimates import CellResult, Results
from nfstudy.runs.frame import RUN_COLUMNS, param_text
from nfstudy.runs.metrics import PER_IMAGE, POSITIVE_FREE_ENERGY, known_metrics

MAX_RUNS = 1000
"""Of a study, whose learning curves the page holds; of more runs, it holds those that the study's figure shows."""
MAX_POINTS = 60
"""Of a learning curve; more cannot be told apart in a drawing of a page's width."""
DIGITS = 7
"""Significant digits of embedded numbers; the report's tables have all."""
_SHOWN_SPLITS = ("test", "time")
_FACTS = {
    "outcome": "outcome",
    "reason": "reason",
    "attempts": "attempts",
    "commit": "commit",
    "dirty": "dirty",
    "code_known": "code_known",
    "earlier_code": "earlier_code",
    "imported": "imported",
    "data": "data",
    "data_fingerprint": "digest",
    "device": "device",
    "threads": "threads",
    "started": "started",
}
"""Column of `Results.runs` -> its name in the page."""


def embed_runs(studies: Mapping[str, Results]) -> dict[str, Any]:
    """Return what `front.js` reads: all runs of the studies, as values of JSON.

    Numbers are rounded to `DIGITS` significant digits, and those that are not finite left out. Settings are texts as
    logged; those that all runs of a study share stand once, with the study.

    Arguments:
        studies: folder of a report -> the study under the budget that it shows.

    Returns:
        `studies`: folder -> name, title, budget, unit of F, common settings. `metrics`: name -> meaning and unit, which
        is empty where it is that of the study's F. `runs`: id -> study (its folder), name, facts, link, own settings
        (`params`), `metrics`, and `curves`: split -> [update, F] points, null where the page does not hold them.
    """
    shown = {name: metric for name, metric in known_metrics().items() if metric.split in _SHOWN_SPLITS}
    del shown[POSITIVE_FREE_ENERGY.name]  # It says again what test/elbo says.
    content: dict[str, Any] = {
        "studies": {},
        "metrics": {name: {"meaning": metric.meaning, "unit": _own_unit(metric)} for name, metric in shown.items()},
        "runs": {},
    }
    for folder, results in studies.items():
        settings = {run["run_id"]: _settings(result, run) for result, run in runs_by_cell(results)}
        common = _common([*settings.values()])
        with_curves = set(settings if len(settings) <= MAX_RUNS else runs_with_curves(results)[0])
        curves = _curves(results, sorted(with_curves))
        content["studies"][folder] = {
            "name": results.study.study,
            "title": results.study.title,
            "budget": results.budget,
            "unit": results.unit,
            "common": common,
        }
        for result, run in runs_by_cell(results):
            run_id = run["run_id"]
            own = {path: text for path, text in settings[run_id].items() if path not in common}
            content["runs"][run_id] = {
                "study": folder,
                "name": f"{result.label.row}, {run['stage']} {run['index']}",
                **{there: run[column] for column, there in _FACTS.items()},
                "link": web_address(results.store.link(run_id)),
                "line": f"{quote(folder)}/index.html{run_line(run_id)}",
                "params": own,
                "metrics": _metrics(run, shown),
                "curves": curves.get(run_id, {}) if run_id in with_curves else None,
            }
    return content


def _own_unit(metric: Metric) -> str:
    return "" if metric.unit == PER_IMAGE else metric.unit


def _settings(result: CellResult, run: Mapping[str, Any]) -> dict[str, str]:
    """Return dotted path -> logged text; a frame has None both for null and for a setting that the run does not use."""
    used = result.cell.settings.flat()
    others = {*RUN_COLUMNS, *known_metrics(), "attempts"}
    paths = (path for path in run if path not in others)
    return {
        path: param_text(run[path])
        for path in paths
        if not absent(run[path]) and (run[path] is not None or path in used)
    }


def _common(settings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    first = settings[0] if settings else {}
    return {path: text for path, text in first.items() if all(other.get(path) == text for other in settings)}


def _metrics(run: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    return {name: _rounded(run[name]) for name in names if math.isfinite(run[name])}


def _curves(results: Results, run_ids: Sequence[str]) -> dict[str, dict[str, list[list[float]]]]:
    """Return run id -> split -> points, thinned to `MAX_POINTS` with the first and the last among them."""
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for (run_id, split), points in free_energies(results.store, run_ids).groupby(["run_id", "split"]):
        curves.setdefault(run_id, {})[split] = _thinned(points)
    return curves


def _thinned(points: pd.DataFrame) -> list[list[float]]:
    kept = points.iloc[spread(range(len(points)), MAX_POINTS)]
    return [[int(update), _rounded(value)] for update, value in kept[["update", "value"]].itertuples(index=False)]


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
