"""Inference gaps as stacked bars over the flow length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import seaborn as sns
from matplotlib.figure import Figure

from nfstudy.report.plots.curves import add_legend, figure_style, finish, grid_of_axes, wrapped

PARTS = ("approximation gap, ln p(x) − L[q*]", "amortisation gap, L[q*] − L[q]")
_COLOURS = (0, 1)
"""Their places in the palette."""
_WIDTH = 0.36


@dataclass(frozen=True)
class GapBars:
    """The gaps of the cells on one curve; numbers are (mean, standard error) in nats."""

    title: str
    lengths: Sequence[int]
    approximation: Sequence[tuple[float, float | None]]
    amortisation: Sequence[tuple[float, float | None]]
    total: Sequence[tuple[float, float | None]]


def draw_gaps(title: str, y_label: str, panels: Sequence[GapBars], stamp: str = "") -> Figure:
    """Draw for each length the two gaps stacked, and beside them their sum as a point; bars are standard errors.

    Arguments:
        title: of the whole figure.
        y_label: with its unit.
        panels: at least one, a curve each.
        stamp: printed in a corner when not empty.
    """
    palette = sns.color_palette("colorblind")
    with figure_style():
        figure, all_axes = grid_of_axes(len(panels), height=3.8)
        for axes, panel in zip(all_axes, panels, strict=True):
            places = [*range(len(panel.lengths))]
            floor = [0.0] * len(places)
            for part, colour, values in zip(PARTS, _COLOURS, (panel.approximation, panel.amortisation), strict=True):
                heights = [mean for mean, _ in values]
                # Each error bar on its own side, so that the two of one column do not lie over one another.
                at = [place + (-0.5 if colour == _COLOURS[0] else 0.5) * _WIDTH * 0.5 for place in places]
                axes.bar(places, heights, _WIDTH * 1.5, floor, color=palette[colour], label=part, linewidth=0)
                tops = [low + height for low, height in zip(floor, heights, strict=True)]
                axes.errorbar(at, tops, yerr=_bars(values), fmt="none", ecolor="0.25", elinewidth=1.1, capsize=2.5)
                floor = tops
            axes.errorbar(
                [place + _WIDTH * 1.05 for place in places],
                [mean for mean, _ in panel.total],
                yerr=_bars(panel.total),
                fmt="D",
                color="0.15",
                markersize=4.5,
                capsize=2.5,
                label="inference gap, their sum",
            )
            axes.set_xticks(places, [str(length) for length in panel.lengths])
            axes.set(title=wrapped(panel.title), xlabel="flow length K", ylabel=y_label)
            axes.grid(visible=False, axis="x")
        add_legend(figure, all_axes)
        finish(figure, title, stamp)
    return figure


def _bars(values: Sequence[tuple[float, float | None]]) -> list[float]:
    return [math.nan if se is None else se for _, se in values]
