"""The exhibit `diagnostics`: what the fits look like from inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from nfstudy.core.declarations import Metric
from nfstudy.report.exhibits.base import Drawing, Exhibit, cell_row, curves_of, drawn_groups, measured, remark, stamped
from nfstudy.report.plots.curves import Curve, Panel, draw_curves
from nfstudy.report.statistics.estimates import CellResult, Results
from nfstudy.report.tables import Table
from nfstudy.runs.metrics import (
    ACTIVE_LATENTS,
    DISPLACEMENT,
    DISPLACEMENT_QUANTILE,
    GRADIENT_SNR,
    LATENT_KL,
    LOG_DET,
    LOG_DET_QUANTILE,
    METRICS,
)

TITLE = "Diagnostics of the fits"
COLUMNS = (ACTIVE_LATENTS, LOG_DET, DISPLACEMENT, GRADIENT_SNR)
TERMS = {
    "log_likelihood": "E ln p(x|z)",
    "log_prior": "E ln p(z)",
    "log_q0": "E ln q0",
    "log_det": "E Σ ln|det|",
}
"""Term of the bound -> its name."""
INSIDE = (
    (LATENT_KL, "KL of each latent variable", "rank"),
    (LOG_DET_QUANTILE, "Σ ln|det| over images", "percentile of the images"),
    (DISPLACEMENT_QUANTILE, "‖z_K − z_0‖ over images", "percentile of the images"),
)
"""(Metric of a curve, its title, what its step is)."""
FIT_CAPTION = (
    "The fits at the end, on the test set: latent variables in use (Burda et al. 2016), the mean over images of Σ "
    "ln|det| and of how far the chain moves z, and the signal-to-noise ratio of the gradient over q's weights, of one "
    "minibatch over posterior noise; mean ± standard error (number of runs)."
)
TERMS_CAPTION = (
    "The terms of the bound at the last epoch on held-out images or noise, in {unit}: F = E ln q0 − E Σ ln|det| − E ln "
    "p(x|z) − E ln p(z); mean ± standard error (number of runs)."
)


def diagnostics(results: Results) -> Exhibit:
    """List and draw what runs log of their fits: latent variables, the flow's action, the bound's terms, gradients."""
    rows = tuple(
        cell_row(result, [*entries, remark(entries)])
        for result in results.cells
        if (entries := [measured(result, metric) for metric in COLUMNS])
    )
    headers = ("row", *(metric.title for metric in COLUMNS), "note")
    terms = [replace(METRICS[f"valid/{term}"], label=name, unit=results.unit) for term, name in TERMS.items()]
    term_rows = tuple(
        cell_row(result, [*entries, remark(entries)])
        for result in results.cells
        if (entries := [measured(result, metric) for metric in terms])
    )
    tables = (
        Table("diagnostics", stamped(FIT_CAPTION, results), headers, rows),
        Table(
            "diagnostics-terms",
            stamped(TERMS_CAPTION.format(unit=results.unit), results),
            ("row", *(metric.title for metric in terms), "note"),
            term_rows,
        ),
    )
    groups, more = drawn_groups(results)
    ends = list({cell.cell.key: cell for group in groups for cell in (group.cells[0], group.cells[-1])}.values())
    drawings = []
    for metric, title, step in INSIDE:
        if curves := _mean_curves(ends, metric, results):
            figure = draw_curves(title, step, [Panel(title, f"{title} ({metric.unit})", curves)], results.stamp)
            caption = (
                f"{title}: {metric.meaning}. Means over repetitions; of each family its shortest and longest chain."
            )
            drawings.append(Drawing(f"diagnostics-{metric.name.partition('/')[2]}", figure, stamped(caption, results)))
    panels = [
        Panel(metric.title, f"{metric.title} ({results.unit})", curves)
        for metric in terms
        if (curves := _mean_curves(ends, metric, results))
    ]
    if panels:
        figure = draw_curves("The bound, term by term", "parameter updates", panels, results.stamp, columns=2)
        caption = "The terms of the bound over training, on held-out images or noise; means over repetitions."
        drawings.append(Drawing("diagnostics-terms", figure, stamped(caption, results)))
    if curves := curves_of(groups, GRADIENT_SNR):
        panel = Panel(GRADIENT_SNR.long_title, GRADIENT_SNR.title, curves)
        figure = draw_curves("Signal-to-noise ratio of the gradient", "flow length K", [panel], results.stamp)
        caption = f"{GRADIENT_SNR.meaning}; mean and standard error over repetitions."
        drawings.append(Drawing("diagnostics-gradient", figure, stamped(caption, results)))
    text = more if drawings else "No run has logged what can be drawn."
    return Exhibit("diagnostics", TITLE, text, tables, tuple(drawings))


def _mean_curves(cells: Sequence[CellResult], metric: Metric, results: Results) -> list[Curve]:
    """Return the mean history of a metric over each cell's finished repetitions, by step."""
    curves = []
    for place, cell in enumerate(cells):
        runs = cell.repetitions.loc[cell.repetitions["outcome"] == "finished", "run_id"].tolist()
        points = results.store.history(runs, [metric.name])
        points = points[points["value"].astype(float).abs() < float("inf")]
        if points.empty:
            continue
        means: pd.Series = points.groupby("update")["value"].mean()
        x, y = means.index.tolist(), means.astype(float).tolist()
        curves.append(Curve(cell.label.row, x, y, [None] * len(x), cell.label.family, place))
    return curves
