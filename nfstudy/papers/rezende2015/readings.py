"""The exhibit `readings`: how near each reading of what the paper leaves open comes to the paper's numbers.

A reading is the cells that agree in all but the flow's length and the energy or data set: a family, and whatever else
the study varies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from nfstudy.core.declarations import Metric
from nfstudy.papers.rezende2015.published import find_published
from nfstudy.report.exhibits.base import (
    Answer,
    CurveGroup,
    Drawing,
    Exhibit,
    ReadingSpan,
    bounded,
    cell_row,
    curve_groups,
    difference_entry,
    how_run,
    measured,
    published_entry,
    remark,
    runs_behind,
    stamped,
)
from nfstudy.report.exhibits.general import free_energies
from nfstudy.report.labels import Label, setting_text
from nfstudy.report.paper import Published
from nfstudy.report.plots.forest import Difference, DifferencePanel, draw_differences
from nfstudy.report.statistics.estimates import CellResult, Results, change_of, estimate
from nfstudy.report.tables import MOST_IN_MARKDOWN, Entry, Row, Table, format_number
from nfstudy.runs.metrics import FREE_ENERGY

TITLE = "Readings: how near each comes to the paper"
MOST_DRAWN = 24
"""Readings in the figure, the nearest ones; more leave no room for their names."""
GAIN = "gain in "
"""What the name of a comparison of gains begins with."""
WHERE = ("data.name", "energy.name")
"""Settings that say which of the paper's experiments a cell is of."""


@dataclass(frozen=True)
class Comparison:
    """A number of ours beside the paper's: a level at one length, or a gain between two."""

    name: str
    """Such as `F, K = 0` or `gain in F, K = 0 to 80`."""
    ours: Entry
    family: str

    @property
    def difference(self) -> float | None:
        """Ours − paper, in the quantity's unit; None where there is no number, or it is another quantity."""
        return self.ours.difference


@dataclass(frozen=True)
class Reading:
    """One reading with all that is compared."""

    group: CurveGroup
    comparisons: tuple[Comparison, ...]

    @property
    def name(self) -> str:
        """What tells it from others."""
        return self.group.label.curve

    @cached_property
    def distance(self) -> float | None:
        """The largest |ours − paper|, in nats; None where nothing can be compared."""
        found = [abs(c.difference) for c in self.comparisons if c.difference is not None]
        return max(found) if found else None

    @property
    def compared(self) -> int:
        """How many numbers the distance is over."""
        return sum(c.difference is not None for c in self.comparisons)


def readings(results: Results) -> Exhibit:
    """Rank the readings by their largest distance to the paper, and draw every distance."""
    every = _every(results)
    ranked = sorted(every, key=lambda r: (-r.compared, math.inf if r.distance is None else r.distance))
    tables = (_ranking(ranked, results), _numbers(ranked, results), _stopped(results))
    return Exhibit(
        "readings",
        TITLE,
        " ".join(filter(None, (_nearest(ranked), how_run(results)))),
        tables,
        _figure(ranked, results),
        answer=Answer("Which reading comes nearest to the paper's numbers?", _nearest(ranked) + _seeds(ranked)),
        spans=_spans(ranked),
    )


def _every(results: Results) -> list[Reading]:
    """Return the readings, each over all of the paper's experiments that the study repeats by it."""
    found: dict[Label, list[CurveGroup]] = {}
    for group in curve_groups(results):
        own = tuple(setting for setting in group.label.variant if setting[0] not in WHERE)
        found.setdefault(replace(group.label, variant=own), []).append(group)
    every = []
    for label, groups in found.items():
        compared = [comparison for group in groups for comparison in _compared(group, results)]
        every.append(Reading(replace(groups[0], label=label), tuple(compared)))
    return every


def _compared(group: CurveGroup, results: Results) -> Iterator[Comparison]:
    """Yield `_comparisons`, named after the experiment where the study varies it."""
    where = [setting_text(value) for path, value in group.label.variant if path in WHERE]
    for comparison in _comparisons(group, results):
        yield replace(comparison, name=", ".join((comparison.name, *where)))


