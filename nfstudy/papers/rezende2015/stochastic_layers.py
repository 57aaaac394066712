"""The exhibit `stochastic-layers`: what further layers of latent variables change, beside Burda et al. (2016)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from nfstudy.core.declarations import Metric
from nfstudy.papers.rezende2015.published import BURDA_2016, LayersRow
from nfstudy.report.exhibits.base import (
    Answer,
    Drawing,
    Exhibit,
    bounded,
    cell_row,
    measured,
    remark,
    runs_behind,
    stamped,
)
from nfstudy.report.exhibits.varied import Group, grouped
from nfstudy.report.plots.varied import Series, SeriesPanel, draw_series
from nfstudy.report.statistics.contrasts import Contrast, contrast_of
from nfstudy.report.statistics.estimates import CellResult, Estimate, Results, estimate
from nfstudy.report.tables import Entry, Row, Table, format_interval, format_number
from nfstudy.runs.metrics import (
    ACTIVE_BY_LAYER,
    FREE_ENERGY,
    KL_BY_LAYER,
    NLL,
    PARAMETERS,
    TIGHT_NLL,
)

TITLE = "Stochastic layers"
LAYERS = "model.stochastic_layers"
BY_LAYER = (ACTIVE_BY_LAYER, KL_BY_LAYER)
LEVEL = 0.95
DRAWN = (("VAE", 1), ("IWAE", 50))
"""(Method, k) of the published models in the figure: the one trained as ours are, and the best; the table has all."""
PUBLISHED = "published by others, of another architecture, optimiser and training: see the caption"
NOT_BY_LAYER = "not measured, or one guided chain spans all layers, whose posterior is no product of theirs"
CAPTION = (
    "The whole model on the test set, in {unit}: mean ± standard error (number of runs); numbers of layers stand from "
    "the image up, active variables and KL as means over runs. Both are of the noise ξ_l that a layer is made from, "
    "beside the layer above: a variable is active where its posterior mean varies over images by more than 0.01, and "
    "the KLs of the layers add up to the KL term of F."
)
PROTOCOL = (
    "The rows of Burda et al. (2016) are not ours: MNIST, {binarisation} binarisation, −ln p(x) by 5000 samples; tanh "
    "layers of 200 units, 50 latent variables in the model of one layer, Adam with batches of 20 over 3280 epochs, no "
    "flow; k is the number of samples of the bound that is trained. They count active units of z, which is ξ with one "
    "layer."
)
LAYER_CAPTION = (
    "Layer by layer, 1 beside the image: how many variables it has, how many are active, and its KL to the prior in "
    "{unit}; mean ± standard error (number of runs)."
)
ByRun = Mapping[str, Mapping[int, float]]
"""Run id -> layer -> value."""


def stochastic_layers(results: Results) -> Exhibit:
    """List F, −ln p(x), active variables and KL of each layer, and draw them over the number of stochastic layers."""
    by_layer = {metric.name: _by_run(results, metric) for metric in BY_LAYER}
    data = results.study.settings.data
    flat = results.plan.settings.flat()
    published = BURDA_2016.get(str(flat.get("data.binarisation")), ()) if data and data.name == "mnist" else ()
    caption = CAPTION.format(unit=results.unit)
    if published:
        caption += f" {PROTOCOL.format(binarisation=flat['data.binarisation'])}"
    rows = [_row(result, results, by_layer) for result in results.cells]
    headers = ("row", "F", TIGHT_NLL.title, "variables", "active", "KL by layer", PARAMETERS.title, "note", "runs")
    tables = (
        Table("stochastic-layers", bounded(caption, results), headers, (*rows, *map(_published_row, published))),
        Table(
            "stochastic-layers-each",
            stamped(LAYER_CAPTION.format(unit=results.unit), results),
            ("row", "variables", *(metric.title for metric in BY_LAYER), "note"),
            tuple(_layer_rows(results, by_layer)),
        ),
    )
    groups = grouped(results, (LAYERS,))
    panels = [*_bound_panels(groups, results, published), *_layer_panels(groups, results, by_layer)]
    drawings: tuple[Drawing, ...] = ()
    if panels:
        colours = max(line.colour for panel in panels for line in panel.lines) + 1
        title = "Over the number of stochastic layers, test set"
        figure = draw_series(title, "stochastic layers L", panels, colours, False, results.stamp)
        told = (
            "F, −ln p(x) by the tight estimate, and of each layer the active variables and the KL to the prior, over "
            "the number of stochastic layers; mean and standard error over repetitions."
        )
        told += " Burda et al. (2016) had another architecture and training: see the table." if published else ""
        drawings = (Drawing("stochastic-layers", figure, stamped(told, results)),)
    return Exhibit("stochastic-layers", TITLE, "", tables, drawings, answer=_answer(groups, results))


def _by_run(results: Results, metric: Metric) -> ByRun:
    """Read what finished repetitions have logged of each layer."""
    runs = [
        run_id
        for result in results.cells
        for run_id in result.repetitions.loc[result.repetitions["outcome"] == "finished", "run_id"]
    ]
    found: dict[str, dict[int, float]] = {}
    for run_id, _, layer, value in results.store.history(runs, [metric.name]).itertuples(index=False):
        found.setdefault(run_id, {})[int(layer)] = float(value)
    return found


def _of_layer(result: CellResult, by_run: ByRun, layer: int) -> Estimate:
    """Average what a cell's finished repetitions have logged of a layer."""
    runs = result.repetitions.loc[result.repetitions["outcome"] == "finished", "run_id"]
    return estimate({run_id: by_run[run_id][layer] for run_id in runs if layer in by_run.get(run_id, {})})


