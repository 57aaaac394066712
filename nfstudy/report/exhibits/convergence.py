"""The exhibit `convergence`: −ln p(x), KL and the gain of the longest chain over the number of importance samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nfstudy.core.declarations import Metric
from nfstudy.report.exhibits.base import (
    CurveGroup,
    Drawing,
    Exhibit,
    bounded,
    cell_row,
    drawn_groups,
    measured,
    remark,
    stamped,
)
from nfstudy.report.plots.curves import Curve, Panel, draw_curves
from nfstudy.report.statistics.contrasts import contrast_of
from nfstudy.report.statistics.estimates import CellResult, Estimate, Results, estimate
from nfstudy.report.tables import Entry, Row, Table
from nfstudy.runs.metrics import (
    ESS,
    NLL,
    NLL_CURVE,
    NLL_DROP,
    NLL_IMAGE_ERROR,
    NLL_SEED_ERROR,
    PARETO_K,
    PARETO_K_HIGH,
    TIGHT_DROP,
    TIGHT_ESS,
    TIGHT_IMAGE_ERROR,
    TIGHT_IMAGES,
    TIGHT_KL,
    TIGHT_NLL,
    TIGHT_PARETO_K,
    TIGHT_PARETO_K_HIGH,
    TIGHT_SAMPLES,
    TIGHT_SEED_ERROR,
)

TITLE = "Convergence of −ln p(x) in importance samples"
GAIN = replace(TIGHT_NLL, label="gain", heading="Gain of the longest chain over K = 0", better="higher", mark="")
SHOWN = (1, 10, 100, 200, 1000, 5000)
"""Numbers of samples with a column of their own, beside the largest."""
NOTHING = (
    "No run has a convergence curve: it is logged with the tight estimate, of which evaluation.tight_images says of "
    "how many images it is, and which older runs do not have. `evaluate` estimates −ln p(x) of kept weights."
)
CURVE_CAPTION = (
    "−ln p(x) of test images, evenly spread, by n importance samples, each n averaged over disjoint blocks of the same "
    "samples: mean ± standard error (number of runs), in {unit}. It is an upper bound in expectation for every n; n = "
    "1 is the free energy F."
)
GAIN_CAPTION = (
    "−ln p(x) of K = 0 less that of the longest chain, by n samples, in {unit}: mean ± standard error (number of "
    "pairs) over equal repetitions. A gain that changes with n is one of the estimate too."
)
TRUST_CAPTION = (
    "What says how far {which} can be trusted: its error if the samples were drawn anew (seeds), its error if other "
    "test images were drawn (images), by how much the last doubling of the samples lowered it, and the medians over "
    "images of the effective sample size and of Pareto k̂, with the share of images whose k̂ exceeds 0.7. Means ± "
    "standard errors over runs (number of runs), in {unit} where it is no count."
)

Curves = Mapping[str, Mapping[int, float]]
"""Run id -> number of samples -> −ln p(x)."""


def convergence(results: Results) -> Exhibit:
    """Draw −ln p(x), KL and the gain over the number of samples, and list what says how far they can be trusted."""
    curves = _curves(results)
    trust = (
        _trust("paper", "test/nll, by `evaluation.samples` samples,", PAPER_COLUMNS, results),
        _trust("tight", "test/nll_tight, by `evaluation.tight_samples` samples,", TIGHT_COLUMNS, results),
    )
    if not curves:
        return Exhibit("convergence", TITLE, NOTHING, trust)
    numbers = sorted({n for curve in curves.values() for n in curve})
    shown = [n for n in numbers if n in SHOWN or n == numbers[-1]]
    rows = tuple(
        cell_row(result, [*entries, remark(entries)])
        for result in results.cells
        if (entries := [_level(result, curves, n) for n in shown])
    )
    headers = ("row", *(f"n = {n:,}" for n in shown), "note")
    levels = Table("convergence", bounded(CURVE_CAPTION.format(unit=results.unit), results), headers, rows)
    groups, more = drawn_groups(results)
    pairs = [(group, group.cells[0], group.cells[-1]) for group in groups if _has_gain(group)]
    tables = [levels]
    if pairs:
        gains = tuple(_gain_row(*pair, curves, shown) for pair in pairs)
        tables.append(
            Table("convergence-gain", stamped(GAIN_CAPTION.format(unit=results.unit), results), headers, gains)
        )
    panels = [
        Panel("−ln p(x), upper bound", f"−ln p(x) ({results.unit})", _level_curves(groups, curves, numbers)),
        Panel("KL(q‖p(z|x)), lower bound", f"KL ({results.unit})", _level_curves(groups, curves, numbers, kl=True)),
    ]
    if drawn := [curve for pair in pairs if (curve := _gain_curve(*pair, curves, numbers))]:
        panels.append(Panel(GAIN.heading, f"gain ({results.unit})", drawn))
    figure = draw_curves(TITLE, "importance samples", panels, results.stamp, log_x=True)
    caption = (
        "−ln p(x), KL and the gain of each family's longest chain over K = 0, over the number of importance samples: "
        "means and standard errors over repetitions; of each family, its shortest and its longest chain."
    )
    drawing = Drawing("convergence", figure, stamped(caption, results))
    return Exhibit("convergence", TITLE, more, (*tables, *trust), (drawing,), tuple(sorted(curves)))


PAPER_COLUMNS = (NLL, NLL_SEED_ERROR, NLL_IMAGE_ERROR, NLL_DROP, ESS, PARETO_K, PARETO_K_HIGH)
TIGHT_COLUMNS = (
    *(TIGHT_NLL, TIGHT_SEED_ERROR, TIGHT_IMAGE_ERROR, TIGHT_DROP, TIGHT_ESS, TIGHT_PARETO_K, TIGHT_PARETO_K_HIGH),
    *(TIGHT_KL, TIGHT_SAMPLES, TIGHT_IMAGES),
)


def _trust(name: str, which: str, columns: Sequence[Metric], results: Results) -> Table:
    rows = tuple(
        cell_row(result, [*entries, remark(entries[:1])])
        for result in results.cells
        if (entries := [measured(result, metric) for metric in columns])
    )
    headers = ("row", *(metric.title for metric in columns), "note")
    caption = TRUST_CAPTION.format(which=which, unit=results.unit)
    return Table(f"convergence-{name}", bounded(caption, results), headers, rows)


def _curves(results: Results) -> Curves:
    """Read the curves of the finished repetitions."""
    runs = [
        run_id
        for result in results.cells
        for run_id in result.repetitions.loc[result.repetitions["outcome"] == "finished", "run_id"]
    ]
    found: dict[str, dict[int, float]] = {}
    for run_id, _, samples, value in results.store.history(runs, [NLL_CURVE.name]).itertuples(index=False):
        found.setdefault(run_id, {})[int(samples)] = float(value)
    return found


def _of_cell(result: CellResult, curves: Curves, n: int) -> dict[int, tuple[str, float]]:
    """Return repetition -> (run id, −ln p(x) by n samples), of the runs that have it."""
    finished = result.repetitions[result.repetitions["outcome"] == "finished"]
    pairs = zip(finished["index"].tolist(), finished["run_id"].tolist(), strict=True)
    return {index: (run_id, curves[run_id][n]) for index, run_id in pairs if n in curves.get(run_id, {})}


def _level(result: CellResult, curves: Curves, n: int) -> Entry:
    found = estimate(dict(_of_cell(result, curves, n).values()))
    note = "" if found.n else result.note or "not measured"
    return Entry(quantity=TIGHT_NLL, estimate=found, note=note, run_ids=found.run_ids)


def _has_gain(group: CurveGroup) -> bool:
    return len(group.cells) > 1 and group.cells[0].label.length == 0


def _gain(first: CellResult, last: CellResult, curves: Curves, n: int) -> Estimate | None:
    """Return −ln p(x) of the first cell less that of the last, over the repetitions in which both are finite."""
    own, other = (_of_cell(cell, curves, n) for cell in (first, last))
    finite = [{r for r, (_, value) in cell.items() if math.isfinite(value)} for cell in (own, other)]
    pairs = sorted(set.intersection(*finite))
    if not pairs:
        return None
    contrast = contrast_of((1, -1), [{r: cell[r][1] for r in pairs} for cell in (own, other)])
    return Estimate(contrast.n, contrast.mean, contrast.se, tuple(cell[r][0] for cell in (own, other) for r in pairs))


def _gain_row(group: CurveGroup, first: CellResult, last: CellResult, curves: Curves, shown: Sequence[int]) -> Row:
    found = [_gain(first, last, curves, n) for n in shown]
    entries = [
        Entry(quantity=GAIN, estimate=each, note="" if each else "no pair", run_ids=each.run_ids if each else ())
        for each in found
    ]
    return Row(f"{group.label.curve}, K = 0 to {last.label.length}", (*entries, Entry()), group.label.family)


def _gain_curve(
    group: CurveGroup, first: CellResult, last: CellResult, curves: Curves, numbers: Sequence[int]
) -> Curve | None:
    found = [(n, each) for n in numbers if (each := _gain(first, last, curves, n))]
    points = [(n, each.mean, each.se) for n, each in found if each.mean is not None]
    if not points:
        return None
    x, y, bars = zip(*points, strict=True)
    return Curve(f"{group.label.curve}, K = {last.label.length}", x, y, bars, group.label.family, group.variant)


def _level_curves(
    groups: Sequence[CurveGroup], curves: Curves, numbers: Sequence[int], kl: bool = False
) -> list[Curve]:
    """Return a curve for the shortest and the longest chain of each group; of KL, F − (−ln p(x)), F being n = 1."""
    ends = {cell.cell.key: cell for group in groups for cell in (group.cells[0], group.cells[-1])}
    drawn = []
    for place, cell in enumerate(ends.values()):
        points = []
        for n in numbers:
            values = dict(_of_cell(cell, curves, n).values())
            if kl:
                values = {run_id: curves[run_id][1] - value for run_id, value in values.items() if 1 in curves[run_id]}
            found = estimate(values)
            if found.mean is not None:
                points.append((n, found.mean, found.se))
        if points:
            x, y, bars = zip(*points, strict=True)
            drawn.append(Curve(cell.label.row, x, y, bars, cell.label.family, place))
    return drawn
