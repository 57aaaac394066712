"""The variance of gradients over the updates, on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nfstudy.report.plots.curves import MARKERS, STYLES, add_legend, figure_style, finish

COLOURS = sns.color_palette("colorblind")
"""Those that the colour-blind can tell apart; further lines repeat them in another style."""


@dataclass(frozen=True)
class VariancePanel:
    """A training."""

    title: str
    lines: Mapping[str, Mapping[int, float]]
    """Estimator -> update -> variance in nats²."""


def draw_variances(title: str, panels: Sequence[VariancePanel], stamp: str = "") -> Figure:
    """Draw a panel a training, a line an estimator, with one legend below them.

    Arguments:
        title: of the whole figure.
        panels: at least one.
        stamp: printed in a corner when not empty.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    with figure_style():
        figure = Figure(figsize=(max(6.5, 5.2 * columns), 4.2 * rows + 1.4), layout="constrained")
        all_axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for axes, panel in zip(all_axes, panels, strict=False):
            for name, points in panel.lines.items():
                place = names.index(name)
                shown = sorted((update, value) for update, value in points.items() if value > 0)
                axes.plot(
                    [update for update, _ in shown],
                    [value for _, value in shown],
                    label=name,
                    color=COLOURS[place % len(COLOURS)],
                    linestyle=STYLES[place // len(COLOURS) % len(STYLES)],
                    marker=MARKERS[place % len(MARKERS)],
                    markersize=4.5,
                    linewidth=1.5,
                )
            axes.set(title=panel.title, xlabel="parameter updates", yscale="log")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda update, _: f"{update:,.0f}"))
        for axes in all_axes[::columns]:
            axes.set_ylabel("tr Cov of the gradient (nats²)")
        for axes in all_axes[len(panels) :]:
            axes.set_visible(False)
        add_legend(figure, all_axes[: len(panels)])
        finish(figure, title, stamp)
    return figure
