"""Tables whose entries know their number, its reference and its runs; as CSV and Markdown (`latex` has the rest)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from nfstudy.core.declarations import Metric
from nfstudy.report.paper import Published
from nfstudy.report.statistics.estimates import Estimate

CSV_COLUMNS = (
    "row",
    "flow",
    "length",
    "metric",
    "unit",
    "ours_mean",
    "ours_se",
    "n",
    "paper",
    "paper_half_bar",
    "paper_source",
    "difference",
    "note",
    "run_ids",
)


@dataclass(frozen=True)
class Entry:
    """What stands at one row and column: text, or a number with all that is known of it.

    An entry for a quantity that has no value must say why in its note, and shows the note in its place.
    """

    text: str = ""
    quantity: Metric | None = None
    estimate: Estimate | None = None
    reference: Published | None = None
    difference: float | None = None
    """Ours minus the paper's, where the two can be compared."""
    note: str = ""
    run_ids: tuple[str, ...] = ()
    marked: bool = False
    """Whether the number is shown with a dagger, which the caption explains."""

    def __post_init__(self) -> None:
        if self.quantity and self.value is None and not self.note:
            raise ValueError(f"an entry for {self.quantity.title} has neither value nor note; expected: at least one")

    @property
    def names_runs(self) -> bool:
        """Whether the text is the beginnings of the runs' ids."""
        words = self.text.split()
        return len(words) == len(self.run_ids) > 0 and all(map(str.startswith, self.run_ids, words))

    @property
    def value(self) -> float | None:
        """The mean, in the quantity's unit."""
        return self.estimate.mean if self.estimate else None

    @property
    def display(self) -> str:
        """What is printed: the text, `mean ± se (n)` with its marks, or the note where there is no number.

        A count that the settings decide is one number, such as `25,688`.
        """
        if self.quantity is None:
            return self.text
        if self.estimate is None or self.estimate.mean is None:
            return self.note
        if self.quantity.settled and not self.estimate.se:
            return f"{round(self.estimate.mean):,}"
        number = format_estimate(self.estimate, self.quantity.decimals)
        return " ".join(filter(None, (self.quantity.mark, number, "†" if self.marked else "")))


@dataclass(frozen=True)
class Row:
    """A line of a table; `flow` and `length` are empty for lines that are no cell of ours."""

    name: str
    entries: tuple[Entry, ...]
    flow: str = ""
    length: int | None = None


MOST_IN_MARKDOWN = 150
"""Rows of a table that a page in Markdown shows; a longer one it links to, as CSV."""
MOST_IDS_IN_MARKDOWN = 8
"""Runs that an entry of such a page names; all are in the CSV."""


@dataclass(frozen=True)
class Table:
    """A table; the first column holds the rows' names."""

    id: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    in_markdown: bool = True
    """Whether the page in Markdown shows it, or a link to its CSV."""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.entries) != len(self.columns) - 1:
                raise ValueError(
                    f"table {self.id}, row {row.name}: {len(row.entries)} entries; expected: {len(self.columns) - 1}"
                )

    @property
    def subject(self) -> str:
        """The caption's first sentence: what the table is of."""
        return f"{self.caption.partition('. ')[0].removesuffix('.')}."

    def is_numeric(self, column: int) -> bool:
        """Say whether a column, counted from 0 after the names of the rows, holds numbers."""
        return self._numeric[column]

    def is_of_runs(self, column: int) -> bool:
        """Say whether a column, counted as above, holds run ids."""
        return not self.is_numeric(column) and any(row.entries[column].names_runs for row in self.rows)

    @cached_property
    def filled(self) -> tuple[int, ...]:
        """The columns, counted as above, in which anything stands; of a table without rows, all."""
        places = range(len(self.columns) - 1)
        return tuple(p for p in places if not self.rows or any(row.entries[p].display for row in self.rows))

    @cached_property
    def _numeric(self) -> tuple[bool, ...]:
        columns = zip(*(row.entries for row in self.rows), strict=True) if self.rows else [()] * len(self.columns[1:])
        return tuple(any(entry.quantity or entry.reference for entry in column) for column in columns)


LARGE = 1e9
"""From this size on numbers are written as `1.67e+152`: nobody reads more digits, and there may be 300."""


