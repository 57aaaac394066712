"""`index.md` of a folder of results: what was asked and found, the figures, and on which machine, in one page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.records import FILE, LEAST_DRAWN, draw, read_records, standing
from benchmarks.result import as_text
from nfstudy.report.plots.curves import render

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
        *_records(folder),
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


def _records(folder: Path) -> list[str]:
    """Return the records' section, newest first, and draw them where there are enough; nothing without a record."""
    if not (records := read_records(folder / FILE)):
        return []
    rows = [
        {
            "−ln p(x)": f"{record.mark:g}",
            "model": record.what,
            "seconds": f"**{record.seconds:.1f}**" if record == standing(records, record) else f"{record.seconds:.1f}",
            "reached": f"{record.nll:.2f} ({record.seeds} seeds)",
            "cores": str(record.cores),
            "machine": record.machine,
            "date": record.date,
            "commit": record.commit[:10],
            "what changed": record.change.replace("|", "\\|"),
        }
        for record in sorted(records, key=lambda record: (record.mark, -record.seconds), reverse=True)
    ]
    parts = [
        "## record: time to −ln p(x), as it came down",
        "From a cold start until −ln p(x) of the whole test set is known, 200 samples, fixed binarisation: a row each "
        "time that all seeds reached a mark sooner than before. Seconds and −ln p(x) are those of the worst seed; what "
        "stands is in bold. `python -m benchmarks paper` adds a row where it beats one.",
        _markdown(rows),
    ]
    if len(records) >= LEAST_DRAWN:
        (folder / "record.png").write_bytes(render(draw(records), "png"))
        parts.append("![Time from a cold start to a −ln p(x): the records over time](record.png)")
    return [*parts, f"All rows: [{FILE}]({FILE})"]


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
