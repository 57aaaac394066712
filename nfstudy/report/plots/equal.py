"""Curves over several costs at once, a panel each, on logarithmic axes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from nfstudy.report.plots.curves import MARKERS, Curve, add_legend, family_colour, figure_style, finish

FEW_VALUES = 8
"""Of an axis of whole numbers, so many are marked each."""
FAR = 6.0
"""Distances between the quartiles above a row's median, beyond which a point is marked at the end of the axis."""
DODGE = 1.15
"""By what factor the first and the last curve stand beside such a value."""


@dataclass(frozen=True)
class CostPanel:
    """One pair of axes; its y is that of the row."""

    title: str
    x_label: str
    curves: Sequence[Curve]
    marks: Sequence[float]
    """Costs at which the curves are read off: dotted lines."""


@dataclass(frozen=True)
class CostRow:
    """Panels side by side."""

    y_label: str
    panels: Sequence[CostPanel]
    baseline: float | None
    """y of what has no cost, a dashed line; None for no line."""


def draw_over_costs(title: str, rows: Sequence[CostRow], stamp: str = "") -> Figure:
    """Draw curves over costs, one legend for all.

    Arguments:
        title: of the whole figure.
        rows: at least one, each of as many panels.
        stamp: printed in a corner when not empty.
    """
    # A marker tells apart those whose colours do not.
    names = list(dict.fromkeys(curve.label for row in rows for panel in row.panels for curve in panel.curves))
    markers = {name: MARKERS[place % len(MARKERS)] for place, name in enumerate(names)}
    columns = len(rows[0].panels)
    with figure_style():
        figure = Figure(figsize=(max(6.5, 4.2 * columns), 3.6 * len(rows) + 0.9), layout="constrained")
        grid = figure.subplots(len(rows), columns, squeeze=False, sharex="col", sharey="row")
        for line, row in zip(grid, rows, strict=True):
            for axes, panel in zip(line, row.panels, strict=True):
                if row.baseline is not None:
                    axes.axhline(row.baseline, color="0.35", linewidth=1.2, linestyle="--", zorder=1, label="K = 0")
                _draw_panel(axes, panel, markers)
            line[0].set_ylabel(row.y_label)
            if (limits := row_limits(row)) is not None:
                line[0].set_ylim(limits)
                for axes, panel in zip(line, row.panels, strict=True):
                    _mark_above(axes, panel, limits[1])
        for axes, panel in zip(grid[-1], rows[-1].panels, strict=True):
            axes.set_xlabel(panel.x_label)
        add_legend(figure, grid[0])
        finish(figure, title, stamp)
    return figure


def row_limits(row: CostRow) -> tuple[float, float] | None:
    """Return the ends of a row's axis where points lie far above the others, which then leaves them out; else None."""
    points = [
        (y, 0.0 if bar is None or not math.isfinite(bar) else bar)
        for panel in row.panels
        for curve in panel.curves
        for y, bar in zip(curve.y, curve.bars, strict=True)
        if math.isfinite(y)
    ]
    if len(points) < FEW_VALUES:
        return None
    lower, middle, upper = statistics.quantiles([y for y, _ in points], n=4)
    near = [(y, bar) for y, bar in points if y <= middle + FAR * (upper - lower)]
    if len(near) == len(points) or upper == lower:
        return None
    ends = [end for y, bar in near for end in (y - bar, y + bar)]
    low, high = min(ends), max(ends)
    if row.baseline is not None:
        low, high = min(low, row.baseline), max(high, row.baseline)
    margin = 0.08 * (high - low)
    return low - margin, high + margin


def _mark_above(axes: Axes, panel: CostPanel, high: float) -> None:
    """Say with a triangle and its number where a point above the axis stands."""
    low = axes.get_ylim()[0]
    for curve in panel.curves:
        for x, y in zip(curve.x, curve.y, strict=True):
            if y > high:
                colour, place = family_colour(curve.family), high - 0.03 * (high - low)
                axes.plot(x, place, marker="^", color=colour, markersize=6, linestyle="none", zorder=4)
                axes.annotate(
                    f"{y:.2f} ", (x, place), color=colour, ha="right", va="center", fontsize="small", zorder=4
                )


def _draw_panel(axes: Axes, panel: CostPanel, markers: Mapping[str, str]) -> None:
    values = sorted({x for curve in panel.curves for x in curve.x})
    counted = len(values) <= FEW_VALUES and all(float(value).is_integer() for value in values)
    for place, curve in enumerate(panel.curves):
        # Side by side where many stand at one value.
        aside = DODGE ** (2 * place / max(len(panel.curves) - 1, 1) - 1) if counted else 1.0
        axes.errorbar(
            [x * aside for x in curve.x],
            curve.y,
            yerr=[math.nan if bar is None else bar for bar in curve.bars],
            label=curve.label,
            color=family_colour(curve.family),
            marker=markers[curve.label],
            markersize=5.5,
            linewidth=1.4,
            capsize=2.5,
        )
    for mark in panel.marks:
        axes.axvline(mark, color="0.35", linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    axes.set(title=panel.title, xscale="log")
    _set_ticks(axes, values if counted else ())


def _set_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Mark these values; without any, round numbers."""
    axes.xaxis.set_major_locator(FixedLocator(values) if values else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
