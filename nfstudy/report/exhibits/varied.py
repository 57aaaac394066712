"""The exhibits over any setting that a study varies: curves, and heat maps over two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nfstudy.core.declarations import Metric
from nfstudy.report.exhibits import CurveOptions, MapOptions
from nfstudy.report.exhibits.base import MAX_CURVES, Drawing, Exhibit, cell_row, measured, remark, stamped
from nfstudy.report.labels import family_name, setting_name, setting_text
from nfstudy.report.plots.varied import HeatPanel, Series, SeriesPanel, draw_maps, draw_series
from nfstudy.report.statistics.estimates import CellResult, Results
from nfstudy.report.tables import Table
from nfstudy.runs.metrics import FREE_ENERGY, NLL, known_metrics

FAMILY, LENGTH = "flow.family", "flow.length"
MAX_PANELS = 6
BESIDE = ("test/active_latents",)
"""Metrics that a curve shows beside the bounds."""
Value = Any
Rest = tuple[tuple[str, Value], ...]


@dataclass(frozen=True)
class Group:
    """Cells that agree in all that varies but for what the axes show."""

    rest: Rest
    """(dotted path, value) in which they agree."""
    cells: tuple[CellResult, ...]

    @property
    def label(self) -> str:
        """Such as `NF (planar), D = 2`."""
        return ", ".join(value_text(path, value, named=True) for path, value in self.rest)


def curve(results: Results, options: CurveOptions) -> Exhibit:
    """Draw the study's numbers over one of its settings, another one as colour, the rest as line styles."""
    name = "-".join(["curve", slug(options.x), *([slug(options.colour)] if options.colour else [])])
    by = f", by {setting_name(options.colour)}" if options.colour else ""
    title = f"Over {setting_name(options.x)}{by}"
    quantities = (*results.bounds, *_beside(results), *results.study.metrics)
    groups = grouped(results, (options.x,))
    values = _ordered(group_value(group, options.colour) for group in groups)
    styles = _ordered(_without(group, options.colour) for group in groups)
    drawn = groups[:MAX_CURVES]
    panels = []
    for quantity in quantities:
        lines = [
            Series(
                group.label or title,
                [x for x, _, _ in points],
                [mean for _, mean, _ in points],
                [se for _, _, se in points],
                colour=values.index(group_value(group, options.colour)),
                style=styles.index(_without(group, options.colour)),
                family=str(group_value(group, options.colour)) if options.colour == FAMILY else "",
            )
            for group in drawn
            if (points := _points(group, options.x, quantity))
        ]
        if lines:
            panels.append(SeriesPanel(quantity.long_title, f"{quantity.title} ({quantity.unit})", lines))
    table = _table(name, results, quantities)
    if not panels:
        return Exhibit(name, title, "No run has a number to draw.", (table,))
    sequential = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    figure = draw_series(f"{title}, test set", setting_name(options.x), panels, len(values), sequential, results.stamp)
    caption = f"On the test set over {options.x}: mean and standard error over repetitions."
    text = ""
    if len(groups) > len(drawn):
        text = f"The figure shows the first {MAX_CURVES} of {len(groups)} curves; the table, all cells."
    return Exhibit(name, title, text, (table,), (Drawing(name, figure, stamped(caption, results)),))


def heat_map(results: Results, options: MapOptions) -> Exhibit:
    """Draw F and −ln p(x) as colours over two settings, a map for each value of the rest."""
    name = f"map-{slug(options.x)}-{slug(options.y)}"
    title = f"Over {setting_name(options.x)} and {setting_name(options.y)}"
    wanted = [quantity for quantity in results.bounds if quantity.name in (FREE_ENERGY.name, NLL.name)]
    groups = [group for group in grouped(results, (options.x, options.y)) if len(group.cells) > 1]
    cells = [cell for group in groups for cell in group.cells]
    xs, ys = (_ordered(value_at(cell, path) for cell in cells) for path in (options.x, options.y))
    rows = []
    for quantity in wanted:
        panels = []
        for group in groups[:MAX_PANELS]:
            numbers = {
                (value_at(cell, options.x), value_at(cell, options.y)): mean
                for cell in group.cells
                if (mean := cell.estimate(quantity).mean) is not None
            }
            if numbers:
                grid = [[numbers.get((x, y)) for x in xs] for y in ys]
                panels.append(HeatPanel(group.label, grid))
        if panels:
            rows.append((f"{quantity.title} ({quantity.unit})", panels))
    table = _table(name, results, wanted)
    if not rows:
        return Exhibit(name, title, "No run has a number to draw.", (table,))
    figure = draw_maps(
        f"{title}, test set",
        (setting_name(options.x), [value_text(options.x, x) for x in xs]),
        (setting_name(options.y), [value_text(options.y, y) for y in ys]),
        rows,
        results.stamp,
    )
    caption = (
        "Means over repetitions on the test set; lower is better, and the lowest of each map is framed. All maps of a "
        "row have one scale. A cell that was not run, or is none, is empty."
    )
    text = ""
    if len(groups) > MAX_PANELS:
        text = f"The figure shows the first {MAX_PANELS} of {len(groups)} maps; the table, all cells."
    drawing = Drawing(name, figure, stamped(caption, results), keeps_colours=True)
    return Exhibit(name, title, text, (table,), (drawing,))


