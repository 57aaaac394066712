"""The exhibits that set the paper's numbers beside ours: Table 2 and Figure 4."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from nfstudy.core.declarations import Metric
from nfstudy.papers.rezende2015.published import FIGURE_4, TABLE_2, Table2Row
from nfstudy.report.exhibits.base import (
    NOT_HERE,
    Drawing,
    Exhibit,
    bounded,
    cell_row,
    curves_of,
    departures,
    difference_entry,
    drawn_groups,
    how_run,
    measured,
    published_entry,
    remark,
    runs_behind,
    stamped,
)
from nfstudy.report.exhibits.trust import unmeasured_text, warning_text
from nfstudy.report.labels import Label, family_name, setting_name
from nfstudy.report.paper import Published
from nfstudy.report.plots.curves import Curve, Panel, draw_curves
from nfstudy.report.statistics.estimates import BOUNDS, Results
from nfstudy.report.tables import Entry, Row, Table
from nfstudy.runs.metrics import FREE_ENERGY, NLL

QUOTED = "quoted by the paper, not run here"
ABSENT = "–"
DEPARTS = "*"
"""What follows the head of a body of evidence that is not as the paper states."""
BOUND = "≤"
"""What begins the numbers of Table 2 that are the paper's own."""


def table_2(results: Results) -> Exhibit:
    """Set −ln p(x) beside the paper's Table 2, row by row."""
    rows = [row for line in TABLE_2 for row in _table_2_rows(line, results)]
    caption = (
        "−ln p(x) on the MNIST test set, in nats per image; lower is better. Ours: mean ± standard error (number of "
        "runs) of the importance-sampled estimate, in expectation an upper bound (≤), as the paper's is, which is cut "
        "to one decimal; it is not the free energy F. Difference: ours − paper."
    )
    table = Table(
        "table-2", bounded(caption, results), ("row", "paper", "ours", "difference", "note", "runs"), tuple(rows)
    )
    named = {(line.family, line.length) for line in TABLE_2}
    others = sum((result.label.family, result.label.length) not in named for result in results.cells)
    elsewhere = f" {others} of the study's cells have no row in the paper's table." if others else ""
    return Exhibit("table-2", "Table 2: −ln p(x) on MNIST", how_run(results) + elsewhere, (table,))


def _table_2_rows(line: Table2Row, results: Results) -> Iterator[Row]:
    paper = Entry(text=line.published.display, reference=line.published, note=line.published.source)
    cells = [r for r in results.cells if (r.label.family, r.label.length) == (line.family, line.length)]
    quoted = f"quoted from {line.quoted_from}; another model" if line.quoted_from else ""
    if quoted and not cells:
        ours = Entry(quantity=NLL, reference=line.published, note=QUOTED)
        yield Row(line.name, (paper, ours, Entry(), Entry(text=quoted), Entry()))
        return
    for result in cells:
        ours = measured(result, NLL, line.published)
        variant = result.label.variant_text
        name = f"{line.name}, {variant}" if variant else line.name
        notes = Entry(text="; ".join(filter(None, (quoted, remark([ours]).text))))
        yield cell_row(result, (paper, ours, difference_entry(ours), notes, runs_behind(ours)), name)
    if not cells:
        ours = Entry(quantity=NLL, reference=line.published, note=NOT_HERE)
        yield Row(line.name, (paper, ours, Entry(), Entry(), Entry()), line.family or "", line.length)


def table_2_of_bodies(bodies: Sequence[Results]) -> Exhibit:
    """Set −ln p(x) of every body of evidence beside the paper's Table 2, and F beside its Figure 4(a).

    Rows are the paper's own cells, and those that it quotes and a body has; a body whose study varies more has a row
    for each of its variants.
    """
    nll = {(line.family or "", line.length): line.published for line in TABLE_2}
    own = {place for place, published in nll.items() if published.printed.startswith(BOUND)}
    energy = {(family, length): point for (family, length, title), point in FIGURE_4.items() if title == "F"}
    captions = {
        "table-2-bodies": "−ln p(x) on the MNIST test set, in nats per image; lower is better, ≤: in expectation an "
        "upper bound. Ours: mean ± standard error (number of runs).",
        "figure-4-bodies": "The free energy F on the MNIST test set, in nats per image, of the same runs; it lies "
        "above −ln p(x) by KL(q‖p). The paper's: Figure 4(a), as read off its drawing ± half its error bar.",
    }
    departs = _departures_of_bodies(bodies)
    heads = [f"{results.name}{f' {DEPARTS}' if departs[results.name] else ''}" for results in bodies]
    trust = " ".join(filter(None, (warning_text(bodies), unmeasured_text(bodies))))
    tables = [
        Table(
            name,
            " ".join(filter(None, (captions[name], trust if quantity is NLL else ""))),
            (f"{quantity.title} of", "paper", *heads),
            tuple(_rows_of_bodies(bodies, quantity, published, own)),
        )
        for name, quantity, published in (("table-2-bodies", NLL, nll), ("figure-4-bodies", FREE_ENERGY, energy))
    ]
    return Exhibit("table-2-bodies", "Table 2: −ln p(x) on MNIST", _departures_text(departs), tuple(tables))


