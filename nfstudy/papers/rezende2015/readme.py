"""What README shows of the paper's exhibits: a short table of each."""

from __future__ import annotations

from nfstudy.papers.rezende2015.figures_1_3 import TRUE_KL
from nfstudy.papers.rezende2015.published import TABLE_2, TABLE_3
from nfstudy.report.exhibits.base import curve_groups, measured, stamped
from nfstudy.report.pages.readme import levels_beside_paper
from nfstudy.report.statistics.estimates import Results
from nfstudy.report.tables import Entry, Row, Table

KL_CAPTION = "The true KL(q‖p) = F + ln Z, in nats; lower is better. Mean ± standard error (number of runs)."


def table_2(results: Results) -> Table:
    """Set −ln p(x) of every cell beside Table 2."""
    published = {(line.family, line.length): line.published for line in TABLE_2 if line.family}
    return levels_beside_paper("table-2", results, published)


def table_3(results: Results) -> Table:
    """Set −ln p(x) of every cell beside Table 3."""
    return levels_beside_paper("table-3", results, TABLE_3)


def true_kl(results: Results) -> Table:
    """List the true KL of each energy and family, one column a flow length."""
    lengths = sorted({result.label.length for result in results.cells})
    rows = []
    for group in curve_groups(results):
        cells = {result.label.length: measured(result, TRUE_KL) for result in group.cells}
        rows.append(Row(group.label.curve, tuple(cells.get(length, Entry(text="–")) for length in lengths)))
    columns = ("flow", *(f"K = {length}" for length in lengths))
    return Table("true-kl", stamped(KL_CAPTION, results), columns, tuple(rows))
