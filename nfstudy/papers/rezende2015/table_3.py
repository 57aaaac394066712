"""The exhibit `table-3`: −ln p(x) on patches of CIFAR-10 beside the paper's, and what longer chains change in it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from nfstudy.data.cifar10 import IMAGES
from nfstudy.papers.rezende2015.published import TABLE_3
from nfstudy.report.exhibits.base import (
    NOT_HERE,
    CurveGroup,
    Drawing,
    Exhibit,
    bounded,
    cell_row,
    curve_groups,
    curves_of,
    difference_entry,
    drawn_groups,
    how_run,
    measured,
    published_entry,
    remark,
    runs_behind,
    stamped,
)
from nfstudy.report.labels import Label, family_name, setting_text
from nfstudy.report.paper import Published
from nfstudy.report.plots.curves import Curve, Panel, draw_curves
from nfstudy.report.statistics.estimates import Results, change_of
from nfstudy.report.tables import Entry, Row, Table, format_number
from nfstudy.runs.metrics import NLL

COLUMNS = ("row", "paper", "ours", "difference", "note", "runs")
TITLE = "Table 3: −ln p(x) on CIFAR-10 patches"

PATCH_NLL = dataclasses.replace(NLL, unit="nats per patch")
STEP = dataclasses.replace(PATCH_NLL, label="change of −ln p(x)", heading="Change of −ln p(x) from K = 0", mark="")

PUBLISHED = {length: paper for (_, length), paper in TABLE_3.items()}
"""K -> −ln p(x) of the paper."""
LENGTHS = tuple(PUBLISHED)
STEPS = (*itertools.pairwise(LENGTHS), (LENGTHS[0], LENGTHS[-1]))
"""(shorter, longer) pairs of lengths."""

LEVEL_CAPTION = (
    "−ln p(x) on patches of the CIFAR-10 test images, in nats per patch; lower is better; a density may exceed 1. "
    "Ours: mean ± standard error (number of runs) of the importance-sampled estimate, in expectation an upper bound "
    "(≤). Difference: ours − paper."
)
STEP_CAPTION = (
    "What longer chains change in −ln p(x): longer − shorter, in nats per patch. Ours: mean ± standard error (number "
    "of pairs) over equal repetitions, which have equal seeds. Difference: ours − paper."
)
FIGURE_CAPTION = (
    "−ln p(x) on patches of the CIFAR-10 test images over the flow length K, and its change from K = 0. Filled: ours, "
    "mean and standard error over repetitions. Hollow: the paper's Table 3, which has no error bars."
)

OPEN_CHOICES = {
    "data.dequantisation": "dequantisation noise",
    "model.variance": "source of the variances α",
    "model.variance_floor": "least α",
    "data.train_patches": "patches of each training image",
    "data.heldout_patches": "patches of each validation or test image",
}
"""Setting -> its name, of what the paper does not say and the level of −ln p(x) depends on."""


def table_3(results: Results) -> Exhibit:
    """Set −ln p(x) beside the paper's Table 3, and each step to a longer chain beside the paper's."""
    groups, more = drawn_groups(results)
    planar = [group for group in curve_groups(results) if group.label.family == "planar"]
    levels = tuple(row for place in TABLE_3 for row in _level_rows(*place, results))
    steps = tuple(_step_row(group, *step) for group in planar for step in STEPS)
    tables = (
        Table("table-3", bounded(LEVEL_CAPTION, results), COLUMNS, levels),
        Table("table-3-steps", stamped(STEP_CAPTION, results), COLUMNS, steps),
    )
    panels = [
        Panel(quantity.long_title, f"{quantity.title} ({quantity.unit})", curves)
        for quantity, curves in (
            (PATCH_NLL, [*curves_of(groups, PATCH_NLL, ", ours"), _published_curve(0.0)]),
            (STEP, [*_change_curves(planar), _published_curve(PUBLISHED[0].value)]),
        )
    ]
    figure = draw_curves("CIFAR-10 patches: our runs and the paper's Table 3", "flow length K", panels, results.stamp)
    drawing = Drawing("table-3", figure, stamped(FIGURE_CAPTION, results))
    text = " ".join(filter(None, (_open_choices(results), how_run(results), more)))
    return Exhibit("table-3", TITLE, text, tables, (drawing,))


def _level_rows(family: str, length: int, results: Results) -> Iterator[Row]:
    paper = TABLE_3[family, length]
    cells = [r for r in results.cells if (r.label.family, r.label.length) == (family, length)]
    for result in cells:
        ours = measured(result, PATCH_NLL, paper)
        yield cell_row(
            result, (published_entry(paper), ours, difference_entry(ours), remark([ours]), runs_behind(ours))
        )
    if not cells:
        ours = Entry(quantity=PATCH_NLL, reference=paper, note=NOT_HERE)
        entries = (published_entry(paper), ours, Entry(), Entry(), Entry())
        yield Row(Label(family, length).row, entries, family, length)


def _step_row(group: CurveGroup, shorter: int, longer: int) -> Row:
    paper = _published_step(shorter, longer)
    ours = _step(group, shorter, longer, paper)
    name = ", ".join(filter(None, (f"K = {shorter} to {longer}", group.label.variant_text)))
    entries = (published_entry(paper), ours, difference_entry(ours), remark([ours]), runs_behind(ours))
    return Row(name, entries, group.label.family, longer)


def _published_step(shorter: int, longer: int) -> Published:
    low, high = PUBLISHED[shorter], PUBLISHED[longer]
    # The table's decimals: a difference of floats has more.
    value = round(high.value - low.value, 1)
    printed = format_number(value, 1, signed=True)
    return dataclasses.replace(high, value=value, source=f"Table 3, K = {longer} − K = {shorter}", printed=printed)


def _step(group: CurveGroup, shorter: int, longer: int, paper: Published) -> Entry:
    """Return longer − shorter; it has a difference to the paper's only where both levels have."""
    by_length = {result.label.length: result for result in group.cells}
    absent = [f"K = {length} {NOT_HERE}" for length in (shorter, longer) if length not in by_length]
    if absent:
        return Entry(quantity=STEP, reference=paper, note="; ".join(absent))
    ends = [by_length[longer], by_length[shorter]]
    levels = [measured(result, PATCH_NLL, PUBLISHED[result.label.length]) for result in ends]
    found = change_of(ends[0], ends[1], PATCH_NLL)
    notes = dict.fromkeys(level.note for level in levels if level.note)
    mean = found.mean if found and all(level.difference is not None for level in levels) else None
    return Entry(
        quantity=STEP,
        estimate=found,
        reference=paper,
        difference=None if mean is None else mean - paper.value,
        note="; ".join(notes) or ("" if found else "nothing to compare"),
        run_ids=found.run_ids if found else (),
    )


