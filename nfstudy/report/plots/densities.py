"""Densities on the plane as pictures in a grid, one colour scale a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nfstudy.report.plots.curves import figure_style, finish

COLOURS = "magma"
TILE = 1.75
"""Inches a side."""
SPACE = 0.12
"""Between groups of columns, in tiles."""


@dataclass(frozen=True)
class Heading:
    """A name over some neighbouring columns."""

    text: str
    columns: int


@dataclass(frozen=True)
class DensityRow:
    """Densities that share one colour scale, from 0 to the row's `peak`."""

    name: str
    pictures: Sequence[np.ndarray | None]
    """One a column, (cells, cells) per unit area; None where there is none."""
    peak: float


def draw_densities(
    title: str, headings: Sequence[Heading], columns: Sequence[str], rows: Sequence[DensityRow], stamp: str = ""
) -> Figure:
    """Draw pictures side by side, without axes: each shows the window (−4, 4)².

    Arguments:
        title: of the whole figure.
        headings: over the columns, from the left; their columns sum to those that there are.
        columns: the columns' own names, such as `K = 8`.
        rows: at least one.
        stamp: printed in a corner when not empty, such as `incomplete: 3 of 9 cells`.
    """
    groups = np.cumsum([0, *(heading.columns for heading in headings)])
    with figure_style():
        figure = Figure(figsize=(TILE * (len(columns) + SPACE * len(headings)) + 0.5, TILE * len(rows) + 1.2))
        figure.set_layout_engine("constrained")
        widths = [1.0] * len(columns)
        for start in groups[-2:0:-1]:
            widths.insert(start, SPACE)
        grid = figure.subplots(len(rows), len(widths), squeeze=False, width_ratios=widths)
        for blank in grid[:, [place for place, width in enumerate(widths) if width != 1.0]].flat:
            blank.set_axis_off()
        tiles = grid[:, [place for place, width in enumerate(widths) if width == 1.0]]
        for row, line in zip(rows, tiles, strict=True):
            for axes, picture in zip(line, row.pictures, strict=True):
                _draw_tile(axes, picture, row.peak)
            line[0].set_ylabel(row.name)
        names = {
            (start + end - 1) // 2: heading.text
            for heading, (start, end) in zip(headings, pairwise(groups), strict=True)
        }
        for place, (axes, name) in enumerate(zip(tiles[0], columns, strict=True)):
            axes.set_title(f"{names.get(place, '')}\n{name}", fontsize=10)
        finish(figure, title, stamp)
    return figure


def _draw_tile(axes: Axes, picture: np.ndarray | None, peak: float) -> None:
    shades = matplotlib.colormaps[COLOURS]
    axes.set(xticks=[], yticks=[], facecolor=shades(0.0))
    axes.grid(visible=False)
    if picture is None:
        axes.set_box_aspect(1)
        axes.text(0.5, 0.5, "not run", ha="center", va="center", color="0.8", transform=axes.transAxes)
    else:
        axes.imshow(picture, cmap=shades, vmin=0, vmax=peak, interpolation="nearest")
