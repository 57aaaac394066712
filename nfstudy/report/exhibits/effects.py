"""The exhibit `effects`: what a setting that the paper leaves open changes, each value against the study's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nfstudy.core.declarations import Metric
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
from nfstudy.report.labels import setting_name, setting_text, varied_settings
from nfstudy.report.plots.forest import Difference, DifferencePanel, draw_differences
from nfstudy.report.statistics.contrasts import Contrast, contrast_of
from nfstudy.report.statistics.estimates import CellResult, Estimate, Results, runs_of
from nfstudy.report.tables import Entry, Table, format_interval, format_number
from nfstudy.study.settings import flatten
from nfstudy.study.spec import SEARCH_SAMPLER

TITLE = "What the settings change"

LEVEL = 0.95
"""Of the two-sided confidence intervals."""

_MOST_TOLD = 6
"""Differences that an answer tells; the table has all."""

MEANS_CAPTION = (
    "Every cell on the test set, in {unit}: mean ± standard error (number of runs). The default of each flow "
    "and length is the cell at the study's own settings."
)
DIFFERENCES_CAPTION = (
    "Differences to the default on the test set, in {unit}: mean ± standard error (number of pairs). Equal "
    "repetitions have equal seeds, and are compared in pairs. 95 % interval: Student's, of the mean difference; each "
    "holds by itself, without a correction for their number."
)
FIGURE_CAPTION = (
    "Differences to the default on the test set, in {unit}: dots are means over pairs of equal repetitions, "
    "whiskers their 95 % t intervals. Left of the dashed line a number is lower than the default's."
)


@dataclass(frozen=True)
class Comparison:
    """A cell and its default: the cell with the same flow family and length at the study's own settings."""

    result: CellResult
    default: CellResult | None
    """None where the grid has no such cell."""

    @property
    def is_default(self) -> bool:
        """Whether the cell is the default itself."""
        return self.result is self.default

    def contrast(self, quantity: Metric) -> Contrast | None:
        """Return cell − default; None for the default itself, and where either has no value."""
        if self.default is None or self.is_default:
            return None
        cells = (self.result, self.default)
        values = [cell.by_repetition(quantity) for cell in cells]
        if not all(values):
            return None
        numbers = [{r: value for r, (_, value) in cell.items()} for cell in values]
        return contrast_of((1, -1), numbers, noise=[cell.noise(quantity) for cell in cells])


def effects(results: Results) -> Exhibit:
    """Set every cell beside the cell of its flow at the study's own settings, with the paired difference."""
    varied = varied_settings([result.cell for result in results.cells])
    if not varied:
        return Exhibit("effects", TITLE, "The cells differ in nothing but the flow's family and length.")
    own = dict(flatten(results.plan.settings.model_dump()))
    if results.plan.search:
        own[SEARCH_SAMPLER] = results.plan.search.sampler.name
    comparisons = compare_with_default(results.cells, own)
    tables = (_means(comparisons, results), _differences(comparisons, results))
    panels = [
        DifferencePanel(quantity.long_title, f"difference in {quantity.title} ({quantity.unit})", dots)
        for quantity in results.bounds
        if (dots := [*_dots(comparisons, quantity)])
    ]
    drawings: tuple[Drawing, ...] = ()
    if panels:
        figure = draw_differences("Differences to the default, test set", panels, results.stamp)
        drawings = (Drawing("effects", figure, stamped(FIGURE_CAPTION.format(unit=results.unit), results)),)
    asked = {path: own[path] for path in varied if path in results.plan.settings.flat()} or {p: own[p] for p in varied}
    text, answer = _defaults_text(varied, own, results), _answer(comparisons, asked, results.bounds[-1])
    return Exhibit("effects", TITLE, text, tables, drawings, answer=answer)


def _answer(comparisons: Sequence[Comparison], asked: Mapping[str, Any], quantity: Metric) -> Answer:
    """Say whether the settings change what the cells are judged by, as far as pairs of seeds can tell.

    Arguments:
        comparisons: of all cells.
        asked: dotted path -> default of the settings that the question names: those that the defaults use.
        quantity: what the cells are judged by.
    """
    first, *others = (f"of {setting_name(path)} than {setting_text(value)}" for path, value in asked.items())
    question = f"Does another value {first}{''.join(f', or {each}' for each in others)} change {quantity.title}?"
    found = [(each.result.label.row, contrast) for each in comparisons if (contrast := each.contrast(quantity))]
    if not found:
        return Answer(question, "To do: no cell and its default have both run.")
    intervals = [contrast.interval(LEVEL) for _, contrast in found]
    lines = [
        f"{row}: {format_number(contrast.mean, quantity.decimals + 1, signed=True)}"
        f"{f' {format_interval(ends, quantity.decimals + 1)}' if ends else ''}"
        for (row, contrast), ends in zip(found, intervals, strict=True)
    ]
    apart = [line for line, ends in zip(lines, intervals, strict=True) if ends and not ends[0] <= 0 <= ends[1]]
    unknown = sum(ends is None for ends in intervals)
    if unknown == len(found):
        return Answer(question, f"Undecided: {found[0][1].lack}. Differences in {quantity.unit}: {'; '.join(lines)}.")
    many = f"{len(found)} comparison{'s' if len(found) > 1 else ''}"
    word = f"Yes, in {len(apart)} of {many}" if apart else f"Not that these seeds can tell, in {many}"
    shown = (apart or lines)[:_MOST_TOLD]
    rest = f"; {len(apart or lines) - len(shown)} more in the table" if len(apart or lines) > len(shown) else ""
    return Answer(
        question, f"{word}, each by its 95 % interval. Differences in {quantity.unit}: {'; '.join(shown)}{rest}."
    )


