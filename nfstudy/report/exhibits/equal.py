"""The exhibit `beyond-table-2`: flow families at equal K, at equal parameters and at equal seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nfstudy.core.declarations import Metric
from nfstudy.report.exhibits.base import Answer, CurveGroup, Drawing, Exhibit, bounded, drawn_groups, remark, stamped
from nfstudy.report.exhibits.equal_seconds import while_training
from nfstudy.report.exhibits.trust import why_not_converged
from nfstudy.report.plots.curves import Curve
from nfstudy.report.plots.equal import CostPanel, CostRow, draw_over_costs, row_limits
from nfstudy.report.statistics.equal import LEVEL, Point, Rank, Reading, common_costs, difference, ranks, read_at
from nfstudy.report.statistics.estimates import CellResult, Results
from nfstudy.report.tables import Entry, Row, Table, format_interval, format_number
from nfstudy.runs.metrics import NLL, PARAMETERS, SPEED, TIGHT_NLL, UPDATE_CPU

NAME, TITLE = "beyond-table-2", "Beyond Table 2: families at equal K, equal parameters and equal seconds"
MOST_VALUES = 3
"""Common values of one cost at which families are ranked."""
NONE_NEAR = "no run near"
WHERE_READ = (
    "A family is read off between two of its lengths, linearly in the logarithm of the cost, or at a length that takes "
    f"as much within 5 %; not beyond its least and most: `{NONE_NEAR}`. Costs are taken for known."
)
WHAT_RANKS_ARE = (
    "Rank: from 1 + the number of families that are lower, to the number of families less those that are higher, of "
    "those that the seeds tell apart; families that they do not share ranks. All pairs at one value are compared, by "
    "equal repetitions and with Bonferroni's correction, so that all ranks at one value hold together with 95 %."
)


@dataclass(frozen=True)
class Cost:
    """What is made equal."""

    id: str
    title: str
    meaning: str
    """A sentence, for the caption of the table."""
    axis: str
    column: str
    """Of the values at which curves are read, with their unit."""
    of: Callable[[CellResult, CurveGroup], float | None]
    """What a cell takes, given the curve that it is on; None where that is not known."""
    text: Callable[[float], str]
    """A value in a sentence, with its unit."""


@dataclass(frozen=True)
class Family:
    """A curve with its name."""

    name: str
    group: CurveGroup
    points: tuple[Point, ...]
    """By K; of those with a number and a cost greater than 0."""


@dataclass(frozen=True)
class Ranking:
    """Families at one value of a cost."""

    cost: Cost
    value: float
    readings: dict[str, Reading]
    ranks: dict[str, Rank]


def beyond_table_2(results: Results) -> Exhibit:
    """Compare flow families by −ln p(x) at equal K, at equal parameters and at equal seconds."""
    groups, more = drawn_groups(results)
    groups = [group for group in groups if any(cell.label.length for cell in group.cells)]
    quantity = next((metric for metric in (TIGHT_NLL, NLL) if any(r.estimate(metric).n for r in results.cells)), NLL)
    bare = next((r for r in results.cells if r.label.length == 0 and r.estimate(quantity).n), None)
    seconds = _seconds(results)
    tables, rankings, panels, changes = [], list[Ranking](), list[CostPanel](), list[CostPanel]()
    for cost in (_LENGTH, _parameters(groups), seconds):
        families = [_family(group, cost, quantity) for group in groups]
        curves = [family.points for family in families if family.points]
        values = _lengths(families) if cost is _LENGTH else common_costs(curves, MOST_VALUES)
        ours = [_ranking(cost, value, families, quantity) for value in values]
        rankings += ours
        tables.append(_table(cost, families, ours, quantity, bare, results))
        if curves:
            drawn = [family for family in families if family.points]
            levels, differences = ([_curve(each, quantity, less) for each in drawn] for less in (None, bare))
            panels.append(CostPanel(cost.title, cost.axis, levels, values))
            changes.append(CostPanel("", cost.axis, differences, values))
    tables.append(while_training(groups, seconds.of, results))
    if not panels:
        return Exhibit(NAME, TITLE, "No run of a flow has a number to draw.", tuple(tables))
    rows = [CostRow(f"{quantity.title} ({results.unit})", panels, bare.estimate(quantity).mean if bare else None)]
    caption = f"{quantity.title} on the test set over what a flow takes: mean and 95 % interval over repetitions."
    if bare:
        rows.append(CostRow("change from K = 0", changes, 0.0))
        caption += (
            " Below: the change from K = 0, the dashed line, in pairs of equal repetitions, which share their seeds."
        )
    figure = draw_over_costs("Families at equal cost, test set", rows, results.stamp)
    caption += " Dotted lines are where the tables read the curves off."
    if any(row_limits(row) for row in rows):
        caption += " A triangle with its number is above the axis."
    drawing = Drawing(NAME, figure, stamped(caption, results))
    answer = _answer(rankings, quantity)
    return Exhibit(NAME, TITLE, more, tuple(tables), (drawing,), answer=answer)


_LENGTH = Cost(
    "k",
    "Equal K",
    "Equal K: as many steps, whatever one takes.",
    "flow length K",
    "K",
    lambda cell, _: float(cell.label.length),
    lambda value: f"K = {value:.0f}",
)


def _parameters(groups: Sequence[CurveGroup]) -> Cost:
    """Count what a flow adds to the model without one; all that is trained where there is no such model."""
    added = bool(groups) and all(_bare(group) for group in groups)

    def of(cell: CellResult, group: CurveGroup) -> float | None:
        own, bare = cell.estimate(PARAMETERS).mean, _bare(group)
        if own is None:
            return None
        less = bare.estimate(PARAMETERS).mean if added and bare else 0.0
        return None if less is None else own - less

    what = "numbers that are trained beyond those of K = 0" if added else "all numbers that are trained"
    axis = "parameters that the flow adds" if added else "parameters"
    meaning = f"Parameters: {what}."
    return Cost(
        "parameters", "Equal parameters", meaning, axis, "parameters", of, lambda x: f"{_rounded(x)} parameters"
    )


def _seconds(results: Results) -> Cost:
    """Take seconds of training from the processor time of an update; from the clock where runs are older than that."""
    measured = all(r.estimate(UPDATE_CPU).n for r in results.cells if r.estimate(SPEED).n)

    def of(cell: CellResult, _: CurveGroup) -> float | None:
        updates = cell.cell.settings.train.updates
        if measured:
            each = cell.estimate(UPDATE_CPU).mean
            return None if each is None else each * updates / 1000
        speed = cell.estimate(SPEED).mean
        return updates / speed if speed else None

    how = (
        "median processor milliseconds of an update × updates, which a busy machine changes little"
        if measured
        else "wall clock, which other work on the machine makes longer"
    )
    threads = sorted({str(text) for text in results.runs.get("threads", ()) if str(text)})
    devices = sorted({str(text) for text in results.runs.get("device", ()) if str(text)})
    on = f"{', '.join(devices) or 'unknown device'}, threads {', '.join(threads) or 'unknown'}"
    meaning = f"Seconds: of one training, without evaluation; {how}. Runs were on {on}."
    axis = "seconds of training" + (", processor" if measured else "")
    return Cost("seconds", "Equal seconds", meaning, axis, "seconds", of, lambda x: f"{_rounded(x)} s")


def _rounded(value: float) -> str:
    """Return three significant digits."""
    return f"{float(f'{value:.3g}'):,.10g}"


def _bare(group: CurveGroup) -> CellResult | None:
    return next((cell for cell in group.cells if cell.label.length == 0), None)


def _family(group: CurveGroup, cost: Cost, quantity: Metric) -> Family:
    cells = [cell for cell in group.cells if cell.label.length and cell.estimate(quantity).n]
    costs = [(cost.of(cell, group), cell) for cell in cells]
    return Family(group.label.curve, group, tuple(Point(x, cell) for x, cell in costs if x is not None and x > 0))


def _lengths(families: Sequence[Family]) -> list[float]:
    """Return each K that several families have."""
    all_of = [point.cost for family in families for point in family.points]
    return sorted({x for x in all_of if all_of.count(x) > 1})


def _ranking(cost: Cost, value: float, families: Sequence[Family], quantity: Metric) -> Ranking:
    read = {family.name: _read(cost, family, value) for family in families}
    readings = {name: reading for name, reading in read.items() if reading}
    found = ranks([*readings], lambda a, b: difference(readings[a], readings[b], quantity))
    return Ranking(cost, value, readings, found)


def _read(cost: Cost, family: Family, value: float) -> Reading | None:
    """Read a family off; at equal K, only at that K."""
    if cost is _LENGTH:
        found = [point.cell for point in family.points if point.cost == value]
        return Reading((1.0,), (found[0],)) if found else None
    return read_at(family.points, value)


def _curve(family: Family, quantity: Metric, less: CellResult | None) -> Curve:
    """Return a curve's values with their intervals, or its differences to another cell."""
    bare = Reading((1.0,), (less,)) if less else None
    contrasts = [difference(Reading((1.0,), (point.cell,)), bare, quantity) for point in family.points]
    ends = [contrast.interval(LEVEL) for contrast in contrasts]
    bars = [None if pair is None else (pair[1] - pair[0]) / 2 for pair in ends]
    x, y = [point.cost for point in family.points], [contrast.mean for contrast in contrasts]
    return Curve(family.name, x, y, bars, family.group.label.family)


