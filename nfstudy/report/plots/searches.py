"""Figures of searches: history, expected best, importances, parallel coordinates, slices, curves of the trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib import cm, colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from nfstudy.report.plots.curves import add_legend, figure_style, finish, grid_of_axes, wrapped

MARKS = {"finished": "o", "pruned": "x", "diverged": "^"}
"""Outcome of a trial -> its marker; `^` also marks what is above the axis."""
_COLOURS = {"finished": "#0173b2", "pruned": "#8a8a8a", "diverged": "#b3261e"}
_BEST = "#de8f05"
_RING: dict[str, Any] = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgecolor": _BEST}
"""About the trial that was chosen."""
_HIGH = 0.8
"""The y axis of trials ends at this quantile of their F, or a little above: the worst would flatten the rest."""


@dataclass(frozen=True)
class Dots:
    """The trials of one panel."""

    title: str
    x: Sequence[Any]
    """Numbers, or names."""
    y: Sequence[float]
    """F; inf where there is none."""
    outcomes: Sequence[str]
    x_label: str = "trial"
    log: bool = False
    names: Sequence[str] = ()
    """In the order in which they stand, where x are names."""
    line: Sequence[float] = ()
    """Drawn over the trials: the best so far."""
    best: int | None = None
    """The place of the trial that is marked."""


@dataclass(frozen=True)
class Band:
    """A line with an interval about it."""

    label: str
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    colour: Any


@dataclass(frozen=True)
class Lines:
    """The curves of the trials of one panel."""

    title: str
    curves: Sequence[tuple[Sequence[float], Sequence[float], str]]
    """(updates, F, outcome)."""
    best: int | None
    """The place of the curve that is marked."""


@dataclass(frozen=True)
class Coordinate:
    """One axis of parallel coordinates."""

    title: str
    places: Sequence[float]
    """Of each trial, from 0 at the bottom to 1; NaN where the trial has no value."""
    ticks: Mapping[float, str]


def y_limits(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the y axis of trials, from a little below the least F."""
    finite = np.array([value for value in values if math.isfinite(value)])
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(np.quantile(finite, _HIGH))
    margin = 0.06 * (high - low) or 0.01 * abs(low) or 1.0
    return low - margin, high + margin


def draw_dots(title: str, y_label: str, panels: Sequence[Dots], stamp: str = "") -> Figure:
    """Draw trials as dots, a marker an outcome; those above the axis stand at its end."""
    low, high = y_limits([value for panel in panels for value in panel.y])
    with figure_style():
        figure, all_axes = grid_of_axes(len(panels))
        for axes, panel in zip(all_axes, panels, strict=True):
            _draw_dots(axes, panel, low, high)
            axes.set(title=wrapped(panel.title), xlabel=panel.x_label, ylim=(low, high))
        for axes in all_axes:
            if (spec := axes.get_subplotspec()) and spec.is_first_col():
                axes.set_ylabel(y_label)
        shown = {outcome for panel in panels for outcome in panel.outcomes}
        _key(
            figure,
            [word for word in MARKS if word in shown],
            bool(panels[0].line),
            any(p.best is not None for p in panels),
        )
        finish(figure, title, stamp)
    return figure


def _draw_dots(axes: Axes, panel: Dots, low: float, high: float) -> None:
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in panel.x)
    names = [] if numbers else list(panel.names or dict.fromkeys(map(str, panel.x)))
    x = [float(value) if numbers else names.index(str(value)) for value in panel.x]
    for place, (at, value, outcome) in enumerate(zip(x, panel.y, panel.outcomes, strict=True)):
        above = not value <= high
        axes.plot(
            at,
            high - 0.02 * (high - low) if above else value,
            marker="^" if above else MARKS[outcome],
            color=_COLOURS[outcome],
            markersize=5,
            linestyle="none",
            zorder=3,
            alpha=0.85,
        )
        if place == panel.best:
            axes.plot(
                at, value, marker="o", markersize=11, markerfacecolor="none", markeredgecolor=_BEST, markeredgewidth=2
            )
    if panel.line:
        reached = [(at, value) for at, value in zip(x, panel.line, strict=True) if math.isfinite(value)]
        axes.step(
            [at for at, _ in reached],
            [value for _, value in reached],
            where="post",
            color=_BEST,
            linewidth=1.8,
            zorder=2,
        )
    if names:
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
    elif panel.log:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        if max(x) < 100 * min(x):
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(ScalarFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=all(float(at).is_integer() for at in x)))


