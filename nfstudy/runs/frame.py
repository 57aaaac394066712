"""Logged runs as the rest of the suite sees them, and what they say of each cell; free of mlflow and torch."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import pandas as pd
from pydantic import ValidationError

from nfstudy.core.errors import SpecError
from nfstudy.runs.code import UNKNOWN
from nfstudy.runs.evaluations import evaluation_texts
from nfstudy.runs.metrics import known_metrics
from nfstudy.runs.original import CHECKED, OF_A_SEARCH, original_id
from nfstudy.runs.readable import is_object, trouble
from nfstudy.runs.result import RESULTS, outcome_of
from nfstudy.runs.tags import MlflowTag, Tag, tag_of
from nfstudy.study.cells import Cell, settings_digest
from nfstudy.study.plan import StudyPlan
from nfstudy.study.spec import Range, Search

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
    "search": "str",
    "look": "str",
    "attempt": "int",
    "started": "int",
    "evaluations": "str",
}
"""The leading columns of a runs frame.

`outcome` is one of finished, diverged, pruned, failed, running, killed; `started` is in milliseconds since 1970, by a
clock that may have been wrong; `attempt` counts the runs of one trial, 1, 2, ..., and is 0 where that was not logged.
`code_known` says whether commit and `dirty` are what git said, `earlier_code` is empty unless other code has trained a
part of the run, and `imported` unless it came from an archive: then `checked`, or what could not be checked.
`rerun_of` is the id of the run that one of stage `rerun` was held to, and `rerun` what came of it; else empty. `search`
says of a repetition how a search chose its settings, as JSON, else it is empty; `look` is what the tag of that name
tells of a repetition that `decide` has run; `evaluations` is a JSON list of what `nfstudy.runs.evaluations` reads,
empty for none. After them stand one column a setting (its dotted path; text, number, truth or None) and one a metric
that is declared (its name; float, NaN where the run has none).
"""

LARGEST = sys.float_info.max
"""What MLflow's databases keep in the place of infinity."""


def make_frame(rows: Sequence[Mapping[str, Any]], metrics: Collection[str] | None = None) -> pd.DataFrame:
    """Return the frame of runs, as `LoggedRuns.frame` describes it, and in its `notes` which runs are left out.

    Arguments:
        rows: a value for each of `RUN_COLUMNS`, and `params` and `metrics`, mappings of those that the run has; or of
            a run that cannot be read, `run_id` and `unreadable`, why.
        metrics: names of metrics that alone are wanted, and no settings; None for all of both.
    """
    left_out = sorted(f"run {row['run_id']}: {row['unreadable']}" for row in rows if "unreadable" in row)
    rows = [row for row in rows if "unreadable" not in row]
    others = {*RUN_COLUMNS, *known_metrics()}  # A parameter of such a name is none of ours.
    settings = sorted({path for row in rows for path in row["params"]} - others) if metrics is None else ()
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in RUN_COLUMNS}
    columns |= {path: pd.array([row["params"].get(path) for row in rows], dtype=object) for path in settings}
    columns |= {
        name: _floats(row["metrics"].get(name, float("nan")) for row in rows)
        for name in known_metrics()
        if metrics is None or name in metrics
    }
    frame = pd.DataFrame(columns).astype({name: kind for name, kind in RUN_COLUMNS.items() if kind != "bool"})
    # The copy is of one piece a type: pandas warns of each further column of a frame with a hundred pieces.
    return with_notes(frame.sort_values(_ORDER, kind="stable").reset_index(drop=True).copy(), left_out)


def joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return frames of runs as the one that `make_frame` would have made of all their rows, without their notes.

    Arguments:
        frames: at least one, all with the same metrics.
    """
    filled = [frame for frame in frames if len(frame)] or frames[:1]
    settings = sorted({path for frame in filled for path in frame} - {*RUN_COLUMNS, *known_metrics()})
    metrics = [name for name in filled[0] if name in known_metrics()]
    columns = [*RUN_COLUMNS, *settings, *metrics]
    whole = pd.concat([frame.reindex(columns=columns) for frame in filled])
    # What a run does not use is None, as in `make_frame`, where pandas has put NaN.
    unused = {path: whole[path].astype(object).where(whole[path].notna(), None) for path in settings}
    whole = whole.assign(**unused).copy()
    return whole.sort_values(_ORDER, kind="stable").reset_index(drop=True)


_ORDER = ["cell", "stage", "index", "started", "run_id"]


def notes(frame: pd.DataFrame) -> tuple[str, ...]:
    """Return what people should know of a store's frame, such as which runs are left out of it, and why."""
    return tuple(frame.attrs.get(_NOTES, ()))


def with_notes(frame: pd.DataFrame, lines: Iterable[str]) -> pd.DataFrame:
    """Return a frame with further notes; what is made of a frame by pandas need not keep them."""
    if lines := tuple(lines):
        frame.attrs = {**frame.attrs, _NOTES: tuple(dict.fromkeys((*notes(frame), *lines)))}
    return frame


_NOTES = "nfstudy.notes"