def _table(
    cost: Cost,
    families: Sequence[Family],
    rankings: Sequence[Ranking],
    quantity: Metric,
    bare: CellResult | None,
    results: Results,
) -> Table:
    rows = [row for ranking in rankings for row in _rows(ranking, families, quantity, bare)]
    caption = (
        f"{quantity.title} on the test set in {results.unit}, lower is better: mean ± standard error (number of runs), "
        "and 95 % interval; the change from K = 0 with a 95 % interval of its own. "
        f"{' '.join((cost.meaning, *([] if cost is _LENGTH else [WHERE_READ]), WHAT_RANKS_ARE))}"
    )
    columns = ("flow", cost.column, quantity.title, "rank", "95 % interval", "change from K = 0", "read from", "note")
    return Table(f"{NAME}-{cost.id}", bounded(caption, results), columns, tuple(rows))


def _rows(ranking: Ranking, families: Sequence[Family], quantity: Metric, bare: CellResult | None) -> Sequence[Row]:
    """Return those that are read off by their value, then the others."""
    at = Entry(text=_rounded(ranking.value))
    found = []
    for family in families:
        flow = family.group.label.family
        if (reading := ranking.readings.get(family.name)) is None:
            costs = sorted(point.cost for point in family.points)
            ends = dict.fromkeys(map(_rounded, (costs[0], costs[-1]))) if costs else ()
            words = " to ".join(ends)
            words = f"K = {words}" if ranking.cost is _LENGTH else f"{words} {ranking.cost.column}"
            note = f"{NONE_NEAR}: {words}" if ends else "no finished run"
            entries = (at, Entry(quantity=quantity, note=note), *[Entry()] * 5)
            found.append((float("inf"), Row(family.name, entries, flow)))
            continue
        estimate, interval = reading.estimate(quantity), reading.contrast(quantity).interval(LEVEL)
        lengths = [cell.label.length for cell in reading.cells]
        between = f"K = {lengths[0]}" if len(lengths) == 1 else f"K = {lengths[0]} and {lengths[1]}"
        warnings = [why_not_converged(cell, quantity) for cell in reading.cells]
        note = "; ".join(dict.fromkeys(filter(None, (*(cell.note for cell in reading.cells), *warnings))))
        value = Entry(quantity=quantity, estimate=estimate, note=note, run_ids=estimate.run_ids, marked=any(warnings))
        entries = (
            at,
            value,
            Entry(text=ranking.ranks[family.name].text),
            Entry(text=format_interval(interval, quantity.decimals) if interval else "–"),
            Entry(text=_change(reading, bare, quantity)),
            Entry(text="" if ranking.cost is _LENGTH else between),
            remark([value]),
        )
        found.append((estimate.mean or 0.0, Row(family.name, entries, flow)))
    return [row for _, row in sorted(found, key=lambda pair: pair[0])]