def _comparisons(group: CurveGroup, results: Results) -> Iterator[Comparison]:
    """Yield the levels at each length that the paper has, then the gains from the shortest of these to the longest."""
    quantities = [metric for metric in results.bounds if any(_published(cell, metric) for cell in group.cells)]
    for cell in group.cells:
        for metric in quantities:
            if paper := _published(cell, metric):
                name = f"{metric.title}, K = {cell.label.length}"
                yield Comparison(name, measured(cell, metric, paper), group.label.family)
    for metric in quantities:
        found = [(cell, paper) for cell in group.cells if (paper := _published(cell, metric))]
        if len(found) > 1:
            yield _gain(metric, found[0], found[-1], group.label.family)


def _published(cell: CellResult, metric: Metric) -> Published | None:
    flat = cell.cell.settings.flat()
    where = {path: flat[path] for path in WHERE if path in flat}
    return find_published(where, metric.title, cell.label.family, cell.label.length)


def _gain(
    metric: Metric, shorter: tuple[CellResult, Published], longer: tuple[CellResult, Published], family: str
) -> Comparison:
    """Return what the longer chain lowers a quantity by: shorter − longer, as ours and as the paper's."""
    (first, first_paper), (last, last_paper) = shorter, longer
    lengths = f"K = {first.label.length} to {last.label.length}"
    gain = replace(metric, label=f"{GAIN}{metric.title}", mark="")
    paper = Published(
        round(first_paper.value - last_paper.value, 3),
        f"{first_paper.source} − {last_paper.source}",
        last_paper.confidence,
    )
    found = change_of(first, last, metric)
    # On the plane the paper's levels hold an unexplained constant; their difference does not.
    reason = "" if "energy.name" in first.cell.flat() else first_paper.why_not_comparable(first.cell.settings)
    notes = dict.fromkeys(filter(None, (first.note, last.note, reason, "" if found else "nothing to compare")))
    ours = Entry(
        quantity=gain,
        estimate=found,
        reference=paper,
        difference=found.mean - paper.value if found and found.mean is not None and not reason else None,
        note="; ".join(notes),
        run_ids=found.run_ids if found else (),
    )
    return Comparison(f"{GAIN}{metric.title}, {lengths}", ours, family)


def _nearest(ranked: Sequence[Reading]) -> str:
    """Say which reading is nearest, how near, and how many were compared."""
    known = [reading for reading in ranked if reading.distance is not None]
    if not known:
        return "No run has a number that can be compared with the paper's."
    best = known[0]
    alike = [reading for reading in known if reading.compared == best.compared]
    worst = max(best.comparisons, key=lambda c: abs(c.difference or 0.0))
    return (
        f"Nearest of {len(alike)} is {best.name}: of {best.compared} numbers none is further from the paper's than "
        f"{format_number(best.distance or 0.0, 2)} nats ({worst.name})."
    )


def _seeds(ranked: Sequence[Reading]) -> str:
    """Say so where no distance has an error."""
    counts = [c.ours.estimate.n for reading in ranked for c in reading.comparisons if c.ours.estimate]
    return " One seed each: no error is known." if counts and max(counts) == 1 else ""


def _spans(ranked: Sequence[Reading]) -> tuple[ReadingSpan, ...]:
    """Return between what distances to the paper one number lies: the last gain of which two readings are known.

    Without a gain, it is the last level: −ln p(x) of images.
    """
    found: dict[str, list[Entry]] = {}
    for comparison in (c for reading in ranked for c in reading.comparisons if c.difference is not None):
        found.setdefault(comparison.name, []).append(comparison.ours)
    known = [name for name, entries in found.items() if len(entries) > 1]
    told = [name for name in known if name.startswith(GAIN)] or known
    return tuple(
        ReadingSpan(
            name,
            len(found[name]),
            min(found[name], key=lambda entry: entry.difference or 0.0),
            max(found[name], key=lambda entry: entry.difference or 0.0),
        )
        for name in told[-1:]
    )


def _names(compared: Sequence[Sequence[Comparison]]) -> list[str]:
    """Return the names of all that readings were compared in, in the order of the one that was compared in most."""
    fullest_first = sorted(compared, key=len, reverse=True)
    return list(dict.fromkeys(comparison.name for comparisons in fullest_first for comparison in comparisons))


