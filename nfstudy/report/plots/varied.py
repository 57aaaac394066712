"""Figures over any setting: curves, and heat maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

from nfstudy.report.plots.curves import MARKERS, STYLES, add_legend, family_colour, figure_style, finish, grid_of_axes

LOG_RATIO = 15
"""An axis of positive numbers is logarithmic where the largest is so many times the smallest."""


@dataclass(frozen=True)
class Series:
    """Points with error bars over any setting."""

    label: str
    x: Sequence[Any]
    """Numbers, or names."""
    y: Sequence[float]
    bars: Sequence[float | None]
    """Half error bars in the unit of y; None where there is none."""
    colour: int = 0
    """Which of the colours."""
    style: int = 0
    """Which of the markers and lines."""
    family: str = ""
    """Flow family, whose colour it has; empty where colours tell something else."""


@dataclass(frozen=True)
class SeriesPanel:
    """One pair of axes."""

    title: str
    y_label: str
    lines: Sequence[Series]


@dataclass(frozen=True)
class HeatPanel:
    """One map."""

    title: str
    numbers: Sequence[Sequence[float | None]]
    """Row by row, as the labels of y are ordered; None where there is none."""


def draw_series(
    title: str, x_label: str, panels: Sequence[SeriesPanel], colours: int, sequential: bool, stamp: str = ""
) -> Figure:
    """Draw panels over one x, with one legend below them.

    Arguments:
        title: of the whole figure.
        x_label: the setting's name.
        panels: at least one.
        colours: how many there are.
        sequential: whether they stand for numbers, in order.
        stamp: printed in a corner when not empty.
    """
    palette = sns.color_palette("viridis", colours) if sequential and colours > 1 else sns.color_palette("colorblind")
    every = list(dict.fromkeys(x for panel in panels for line in panel.lines for x in line.x))
    with figure_style():
        figure, all_axes = grid_of_axes(len(panels), share_y=False)
        for axes, panel in zip(all_axes, panels, strict=True):
            for line in panel.lines:
                colour = family_colour(line.family) if line.family else palette[line.colour % len(palette)]
                axes.errorbar(
                    [x if _is_number(x) else every.index(x) for x in line.x],
                    line.y,
                    yerr=[math.nan if bar is None else bar for bar in line.bars],
                    label=line.label,
                    color=colour,
                    marker=MARKERS[line.style % len(MARKERS)],
                    linestyle=STYLES[line.style % len(STYLES)],
                    markersize=5.5,
                    linewidth=1.8,
                    capsize=3,
                )
            axes.set(title=panel.title, xlabel=x_label, ylabel=panel.y_label)
            _set_ticks(axes, every)
        add_legend(figure, all_axes)
        finish(figure, title, stamp)
    return figure


def _set_ticks(axes: Axes, every: Sequence[Any]) -> None:
    if not all(map(_is_number, every)):
        axes.set_xticks(range(len(every)), [str(x) for x in every])
        return
    numbers = sorted(every)
    if numbers[0] > 0 and numbers[-1] / numbers[0] >= LOG_RATIO:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        if len(numbers) <= 8:
            axes.xaxis.set_major_locator(FixedLocator(numbers))
            axes.xaxis.set_major_formatter(ScalarFormatter())
    else:
        whole = all(float(x).is_integer() for x in numbers)
        axes.xaxis.set_major_locator(FixedLocator(numbers) if len(numbers) <= 6 else MaxNLocator(integer=whole))


def draw_maps(
    title: str,
    x: tuple[str, Sequence[str]],
    y: tuple[str, Sequence[str]],
    rows: Sequence[tuple[str, Sequence[HeatPanel]]],
    stamp: str = "",
) -> Figure:
    """Draw heat maps: a row a quantity, with one colour scale; a column for each value of the rest.

    Arguments:
        title: of the whole figure.
        x: the setting's name and the labels of its values.
        y: the same, from the bottom up.
        rows: (quantity with its unit, its maps), at least one of each.
        stamp: printed in a corner when not empty.
    """
    columns = max(len(panels) for _, panels in rows)
    wide, high = 0.72 * len(x[1]) + 1.0, 0.5 * len(y[1]) + 1.1
    with figure_style():
        figure = Figure(figsize=(max(6.5, wide * columns + 1.4), high * len(rows) + 0.6), layout="constrained")
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for line, (label, panels) in zip(grid, rows, strict=True):
            tables = [np.array([[math.nan if n is None else n for n in row] for row in p.numbers]) for p in panels]
            low, top = (float(end([end(table[np.isfinite(table)]) for table in tables])) for end in (min, max))
            for axes in line[len(panels) :]:
                axes.set_visible(False)
            for axes, panel, table in zip(line, panels, tables, strict=False):
                sns.heatmap(
                    table,
                    ax=axes,
                    vmin=low,
                    vmax=top,
                    cmap="viridis_r",
                    annot=True,
                    fmt=".2f",
                    annot_kws={"fontsize": 8},
                    linewidths=0.5,
                    cbar=axes is line[len(panels) - 1],
                    cbar_kws={"label": label},
                    xticklabels=list(x[1]),
                    yticklabels=list(y[1]),
                )
                axes.invert_yaxis()
                axes.set(title=panel.title, xlabel=x[0], ylabel=y[0])
                axes.tick_params(axis="y", rotation=0)
                row, column = np.unravel_index(np.nanargmin(table), table.shape)
                axes.add_patch(
                    Rectangle((float(column), float(row)), 1, 1, fill=False, edgecolor="#b3261e", linewidth=2, zorder=5)
                )
        finish(figure, title, stamp)
    return figure


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
