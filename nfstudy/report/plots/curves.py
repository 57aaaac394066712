"""Numbers -> matplotlib figures, drawn with seaborn inside a style of our own; no pyplot state, no global settings."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from nfstudy.core import registry

DPI = 150
ROOM_FOR_LABEL = 0.4
"""Least height of a row of pictures, in widths."""
FEW_POINTS = 20
"""Learning curves of so few epochs show their points; one epoch is nothing but a point."""
MARKERS = "osD^vPX"
"""Of the variants of a curve, as are:"""
STYLES = ("-", ":", "-.")
_STAMP_COLOUR = "#b3261e"
_LEGEND_HEADINGS = ("curve", "split")
"""Entries that seaborn adds to name its variables."""
_PALETTE = (*sns.color_palette("colorblind"), *sns.color_palette("husl", 8), *sns.color_palette("dark"))
"""Colours by their places; the first ten can be told apart by the colour-blind."""


@dataclass(frozen=True)
class Curve:
    """Points with error bars."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    bars: Sequence[float | None]
    """Half error bars in the unit of y; None where there is none."""
    family: str
    """Flow family: its colour."""
    variant: int = 0
    """Which of the family's curves: its marker and line."""
    published: bool = False
    """Drawn hollow and dashed, as numbers of others."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    y_label: str
    curves: Sequence[Curve]
    floor: float | None = None
    """Least value possible, drawn as a line; None for no line."""


@dataclass(frozen=True)
class Facet:
    """One panel of learning curves."""

    title: str
    points: pd.DataFrame
    """Columns line, length, split, update, value; lines are drawn in the order of their numbers."""


@dataclass(frozen=True)
class Column:
    """A cell's pictures."""

    title: str
    pictures: Sequence[np.ndarray | None]
    """One a kind, colours (height, width, 3) of 8 bits; None for one that the run does not have."""


@contextmanager
def figure_style() -> Iterator[None]:
    """Apply the report's style to what is drawn or rendered inside, and nothing else."""
    settings: dict[str, Any] = {**sns.axes_style("whitegrid"), **sns.plotting_context("notebook", font_scale=0.9)}
    # A font that matplotlib ships and ids hashed from a fixed salt: the same bytes on every machine.
    own = {"font.family": "DejaVu Sans", "svg.hashsalt": "nfstudy", "svg.fonttype": "path", "axes.titlesize": 11}
    style: Any = {**settings, **own}  # Matplotlib lists the keys as literals; seaborn has them as strings.
    with matplotlib.rc_context(style):
        yield


