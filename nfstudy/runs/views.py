"""The views that MLflow's pages offer of a study: its cells with F, KL and −ln p(x), and these over K.

MLflow 3.17 keeps a saved view as a tag of the experiment, a JSON object {name, createdAt, updatedAt, state}; `state` is
that of its page of runs, as JSON, or `deflate;` and that compressed, in Base64. Its page rewrites the tag when somebody
saves another view in its place; that then lacks `MADE_BY`, and stays.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from nfstudy.runs.metrics import FREE_ENERGY, KL, NLL, POSITIVE_FREE_ENERGY
from nfstudy.runs.tags import MlflowTag, Tag

MADE_BY = {"madeBy": "nfstudy"}
PREFIX = "nfstudy-"
"""Begins the key of each view, after which stands the budget."""
MAX_TAG = 5000
"""Characters that a tag of an experiment may have."""

COLUMNS = ("flow.family", "flow.length", "model.latent")
"""Settings that the table shows: the family, K and D."""
NAME_COLUMN = "attributes.`Run Name`"
NAME_PIXELS, COLUMN_PIXELS = 240, 92
MACHINE_LEARNING = "custom_model_development"
"""The kind of an experiment whose runs train models: of others, MLflow's pages show traces first."""


def view_key(budget: str) -> str:
    """Return the key of a budget's view."""
    return f"{PREFIX}{budget}"


def view_tag(budget: str) -> str:
    """Return the tag that keeps a budget's view."""
    return f"{MlflowTag.VIEW}{view_key(budget)}"


def budgets_of(tags: Mapping[str, str]) -> list[str]:
    """Return the budgets whose views an experiment has, by its tags."""
    begin = view_tag("")
    return sorted(name.removeprefix(begin) for name in tags if name.startswith(begin))


def view(budget: str, cells: Collection[str], axes: Sequence[str], metrics: Collection[str], now: int) -> str:
    """Return the view of a budget's finished repetitions, grouped by cell, as the text of its tag.

    Arguments:
        budget: whose runs.
        cells: their short names (`nfstudy.runs.description.cell_name`).
        axes: dotted paths of settings that differ between them and are numbers; the charts are over the first.
        metrics: names of what the runs log.
        now: milliseconds since 1970, as MLflow dates views.
    """
    known = set(metrics)
    free_energy = POSITIVE_FREE_ENERGY if POSITIVE_FREE_ENERGY.name in known or not known else FREE_ENERGY
    shown = [metric for metric in (free_energy, KL, NLL) if metric.name in known]
    columns = [f"params.`{path}`" for path in dict.fromkeys((*COLUMNS, *axes))]
    columns += [f"metrics.`{metric.name}`" for metric in shown]
    state: dict[str, Any] = {
        "searchFilter": f"tags.`{Tag.STAGE}` = 'repetition' and tags.`{Tag.BUDGET}` = '{budget}' "
        "and attributes.status = 'FINISHED'",
        "orderByKey": f"metrics.`{(shown or [KL])[-1].name}`",
        "orderByAsc": True,
        "selectedColumns": columns,
        # MLflow gives widths to those alone that stand in the order, and puts the others behind them.
        "columnOrder": [NAME_COLUMN, *columns],
        "columnWidths": {NAME_COLUMN: NAME_PIXELS, **dict.fromkeys(columns, COLUMN_PIXELS)},
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": Tag.CELL_NAME}]},
        "groupsExpanded": {f"tag.{Tag.CELL_NAME}.{cell}": False for cell in sorted(cells)},
        "runsHiddenMode": "SHOW_ALL",
        "useGroupedValuesInCharts": True,
        **(_charts(axes[0], shown) if axes and shown else {}),
    }
    text = _packed(f"Cells, budget {budget}", state, now)
    if len(text) > MAX_TAG:  # Of so many cells the groups are shown open.
        text = _packed(f"Cells, budget {budget}", state | {"groupsExpanded": {}}, now)
    return text


def numeric_axes(points: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the settings that are numbers and differ between points of a grid, K first.

    Arguments:
        points: dotted path -> value, of each cell.
    """
    values: dict[str, set[Any]] = {}
    for point in points:
        for path, value in point.items():
            values.setdefault(path, set()).add(value if isinstance(value, str | int | float | bool) else str(value))
    numbers = [
        path
        for path, found in sorted(values.items())
        if len(found) > 1 and all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)
    ]
    return sorted(numbers, key=lambda path: path != "flow.length")


def may_replace(old: str, new: str) -> bool:
    """Say whether a view's tag is to be written: it is not there, or was made here and shows something else."""
    if not old:
        return True
    try:
        found = json.loads(old)
    except ValueError:
        return False
    ours = isinstance(found, dict) and all(found.get(name) == text for name, text in MADE_BY.items())
    return ours and found.get("state") != json.loads(new)["state"]


def runs_page(server: str, experiment: str, budget: str | None = None, charts: bool = False) -> str:
    """Return the address of MLflow's page of a study's runs.

    Arguments:
        server: where MLflow is, such as `http://127.0.0.1:5000`.
        experiment: the id of the study's experiment.
        budget: whose view is opened; None for none.
        charts: whether its charts are shown, and not the table alone.
    """
    shown = ["workflowType=machine_learning"]
    shown += [f"viewStateShareKey={quote(view_key(budget), safe='')}"] if budget else []
    shown += ["compareRunsMode=CHART"] if charts else []
    return f"{server.rstrip('/')}/#/experiments/{experiment}/runs?{'&'.join(shown)}"


def _charts(axis: str, shown: Sequence[Any]) -> dict[str, Any]:
    """Return a section with a chart of each metric over one setting."""
    over = "K" if axis == "flow.length" else axis
    section = "nfstudy"
    charts = [
        {
            "uuid": f"{section}-{number}",
            "type": "SCATTER",
            "metricSectionId": section,
            "deleted": False,
            "isGenerated": False,
            "runsCountToCompare": 100,
            "xaxis": {"key": axis, "type": "PARAM"},
            "yaxis": {"key": metric.name, "type": "METRIC"},
        }
        for number, metric in enumerate(shown)
    ]
    sections = [
        {
            "uuid": section,
            "name": f"Over {over}",
            "display": True,
            "isReordered": False,
            "deleted": False,
            "isGenerated": False,
        }
    ]
    return {"compareRunCharts": charts, "compareRunSections": sections}


def _packed(name: str, state: Mapping[str, Any], now: int) -> str:
    packed = b64encode(zlib.compress(json.dumps(state, sort_keys=True).encode(), 9)).decode()
    return json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}", **MADE_BY})
