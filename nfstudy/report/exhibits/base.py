"""What the exhibits share: results -> entries of tables and curves of figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from nfstudy.core.declarations import Metric
from nfstudy.films.strips import Strip
from nfstudy.report.exhibits.trust import trust_text, why_not_converged
from nfstudy.report.labels import Label, on_curve
from nfstudy.report.paper import Published
from nfstudy.report.plots.curves import Curve
from nfstudy.report.statistics.estimates import CellResult, Results
from nfstudy.report.tables import Entry, Row, Table, format_number
from nfstudy.runs.metrics import LATER_METRICS

MAX_CURVES = 24
"""More curves, as a sampled study may have, cannot be told apart in a figure; its tables hold all cells."""


NOT_HERE = "not in this study"
"""In the place of a number beside the paper's, where the study has no such cell."""

SHORT_ID = 8
"""Digits of a run's id that tables show."""


@dataclass(frozen=True)
class Drawing:
    """A figure with its file name (without ending) and caption."""

    id: str
    figure: Figure
    caption: str
    keeps_colours: bool = False
    """Whether its colours stand for numbers with words upon them, as in a map, so that dark pages show it on white."""


@dataclass(frozen=True)
class Answer:
    """A question that a study is made for, and what its runs say to it."""

    question: str
    """Ends with a question mark; empty where nobody has declared one."""
    text: str
    """Sentences made from logged numbers; the first begins with yes, no, or why it is neither."""


@dataclass(frozen=True)
class FilmDrawing:
    """A film with its file name (without ending), a title that may be empty, its rows of panels, and its caption."""

    id: str
    title: str
    strips: Sequence[Strip]
    caption: str


@dataclass(frozen=True)
class ReadingSpan:
    """How far a number of ours moves, beside the paper's, with what the paper's text leaves open."""

    name: str
    """Such as `gain in F, K = 0 to 80`."""
    readings: int
    """How many have the number, at least 2."""
    low: Entry
    """That of the reading with the least difference to the paper's, which it has."""
    high: Entry
    """That with the greatest."""