def _sizes(result: CellResult) -> tuple[int, ...]:
    return result.cell.settings.model.latent_sizes


def _row(result: CellResult, results: Results, by_layer: Mapping[str, ByRun]) -> Row:
    quantities = (replace(FREE_ENERGY, unit=results.unit), replace(TIGHT_NLL, unit=results.unit))
    bounds = [measured(result, quantity) for quantity in quantities]
    layers = [_together(result, metric, by_layer[metric.name]) for metric in BY_LAYER]
    parameters = measured(result, PARAMETERS)
    variables = Entry(text=" + ".join(map(str, _sizes(result))))
    entries = (*bounds, variables, *layers, parameters, remark(bounds), runs_behind(bounds[0]))
    return cell_row(result, entries)


def _together(result: CellResult, metric: Metric, by_run: ByRun) -> Entry:
    """Return the means of all layers, such as `11.4 + 3.0`, from the image up."""
    found = [_of_layer(result, by_run, layer) for layer in range(1, len(_sizes(result)) + 1)]
    if any(each.mean is None for each in found):
        return Entry(text="–")
    texts = (format_number(each.mean, metric.decimals) for each in found if each.mean is not None)
    return Entry(text=" + ".join(texts), run_ids=found[0].run_ids)


def _published_row(line: LayersRow) -> Row:
    nll = Entry(text=line.published.display, reference=line.published)
    active = Entry(text=str(line.active) if line.active is not None else "–")
    dash = Entry(text="–")
    return Row(line.published.source, (dash, nll, dash, active, dash, dash, Entry(text=PUBLISHED), Entry()))


def _layer_rows(results: Results, by_layer: Mapping[str, ByRun]) -> Iterator[Row]:
    for result in results.cells:
        for layer, size in enumerate(_sizes(result), start=1):
            entries = []
            for metric in BY_LAYER:
                found = _of_layer(result, by_layer[metric.name], layer)
                why = result.note or NOT_BY_LAYER
                entries.append(
                    Entry(quantity=metric, estimate=found, note="" if found.n else why, run_ids=found.run_ids)
                )
            name = f"{result.label.row}, layer {layer}"
            yield cell_row(result, (Entry(text=str(size)), *entries, remark(entries)), name)


def _bound_panels(groups: Sequence[Group], results: Results, published: Sequence[LayersRow]) -> Iterator[SeriesPanel]:
    for quantity in (FREE_ENERGY, TIGHT_NLL):
        lines = []
        for colour, group in enumerate(groups):
            if points := _points(group, partial(CellResult.estimate, metric=quantity)):
                lines.append(_line(group.label or "our runs", points, colour, 0))
        if quantity is TIGHT_NLL:
            lines += _published_lines(published, len(groups))
        if lines:
            yield SeriesPanel(quantity.long_title, f"{quantity.title} ({results.unit})", lines)