def render(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """Return a figure's file content, without dates: the same figure gives the same bytes, on any processor."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {}
    with figure_style():
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
    # Finding a place for everything takes longer than drawing it, so a second file keeps the places of the first.
    figure.set_layout_engine("none")
    return _numbered_clips(buffer.getvalue()) if kind == "svg" else buffer.getvalue()


_CLIP = re.compile(rb'(url\(#|<clipPath id=")(p[0-9a-f]{10})(?=[")])')
"""Where a drawing uses a clipping rectangle, or defines it."""


def _numbered_clips(svg: bytes) -> bytes:
    """Name the clipping rectangles of a drawing by their order.

    Matplotlib names them by a hash of all digits of their ends, and the last one depends on the processor; what it
    writes of them, and all else, is rounded to six decimals.
    """
    names: dict[bytes, bytes] = {}
    return _CLIP.sub(lambda found: found[1] + names.setdefault(found[2], b"clip%d" % len(names)), svg)


def draw_curves(
    title: str,
    x_label: str,
    panels: Sequence[Panel],
    stamp: str = "",
    columns: int | None = None,
    log_x: bool = False,
) -> Figure:
    """Draw panels side by side over one x, with one legend below them.

    Arguments:
        title: of the whole figure.
        x_label: with its unit.
        panels: at least one; curves of one label are one entry of the legend.
        stamp: printed in a corner when not empty, such as `incomplete: 3 of 9 cells`.
        columns: panels in a row; None for all in one.
        log_x: whether x is on a logarithmic axis.
    """
    columns = min(columns or len(panels), len(panels))
    rows = math.ceil(len(panels) / columns)
    with figure_style():
        figure = Figure(figsize=(4.4 * columns, 3.6 * rows + 1.0), layout="constrained")
        all_axes = np.ravel(figure.subplots(rows, columns))
        for axes in all_axes[len(panels) :]:
            axes.set_visible(False)
        all_axes = all_axes[: len(panels)]
        for axes, panel in zip(all_axes, panels, strict=True):
            if panel.floor is not None:
                axes.axhline(panel.floor, color="0.35", linewidth=1, linestyle=(0, (1, 1.5)), zorder=1)
            for curve in panel.curves:
                _draw_curve(axes, curve)
            axes.set(title=panel.title, xlabel=x_label, ylabel=panel.y_label)
            lengths = sorted({x for curve in panel.curves for x in curve.x})
            if log_x:
                axes.set_xscale("log")
            else:
                axes.xaxis.set_major_locator(FixedLocator(lengths) if len(lengths) <= 6 else MaxNLocator(integer=True))
        add_legend(figure, all_axes)
        finish(figure, title, stamp)
    return figure


def grid_of_axes(panels: int, height: float = 3.4, share_y: bool = True) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many pairs of axes, at most three in a row; to be called inside `figure_style`."""
    columns = 2 if panels == 4 else min(3, panels)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(max(6.5, 4.2 * columns), height * rows + 0.9), layout="constrained")
    found = [*figure.subplots(rows, columns, squeeze=False, sharey=share_y).ravel()]
    for axes in found[panels:]:
        axes.set_visible(False)
    return figure, found[:panels]


def wrapped(title: str, width: int = 40) -> str:
    """Return the title of one of several panels in lines that fit over it, of so many characters at most."""
    return textwrap.fill(title, width)


def family_colour(family: str) -> Any:
    """Return the colour that a flow family has in every figure.

    It is the declared one, else the next that no family has declared, by order of registration; of a family that is
    not declared here, the one after these.
    """
    declared = registry.all_of("flows")
    found = declared.get(family)
    if found and found.colour is not None:
        return _PALETTE[found.colour % len(_PALETTE)]
    taken = {other.colour for other in declared.values()}
    free = [place for place in range(len(_PALETTE)) if place not in taken] or [0]
    others = [name for name, other in declared.items() if other.colour is None]
    place = others.index(family) if family in others else len(others)
    return _PALETTE[free[place % len(free)]]


def _draw_curve(axes: Axes, curve: Curve) -> None:
    colour = family_colour(curve.family)
    axes.errorbar(
        curve.x,
        curve.y,
        yerr=[math.nan if bar is None else bar for bar in curve.bars],
        label=curve.label,
        color=colour,
        marker=MARKERS[curve.variant % len(MARKERS)],
        markersize=7 if curve.published else 5.5,
        markerfacecolor="none" if curve.published else colour,
        linestyle="--" if curve.published else STYLES[curve.variant % len(STYLES)],
        linewidth=1.2 if curve.published else 1.8,
        capsize=3,
        zorder=2 if curve.published else 3,
    )


