"""What a benchmark found, where it ran, and the files and tables that say so."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from llvmlite.binding import get_host_cpu_name
from matplotlib.figure import Figure
from rich.table import Table

from nfstudy.report.plots.curves import render
from nfstudy.runs.code import code_state
from nfstudy.runs.provenance import environment

Row = Mapping[str, Any]
"""Column -> a text, a number or a truth value."""

LIBRARIES = ("torch", "numpy", "numba", "normflows", "pyro-ppl", "pythae", "flowjax", "jax")


@dataclass(frozen=True)
class Verdict:
    """A number that was asked for beside the one that was found."""

    what: str
    found: str
    asked: str
    met: bool


@dataclass(frozen=True)
class Result:
    """A benchmark's outcome."""

    title: str
    rows: Sequence[Row]
    """Of the same keys, in the order of the table's columns; a key's unit is its last word."""
    verdicts: Sequence[Verdict] = ()
    missing: Sequence[str] = ()
    """Of libraries or families that are not there: the name and the reason."""
    figure: Figure | None = None
    paces: tuple[float, ...] = ()
    """`timing.pace` before and after."""
    notes: Sequence[str] = ()
    """What else became of it, a line each."""


def machine() -> dict[str, str]:
    """Return what the numbers depend on beside the code, and which code it was: no names, no paths."""
    found = environment()
    kept = {key: found[key] for key in ("processor", "cores", "platform", "python")}
    kept |= {name: found.get(f"package {name}", "not installed") for name in LIBRARIES}
    state = code_state()
    # As compilers call it: of processors that a cloud names alike, one may be twice as fast as another.
    kept["generation"] = get_host_cpu_name()
    kept["threads"] = os.environ.get("OMP_NUM_THREADS", "not limited")
    kept["xla_flags"] = os.environ.get("XLA_FLAGS", "none")
    changes = {True: " with changes", False: "", None: " with changes that are not known"}[state.dirty]
    return {**kept, "commit": state.commit + changes}


def save(name: str, result: Result, folder: Path, quick: bool) -> list[Path]:
    """Write `<name>.csv`, `<name>.json` and, if there is a figure, `<name>.png`; return their paths.

    Arguments:
        name: of the benchmark.
        result: what it found.
        folder: made where it is missing.
        quick: whether few rounds were timed, which the JSON then says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table, record = folder / f"{name}.csv", folder / f"{name}.json"
    content = {
        "benchmark": name,
        "title": result.title,
        "quick": quick,
        "machine": machine(),
        "gflops": [round(pace, 1) for pace in result.paces],
        "missing": list(result.missing),
        "verdicts": [asdict(verdict) for verdict in result.verdicts],
        "rows": [dict(row) for row in result.rows],
    }
    # All is made before anything is written; numbers that went through pandas are NumPy's, which JSON does not know.
    made = {
        table: pd.DataFrame(result.rows).to_csv(index=False, float_format="%.6g").encode(),
        record: (json.dumps(content, indent=1, ensure_ascii=False, default=np.generic.item) + "\n").encode(),
    }
    if result.figure is not None:
        made[folder / f"{name}.png"] = render(result.figure, "png")
    for path, written in made.items():
        path.write_bytes(written)
    return list(made)


def as_tables(result: Result) -> list[Table]:
    """Return the rows, and the verdicts if there are any, as tables for a terminal."""
    tables = []
    if result.rows:
        tables.append(_table(result.title, result.rows))
    if result.verdicts:
        rows = [
            {"asked for": v.what, "found": v.found, "asked": v.asked, "": "met" if v.met else "missed"}
            for v in result.verdicts
        ]
        tables.append(_table("asked and found", rows))
    return tables


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    for key, value in rows[0].items():
        table.add_column(key.replace("_", " "), justify="left" if isinstance(value, str | bool) else "right")
    for row in rows:
        table.add_row(*(as_text(value) for value in row.values()))
    return table


def as_text(value: object) -> str:
    """Return a number of a row as tables show it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