def make_row(run_id: str, status: str, started: int | None, data: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what `make_frame` takes for one run; whatever somebody has done to it in the store, nothing is raised.

    Arguments:
        run_id: the run's id in its store.
        status: MLflow's RUNNING, FINISHED, FAILED or KILLED; only in a finished run does the logged outcome count.
        started: milliseconds since 1970.
        data: the run's `tags`, `params` and `metrics`, by name.
    """
    tags = data["tags"]
    reason = trouble(tags) or ("" if started is not None else "start time: is missing; expected: milliseconds")
    if reason:
        named = f" ({tags[MlflowTag.RUN_NAME]})" if tags.get(MlflowTag.RUN_NAME) else ""
        hint = "left out; hint: put back what was edited, or delete the run"
        return {"run_id": f"{run_id}{named}", "unreadable": f"{reason}; {hint}"}
    row = {name: tags.get(tag_of(name)) or "" for name, kind in RUN_COLUMNS.items() if kind == "str"}
    return row | {
        "run_id": original_id(run_id, tags),
        "run_name": tags.get(MlflowTag.RUN_NAME) or "",
        "index": int(tags.get(Tag.INDEX, 0)),
        "outcome": outcome_of(status, tags.get(Tag.OUTCOME)),
        "update": float(tags.get(Tag.UPDATE, "nan")),
        "dirty": tags.get(Tag.DIRTY) == "true",
        "code_known": tags.get(Tag.COMMIT, UNKNOWN) != UNKNOWN and tags.get(Tag.DIRTY) in ("true", "false"),
        "attempt": int(tags.get(Tag.ATTEMPT, 0)),
        "started": started,
        "evaluations": json.dumps(found) if (found := evaluation_texts(tags)) else "",
        "params": {path: param_value(text or "") for path, text in data["params"].items()},
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
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return text


def _no_number(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity: no setting is one, and a page cannot embed them.


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

State = Literal["done", "pruned", "running", "failed", "diverged", "to do"]


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
    own = frame.loc[frame["budget"] == plan.budget, ["point", "cell"]].drop_duplicates()
    found = (_cell_there(plan, point, key) for point, key in own.itertuples(index=False, name=None))
    cells = sorted((cell for cell in found if cell), key=lambda cell: plan.place_of(cell.point))
    return [*{cell.key: cell for cell in cells}.values()]


def _cell_there(plan: StudyPlan, point: str, key: str) -> Cell | None:
    """Return the cell at a point that a run has logged; None where that is not the run's own cell."""
    values = json.loads(point)
    axes = plan.study.axes
    if not is_object(point) or set(values) != set(axes):
        return None
    try:
        cell = plan.cell_at(values)
    except SpecError:
        return None
    return cell if cell.key == key else None


def trusted(plan: StudyPlan, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a study's runs without those whose settings are not those of the cell that they are tagged with.

    Somebody has edited such a run's tags: its numbers would stand in another row. A note says which are left out. Where
    a search draws settings, they are the study's own with what the run says was drawn; an imported run that is found to
    agree counts as checked, which no archive can say by itself. A frame without settings cannot tell that.
    """
    if frame.empty or (plan.search and "train.updates" not in frame):
        return frame
    stages = ["repetition", *(["search"] if plan.search else [])]
    own = (frame["budget"] == plan.budget) & frame["stage"].isin(stages)
    keys = set(frame.loc[own, "cell"])
    cells = {cell.key: cell for cell in study_cells(plan, frame) if cell.key in keys}
    if plan.search:
        rows = frame[own & frame["cell"].isin(cells)].to_dict("records")
        digests = {row["run_id"]: _digest_as_drawn(cells[row["cell"]], row) for row in rows}
        known = frame["run_id"].map(digests)
    else:
        known = frame["cell"].map({key: settings_digest(cell.settings) for key, cell in cells.items()})
    agrees = known == frame["settings"]
    wrong = own & known.notna() & ~agrees
    if plan.search:
        checked = own & agrees & (frame["imported"] == OF_A_SEARCH)
        frame = with_notes(frame.assign(imported=frame["imported"].mask(checked, CHECKED)), notes(frame))
    if not wrong.any():
        return frame
    told = [
        f"run {run_id} ({name}): tags nfstudy.cell and nfstudy.settings contradict each other; left out; "
        "hint: put back what was edited, or delete the run"
        for run_id, name in frame.loc[wrong, ["run_id", "run_name"]].itertuples(index=False, name=None)
    ]
    return with_notes(frame[~wrong].reset_index(drop=True), (*notes(frame), *told))


def _digest_as_drawn(cell: Cell, row: Mapping[str, Any]) -> str:
    """Return the digest of the settings that a cell gives a run with what its search drew; empty if none are possible.

    What the run does not use was not drawn for it, or made no difference.
    """
    assert cell.search is not None
    values = drawn_values(cell.search, row)
    try:
        return settings_digest(cell.tried(values) if row["stage"] == "search" else cell.chosen(values))
    except ValidationError:
        return ""


def drawn_values(search: Search, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a search drew for a run, by its logged settings: a null is logged as no value."""
    found = {path: row.get(path) for path in search.space}
    may_be_null = {path for path, axis in search.space.items() if not isinstance(axis, Range) and None in axis}
    values = {path: None if is_absent(value) else value for path, value in found.items()}
    return {path: value for path, value in values.items() if value is not None or path in may_be_null}


def is_absent(value: Any) -> bool:
    """Say whether a frame's value is that of a setting that the run does not have; whatever somebody has put there."""
    return value is None or (isinstance(value, float) and math.isnan(value))


class _Told(NamedTuple):
    """What the state of a cell depends on, of one of its runs; thousands of small frames would take seconds."""

    stage: str
    number: int
    """Its index: of a repetition, or of a trial of a search."""
    outcome: str
    reason: str
    run_id: str


def cell_states(plan: StudyPlan, frame: pd.DataFrame, active: bool = False) -> list[CellState]:
    """Say of each cell whether it is done, running, failed, diverged or to do.

    Arguments:
        plan: the study under one of its budgets.
        frame: its runs (`LoggedRuns.frame`); those of other budgets do not count.
        active: whether a coordinator is at work now; without one, a run still marked running was cut off.
    """
    frame = frame[frame["stage"] != "rerun"]
    runs = latest_per_identity(frame.loc[frame["budget"] == plan.budget]) if not frame.empty else frame
    by_cell: dict[str, list[_Told]] = {}
    columns = ["cell", "stage", "index", "outcome", "reason", "run_id"]
    for key, *told in runs[columns].itertuples(index=False, name=None):
        by_cell.setdefault(key, []).append(_Told(*told))
    return [_cell_state(cell, by_cell.get(cell.key, ()), plan.repetitions, active) for cell in study_cells(plan, frame)]


def runs_left(plan: StudyPlan, frame: pd.DataFrame) -> int:
    """Return how many runs a study still needs; with a sampler, at most."""
    cells, wanted = study_cells(plan, frame), plan.repetitions
    done = latest_per_identity(frame[(frame["budget"] == plan.budget) & frame["outcome"].isin(RESULTS)])
    done = done[done["cell"].isin([cell.key for cell in cells])]
    search, repetitions = done["stage"] == "search", (done["stage"] == "repetition") & (done["index"] <= wanted)
    # A cell that is pruned in its first repetition has no others.
    pruned = repetitions & (done["outcome"] == "pruned")
    return plan.runs_of(len(cells)) - int(search.sum() + repetitions.sum() + (wanted - 1) * pruned.sum())


def _cell_state(cell: Cell, runs: Sequence[_Told], wanted: int, active: bool) -> CellState:
    if not runs:
        return CellState(cell, "to do", wanted, note="not run")
    repetitions = [run for run in runs if run.stage == "repetition" and run.number <= wanted]
    ids = {
        outcome: tuple(run.run_id for run in repetitions if run.outcome == outcome)
        for outcome in ("finished", "diverged", "failed", "pruned", "running", "killed")
    }
    running = tuple(run.run_id for run in runs if run.outcome == "running") if active else ()
    told = [run for run in repetitions if run.outcome in ("diverged", "failed", "pruned")]
    notes = [_how_ended(run.outcome, run.reason) for run in told]
    absent = wanted - len(ids["finished"]) - len(ids["diverged"]) - len(ids["failed"])
    state: State
    if running:
        state = "running"
        notes.append("running")
    elif ids["pruned"]:
        state = "pruned"
    elif ids["failed"]:
        state = "failed"
    elif absent > 0:
        state = "to do"
        notes.append(_why_absent(absent, wanted, bool(ids["running"] or ids["killed"]), runs))
    else:
        state = "diverged" if ids["diverged"] else "done"
    note = "; ".join(dict.fromkeys(notes))
    return CellState(cell, state, wanted, ids["finished"], ids["diverged"], ids["failed"], running, note)


def _how_ended(outcome: str, reason: str) -> str:
    """Return such as `diverged: loss is nan at update 7`, or `pruned at epoch 3 at F 101.20`."""
    if outcome == "pruned":  # Earlier versions began the reason with the word.
        return f"pruned {reason.removeprefix('pruned ')}"
    return f"{outcome}: {reason}"


def repetitions_of_pruned(plan: StudyPlan, frame: pd.DataFrame) -> int:
    """Return how many repetitions will not run since the first one of their cell was pruned."""
    first = frame[(frame["budget"] == plan.budget) & (frame["stage"] == "repetition") & (frame["outcome"] == "pruned")]
    return (plan.repetitions - 1) * int(first["cell"].nunique())


def _why_absent(absent: int, wanted: int, cut_off: bool, runs: Sequence[_Told]) -> str:
    searched = sum(run.stage == "search" and run.outcome in RESULTS for run in runs)
    if cut_off:
        return "cut off"
    if absent < wanted:
        return f"{absent} of {wanted} repetitions not run"
    return f"not run, but for {searched} trials of its search" if searched else "not run"