def _change_curves(groups: Sequence[CurveGroup]) -> list[Curve]:
    """Return the change from K = 0 over the flow length, of each curve that has K = 0."""
    curves = []
    for group in groups:
        first, *longer = group.cells
        changes = [(cell.label.length, found) for cell in longer if (found := change_of(cell, first, PATCH_NLL))]
        points = [(length, found.mean, found.se) for length, found in changes if found.mean is not None]
        if first.label.length == 0 and points:
            x, y = [0, *(length for length, _, _ in points)], [0.0, *(mean for _, mean, _ in points)]
            bars = [None, *(se for _, _, se in points)]
            curves.append(Curve(f"{group.label.curve}, ours", x, y, bars, group.label.family, group.variant))
    return curves


def _published_curve(origin: float) -> Curve:
    values = [paper.value - origin for paper in PUBLISHED.values()]
    return Curve(f"{family_name('planar')}, paper", LENGTHS, values, [None] * len(values), "planar", published=True)


def _open_choices(results: Results) -> str:
    """Say what was chosen where the paper leaves it open, and what the patches are of."""
    settings = [result.cell.settings.flat() for result in results.cells]
    found = (
        (name, dict.fromkeys(setting_text(flat[path]) for flat in settings if path in flat))
        for path, name in OPEN_CHOICES.items()
    )
    choices = (f"{name} {' or '.join(values)}" for name, values in found if values)
    train, valid, test = (f"{count:,}" for count in IMAGES)
    return (
        f"The paper leaves open, and here is chosen: {'; '.join(choices)}; places drawn once. Patches are of {train} "
        f"training images ({valid} more for validation, where the paper trains on all) and of all {test} test images. "
        "The level of −ln p(x) depends on these choices; the second table compares what longer chains change in it."
    )
