"""Logged runs as the rest of the suite sees them, and what they say of each cell; free of mlflow and torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, get_args

import numpy as np
import pandas as pd

from nfstudy.runs.code import UNKNOWN
from nfstudy.runs.metrics import known_metrics
from nfstudy.runs.original import original_id
from nfstudy.runs.result import RESULTS, outcome_of
from nfstudy.runs.tags import MlflowTag, Tag, tag_of
from nfstudy.study.cells import Cell
from nfstudy.study.plan import StudyPlan

RUN_COLUMNS = {
    "run_id": "str",
    "run_name": "str",
    "budget": "str",
    "cell": "str",
    "settings": "str",
    "stage": "str",
    "index": "int",
    "point": "str",
    "outcome": "str",
    "reason": "str",
    "update": "float",
    "commit": "str",
    "dirty": "bool",
    "code_known": "bool",
    "earlier_code": "str",
    "imported": "str",
    "data": "str",
    "data_fingerprint": "str",
    "device": "str",
    "threads": "str",
    "rerun_of": "str",
    "rerun": "str",
    "attempt": "int",
    "started": "int",
}
"""The leading columns of a runs frame.

`outcome` is one of finished, diverged, pruned, failed, running, killed; `started` is in milliseconds since 1970, by a
clock that may have been wrong; `attempt` counts the runs of one trial, 1, 2, ..., and is 0 where that was not logged.
`code_known` says whether commit and `dirty` are what git said, `earlier_code` is empty unless other code has trained a
part of the run, and `imported` unless it came from an archive: then `checked`, or what could not be checked.
`rerun_of` is the id of the run that one of stage `rerun` was held to, and `rerun` what came of it; else empty. After
them stand one column a setting (its dotted path; text, number, truth or None) and one a metric that is declared (its
name; float, NaN where the run has none).
"""

LARGEST = sys.float_info.max
"""What MLflow's databases keep in the place of infinity."""


def make_frame(rows: Sequence[Mapping[str, Any]], metrics: Collection[str] | None = None) -> pd.DataFrame:
    """Return the frame of runs, as `LoggedRuns.frame` describes it.

    Arguments:
        rows: a value for each of `RUN_COLUMNS`, and `params` and `metrics`, mappings of those that the run has.
        metrics: names of metrics that alone are wanted, and no settings; None for all of both.
    """
    settings = sorted({path for row in rows for path in row["params"]}) if metrics is None else ()
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in RUN_COLUMNS}
    columns |= {path: pd.array([row["params"].get(path) for row in rows], dtype=object) for path in settings}
    columns |= {
        name: _floats(row["metrics"].get(name, float("nan")) for row in rows)
        for name in known_metrics()
        if metrics is None or name in metrics
    }
    frame = pd.DataFrame(columns).astype({name: kind for name, kind in RUN_COLUMNS.items() if kind != "bool"})
    order = ["cell", "stage", "index", "started", "run_id"]
    return frame.sort_values(order, kind="stable").reset_index(drop=True)