def format_number(value: float, decimals: int, signed: bool = False) -> str:
    """Return a number with so many decimals, a true minus sign, and zero without a sign."""
    rounded = round(value, decimals) + 0.0
    form = f".{decimals}f" if abs(rounded) < LARGE else ".2e"
    text = f"{rounded:{'+' if signed and rounded else ''}{form}}"
    return text.replace("-", "−").replace("inf", "∞")


def format_estimate(estimate: Estimate, decimals: int) -> str:
    """Return `mean ± se (n)`, or `mean (n = 1)` where there is no standard error, as of one run or of equal values."""
    if estimate.mean is None:
        raise ValueError("an estimate of no runs; expected: at least one run")
    mean = format_number(estimate.mean, decimals)
    if estimate.se is None:
        return f"{mean} (n = {estimate.n})"
    return f"{mean} ± {format_number(estimate.se, decimals)} ({estimate.n})"


def format_interval(interval: tuple[float, float], decimals: int) -> str:
    """Return both ends of an interval, such as `[−1.50, −0.50]`."""
    low, high = (format_number(end, decimals) for end in interval)
    return f"[{low}, {high}]"


def to_csv(table: Table) -> str:
    """Return one line for each row and quantity, numbers in full precision, run ids separated by spaces.

    A table without quantities has its own columns and lines, as shown, but for run ids, which are whole.
    """
    if any(entry.quantity for row in table.rows for entry in row.entries) or not table.rows:
        frame = pd.DataFrame(_long_form(table), columns=CSV_COLUMNS)
    else:
        lines = [(row.name, *(_whole_text(entry) for entry in row.entries)) for row in table.rows]
        frame = pd.DataFrame(lines, columns=table.columns)
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text


def _whole_text(entry: Entry) -> str:
    return " ".join(entry.run_ids) if entry.names_runs else entry.display


def _short_text(entry: Entry) -> str:
    more = len(entry.run_ids) - MOST_IDS_IN_MARKDOWN
    if not entry.names_runs or more <= 0:
        return entry.display
    return f"{' '.join(entry.text.split()[:MOST_IDS_IN_MARKDOWN])} and {more} more"


def to_markdown(
    table: Table, heads: Mapping[str, str] | None = None, place_of: Callable[[Entry], str] = lambda _: ""
) -> str:
    """Return a pipe table above its caption, without padding and without empty columns; text is escaped.

    Arguments:
        table: the table.
        heads: column -> where its head leads, of those that do.
        place_of: entry -> where it leads; empty where nowhere.
    """
    align = (":--", *("--:" if table.is_numeric(place) else ":--" for place in table.filled))
    shown = [(table.columns[1 + place], (heads or {}).get(table.columns[1 + place], "")) for place in table.filled]
    rows = [
        ((row.name, ""), *((_short_text(row.entries[place]), place_of(row.entries[place])) for place in table.filled))
        for row in table.rows
    ]
    lines = [[_linked(*cell) for cell in line] for line in (((table.columns[0], ""), *shown), *rows)]
    head, *rest = (f"| {' | '.join(line)} |" for line in lines)
    body = "\n".join((head, f"|{'|'.join(align)}|", *rest))
    return f"{body}\n\n*{markdown_text(table.caption)}*\n"


def _linked(text: str, place: str) -> str:
    return f"[{markdown_text(text)}]({place})" if place else markdown_text(text)


def markdown_text(text: str) -> str:
    """Escape text so that Markdown shows it as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#&~])", r"\\\1", " ".join(text.split()))


def _long_form(table: Table) -> Iterator[tuple[Any, ...]]:
    for row in table.rows:
        for entry in row.entries:
            if entry.quantity is None:
                continue
            ours, paper = entry.estimate, entry.reference
            yield (
                row.name,
                row.flow,
                "" if row.length is None else row.length,
                entry.quantity.title,
                entry.quantity.unit,
                ours.mean if ours else None,
                ours.se if ours else None,
                ours.n if ours else 0,
                paper.value if paper else None,
                paper.half_bar if paper else None,
                paper.source if paper else "",
                entry.difference,
                entry.note,
                " ".join(entry.run_ids),
            )
