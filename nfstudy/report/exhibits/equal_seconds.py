"""The part of `beyond-table-2` that has every family: the bound while training, after equally many seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from nfstudy.report.exhibits.base import CurveGroup, stamped
from nfstudy.report.exhibits.general import free_energies
from nfstudy.report.statistics.contrasts import Contrast, contrast_of
from nfstudy.report.statistics.equal import LEVEL, Training, lowest_at, ranks
from nfstudy.report.statistics.estimates import CellResult, Estimate, Results
from nfstudy.report.tables import Entry, Row, Table, format_interval
from nfstudy.runs.metrics import FREE_ENERGY

ID = "beyond-table-2-while-training"
BOUND = replace(FREE_ENERGY, label="F, validation")
CAPTION = (
    "F on validation images in {unit} after equally many seconds of training, the most that every family has been "
    "trained for: updates that take twice as long are half as many. Read off each run's curve, linearly between two "
    "epochs; mean ± standard error (number of runs), and 95 % interval. A family is shown by its K with the lowest "
    "mean there, which flatters those that have several. Annealing and learning rate are those of the whole training: "
    "in one planned for so short a time a slow family might do better. Ranks as above."
)
SecondsOf = Callable[[CellResult, CurveGroup], float | None]


def while_training(groups: Sequence[CurveGroup], seconds_of: SecondsOf, results: Results) -> Table:
    """List F of each family, and of K = 0, after as many seconds as all of them have been trained.

    Arguments:
        groups: the families, each with its cells.
        seconds_of: (cell, its family) -> seconds of a whole training; None where that is not known.
        results: what the report is made from.
    """
    families = {group.label.curve: _trainings(group, seconds_of, results) for group in groups}
    bare = {cell.label.curve: (cell, group) for group in groups for cell in group.cells if not cell.label.length}
    for name, (cell, group) in bare.items():
        families[name] = _trainings(replace(group, cells=(cell,)), seconds_of, results, bare=True)
    families = {name: trainings for name, trainings in families.items() if trainings}
    seconds = min((max(each.most for each in trainings) for trainings in families.values()), default=0.0)
    found = {name: lowest for name, trainings in families.items() if (lowest := lowest_at(trainings, seconds))}
    values = {name: bounds for name, (_, bounds) in found.items()}

    def contrast(a: str, b: str) -> Contrast:
        return contrast_of((1, -1), (values[a], values[b]))

    rank = ranks([*found], contrast)
    rows = []
    for name, (training, bounds) in found.items():
        whole, runs = contrast_of((1,), (bounds,)), training.cell.by_repetition(FREE_ENERGY)
        run_ids = tuple(runs[repetition][0] for repetition in bounds)
        entries = (
            Entry(text=f"{seconds:.3g}"),
            Entry(quantity=replace(BOUND, unit=results.unit), estimate=_estimate(whole, run_ids), run_ids=run_ids),
            Entry(text=rank[name].text),
            Entry(text=format_interval(ends, BOUND.decimals) if (ends := whole.interval(LEVEL)) else "–"),
            Entry(text=f"K = {training.cell.label.length}"),
            Entry(text=f"{seconds / training.seconds:,.0f}"),
        )
        rows.append((whole.mean, Row(name, entries, training.cell.label.family, training.cell.label.length)))
    ordered = tuple(row for _, row in sorted(rows, key=lambda pair: pair[0]))
    columns = ("flow", "seconds", BOUND.title, "rank", "95 % interval", "read from", "updates done")
    return Table(ID, stamped(CAPTION.format(unit=results.unit), results), columns, ordered)


def _trainings(group: CurveGroup, seconds_of: SecondsOf, results: Results, bare: bool = False) -> list[Training]:
    """Return the trainings of a family's chains; of K = 0 only where that is asked for."""
    found = []
    for cell in group.cells:
        seconds, runs = seconds_of(cell, group), cell.by_repetition(FREE_ENERGY)
        if seconds is None or not runs or bool(cell.label.length) == bare:
            continue
        points = free_energies(results.store, [run_id for run_id, _ in runs.values()])
        points = points[points["split"] == "validation"].sort_values("update")
        by_run = {run_id: [*zip(own["update"], own["value"], strict=True)] for run_id, own in points.groupby("run_id")}
        curves = {repetition: by_run[run_id] for repetition, (run_id, _) in runs.items() if run_id in by_run}
        if curves:
            found.append(Training(cell, seconds / cell.cell.settings.train.updates, curves))
    return found


def _estimate(contrast: Contrast, run_ids: tuple[str, ...]) -> Estimate:
    return Estimate(contrast.n, contrast.mean, contrast.se, run_ids)