def grouped(results: Results, axes: Sequence[str]) -> list[Group]:
    """Put the cells that have a value on the axes into groups that agree in all else that the grid varies.

    The cell of length 0 is what every family starts from: over the flow length it is part of each family's group, and
    else, it is a group of no family.
    """
    varied = [path for path in results.study.axes if path not in axes]
    groups: dict[Rest, list[CellResult]] = {}
    bare: list[CellResult] = []
    for cell in results.cells:
        if any(path not in cell.cell.flat() for path in axes):
            continue
        if cell.label.length == 0 and LENGTH in axes and FAMILY in varied:
            bare.append(cell)
        else:
            groups.setdefault(_rest(cell, varied), []).append(cell)
    for cell in bare:
        own = _rest(cell, [path for path in varied if path != FAMILY])
        fitting = [rest for rest in groups if tuple(item for item in rest if item[0] != FAMILY) == own]
        for rest in fitting:
            groups[rest].append(cell)
        if not fitting:
            groups.setdefault(_rest(cell, varied), []).append(cell)
    return [Group(rest, tuple(cells)) for rest, cells in groups.items()]


def _rest(cell: CellResult, varied: Sequence[str]) -> Rest:
    flat = cell.cell.flat()
    return tuple((path, flat[path]) for path in varied if path in flat)


def value_at(cell: CellResult, path: str) -> Value:
    """Return a cell's value of a setting; None where that is null, or it has no use of it."""
    return cell.cell.flat().get(path)


def group_value(group: Group, path: str | None) -> Value:
    """Return what the cells of a group have in common; None where that is nothing."""
    return dict(group.rest).get(path) if path else None


def _without(group: Group, path: str | None) -> Rest:
    return tuple(item for item in group.rest if item[0] != path)


def _ordered(values: Any) -> list[Any]:
    """Return values each once, numbers by size, all else in the order given."""
    found = list(dict.fromkeys(values))
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in found):
        return sorted(found)
    return found


def _beside(results: Results) -> list[Metric]:
    """Return the metrics of `BESIDE` that are declared and that some run has logged."""
    known, runs = known_metrics(), results.runs
    return [known[name] for name in BESIDE if name in known and name in runs and runs[name].notna().any()]


def _points(group: Group, x: str, quantity: Metric) -> list[tuple[Value, float, float | None]]:
    found = [(value_at(cell, x), cell.estimate(quantity)) for cell in group.cells]
    points = [(value, made.mean, made.se) for value, made in found if made.mean is not None]
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value, *_ in points):
        return sorted(points, key=lambda point: point[0])
    return [(value_text(x, value), mean, se) for value, mean, se in points]


def value_text(path: str, value: Value, named: bool = False) -> str:
    """Return a value for people, with the setting's name where `named`: `D = 2`, `NF (planar)`."""
    if path == FAMILY:
        return family_name(value)
    return f"{setting_name(path)} = {setting_text(value)}" if named else setting_text(value)


def _table(name: str, results: Results, quantities: Sequence[Metric]) -> Table:
    rows = tuple(
        cell_row(result, [*entries, remark(entries)])
        for result in results.cells
        if (entries := [measured(result, quantity) for quantity in quantities])
    )
    caption = f"The points of the figure, in {results.unit}: mean ± standard error (number of runs)."
    columns = ("row", *(quantity.title for quantity in quantities), "note")
    return Table(name, stamped(caption, results), columns, rows)


def slug(path: str) -> str:
    """Return a dotted path as part of a file's name."""
    return path.replace(".", "-").replace("_", "-")
