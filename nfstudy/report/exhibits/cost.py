"""The exhibits `cost`, what each cell takes, and `evaluations`, what `evaluate` has found of kept weights."""

from __future__ import annotations

from dataclasses import replace

from nfstudy.report.exhibits.base import Exhibit, cell_row, measured, remark, stamped
from nfstudy.report.statistics.estimates import CellResult, Results, estimate
from nfstudy.report.tables import Entry, Row, Table
from nfstudy.runs.evaluations import Evaluation, read_evaluations
from nfstudy.runs.metrics import EVALUATION_SECONDS, NLL, PARAMETERS, PEAK_MEMORY, SECONDS, SPEED

UPDATE_SECONDS = replace(
    SPEED, label="ms/update", heading="Milliseconds an update", unit="ms", better="lower", decimals=2
)
EVALUATION = replace(EVALUATION_SECONDS, label="evaluation (s)", decimals=1)
COST_CAPTION = (
    "What each cell takes: numbers that are trained, milliseconds an update, seconds of training and evaluation, "
    "seconds of evaluation alone, and the most memory that its worker held (of the device on CUDA); mean ± standard "
    "error (number of runs). Times and memory are of the machines that the runs were made on."
)
EVALUATION_CAPTION = (
    "Kept weights evaluated again: −ln p(x) of test images by other numbers of samples or estimators, in "
    "{unit}; mean ± standard error (number of runs). ± seeds is the mean error of a run's estimate if its samples or "
    "chains were drawn anew. Of bdmc, images are drawn from the model, and their −ln p(x) lies between the two numbers."
)
_CHANGES = {True: " + changes", False: "", None: " + perhaps changes"}
"""Whether there were uncommitted changes, in words."""
NAMES = {
    "nll": "−ln p(x)",
    "nll_seed_se": "± seeds",
    "ess": "ESS",
    "pareto_k": "Pareto k̂",
    "nll_below": "at least",
    "nll_above": "at most",
}
"""Number of an evaluation -> its column."""


def cost(results: Results) -> Exhibit:
    """List what each cell takes: parameters, time and memory."""
    columns = (PARAMETERS, UPDATE_SECONDS, SECONDS, EVALUATION, PEAK_MEMORY)
    rows = tuple(
        cell_row(result, [*entries, remark(entries)])
        for result in results.cells
        if (entries := [_update(result) if each is UPDATE_SECONDS else measured(result, each) for each in columns])
    )
    headers = ("row", *(metric.title for metric in columns), "note")
    return Exhibit("cost", "Cost", "", (Table("cost", stamped(COST_CAPTION, results), headers, rows),))


def _update(result: CellResult) -> Entry:
    found = estimate({run_id: 1000 / speed for run_id, speed in result.by_repetition(SPEED).values()})
    note = "" if found.n else result.note or "not measured"
    return Entry(quantity=UPDATE_SECONDS, estimate=found, note=note, run_ids=found.run_ids)


def evaluations(results: Results) -> Exhibit:
    """List what `evaluate` has found: a line a cell and request."""
    rows: list[Row] = []
    for result in results.cells:
        rows += [_evaluation_row(result, label, runs, results) for label, runs in evaluations_of(result).items()]
    caption = stamped(EVALUATION_CAPTION.format(unit=results.unit), results)
    table = Table("evaluations", caption, ("row", "estimator", *NAMES.values(), "by"), tuple(rows))
    text = "" if rows else "No run has been evaluated again: `python -m nfstudy evaluate` does."
    return Exhibit("evaluations", "Evaluated again", text, (table,) if rows else ())


def evaluations_of(result: CellResult) -> dict[str, dict[str, Evaluation]]:
    """Return label of a request, in their order -> run id -> what `evaluate` has found of a cell's runs."""
    found: dict[str, dict[str, Evaluation]] = {}
    finished = result.repetitions[result.repetitions["outcome"] == "finished"]
    texts = finished["evaluations"].fillna("") if "evaluations" in finished else [""] * len(finished)
    for run_id, text in zip(finished["run_id"], texts, strict=True):
        for each in read_evaluations(text, run_id):
            found.setdefault(each.request.label, {})[run_id] = each
    return dict(sorted(found.items()))


def _evaluation_row(result: CellResult, label: str, runs: dict[str, Evaluation], results: Results) -> Row:
    entries = []
    for name, title in NAMES.items():
        values = {run_id: each.numbers[name] for run_id, each in runs.items() if name in each.numbers}
        found = estimate(values)
        quantity = replace(NLL, label=title, unit=results.unit, decimals=3 if name == "nll_seed_se" else 2)
        quantity = quantity if name == "nll" else replace(quantity, mark="")
        entries.append(Entry(quantity=quantity, estimate=found, run_ids=found.run_ids) if found.n else Entry(text="–"))
    code = sorted(
        {f"{each.version} {each.commit[:8]}{_CHANGES[each.dirty]}, {each.ended[:10]}" for each in runs.values()}
    )
    return cell_row(result, [Entry(text=label), *entries, Entry(text="; ".join(code))])