def _published_lines(published: Sequence[LayersRow], colour: int) -> Iterator[Series]:
    for style, (method, samples) in enumerate(DRAWN if published else (), start=1):
        own = [line for line in published if (line.method, line.samples) == (method, samples)]
        points = {line.layers: line.published.value for line in own}
        label = f"Burda et al., {method} k = {samples}"
        yield Series(label, list(points), list(points.values()), [None] * len(points), colour, style)


def _layer_panels(groups: Sequence[Group], results: Results, by_layer: Mapping[str, ByRun]) -> Iterator[SeriesPanel]:
    deepest = max((len(_sizes(cell)) for group in groups for cell in group.cells), default=0)
    for metric, title, unit in (
        (ACTIVE_BY_LAYER, "Active variables of each layer", "active variables"),
        (KL_BY_LAYER, "KL of each layer to its prior", f"KL ({results.unit})"),
    ):
        lines = []
        for layer in range(1, deepest + 1):
            for colour, group in enumerate(groups):
                if points := _points(group, partial(_of_layer, by_run=by_layer[metric.name], layer=layer)):
                    name = ", ".join(filter(None, (group.label, f"layer {layer}")))
                    lines.append(_line(name, points, colour, layer - 1))
        if lines:
            yield SeriesPanel(title, unit, lines)


def _points(group: Group, of: Callable[[CellResult], Estimate]) -> list[tuple[int, Estimate]]:
    """Return (L, estimate) of a group's cells that have a number, by L."""
    found = sorted(((len(_sizes(cell)), of(cell)) for cell in group.cells), key=lambda point: point[0])
    return [(layers, each) for layers, each in found if each.mean is not None]


def _line(label: str, points: Sequence[tuple[int, Estimate]], colour: int, style: int) -> Series:
    means = [each.mean for _, each in points if each.mean is not None]
    return Series(label, [layers for layers, _ in points], means, [each.se for _, each in points], colour, style)


def _answer(groups: Sequence[Group], results: Results) -> Answer:
    """Say whether models with more layers have a lower −ln p(x) than those with the fewest, in pairs of seeds."""
    question = "Do further stochastic layers lower −ln p(x)?"
    quantity = replace(TIGHT_NLL, unit=results.unit)
    if not any(cell.estimate(TIGHT_NLL).n for cell in results.cells):
        quantity = replace(NLL, unit=results.unit)
    lines, signs = [], []
    for group in groups:
        first, *deeper = sorted(group.cells, key=lambda cell: len(_sizes(cell)))
        for cell in deeper:
            if contrast := _contrast(cell, first, quantity):
                ends = contrast.interval(LEVEL)
                change = format_number(contrast.mean, quantity.decimals + 1, signed=True)
                name = ", ".join(filter(None, (group.label, f"L = {len(_sizes(cell))}")))
                lines.append(" ".join(filter(None, (f"{name}: {change}", format_interval(ends, 3) if ends else ""))))
                signs.append(0 if ends is None or ends[0] <= 0 <= ends[1] else -1 if ends[1] < 0 else 1)
    if not lines:
        return Answer(question, "To do: no two cells that differ in their number of layers alone have both run.")
    lower, higher = signs.count(-1), signs.count(1)
    if lower and lower == len(signs):
        word = "Yes"
    elif lower:
        word = f"In {lower} of {len(signs)} comparisons"
    elif higher:
        word = f"No: it is higher in {higher} of {len(signs)} comparisons"
    else:
        word = "Undecided by these seeds"
    fewest = min(len(_sizes(cell)) for group in groups for cell in group.cells)
    told = f"Differences to L = {fewest} in {quantity.title}, {quantity.unit}, with 95 % intervals: {'; '.join(lines)}."
    return Answer(question, f"{word}. {told} Deeper models have more parameters.")


def _contrast(cell: CellResult, other: CellResult, quantity: Metric) -> Contrast | None:
    """Return cell − other in pairs of equal repetitions; None where either has no value."""
    values = [each.by_repetition(quantity) for each in (cell, other)]
    if not all(values):
        return None
    numbers = [{r: value for r, (_, value) in each.items()} for each in values]
    return contrast_of((1, -1), numbers, noise=[each.noise(quantity) for each in (cell, other)])