def draw_histories(title: str, y_label: str, facets: Sequence[Facet], stamp: str = "") -> Figure:
    """Draw learning curves: a panel a facet, colour the flow length, dashes the split, a line a run.

    The y axis ends at the highest value after the first quarter of the updates, so that the start, hundreds of nats
    higher, does not flatten the rest.
    """
    columns = min(3, len(facets))
    rows = math.ceil(len(facets) / columns)
    lengths = sorted({length for facet in facets for length in facet.points["length"]})
    names = [f"K = {length}" for length in lengths]
    palette = dict(zip(names, sns.color_palette("viridis", len(lengths)), strict=True))
    low, high = _limits(pd.concat([facet.points for facet in facets]))
    with figure_style():
        figure = Figure(figsize=(max(6.5, 4.6 * columns), 3.6 * rows + 0.9), layout="constrained")
        all_axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for axes, facet in zip(all_axes, facets, strict=False):
            sns.lineplot(
                facet.points.assign(curve="K = " + facet.points["length"].astype(str)),
                x="update",
                y="value",
                hue="curve",
                palette=palette,
                hue_order=names,
                style="split",
                style_order=["validation", "training"],
                units="line",
                estimator=None,
                linewidth=1.1,
                legend="full",
                ax=axes,
            )
            axes.set(title=facet.title, xlabel="parameter updates", ylabel=y_label, ylim=(low, high))
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda update, _: f"{update:,.0f}"))
            axes.get_legend().remove()
            if facet.points["update"].nunique() <= FEW_POINTS:
                for line in axes.lines:
                    line.set(marker="o", markersize=3)
        for axes in all_axes[len(facets) :]:
            axes.set_visible(False)
        add_legend(figure, all_axes[: len(facets)])
        finish(figure, title, stamp)
    return figure


def _limits(points: pd.DataFrame) -> tuple[float, float]:
    late = points.loc[points["update"] >= 0.25 * points["update"].max(), "value"]
    margin = 0.03 * (late.max() - late.min()) or 1.0
    return float(late.min() - margin), float(late.max() + margin)


def draw_tiles(title: str, kinds: Sequence[str], columns: Sequence[Column], stamp: str = "") -> Figure:
    """Draw pictures side by side: a column a cell, a row a kind of picture.

    Arguments:
        title: of the whole figure.
        kinds: the names of the rows.
        columns: at least one, each with one picture a kind.
        stamp: as for `draw_curves`.
    """
    with figure_style():
        shares = [_tallest(column.pictures[row] for column in columns) for row in range(len(kinds))]
        figure = Figure(figsize=(max(6.5, 3.4 * len(columns)), 3.4 * sum(shares) + 1.1), layout="constrained")
        grid = figure.subplots(len(kinds), len(columns), squeeze=False, height_ratios=shares)
        for column, line in zip(columns, grid.T, strict=True):
            line[0].set_title(column.title)
            for axes, pixels in zip(line, column.pictures, strict=True):
                axes.set(xticks=[], yticks=[])
                axes.grid(visible=False)
                if pixels is None:
                    axes.text(0.5, 0.5, "no such picture", ha="center", va="center", color="0.4")
                else:
                    axes.imshow(pixels, interpolation="nearest")
        for axes, kind in zip(grid[:, 0], kinds, strict=True):
            axes.set_ylabel(kind)
        finish(figure, title, stamp)
    return figure


def _tallest(pictures: Iterable[np.ndarray | None]) -> float:
    """Return the largest height, in widths, among pictures of one kind, or what its label needs."""
    shares = [len(pixels) / pixels.shape[1] for pixels in pictures if pixels is not None]
    return float(max([ROOM_FOR_LABEL, *shares]))


def add_legend(figure: Figure, all_axes: Iterable[Axes]) -> None:
    """Put one legend of all axes below a figure, each label once."""
    handles: dict[str, Any] = {}
    for axes in all_axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in _LEGEND_HEADINGS:
                handles.setdefault(label, handle)
    if handles:
        # Inches that an entry takes at the style's font size; further lines of the legend make the figure taller.
        width = 0.7 + 0.085 * max(map(len, handles))
        columns = min(len(handles), max(1, int(figure.get_figwidth() / width)))
        figure.set_figheight(figure.get_figheight() + 0.22 * (math.ceil(len(handles) / columns) - 1))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False)


def finish(figure: Figure, title: str, stamp: str) -> None:
    """Set a figure's title and, when not empty, its stamp; to be called inside `figure_style`, at the end."""
    layout: Any = figure.get_layout_engine()  # Of a constrained layout, as all figures here have.
    layout.set(w_pad=0.1, h_pad=0.06)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    for axes in figure.axes:
        sns.despine(ax=axes)
    if stamp:
        figure.text(0.99, 0.985, stamp, ha="right", va="top", color=_STAMP_COLOUR, fontsize=10, fontweight="bold")