def _rows_of_bodies(
    bodies: Sequence[Results],
    quantity: Metric,
    published: Mapping[tuple[str, int], Published],
    always: Collection[tuple[str, int]],
) -> Iterator[Row]:
    """Yield a row for each of the paper's cells and each variant of it that a body has."""
    found = [
        {(result.label.family, result.label.length, result.label.variant_text): result for result in results.cells}
        for results in bodies
    ]
    for place, paper in published.items():
        variants = list(dict.fromkeys(key[2] for own in found for key in own if key[:2] == place))
        for variant in variants or [""] * (place in always):
            cells = [own.get((*place, variant)) for own in found]
            ours = [measured(cell, quantity, paper) if cell else Entry(text=ABSENT, note=NOT_HERE) for cell in cells]
            name = ", ".join(filter(None, (Label(*place).row, variant)))
            yield Row(name, (published_entry(paper), *ours), *place)


def _departures_of_bodies(bodies: Sequence[Results]) -> dict[str, list[str]]:
    """Return name of a body -> where it is not as the paper states."""
    lists = {}
    for results in bodies:
        shared, further = departures(results)
        searched = ", ".join(map(setting_name, results.plan.search.space)) if results.plan.search else ""
        more = (f"chosen by a search: {searched}" if searched else "", "more in a row's name" if further else "")
        lists[results.name] = [*shared, *filter(None, more)]
    return lists


def _departures_text(lists: Mapping[str, Sequence[str]]) -> str:
    """Tell of several bodies what none of them has as stated, and then what each has of its own."""
    first, *rest = lists.values() if len(lists) > 1 else ([],)
    common = [text for text in first if all(text in other for other in rest)]
    told = {"all of these": common} | {
        name: [text for text in own if text not in common] for name, own in lists.items()
    }
    parts = [f"{name}: {', '.join(texts)}" for name, texts in told.items() if texts]
    return "\n".join([f"{DEPARTS} Not as the paper states:", *parts]) if parts else ""


def figure_4(results: Results) -> Exhibit:
    """Draw F, KL and −ln p(x) over the flow length with the paper's points, and list them."""
    groups, more = drawn_groups(results)
    panels = [
        Panel(f"({letter}) {quantity.long_title}", f"{quantity.title} ({quantity.unit})", curves)
        for letter, quantity in zip("abc", BOUNDS, strict=True)
        if (curves := [*curves_of(groups, quantity, ", ours"), *_published_curves(quantity)])
    ]
    caption = (
        "Free energy, KL divergence and −ln p(x) on the MNIST test set over the flow length K. Filled: ours, mean and "
        "standard error over repetitions. Hollow: the paper's Figure 4, with its error bars. The diagonal Gaussian "
        "(K = 0) starts each of our curves; the paper draws it on its NF curve only."
    )
    figure = draw_curves("MNIST: our runs and the paper's Figure 4", "flow length K", panels, results.stamp)
    drawing = Drawing("figure-4", figure, stamped(caption, results))
    table = Table(
        "figure-4",
        bounded(
            "The points of the figure, in nats per image: ours as mean ± standard error (number of runs), the paper's "
            "as read off its vector drawing ± half its error bar. Difference: ours − paper.",
            results,
        ),
        ("row", "quantity", "paper", "ours", "difference", "note", "runs"),
        tuple(_figure_4_rows(results)),
    )
    return Exhibit(
        "figure-4", "Figure 4: effect of the flow length", f"{how_run(results)} {more}".strip(), (table,), (drawing,)
    )


def _published_curves(quantity: Metric) -> list[Curve]:
    curves = []
    for family in ("planar", "nice-perm"):
        points = {
            length: published
            for (name, length, shown), published in FIGURE_4.items()
            if shown == quantity.title and (name == family or (name == "none" and family == "planar"))
        }
        values = [published.value for published in points.values()]
        bars = [published.half_bar for published in points.values()]
        label = f"{family_name(family)}, paper"
        curves.append(Curve(label, list(points), values, bars, family, published=True))
    return curves


def _figure_4_rows(results: Results) -> Iterator[Row]:
    """Yield a line a quantity and cell, then the paper's points that the study does not have."""
    present = {(result.label.family, result.label.length) for result in results.cells}
    for quantity in BOUNDS:
        for result in results.cells:
            paper = FIGURE_4.get((result.label.family, result.label.length, quantity.title))
            ours = measured(result, quantity, paper)
            rest = (difference_entry(ours), remark([ours]), runs_behind(ours))
            yield cell_row(result, (Entry(text=quantity.title), published_entry(paper), ours, *rest))
        for (family, length, name), paper in FIGURE_4.items():
            if name == quantity.title and (family, length) not in present:
                absent = Entry(quantity=quantity, reference=paper, note=NOT_HERE)
                entries = (Entry(text=name), published_entry(paper), absent, Entry(), Entry(), Entry())
                yield Row(Label(family, length).row, entries, family, length)