def _change(reading: Reading, bare: CellResult | None, quantity: Metric) -> str:
    if bare is None:
        return "–"
    change = difference(reading, Reading((1.0,), (bare,)), quantity)
    ends = change.interval(LEVEL)
    mean = format_number(change.mean, quantity.decimals, signed=True)
    return f"{mean} {format_interval(ends, quantity.decimals)}" if ends else mean


def _answer(rankings: Sequence[Ranking], quantity: Metric) -> Answer:
    """Say at each value which families may be the best, as far as the seeds can tell."""
    question = "Which flow family has the lowest −ln p(x) at equal K, at equal parameters and at equal seconds?"
    lines = []
    for ranking in rankings:
        count = len(ranking.readings)
        if count < 2:
            continue
        means = {name: reading.contrast(quantity).mean for name, reading in ranking.readings.items()}
        lowest = min(means, key=means.__getitem__)
        first = [name for name, rank in ranking.ranks.items() if rank.best == 1]
        words = f"at {ranking.cost.text(ranking.value)}, {lowest} ({format_number(means[lowest], quantity.decimals)}"
        rest = "alone" if len(first) == 1 else f"{len(first)} of {count} may be first"
        lines.append(f"{words}; {rest})")
    if not lines:
        return Answer(question, "To do: no two families have runs at a common value.")
    alone = sum("; alone)" in line for line in lines)
    verdict = (
        "The seeds tell one family from all others at each value"
        if alone == len(lines)
        else f"The seeds tell one family from all others at {alone} of {len(lines)} values"
    )
    return Answer(question, f"{verdict}. Lowest: {'; '.join(lines)}.")
