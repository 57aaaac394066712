"""Curves over several costs at once, a panel each, on logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from nfstudy.report.plots.curves import MARKERS, Curve, add_legend, family_colour, figure_style, finish, grid_of_axes

FEW_VALUES = 8
"""Of an axis of whole numbers, so many are marked each."""
DODGE = 1.15
"""By what factor the first and the last curve stand beside such a value."""


@dataclass(frozen=True)
class CostPanel:
    """One pair of axes; its y is that of the figure."""

    title: str
    x_label: str
    curves: Sequence[Curve]
    marks: Sequence[float]
    """Costs at which the curves are read off: dotted lines."""


def draw_over_costs(
    title: str, y_label: str, panels: Sequence[CostPanel], baseline: float | None, stamp: str = ""
) -> Figure:
    """Draw curves over costs, one legend for all.

    Arguments:
        title: of the whole figure.
        y_label: with its unit.
        panels: at least one.
        baseline: y of what has no cost, a dashed line; None for no line.
        stamp: printed in a corner when not empty.
    """
    # A marker tells apart those whose colours do not.
    names = list(dict.fromkeys(curve.label for panel in panels for curve in panel.curves))
    with figure_style():
        figure, all_axes = grid_of_axes(len(panels), height=4.2)
        for axes, panel in zip(all_axes, panels, strict=True):
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
                    marker=MARKERS[names.index(curve.label) % len(MARKERS)],
                    markersize=5.5,
                    linewidth=1.4,
                    capsize=2.5,
                )
            for mark in panel.marks:
                axes.axvline(mark, color="0.35", linewidth=1, linestyle=(0, (1, 2)), zorder=1)
            if baseline is not None:
                axes.axhline(baseline, color="0.35", linewidth=1.2, linestyle="--", zorder=1, label="K = 0")
            axes.set(title=panel.title, xlabel=panel.x_label, xscale="log")
            _set_ticks(axes, values if counted else ())
        all_axes[0].set_ylabel(y_label)
        add_legend(figure, all_axes)
        finish(figure, title, stamp)
    return figure


def _set_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Mark these values; without any, round numbers."""
    axes.xaxis.set_major_locator(FixedLocator(values) if values else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
