"""The exhibit `code-lengths`: what images took as a lossless code by bits-back, beside what F says of it."""

from __future__ import annotations

import math
from dataclasses import replace

from nfstudy.core.declarations import Metric
from nfstudy.report.exhibits.base import Exhibit, cell_row, stamped
from nfstudy.report.exhibits.cost import evaluations_of
from nfstudy.report.statistics.estimates import CellResult, Results, estimate
from nfstudy.report.tables import Entry, Row, Table
from nfstudy.runs.evaluations import Evaluation
from nfstudy.runs.metrics import BITS_PER_PIXEL, FREE_ENERGY

TITLE = "Code lengths"
CAPTION = (
    "Test images as one lossless code by bits-back (Townsend et al. 2019; with flows local bits-back, Ho et al. 2019), "
    "decoded from its bytes and compared: F on these images in {unit} and in bits per pixel, F / (N ln 2); "
    "what the code took, all of it and without the bits that the first latents are drawn from, in bits per pixel. "
    "Beside F: how much longer than F by importance samples, which is chance in the one z an image is coded with; "
    "overhead: how much longer than F at those very z, the coder's own. Mean ± standard error (number of runs)."
)
NONE = "No run has been coded: `python -m nfstudy evaluate {study} --budget {budget} --estimator bits-back` does it."
NO_SHARE = "F is no length"
"""Beside an F of 0 or less, of one z or of few samples."""

F_NATS = replace(FREE_ENERGY, mark="")
F_BITS = replace(BITS_PER_PIXEL, label="F, bits per pixel")
WHOLE = replace(BITS_PER_PIXEL, label="code")
NET = replace(BITS_PER_PIXEL, label="code, net")
BESIDE = replace(BITS_PER_PIXEL, label="beside F (%)", unit="%", decimals=2)
OVERHEAD = replace(BITS_PER_PIXEL, label="overhead (%)", unit="%", decimals=3)
INITIAL = replace(BITS_PER_PIXEL, label="first bits", unit="bits", decimals=0)
COLUMNS = (F_NATS, F_BITS, WHOLE, NET, BESIDE, OVERHEAD, INITIAL)


def code_lengths(results: Results) -> Exhibit:
    """List the round trips that `evaluate --estimator bits-back` has made: a line a cell and request."""
    rows: list[Row] = []
    for result in results.cells:
        for runs in evaluations_of(result).values():
            coded = {run_id: each for run_id, each in runs.items() if each.request.estimator == "bits-back"}
            if coded:
                rows.append(_row(result, coded, results))
    headers = ("row", "images", *(metric.title for metric in COLUMNS), "by")
    table = Table("code-lengths", stamped(CAPTION.format(unit=results.unit), results), headers, tuple(rows))
    return Exhibit(
        "code-lengths",
        TITLE,
        "" if rows else NONE.format(study=results.study.study, budget=results.budget),
        (table,) if rows else (),
    )


def _row(result: CellResult, runs: dict[str, Evaluation], results: Results) -> Row:
    entries = []
    for metric in COLUMNS:
        found = estimate({run_id: _number(each.numbers, metric) for run_id, each in runs.items()})
        quantity = replace(metric, unit=results.unit) if metric is F_NATS else metric
        note = "" if found.n else NO_SHARE
        entries.append(Entry(quantity=quantity, estimate=found, note=note, run_ids=found.run_ids))
    images = sorted({int(each.numbers["images"]) for each in runs.values()})
    request = next(iter(runs.values())).request
    asked = Entry(text=f"{request.samples:,} samples, seed {request.seed}")
    return cell_row(result, [Entry(text=", ".join(f"{each:,}" for each in images)), *entries, asked])


def _number(numbers: dict[str, float], metric: Metric) -> float:
    """Return a column's number, from an evaluation's."""
    net = numbers["bits_per_pixel_net"]
    return {
        F_NATS: -numbers["elbo"],
        F_BITS: numbers["bits_per_pixel_free_energy"],
        WHOLE: numbers["bits_per_pixel"],
        NET: net,
        BESIDE: _longer(net, numbers["bits_per_pixel_free_energy"]),
        OVERHEAD: _longer(net, numbers["bits_per_pixel_drawn"]),
        INITIAL: numbers["initial_bits"],
    }[metric]


def _longer(net: float, length: float) -> float:
    """Return by how many per cent a code is longer than F; NaN beside an F that is no length."""
    return 100 * (net / length - 1) if length > 0 else math.nan