def _key(figure: Figure, outcomes: Sequence[str], line: bool, best: bool) -> None:
    handles: list[Any] = [
        Line2D([], [], marker=MARKS[word], color=_COLOURS[word], linestyle="none", label=word) for word in outcomes
    ]
    if line:
        handles.append(Line2D([], [], color=_BEST, linewidth=1.8, label="best so far"))
    if best:
        handles.append(Line2D([], [], linestyle="none", label="chosen", **_RING))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def draw_bands(title: str, y_label: str, bands: Sequence[Band], stamp: str = "") -> Figure:
    """Draw expected bests over the number of trials, each with its interval."""
    with figure_style():
        figure = Figure(figsize=(6.5, 4.4), layout="constrained")
        axes = figure.subplots()
        for band in bands:
            x = np.arange(1, len(band.y) + 1)
            axes.plot(x, band.y, color=band.colour, label=band.label, linewidth=1.8, marker="o", markersize=3)
            axes.fill_between(x, band.low, band.high, color=band.colour, alpha=0.18, linewidth=0)
        # One trial alone may be anything: the axis ends where the expected best of two does.
        ends = [float(band.y[min(1, len(band.y) - 1)]) for band in bands]
        lows = [np.nanmin(np.append(band.low, band.y)) for band in bands]
        low, high = float(min(lows)), max(ends)
        margin = 0.06 * (high - low) or 0.01 * abs(low)
        axes.set(xlabel="number of trials", ylabel=y_label, ylim=(low - margin, high + margin))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        add_legend(figure, [axes])
        finish(figure, title, stamp)
    return figure


def draw_bars(title: str, x_label: str, panels: Mapping[str, Mapping[str, float]], stamp: str = "") -> Figure:
    """Draw shares as bars: a panel a search, a bar a setting, the largest on top."""
    with figure_style():
        most = max(len(shares) for shares in panels.values())
        figure, all_axes = grid_of_axes(len(panels), height=0.35 * most + 1.2, share_y=False)
        for axes, (name, shares) in zip(all_axes, panels.items(), strict=True):
            names = list(shares)[::-1]
            axes.barh(names, [shares[each] for each in names], color=_COLOURS["finished"], height=0.6)
            axes.set(title=wrapped(name, 30), xlabel=x_label, xlim=(0, 1.0))  # Beside long names of bars.
            axes.grid(visible=False, axis="y")
        finish(figure, title, stamp)
    return figure


def draw_lines(title: str, y_label: str, panels: Sequence[Lines], stamp: str = "") -> Figure:
    """Draw validation F over the updates, a line a trial, pruned ones in grey."""
    late = [value for panel in panels for _, values, _ in panel.curves for value in values]
    low, high = y_limits(late)
    with figure_style():
        figure, all_axes = grid_of_axes(len(panels))
        for axes, panel in zip(all_axes, panels, strict=True):
            for place, (updates, values, outcome) in enumerate(panel.curves):
                chosen = place == panel.best
                axes.plot(
                    updates,
                    values,
                    color=_BEST if chosen else _COLOURS[outcome],
                    linewidth=2.2 if chosen else 1.0,
                    alpha=1.0 if chosen else 0.7,
                    zorder=4 if chosen else 2,
                )
                axes.plot(
                    updates[-1],
                    values[-1],
                    marker=MARKS[outcome],
                    markersize=4.5,
                    color=_BEST if chosen else _COLOURS[outcome],
                    zorder=5,
                )
            axes.set(title=wrapped(panel.title), xlabel="parameter updates", ylim=(low, high))
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda update, _: f"{update:,.0f}"))
        for axes in all_axes:
            if (spec := axes.get_subplotspec()) and spec.is_first_col():
                axes.set_ylabel(y_label)
        shown = {outcome for panel in panels for *_, outcome in panel.curves}
        handles = [Line2D([], [], color=_COLOURS[w], marker=MARKS[w], label=w) for w in MARKS if w in shown]
        handles.append(Line2D([], [], color=_BEST, linewidth=2.2, label="chosen"))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        finish(figure, title, stamp)
    return figure


def draw_parallel(
    title: str, colour_label: str, coordinates: Sequence[Coordinate], values: Sequence[float], stamp: str = ""
) -> Figure:
    """Draw parallel coordinates: a line a trial, from setting to setting; its colour is F, the lowest drawn last."""
    low, high = y_limits(values)
    norm, palette = colors.Normalize(low, high), sns.color_palette("viridis_r", as_cmap=True)
    with figure_style():
        figure = Figure(figsize=(max(6.5, 1.7 * len(coordinates) + 1.5), 4.2), layout="constrained")
        axes = figure.subplots()
        for place in sorted(range(len(values)), key=lambda place: -values[place]):
            y = [coordinate.places[place] for coordinate in coordinates]
            axes.plot(range(len(y)), y, color=palette(norm(min(values[place], high))), linewidth=1.3, alpha=0.8)
        for at, coordinate in enumerate(coordinates):
            axes.axvline(at, color="0.3", linewidth=1, zorder=3)
            for height, text in coordinate.ticks.items():
                axes.annotate(
                    text,
                    (at, height),
                    xytext=(4, 0),
                    textcoords="offset points",
                    fontsize=8,
                    va="center",
                    zorder=5,
                    bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.75, "linewidth": 0},
                )
        axes.set_xticks(range(len(coordinates)), [coordinate.title for coordinate in coordinates])
        axes.set(yticks=[], ylim=(-0.06, 1.06), xlim=(-0.15, len(coordinates) - 1 + 0.45))
        axes.grid(visible=False)
        bar = figure.colorbar(cm.ScalarMappable(norm, palette), ax=axes, label=colour_label, extend="max")
        bar.ax.invert_yaxis()
        finish(figure, title, stamp)
    return figure