def _ranking(ranked: Sequence[Reading], results: Results) -> Table:
    names = _names([reading.comparisons for reading in ranked])
    rows = []
    for reading in ranked:
        of = {c.name: c.ours for c in reading.comparisons}
        entries = [difference_entry(of[name]) if name in of else Entry(text="–") for name in names]
        distance = "–" if reading.distance is None else format_number(reading.distance, 2)
        runs = tuple(dict.fromkeys(run for c in reading.comparisons for run in c.ours.run_ids))
        rows.append(Row(reading.name, (Entry(text=distance, run_ids=runs), *entries), reading.group.label.family))
    caption = (
        "Ours − paper, in nats, on the test set: at each length that the paper has, and of the gain, shorter − longer "
        "chain. Distance: the largest of a row without its sign. The readings of which most is known stand first, and "
        "of these the nearest. What is empty was not run, or is another quantity than the paper's."
    )
    return Table("readings", bounded(caption, results), ("reading", "distance", *names), tuple(rows))


def _numbers(ranked: Sequence[Reading], results: Results) -> Table:
    rows = [
        Row(
            f"{reading.name}: {comparison.name}",
            (
                published_entry(comparison.ours.reference),
                comparison.ours,
                difference_entry(comparison.ours),
                remark([comparison.ours]),
                runs_behind(comparison.ours),
            ),
            reading.group.label.family,
        )
        for reading in ranked
        for comparison in reading.comparisons
    ]
    caption = "The numbers behind the distances, in nats: ours as mean ± standard error (number of runs)."
    columns = ("reading", "paper", "ours", "difference", "note", "runs")
    shown = len(rows) <= MOST_IN_MARKDOWN
    return Table("readings-numbers", bounded(caption, results), columns, tuple(rows), in_markdown=shown)


def _stopped(results: Results) -> Table:
    """Tell what stopping at the lowest F on validation images would have given, beside the end."""
    rows = []
    for result in results.cells:
        finished = result.by_repetition(FREE_ENERGY)
        points = free_energies(results.store, [run_id for run_id, _ in finished.values()])
        points = points[points["split"] == "validation"]
        ends = points.sort_values("update").groupby("run_id").last()
        lowest = points.loc[points.groupby("run_id")["value"].idxmin()].set_index("run_id")
        spec = result.cell.settings.data
        absent = result.note or "no epoch logged"
        trained_on = spec is not None and spec.training_split == "train+valid"
        note = "trained on these images: not held-out" if trained_on else ""
        values = (lowest["value"], ends["value"], ends["value"] - lowest["value"])
        valid = replace(FREE_ENERGY, label="F, validation", mark="", unit=results.unit)
        entries = [
            Entry(
                quantity=valid,
                estimate=(made := estimate(found.to_dict())),
                note="" if made.n else absent,
                run_ids=made.run_ids,
            )
            for found in values
        ]
        updates = ", ".join(f"{int(update):,}" for update in lowest["update"])
        rows.append(cell_row(result, (entries[0], Entry(text=updates or "–"), *entries[1:], Entry(text=note))))
    caption = (
        "The lowest F on validation images over training, after how many updates it was reached (of each run), F on "
        "them at the end, and how much it has risen since, in nats: a reading whose F rises over-fits."
    )
    columns = ("cell", "lowest F", "at update", "F at the end", "risen by", "note")
    shown = len(rows) <= MOST_IN_MARKDOWN
    return Table("readings-stopped", stamped(caption, results), columns, tuple(rows), in_markdown=shown)


def _figure(ranked: Sequence[Reading], results: Results) -> tuple[Drawing, ...]:
    known = [reading for reading in ranked if reading.distance is not None]
    drawn = known[:MOST_DRAWN]
    names = _names([[c for c in reading.comparisons if c.difference is not None] for reading in drawn])
    panels = [
        DifferencePanel(
            name,
            "ours − paper (nats)",
            [
                Difference(reading.name, c.difference, None, c.family)
                for reading in drawn
                for c in reading.comparisons
                if c.name == name and c.difference is not None
            ],
        )
        for name in names
    ]
    if not panels:
        return ()
    caption = "Each reading's distance to the paper's numbers, the nearest on top; the dashed line is the paper."
    if len(known) > len(drawn):
        caption += f" The figure shows the first {MOST_DRAWN} of {len(known)} readings; the table, all."
    figure = draw_differences("Readings: ours − paper", panels, results.stamp)
    return (Drawing("readings", figure, stamped(caption, results)),)
