"""`record.csv`: what was fastest when, by mark, as in speed-runs; a row is added where one is beaten and never changed.

A mark is a −ln p(x) on MNIST's test set that all seeds must reach. Its record is the time of the slowest of them on so
many cores, by code that is in git.
"""

from __future__ import annotations

import csv
import datetime
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from nfstudy.core.atomic import write_whole
from nfstudy.core.errors import UserError
from nfstudy.report.plots.curves import figure_style, finish

FILE = "record.csv"
LEAST_SEEDS = 3
"""Without so many, a time may be one lucky seed's."""
LEAST_DRAWN = 3
"""Rows, below which a figure would show less than the table does."""
COMMIT = re.compile(r"[0-9a-f]{40}")


class Record(NamedTuple):
    """A row: a mark that was reached in less time than before, or for the first time."""

    mark: float
    """−ln p(x) to be reached, in nats; each seed reached it."""
    what: str
    """The model, such as `a planar chain`."""
    nll: float
    """The highest −ln p(x) of the seeds, in nats."""
    seconds: float
    """From a cold start to the test set's −ln p(x), of the slowest seed."""
    seeds: int
    cores: int
    machine: str
    """Processor and its generation, as `result.machine` names them."""
    commit: str
    """Of the code and of the settings that were run, 40 hex digits."""
    date: str
    """YYYY-MM-DD, UTC."""
    change: str
    """What made it faster than the record before, in a line."""

    @property
    def category(self) -> tuple[float, int]:
        """Mark and cores: only records with the same of both are compared."""
        return self.mark, self.cores


NUMBERS = {"mark": float, "nll": float, "seconds": float, "seeds": int, "cores": int}


def read_records(path: Path) -> list[Record]:
    """Return the rows of a table of records, in its order; none where there is no file.

    Raises:
        UserError: a row is not what `add` writes, or no improvement on those above it; names file, line and column.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    if not lines or lines[0] != list(Record._fields):
        raise UserError(f"{path}: line 1: got {','.join(lines[0] if lines else ())}; expected: {','.join(_columns())}")
    records: list[Record] = []
    for number, cells in enumerate(lines[1:], start=2):
        record = _parsed(cells, f"{path}: line {number}")
        before = standing(records, record)
        if before and record.seconds >= before.seconds:
            found = f"got {record.seconds:g} at {record.mark:g} nats on {record.cores} cores"
            raise UserError(
                f"{path}: line {number}: seconds: {found}; expected: less than {before.seconds:g}, above it"
            )
        records.append(record)
    return records


def _columns() -> tuple[str, ...]:
    return Record._fields


def _parsed(cells: Sequence[str], where: str) -> Record:
    if len(cells) != len(_columns()):
        raise UserError(f"{where}: got {len(cells)} columns; expected: {len(_columns())}, {', '.join(_columns())}")
    texts = dict(zip(_columns(), cells, strict=True))
    numbers: dict[str, float] = {}
    for column, kind in NUMBERS.items():
        try:
            number = numbers[column] = kind(texts[column])
        except ValueError:
            raise UserError(f"{where}: {column}: got '{texts[column]}'; expected: a number") from None
        if not (math.isfinite(number) and number > 0):
            raise UserError(f"{where}: {column}: got {number:g}; expected: greater than 0")
    record = Record(**{**texts, **numbers})  # type: ignore[arg-type]  # Each is of its field's type by now.
    if record.nll > record.mark:
        raise UserError(f"{where}: nll: got {record.nll:g}; expected: at most the mark, {record.mark:g}")
    if record.seeds < LEAST_SEEDS:
        raise UserError(f"{where}: seeds: got {record.seeds}; expected: at least {LEAST_SEEDS}")
    if not COMMIT.fullmatch(record.commit):
        raise UserError(f"{where}: commit: got '{record.commit}'; expected: 40 hex digits")
    try:
        datetime.date.fromisoformat(record.date)
    except ValueError:
        raise UserError(f"{where}: date: got '{record.date}'; expected: YYYY-MM-DD") from None
    return record


def standing(records: Sequence[Record], of: Record) -> Record | None:
    """Return the record of a row's mark and number of cores; None where nothing has reached it yet."""
    return min((row for row in records if row.category == of.category), key=lambda row: row.seconds, default=None)


def why_none(attempt: Record, records: Sequence[Record]) -> str:
    """Say why an attempt is no record; empty where it is one."""
    if attempt.seeds < LEAST_SEEDS:
        return f"{attempt.seeds} seeds; a record takes {LEAST_SEEDS}"
    if not attempt.nll <= attempt.mark:
        return f"a seed ended at {attempt.nll:.2f} nats, above {attempt.mark:g}"
    if not COMMIT.fullmatch(attempt.commit):
        return f"its code is not that of a commit: {attempt.commit}"
    before = standing(records, attempt)
    if before and attempt.seconds >= before.seconds:
        return f"{attempt.seconds:.1f} s; the record stands at {before.seconds:.1f} s"
    return ""


def add(path: Path, attempt: Record) -> str:
    """Add an attempt to the table, whole or not at all, if it is a record; return what became of it, in a line.

    Raises:
        UserError: the table cannot be read; see `read_records`.
    """
    records = read_records(path)
    if why := why_none(attempt, records):
        return f"no record: {why}"
    before = standing(records, attempt)
    row = attempt._replace(
        seconds=round(attempt.seconds, 1), nll=round(attempt.nll, 4), change=_in_a_line(attempt.change)
    )
    if before and row.seconds >= before.seconds:  # Less than a tenth of a second is no difference.
        return f"no record: the record stands at {before.seconds:.1f} s"
    write_whole(path, _written([*records, row]).encode())
    return f"a record: {row.seconds:.1f} s" + (
        f", {before.seconds - row.seconds:.1f} s less than before" if before else ""
    )


def _in_a_line(text: str) -> str:
    return " ".join(text.split())


def _written(records: Sequence[Record]) -> str:
    return pd.DataFrame(records, columns=_columns()).to_csv(index=False)


def draw(records: Sequence[Record]) -> Figure:
    """Draw the seconds of records over their dates, a line for each mark and number of cores."""
    points = pd.DataFrame(records, columns=_columns())
    points["date"] = pd.to_datetime(points["date"])
    points["mark"] = [f"{row.mark:g} nats, {row.cores} cores" for row in records]
    with figure_style():
        figure = Figure(figsize=(8.4, 3.6), layout="constrained")
        axes = figure.subplots()
        # A record stands until the day of the next.
        steps = {"drawstyle": "steps-post", "markers": True, "dashes": False}
        sns.lineplot(points, x="date", y="seconds", hue="mark", style="mark", **steps, ax=axes)
        axes.set(xlabel="", ylabel="seconds, slowest seed", ylim=(0, None))
        axes.tick_params(axis="x", rotation=20)
        finish(figure, "Time from a cold start to a −ln p(x): the records over time", "")
    return figure