@dataclass(frozen=True)
class Exhibit:
    """What a report shows under one heading."""

    name: str
    title: str
    text: str
    tables: tuple[Table, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    run_ids: tuple[str, ...] = ()
    """The runs that it is made from, beyond those of its tables."""
    answer: Answer | None = None
    """What it says to the question of a study that no claim asks; the first exhibit that has one begins the report."""
    films: tuple[FilmDrawing, ...] = ()
    spans: tuple[ReadingSpan, ...] = ()
    """What readings of the paper say, which the front page and README tell with the verdict."""


@dataclass(frozen=True)
class CurveGroup:
    """The cells on one curve, by flow length; the cell of length 0 lies on every curve it agrees with."""

    label: Label
    cells: tuple[CellResult, ...]
    variant: int
    """Which of its family's curves it is: 0, 1, ..."""


def measured(result: CellResult, quantity: Metric, reference: Published | None = None) -> Entry:
    """Return the entry of a cell's quantity, beside the paper's number where there is one.

    There is a difference only where the cell's setting makes it the same quantity as the paper's; else a note says why.
    """
    found = result.estimate(quantity)
    reason = reference.why_not_comparable(result.cell.settings) if reference else ""
    warning = why_not_converged(result, quantity) if found.n else ""
    return Entry(
        quantity=quantity,
        estimate=found,
        reference=reference,
        difference=found.mean - reference.value if reference and found.mean is not None and not reason else None,
        note="; ".join(filter(None, (what_is_missing(result, quantity), reason, warning))),
        run_ids=found.run_ids,
        marked=bool(warning),
    )


def what_is_missing(result: CellResult, quantity: Metric) -> str:
    """Say which runs a cell's estimate of a quantity lacks, such as `1 of 5 not run`; empty where it has them all."""
    found = result.estimate(quantity)
    unmeasured = quantity.name in LATER_METRICS  # A finished run without it was made before there was the metric.
    missing = "not measured" if unmeasured else "without a finite value"
    left_out = "" if not found.left_out else missing if not found.n and unmeasured else f"{found.left_out} {missing}"
    return "; ".join(filter(None, (result.note, left_out)))


def remark(entries: Sequence[Entry]) -> Entry:
    """Return the notes of entries that have a value, each once; one without shows its note itself."""
    notes = (entry.note.split("; ") for entry in entries if entry.note and entry.value is not None)
    return Entry(text="; ".join(dict.fromkeys(part for parts in notes for part in parts)))


def runs_behind(ours: Entry) -> Entry:
    """Return the beginnings of the ids of the runs behind a number."""
    return Entry(text=" ".join(run_id[:SHORT_ID] for run_id in ours.run_ids), run_ids=ours.run_ids)


def cell_row(result: CellResult, entries: Sequence[Entry], name: str = "") -> Row:
    """Return a table's row for a cell, under its own name unless another is given."""
    return Row(name or result.label.row, tuple(entries), result.label.family, result.label.length)


def stamped(caption: str, results: Results) -> str:
    """Return a caption that says so where the study is incomplete."""
    return f"{caption} [{results.stamp}]" if results.stamp else caption


def bounded(caption: str, results: Results) -> str:
    """Return the caption of a table with −ln p(x) or KL: `stamped`, and how far these can be trusted."""
    return stamped(" ".join(filter(None, (caption, trust_text(results)))), results)


def curve_groups(results: Results) -> list[CurveGroup]:
    """Put the cells on curves over the flow length, one a family and variant, in the study's order."""
    labels = [result.label for result in results.cells]
    curves: dict[tuple[object, ...], Label] = {}
    for label in labels:
        if label.length > 0:
            curves.setdefault((label.family, label.variant), label)
    for label in labels:
        if not any(on_curve(label, curve) for curve in curves.values()):
            curves[label.family, label.variant] = label
    groups, seen = [], dict[str, int]()
    for curve in curves.values():
        variant = seen.get(curve.family, 0)
        seen[curve.family] = variant + 1
        cells = sorted((r for r in results.cells if on_curve(r.label, curve)), key=lambda r: r.label.length)
        groups.append(CurveGroup(curve, tuple(cells), variant))
    return groups


def drawn_groups(results: Results) -> tuple[list[CurveGroup], str]:
    """Return the first `MAX_CURVES` curves, and a sentence that says so where there are more."""
    groups = curve_groups(results)
    if len(groups) <= MAX_CURVES:
        return groups, ""
    return groups[
        :MAX_CURVES
    ], f"The figure shows the first {MAX_CURVES} of {len(groups)} curves; the table, all cells."


def curves_of(groups: Sequence[CurveGroup], quantity: Metric, suffix: str = "") -> list[Curve]:
    """Return a curve for each group that has a number, with standard errors as bars."""
    curves = []
    for group in groups:
        estimates = [(cell.label.length, cell.estimate(quantity)) for cell in group.cells]
        points = [(length, found.mean, found.se) for length, found in estimates if found.mean is not None]
        if points:
            x, y = [length for length, _, _ in points], [mean for _, mean, _ in points]
            bars = [se for _, _, se in points]
            curves.append(Curve(group.label.curve + suffix, x, y, bars, group.label.family, group.variant))
    return curves


def published_entry(paper: Published | None) -> Entry:
    """Return the entry of the paper's number, or of its absence."""
    return Entry(text=paper.display, reference=paper, note=paper.source) if paper else Entry(text="–")


def difference_entry(ours: Entry) -> Entry:
    """Return the entry of ours − paper; empty where the two cannot be compared."""
    text = "" if ours.difference is None else format_number(ours.difference, 2, signed=True)
    return Entry(text=text, reference=ours.reference, run_ids=ours.run_ids if text else ())


def departures(results: Results) -> tuple[list[str], bool]:
    """List where all cells depart from what the paper states, and say whether some depart further."""
    facts = results.facts
    lists = [facts.departures(result.cell.settings) for result in results.cells]
    shared = [text for text in lists[0] if all(text in other for other in lists)] if lists else []
    departs_by_row = any(set(own) - set(shared) for own in lists)
    repetitions = results.plan.repetitions
    if facts.repetitions and repetitions != facts.repetitions:
        shared.append(f"repetitions {repetitions} (paper: {facts.repetitions})")
    return shared, departs_by_row


def how_run(results: Results) -> str:
    """Say where the cells depart from what the paper states, so that no difference is read without its reasons."""
    shared, departs_by_row = departures(results)
    rest = "a further difference stands in a row's name" if departs_by_row else ""
    return f"Not as the paper states: {'; '.join(filter(None, (*shared, rest)))}." if shared or rest else ""
