"""Densities on the plane as contours over one another, in a grid of squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nfstudy.report.plots.curves import figure_style, finish

TILE = 1.85
"""Inches a side."""
SHARES = (0.99, 0.9, 0.5)
"""Of its mass that a density's contours hold, from the outermost."""
_TARGET = ("0.9", "0.8", "0.68")
"""Greys of these regions of the target."""
_LINES = (0.8, 1.1, 1.6)
"""Widths of the contours of a fit."""
_DRAWN = 1
"""Place of the draws' colour in the palette: one that can be told from grey on white and on dark."""
_DRAWS = 500
"""Draws at most that a tile shows."""


@dataclass(frozen=True)
class Tile:
    """One square: a target in grey, and over it a fit's contours or draws."""

    window: tuple[float, float, float]
    """Centre and half side."""
    target: np.ndarray
    """ln p on G × G cells, rows from the top."""
    fit: np.ndarray | None = None
    """ln q there."""
    draws: np.ndarray | None = None
    """(S, 2)."""
    below: str = ""
    """Numbers beneath it."""
    image: np.ndarray | None = None
    """A small picture in its corner, (height, width, channels) from 0 to 255."""
    colour: int = 0
    """Place of the fit's colour in the palette."""


def draw_contours(
    title: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Tile | str]]], stamp: str = ""
) -> Figure:
    """Draw tiles side by side, without axes.

    Arguments:
        title: of the whole figure.
        columns: their names.
        rows: (name, tiles) of each; text stands in the place of a tile that is not there.
        stamp: printed in a corner when not empty.
    """
    with figure_style():
        figure = Figure(figsize=(TILE * len(columns) + 0.6, (TILE + 0.12) * len(rows) + 0.9))
        figure.set_layout_engine("constrained")
        grid = figure.subplots(len(rows), len(columns), squeeze=False)
        for (name, tiles), line in zip(rows, grid, strict=True):
            for axes, tile in zip(line, tiles, strict=True):
                _draw_tile(axes, tile)
            line[0].set_ylabel(name, fontsize=10)
        for axes, name in zip(grid[0], columns, strict=True):
            axes.set_title(name, fontsize=10)
        finish(figure, title, stamp)
    return figure


def _draw_tile(axes: Axes, tile: Tile | str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.set_box_aspect(1)
    if isinstance(tile, str):
        axes.text(0.5, 0.5, tile, ha="center", va="center", color="0.4", fontsize=9, transform=axes.transAxes)
        return
    x, y, half = tile.window
    cells = len(tile.target)
    ticks = (np.arange(cells) + 0.5) * (2 * half / cells) - half
    places = (x + ticks, y - ticks)
    levels = _levels(tile.target)
    axes.contourf(*places, tile.target, levels=[*levels, tile.target.max() + 1], colors=_TARGET)
    palette = sns.color_palette("colorblind")
    if tile.fit is not None:
        axes.contour(
            *places,
            tile.fit,
            levels=_levels(tile.fit),
            colors=[palette[tile.colour]],
            linewidths=_LINES,
            linestyles="solid",
        )
    if tile.draws is not None:
        shown = tile.draws[:: max(1, -(-len(tile.draws) // _DRAWS))]
        axes.plot(*shown.T, ".", color=palette[_DRAWN], markersize=2.2, alpha=0.9, markeredgewidth=0)
    axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half))
    axes.set_xlabel(tile.below, fontsize=8.5, labelpad=3)
    if tile.image is not None:
        inset = axes.inset_axes((0.02, 0.74, 0.24, 0.24))
        inset.imshow(tile.image if tile.image.shape[-1] == 3 else tile.image[..., 0], cmap="gray", vmin=0, vmax=255)
        inset.set(xticks=[], yticks=[])
        inset.grid(visible=False)


def _levels(log_density: np.ndarray) -> list[float]:
    """Return where the contours of a density lie that hold `SHARES` of its mass in the window, rising.

    Of the cells, from the densest: ln density of the one with which their sum reaches the share.
    """
    falling = np.sort(log_density.ravel().astype(np.float64))[::-1]
    mass = np.cumsum(np.exp(falling - falling[0]))
    found = [float(falling[np.searchsorted(mass, share * mass[-1])]) for share in SHARES]
    # Contours must rise: of a density within a few cells two may be one.
    return [level + 1e-6 * place for place, level in enumerate(found)]
