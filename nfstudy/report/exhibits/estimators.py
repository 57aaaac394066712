"""The exhibit `estimators`: variances of gradients, in an example that is worked by hand, and along trainings."""

from __future__ import annotations

import math
from collections.abc import Mapping

from nfstudy.core import registry
from nfstudy.report.exhibits.base import Drawing, Exhibit, stamped
from nfstudy.report.exhibits.worked_example import DRAWS, WORKED, simulated
from nfstudy.report.labels import setting_name, setting_text
from nfstudy.report.plots.variances import VariancePanel, draw_variances
from nfstudy.report.statistics.estimates import CellResult, Results
from nfstudy.report.tables import Entry, Row, Table, format_number
from nfstudy.runs.frame import LoggedRuns

TITLE = "Noise of the gradient"
WORKED_CAPTION = (
    "Variances in one dimension, in nats²: q = N(φ, 1) and p = N(θ, 1) at φ = θ, where KL(q‖p) = E_q[ln q − ln p] is "
    "minimised over φ; z = φ + ε, c = ½ ln 2π. The entropy of q does not depend on φ, so −ln p alone has the same "
    f"gradient, 0 here. Simulated: of {DRAWS:,} draws, ± the standard error of that variance."
)
MEASURED_CAPTION = (
    "tr Cov of the gradient over q's weights, in nats², along the training of a cell's first repetition by "
    "{estimator}: the first measurement and the last. Each is of one minibatch that no training has, over 32 draws at "
    "β = 1, with S samples of q an image; of pathwise, the score function and sticking the landing, S samples in place "
    "of 1 divide it by S. A baseline that is learned has learned from as many draws before. IWAE, DReG and the "
    "wake-sleeps have objectives other than F; wake-sleep and the reweighted sleep have the same gradient of q."
)
ESTIMATOR = "objective.estimator"
Points = Mapping[str, Mapping[int, float]]
"""Metric -> update -> variance."""


def estimators(results: Results) -> Exhibit:
    """Show the exact and simulated variances of the one-dimensional example, and those along the study's trainings."""
    found = [(result, run_id, points) for result, run_id in _measured(results) if (points := _points(results, run_id))]
    worked = Table(
        "estimators-worked",
        WORKED_CAPTION,
        ("estimator", "gradient", "exact", "simulated", "how"),
        tuple(
            Row(
                each.name,
                (
                    Entry(text=each.gradient),
                    Entry(text=format_number(each.exact, 3)),
                    Entry(text="\u00a0±\u00a0".join(format_number(number, 3) for number in simulated(each))),
                    Entry(text=each.how),
                ),
            )
            for each in WORKED
        ),
    )
    if not found:
        text = "No run has measured the variance of gradients: first repetitions of the first estimator's cells do."
        return Exhibit("estimators", TITLE, text, (worked,))
    panels = [VariancePanel(_title(result), _named(points)) for result, _, points in found]
    drawing = Drawing(
        "estimators",
        draw_variances(TITLE, panels, results.stamp),
        stamped(
            f"tr Cov of the gradient over q's weights along a training by {_own(results)}, always of one minibatch, by "
            "every estimator; on a logarithmic axis, lower is less noise.",
            results,
        ),
    )
    tables = (worked, _measured_table(results, found))
    run_ids = tuple(run_id for _, run_id, _ in found)
    return Exhibit("estimators", TITLE, "", tables, (drawing,), run_ids)


def _measured(results: Results) -> list[tuple[CellResult, str]]:
    """Return the cells whose first repetitions measure gradients, with the id of that run where it has ended."""
    return [
        (result, run.run_id)
        for result in results.cells
        if results.plan.measures_gradients(result.cell)
        for run in result.repetitions[["run_id", "index", "outcome"]].itertuples()
        if run.index == 1 and run.outcome in ("finished", "diverged")
    ]


def _points(results: Results, run_id: str) -> Points:
    store: LoggedRuns = results.store
    found: dict[str, dict[int, float]] = {}
    for point in store.history([run_id], list(_variants())).itertuples():
        if math.isfinite(point.value):
            found.setdefault(point.metric, {})[int(point.update)] = float(point.value)
    return {metric: found[metric] for metric in _variants() if metric in found}


def _variants() -> dict[str, tuple[str, int]]:
    """Return metric -> (label, S) of every declared estimator's examples."""
    found = {}
    for declared in registry.all_of("estimators").values():
        for metric, example in zip(declared.metrics, declared.examples, strict=True):
            samples = int(example.get("samples", 1))
            words = [str(value) for field, value in example.items() if field != "samples"]
            found[metric.name] = (", ".join((declared.title, *words)), samples)
    return found


def _named(points: Points) -> dict[str, Mapping[int, float]]:
    names = _variants()
    return {f"{names[metric][0]}, S = {names[metric][1]}": values for metric, values in points.items()}


def _measured_table(results: Results, found: list[tuple[CellResult, str, Points]]) -> Table:
    columns = ["estimator", "S"]
    for result, _, points in found:
        updates = sorted({update for values in points.values() for update in values})
        columns += [f"{_title(result)}: update {update:,}" for update in dict.fromkeys((updates[0], updates[-1]))]
    rows = []
    for metric, (label, samples) in _variants().items():
        entries = [Entry(text=str(samples))]
        for _, run_id, points in found:
            updates = sorted({update for values in points.values() for update in values})
            for update in dict.fromkeys((updates[0], updates[-1])):
                value = points.get(metric, {}).get(update)
                text = "not measured" if value is None else variance_text(value)
                entries.append(Entry(text=text, run_ids=() if value is None else (run_id,)))
        rows.append(Row(label, tuple(entries)))
    caption = MEASURED_CAPTION.format(estimator=_own(results))
    return Table("estimators", stamped(caption, results), tuple(columns), tuple(rows))


def _title(result: CellResult) -> str:
    """Return a cell's name without its estimator, which is the same for all that are shown."""
    own = f", {setting_name(ESTIMATOR)} = {setting_text(result.cell.settings.objective.estimator)}"
    return result.label.row.replace(own, "")


def _own(results: Results) -> str:
    """Return the estimator of the trainings that are shown."""
    own = next(result for result in results.cells if results.plan.measures_gradients(result.cell))
    return str(own.cell.settings.objective.declaration.title)


def variance_text(value: float) -> str:
    """Return a variance to three digits: `9,910`, `16.1`, `0.116`; one below a thousandth as `2.3e−05`."""
    if value == 0:
        return "0"
    if value < 1e-3:
        return f"{value:.1e}".replace("-", "−")
    decimals = max(0, 2 - math.floor(math.log10(value)))
    return f"{float(f'{value:.3g}'):,.{decimals}f}"
