"""`index.md` of a folder of results: what was asked and found, the figures, and on which machine, in one page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.result import as_text

MOST_ROWS = 12
"""Of a result, beyond which the page points to its CSV file only."""


def write_page(folder: Path, names: Sequence[str]) -> Path:
    """Write `index.md` from the `<name>.json` files that are there, whenever they were measured; return its path.

    Arguments:
        folder: of the files that `result.save` has written.
        names: of the benchmarks, in the order of the page.
    """
    results = [json.loads(path.read_text()) for name in names if (path := folder / f"{name}.json").is_file()]
    parts = [
        "# Benchmarks",
        "What `make bench` and `python -m benchmarks NAME` found. Ratios are those of medians over alternating turns.",
        *(part for result in results for part in _section(result, folder)),
    ]
    page = folder / "index.md"
    page.write_text("\n\n".join(parts) + "\n")
    return page


def _section(result: Mapping[str, Any], folder: Path) -> list[str]:
    name, rows = result["benchmark"], result["rows"]
    parts = [f"## {name}: {result['title']}"]
    if result["quick"]:
        parts.append("**Few rounds:** this shows that it runs, not how fast.")
    if result["verdicts"]:
        asked = [
            {"asked for": v["what"], "found": v["found"], "asked": v["asked"], "": "met" if v["met"] else "**missed**"}
            for v in result["verdicts"]
        ]
        parts.append(_markdown(asked))
    if len(rows) <= MOST_ROWS:
        parts.append(_markdown([{key.replace("_", " "): as_text(value) for key, value in row.items()} for row in rows]))
    if (folder / f"{name}.png").is_file():
        parts.append(f"![{result['title']}]({name}.png)")
    parts += [f"Missing: {peer}" for peer in result["missing"]]
    parts.append(f"*{_where(result)}.* All numbers: [{name}.csv]({name}.csv)")
    return parts


def _where(result: Mapping[str, Any]) -> str:
    """Return the machine, its pace and the code; results from before these were noted lack some of it."""
    machine = result["machine"]
    where = machine["processor"]
    if generation := machine.get("generation"):
        where += f" ({generation})"
    where += f", {machine['cores']} cores; Python {machine['python']}, torch {machine['torch']}"
    if paces := result.get("gflops"):
        where += f"; its float32 products before and after: {' and '.join(f'{pace:.0f}' for pace in paces)} GFLOP/s"
    return f"{where}; code: {machine['commit']}"


def _markdown(rows: Sequence[Mapping[str, str]]) -> str:
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
