"""The exhibits that a study may ask for: results -> tables, figures and a text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from nfstudy.core.errors import ReportError
from nfstudy.report.exhibits.base import (
    CurveGroup,
    Drawing,
    Exhibit,
    bounded,
    cell_row,
    curves_of,
    drawn_groups,
    measured,
    remark,
    stamped,
)
from nfstudy.report.plots.curves import Column, Facet, Panel, draw_curves, draw_histories, draw_tiles
from nfstudy.report.statistics.estimates import CellResult, Results
from nfstudy.report.tables import MOST_IN_MARKDOWN, Entry, Table
from nfstudy.runs.frame import LoggedRuns
from nfstudy.runs.metrics import BITS_PER_PIXEL, FREE_ENERGY, METRICS, SECONDS, SPEED

MAX_LINES = 200
"""Runs whose learning curves are drawn; more hide one another."""
MAX_SAMPLE_CELLS = 4
PICTURES = {"samples": "samples.png", "reconstructions": "reconstructions.png"}
SPLITS = {"train/elbo": "training", "valid/elbo": "validation"}


def summary(results: Results) -> Exhibit:
    """List every cell with its numbers, its cost and its state."""
    logged = any(result.estimate(BITS_PER_PIXEL).n for result in results.cells)
    columns = (*results.bounds, *((BITS_PER_PIXEL,) if logged else ()), *results.study.metrics, SECONDS, SPEED)
    rows = [
        cell_row(
            result,
            [
                *(measured(result, quantity) for quantity in columns),
                Entry(
                    text="–"
                    if result.state.state == "pruned"
                    else f"{result.estimate(FREE_ENERGY).n} of {result.state.wanted}"
                ),
                Entry(text=result.state.state, note=result.state.note),
            ],
        )
        for result in results.cells
    ]
    bits = " Bits per pixel: F / (N ln 2), of the N numbers of an image." if logged else ""
    further = bits + "".join(f" {metric.title.capitalize()}: {metric.meaning}." for metric in results.study.metrics)
    caption = (
        "Every cell of the study on the test set: mean ± standard error (number of runs) over its finished "
        f"repetitions. F, KL and −ln p(x) in {results.unit}, lower is better{_bounds(results)}; seconds of training "
        f"and evaluation; parameter updates a second of training.{further}"
    )
    headers = ("cell", *(quantity.title for quantity in columns), "runs", "state")
    shown = len(rows) <= MOST_IN_MARKDOWN
    table = Table("summary", bounded(caption, results), headers, tuple(rows), in_markdown=shown)
    return Exhibit("summary", "Summary", "", (table,))


def _bounds(results: Results) -> str:
    """Return what the signs ≤ and ≥ mean, where they stand."""
    if not results.study.settings.data:
        return ""
    samples = results.plan.settings.evaluation.samples
    of_nll = f", −ln p(x) by {samples:,} importance samples: in expectation an upper bound (≤)"
    return f"{of_nll}, so that KL is a lower one (≥)"


def flow_length(results: Results) -> Exhibit:
    """Draw F, KL and −ln p(x) over the flow length, one curve a family."""
    groups, text = drawn_groups(results)
    panels = [
        Panel(quantity.long_title, f"{quantity.title} ({quantity.unit})", curves)
        for quantity in results.bounds
        if (curves := curves_of(groups, quantity))
    ]
    caption = (
        "Free energy, KL divergence and −ln p(x) on the test set over the flow length K: mean and standard error over "
        "repetitions. The diagonal Gaussian (K = 0) starts every curve."
    )
    table = Table(
        "flow-length",
        bounded(f"The points of the figure, in {results.unit}: mean ± standard error (number of runs).", results),
        ("row", *(quantity.title for quantity in results.bounds), "note"),
        tuple(
            cell_row(result, [*entries, remark(entries)])
            for result in results.cells
            if (entries := [measured(result, quantity) for quantity in results.bounds])
        ),
    )
    title = "Effect of the flow length"
    drawings: tuple[Drawing, ...] = ()
    if panels:
        figure = draw_curves(f"{title}, test set", "flow length K", panels, results.stamp)
        drawings = (Drawing("flow-length", figure, stamped(caption, results)),)
    return Exhibit("flow-length", title, text if panels else "No run has a number to draw.", (table,), drawings)


def learning_curves(results: Results) -> Exhibit:
    """Draw F on the training and validation sets over the parameter updates, one line a run."""
    runs, fewer = runs_with_curves(results)
    points = free_energies(results.store, list(runs))
    places = {run_id: place for place, run_id in enumerate(runs)}
    points = points.assign(
        length=[runs[run_id].label.length for run_id in points["run_id"]],
        line=[places[run_id] for run_id in points["run_id"]],
    ).sort_values("line", kind="stable")  # By cell and repetition: ids are drawn anew each time.
    groups, more = drawn_groups(results)
    facets = [
        Facet(group.label.curve, own)
        for group in groups
        if not (own := points[points["run_id"].isin(_run_ids(group, runs))]).empty
    ]
    ends = [replace(METRICS[name], label=f"F, {split}", sign=-1, unit=results.unit) for name, split in SPLITS.items()]
    table = Table(
        "learning-curves",
        stamped(f"F at the last logged epoch, in {results.unit}: mean ± standard error (number of runs).", results),
        ("row", *(quantity.title for quantity in ends), "note"),
        tuple(
            cell_row(result, [*entries, remark(entries)])
            for result in results.cells
            if (entries := [measured(result, quantity) for quantity in ends])
        ),
    )
    caption = (
        "Free energy F = −ELBO (β = 1) over the parameter updates, one line a repetition. The axis ends at the "
        "highest value after the first quarter of the updates."
    )
    if any(group.label.length and group.cells[0].label.length == 0 for group in groups):
        caption += " The diagonal Gaussian (K = 0) stands in every panel that it agrees with."
    data = [result.cell.settings.data for result in results.cells]
    if any(spec and spec.training_split == "train+valid" for spec in data):
        caption += " These runs also train on the validation images, so their F there is not held-out."
    drawings: tuple[Drawing, ...] = ()
    if facets:
        figure = draw_histories("Learning curves", f"F ({results.unit})", facets, results.stamp)
        drawings = (Drawing("learning-curves", figure, stamped(caption, results)),)
    text = " ".join(filter(None, (more, fewer))) if facets else "No run has logged an epoch."
    return Exhibit("learning-curves", "Learning curves", text, (table,), drawings, tuple(sorted(set(points["run_id"]))))


def runs_with_curves(results: Results) -> tuple[dict[str, CellResult], str]:
    """Return run id -> cell of the runs whose learning curves are drawn, and a sentence that says so if not all are.

    They are all finished or diverged repetitions, but no more than `MAX_LINES`, or one a cell: the first of each.
    """
    ended = [
        (result, result.repetitions.loc[result.repetitions["outcome"].isin(["finished", "diverged"]), "run_id"])
        for result in results.cells
    ]
    total = sum(len(run_ids) for _, run_ids in ended)
    each = total if total <= MAX_LINES else max(1, MAX_LINES // len(ended))
    chosen = {run_id: result for result, run_ids in ended for run_id in run_ids[:each]}
    if len(chosen) == total:
        return chosen, ""
    which = f"the first {each} repetitions" if each > 1 else "the first repetition"
    return chosen, f"The figure shows {which} of each cell, {len(chosen)} of {total:,} runs; the table, all runs."


def _run_ids(group: CurveGroup, runs: dict[str, CellResult]) -> set[str]:
    keys = {result.cell.key for result in group.cells}
    return {run_id for run_id, result in runs.items() if result.cell.key in keys}


def free_energies(store: LoggedRuns, run_ids: Sequence[str]) -> pd.DataFrame:
    """Return F over the updates: columns run_id, split, update, value; points that are not finite left out."""
    points = store.history(run_ids, list(SPLITS))
    points = points[np.isfinite(points["value"].astype(float))]
    return pd.DataFrame(
        {
            "run_id": points["run_id"],
            "split": points["metric"].map(SPLITS),
            "update": points["update"],
            "value": -points["value"],
        }
    )


def samples(results: Results) -> Exhibit:
    """Show samples of the model and reconstructions, of the first repetition of a few cells."""
    first = {
        run.run_id: result
        for result in results.cells
        for run in result.repetitions[["run_id", "index", "outcome"]].itertuples()
        if run.index == 1 and run.outcome == "finished"
    }
    chosen = spread(list(first), MAX_SAMPLE_CELLS)
    columns = [
        Column(first[run_id].label.row, [_picture(results.store, run_id, name) for name in PICTURES.values()])
        for run_id in chosen
    ]
    if not columns:
        return Exhibit("samples", "Samples", "No first repetition has finished, so there is nothing to show.")
    caption = "Samples drawn from the model, and test images with their reconstructions, of repetition 1 of each cell."
    figure = draw_tiles("Samples and reconstructions", list(PICTURES), columns, results.stamp)
    text = f"{len(chosen)} of {len(first)} cells, spread over the study's order." if len(chosen) < len(first) else ""
    drawing = Drawing("samples", figure, stamped(caption, results))
    return Exhibit("samples", "Samples", text, drawings=(drawing,), run_ids=tuple(chosen))


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """Return at most so many items, evenly spaced, the first and the last among them."""
    places = np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))
    return [items[place] for place in places]


def _picture(store: LoggedRuns, run_id: str, name: str) -> np.ndarray | None:
    content = store.artifact(run_id, name)
    if content is None:
        return None
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ReportError(f"run {run_id}, {name}: not a readable picture ({error}); expected: a PNG file") from None