def compare_with_default(cells: Sequence[CellResult], own: Mapping[str, Any]) -> list[Comparison]:
    """List the cells by flow family and length, the default of each first, in the study's order otherwise.

    Arguments:
        cells: the study's.
        own: dotted path -> value of the study's own settings under the budget.
    """
    groups: dict[tuple[str, int], list[CellResult]] = {}
    for result in cells:
        groups.setdefault((result.label.family, result.label.length), []).append(result)
    comparisons = []
    for group in groups.values():
        default = next((r for r in group if all(own[path] == value for path, value in r.label.variant)), None)
        comparisons += sorted((Comparison(r, default) for r in group), key=lambda found: not found.is_default)
    return comparisons


def _defaults_text(varied: Sequence[str], own: Mapping[str, Any], results: Results) -> str:
    """Say which value of each setting is the default, and what the paper states, if there is one."""
    if results.paper is None:
        return " ".join(f"The default is {setting_name(path)} = {setting_text(own[path])}." for path in varied)
    stated = results.facts.stated_settings(own)
    return " ".join(_default_text(path, own[path], stated) for path in varied)


def _default_text(path: str, value: Any, stated_settings: Mapping[str, Any]) -> str:
    """Say which value of a setting is the default, and what the paper states."""
    default = f"The default is {setting_name(path)} = {setting_text(value)}"
    if path not in stated_settings:
        return f"{default}; the paper states no value."
    stated = stated_settings[path]
    return f"{default}, as the paper states." if stated == value else f"{default}; the paper states {stated}."


def _means(comparisons: Sequence[Comparison], results: Results) -> Table:
    rows = []
    for found in comparisons:
        entries = [measured(found.result, quantity) for quantity in results.bounds]
        mark = Entry(text="default" if found.is_default else "")
        rows.append(cell_row(found.result, [*entries, mark, remark(entries), runs_behind(entries[0])]))
    columns = ("row", *(quantity.title for quantity in results.bounds), "default", "note", "runs")
    return Table("effects", bounded(MEANS_CAPTION.format(unit=results.unit), results), columns, tuple(rows))


def _differences(comparisons: Sequence[Comparison], results: Results) -> Table:
    rows = tuple(
        cell_row(found.result, (Entry(text=quantity.title), *_difference_entries(found, quantity)))
        for found in comparisons
        if not found.is_default
        for quantity in results.bounds
    )
    columns = ("row", "quantity", "difference", "95 % interval", "0 in it", "note")
    return Table("effects-differences", stamped(DIFFERENCES_CAPTION.format(unit=results.unit), results), columns, rows)


def _difference_entries(found: Comparison, quantity: Metric) -> tuple[Entry, Entry, Entry, Entry]:
    """Return the difference, its interval, whether 0 lies in that, and what the numbers lack."""
    # One decimal more than levels have: pairs share their seeds, so their difference is known better than either.
    shown = replace(quantity, label=f"{quantity.title}, difference", mark="", decimals=quantity.decimals + 1)
    contrast = found.contrast(quantity)
    if contrast is None:
        why = "no cell at the default" if found.default is None else "nothing to compare"
        return Entry(quantity=shown, note=why), Entry(), Entry(), Entry()
    run_ids, interval = _runs_of(contrast, quantity, found), contrast.interval(LEVEL)
    text = inside = note = ""
    if interval is None:
        note = contrast.lack
    else:
        text = format_interval(interval, shown.decimals)
        inside = "yes" if interval[0] <= 0 <= interval[1] else "no"
        note = "" if contrast.repetitions else "too few pairs: difference of means, Welch's interval"
    estimate = Estimate(contrast.n, contrast.mean, contrast.se, run_ids)
    entry = Entry(quantity=shown, estimate=estimate, note=note, run_ids=run_ids)
    return entry, Entry(text=text), Entry(text=inside), Entry(text=note)


def _runs_of(contrast: Contrast, quantity: Metric, found: Comparison) -> tuple[str, ...]:
    return runs_of(contrast, [cell.by_repetition(quantity) for cell in (found.result, found.default) if cell])


def _dots(comparisons: Sequence[Comparison], quantity: Metric) -> Iterator[Difference]:
    for found in comparisons:
        if contrast := found.contrast(quantity):
            label = found.result.label
            yield Difference(label.row, contrast.mean, contrast.interval(LEVEL), label.family)
