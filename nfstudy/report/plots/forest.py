"""Differences as dots with whiskers about a line at 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nfstudy.report.plots.curves import family_colour, figure_style, finish

MOST_COLUMNS = 4
"""Panels side by side."""
LETTER = 0.085
"""Inches that one letter of a line's name takes."""


@dataclass(frozen=True)
class Difference:
    """A difference to something else, with its interval."""

    label: str
    mean: float
    interval: tuple[float, float] | None
    """Both ends, in the unit of the mean; None draws the dot alone."""
    family: str
    """Flow family: its colour."""


@dataclass(frozen=True)
class DifferencePanel:
    """One pair of axes: a line a difference, from the top down."""

    title: str
    x_label: str
    """With its unit."""
    differences: Sequence[Difference]


def draw_differences(title: str, panels: Sequence[DifferencePanel], stamp: str = "") -> Figure:
    """Draw panels side by side, at most `MOST_COLUMNS`, over the same lines; a panel may lack some of them.

    Arguments:
        title: of the whole figure.
        panels: at least one.
        stamp: printed in a corner when not empty, such as `incomplete: 3 of 9 cells`.
    """
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.differences))
    with figure_style():
        columns = min(len(panels), MOST_COLUMNS)
        lines = -(-len(panels) // columns)
        room = max(2.2, LETTER * max(map(len, labels), default=0))
        size = (3.6 * columns + room, (0.42 * len(labels) + 1.7) * lines)
        figure = Figure(figsize=size, layout="constrained")
        every = np.ravel(figure.subplots(lines, columns, sharey=True))
        for axes in every[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(every, panels, strict=False):
            axes.axvline(0, color="0.4", linewidth=1, linestyle="--", zorder=1)
            for line in panel.differences:
                low, high = line.interval or (math.nan, math.nan)
                axes.errorbar(
                    line.mean,
                    labels.index(line.label),
                    xerr=[[line.mean - low], [high - line.mean]],
                    color=family_colour(line.family),
                    marker="o",
                    markersize=5.5,
                    capsize=3,
                )
            axes.set(title=panel.title, xlabel=panel.x_label, yticks=range(len(labels)), yticklabels=labels)
            axes.set_ylim(len(labels) - 0.5, -0.5)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        finish(figure, title, stamp)
    return figure