def make_row(run_id: str, status: str, started: int, data: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what `make_frame` takes for one run.

    Arguments:
        run_id: the run's id in its store.
        status: MLflow's RUNNING, FINISHED, FAILED or KILLED; only in a finished run does the logged outcome count.
        started: milliseconds since 1970.
        data: the run's `tags`, `params` and `metrics`, by name.
    """
    tags = data["tags"]
    row = {name: tags.get(tag_of(name), "") for name, kind in RUN_COLUMNS.items() if kind == "str"}
    return row | {
        "run_id": original_id(run_id, tags),
        "run_name": tags.get(MlflowTag.RUN_NAME, ""),
        "index": int(tags.get(Tag.INDEX, 0)),
        "outcome": outcome_of(status, tags.get(Tag.OUTCOME)),
        "update": float(tags.get(Tag.UPDATE, "nan")),
        "dirty": tags.get(Tag.DIRTY) == "true",
        "code_known": tags.get(Tag.COMMIT, UNKNOWN) != UNKNOWN and tags.get(Tag.DIRTY) in ("true", "false"),
        "attempt": int(tags.get(Tag.ATTEMPT, 0)),
        "started": started,
        "params": {path: param_value(text) for path, text in data["params"].items()},
        "metrics": data["metrics"],
    }


def make_history(points: Iterable[tuple[str, str, int, float]]) -> pd.DataFrame:
    """Return the frame of points, as `LoggedRuns.history` describes it, from (run id, metric, update, value).

    Points of one run, metric and update stay in the order given.
    """
    runs, metrics, updates, values = [*zip(*points, strict=True)] or [()] * 4
    frame = pd.DataFrame(
        {
            "run_id": pd.array(runs, dtype="str"),
            "metric": pd.array(metrics, dtype="str"),
            "update": np.array(updates, dtype=np.int64),
            "value": _floats(values),
        }
    )
    return frame.sort_values(["run_id", "metric", "update"], kind="stable").reset_index(drop=True)


def _floats(logged: Iterable[float]) -> np.ndarray:
    """Return logged values as they were before MLflow took the largest number for infinity."""
    values = np.fromiter(logged, dtype=float)
    return np.where(np.abs(values) == LARGEST, np.copysign(np.inf, values), values)


def param_text(value: Any) -> str:
    """Return a setting as the text that is logged: words as they are, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


@lru_cache(maxsize=4096)
def param_value(text: str) -> Any:
    """Return the setting that was logged as a text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


class LoggedRuns(Protocol):
    """The runs of one study in some store: the only way in which reports and status see a store."""

    def frame(self, metrics: Collection[str] | None = None) -> pd.DataFrame:
        """Return one row a run, columns as in `RUN_COLUMNS`, sorted by (cell, stage, index, started, run_id).

        Arguments:
            metrics: names of metrics that alone are wanted, and no settings; None for all of both.
        """

    def history(self, run_ids: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
        """Return the logged points: columns run_id, metric, update, value; sorted by these."""

    def artifact(self, run_id: str, name: str) -> bytes | None:
        """Return a file of a run, or None where it has no such file."""

    def link(self, run_id: str) -> str | None:
        """Return the address of the run's page where a tracking server is set, else None."""


RerunVerdict = Literal["identical", "within tolerances", "differs"]
"""What may come of a rerun; see `nfstudy.runner.rerun.compare`."""
RERUN_VERDICTS: tuple[str, ...] = get_args(RerunVerdict)

State = Literal["done", "running", "failed", "diverged", "missing"]


@dataclass(frozen=True)
class CellState:
    """What the logged runs say of one cell."""

    cell: Cell
    state: State
    wanted: int
    """Repetitions asked for."""
    finished: tuple[str, ...] = ()
    """Run ids of the finished repetitions, by repetition."""
    diverged: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    note: str = ""
    """Why the cell is not simply done, for people; empty when it is."""


def latest_per_identity(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep one run for each (cell, stage, index): a result before an attempt without one, then the latest attempt.

    Results are finished, diverged and pruned runs; a retry is a new run, so a killed or failed one may stand before it.
    """
    if frame.empty:
        return frame
    ranks: dict[str, int] = {**dict.fromkeys(RESULTS, 2), "running": 1}
    rank = frame["outcome"].map(ranks).fillna(0)
    ordered = frame.assign(_rank=rank).sort_values(["_rank", "attempt", "started", "run_id"], kind="stable")
    kept = ordered.drop_duplicates(["cell", "stage", "index"], keep="last").drop(columns="_rank")
    return kept.sort_values(["cell", "stage", "index"], kind="stable").reset_index(drop=True)


def study_cells(plan: StudyPlan, frame: pd.DataFrame) -> Sequence[Cell]:
    """List the cells of a study: its grid's, or for a study with a sampler those that its runs have visited.

    They are in the order of the grid: that of the visits depends on clocks and on how many workers there were.
    """
    if not plan.sampling:
        return plan.cells
    points = [json.loads(text) for text in frame.loc[frame["budget"] == plan.budget, "point"].drop_duplicates()]
    cells = (plan.cell_at(point) for point in sorted(points, key=plan.place_of))
    known = set(frame["cell"])
    return [cell for cell in {cell.key: cell for cell in cells}.values() if cell.key in known]


def cell_states(plan: StudyPlan, frame: pd.DataFrame, active: bool = False) -> list[CellState]:
    """Say of each cell whether it is done, running, failed, diverged or missing.

    Arguments:
        plan: the study under one of its budgets.
        frame: its runs (`LoggedRuns.frame`); those of other budgets do not count.
        active: whether a coordinator is at work now; without one, a run still marked running was cut off.
    """
    frame = frame[frame["stage"] != "rerun"]
    runs = latest_per_identity(frame.loc[frame["budget"] == plan.budget]) if not frame.empty else frame
    by_cell = dict(tuple(runs.groupby("cell"))) if not runs.empty else {}
    return [_cell_state(cell, by_cell.get(cell.key), plan.repetitions, active) for cell in study_cells(plan, frame)]


def runs_left(plan: StudyPlan, frame: pd.DataFrame) -> int:
    """Return how many runs a study still needs; with a sampler, at most."""
    cells, wanted = study_cells(plan, frame), plan.repetitions
    done = latest_per_identity(frame[(frame["budget"] == plan.budget) & frame["outcome"].isin(RESULTS)])
    done = done[done["cell"].isin([cell.key for cell in cells])]
    search, repetitions = done["stage"] == "search", (done["stage"] == "repetition") & (done["index"] <= wanted)
    # A cell that is pruned in its first repetition has no others.
    pruned = repetitions & (done["outcome"] == "pruned")
    return plan.runs_of(len(cells)) - int(search.sum() + repetitions.sum() + (wanted - 1) * pruned.sum())


def _cell_state(cell: Cell, runs: pd.DataFrame | None, wanted: int, active: bool) -> CellState:
    if runs is None:
        return CellState(cell, "missing", wanted, note="not run")
    repetitions = runs[(runs["stage"] == "repetition") & (runs["index"] <= wanted)]
    ids = {
        outcome: tuple(repetitions.loc[repetitions["outcome"] == outcome, "run_id"])
        for outcome in ("finished", "diverged", "failed", "pruned", "running", "killed")
    }
    running = tuple(runs.loc[runs["outcome"] == "running", "run_id"]) if active else ()
    told = repetitions[repetitions["outcome"].isin(["diverged", "failed", "pruned"])]
    notes = [f"{row.outcome}: {row.reason}" for row in told.itertuples()]
    absent = wanted - len(ids["finished"]) - len(ids["diverged"]) - len(ids["failed"])
    state: State
    if running:
        state = "running"
        notes.append("running")
    elif ids["pruned"]:
        state = "done"
    elif ids["failed"]:
        state = "failed"
    elif absent > 0:
        state = "missing"
        notes.append(_why_absent(absent, wanted, bool(ids["running"] or ids["killed"]), runs))
    else:
        state = "diverged" if ids["diverged"] else "done"
    note = "; ".join(dict.fromkeys(notes))
    return CellState(cell, state, wanted, ids["finished"], ids["diverged"], ids["failed"], running, note)


def _why_absent(absent: int, wanted: int, cut_off: bool, runs: pd.DataFrame) -> str:
    searched = int(((runs["stage"] == "search") & runs["outcome"].isin(RESULTS)).sum())
    if cut_off:
        return "cut off"
    if absent < wanted:
        return f"{absent} of {wanted} repetitions not run"
    return f"not run, but for {searched} trials of its search" if searched else "not run"
