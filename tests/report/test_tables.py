"""Entries and tables against exact texts."""

import csv
import io

import pytest

from nfstudy.report.paper import Published
from nfstudy.report.statistics.estimates import KL, NLL, estimate
from nfstudy.report.tables import (
    CSV_COLUMNS,
    Entry,
    Row,
    Table,
    format_estimate,
    format_number,
    markdown_text,
    to_csv,
    to_markdown,
)
from nfstudy.runs.metrics import PARAMETERS

PAPER = Published(85.7, "Table 2, DLGM+NF (k = 40)", "two", printed="≤ 85.7")


def table():
    found = estimate({"r1": 86.0, "r2": 88.0})
    ours = Entry(
        quantity=NLL,
        estimate=found,
        reference=PAPER,
        difference=87.0 - 85.7,
        note="1 of 3 diverged",
        run_ids=("r1", "r2"),
    )
    absent = Entry(quantity=NLL, note="not run")
    paper = Entry(text=PAPER.display, reference=PAPER)
    rows = (Row("NF_1 | 50 %", (paper, ours), "planar", 40), Row("<b>", (Entry(), absent), "none", 0))
    return Table("table-2", "A_caption ±", ("row", "paper", "ours"), rows)


@pytest.mark.parametrize(
    ("value", "decimals", "signed", "text"),
    [
        (0.0, 2, False, "0.00"),
        (-0.001, 2, False, "0.00"),
        (-0.001, 2, True, "0.00"),
        (-1.5, 1, False, "−1.5"),
        (1.25, 2, True, "+1.25"),
        (0, 0, False, "0"),
        (12345.6, 1, False, "12345.6"),
        (999999999.4, 0, False, "999999999"),
        (-2.5e9, 2, True, "−2.50e+09"),
        (1.7e308, 2, True, "+1.70e+308"),
        (float("inf"), 1, False, "∞"),
    ],
    ids=str,
)
def test_format_number(value, decimals, signed, text):
    assert format_number(value, decimals, signed) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        pytest.param([90.0, 92.0], "91.00 ± 1.00 (2)", id="two"),
        pytest.param([0.0, 0.0, 0.0], "0.00 ± 0.00 (3)", id="zeros"),
        pytest.param([0.0], "0.00 (n = 1)", id="one"),
    ],
)
def test_format_estimate(values, text):
    assert format_estimate(estimate(dict(enumerate(values))), 2) == text


def test_format_estimate_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="no runs"):
        format_estimate(estimate({}), 2)


def test_an_entry_without_a_number_says_why():
    assert Entry(quantity=NLL, estimate=estimate({}), note="3 of 3 diverged").display == "3 of 3 diverged"
    with pytest.raises(ValueError, match="neither value nor note"):
        Entry(quantity=KL, estimate=estimate({}))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([25688.0] * 4, "25,688"),
        ([987.0], "987"),
        ([25688.0, 25690.0], "25689 ± 1 (2)"),  # As where a search chooses the network's size.
    ],
)
def test_a_count_that_settings_decide_has_no_error(values, text):
    assert Entry(quantity=PARAMETERS, estimate=estimate(dict(enumerate(values)))).display == text


def test_a_column_of_run_ids_is_told_from_numbers_that_open_runs():
    runs, distance = Entry(text="ab12 cd34", run_ids=("ab1299", "cd3499")), Entry(text="1.20", run_ids=("ab1299",))
    shown = Table("t", "", ("row", "distance", "runs", "note"), (Row("a", (distance, runs, Entry())),))
    assert [shown.is_of_runs(place) for place in range(3)] == [False, True, False]
    assert shown.filled == (0, 1), "nothing stands under note"


def test_a_row_of_the_wrong_width_is_refused():
    with pytest.raises(ValueError, match="table t, row a: 2 entries; expected: 1"):
        Table("t", "", ("row", "x"), (Row("a", (Entry(), Entry())),))


def test_csv_holds_full_precision_and_every_quantity():
    lines = list(csv.DictReader(io.StringIO(to_csv(table()))))
    assert tuple(lines[0]) == CSV_COLUMNS
    assert lines[0] == {
        "row": "NF_1 | 50 %",
        "flow": "planar",
        "length": "40",
        "metric": "−ln p(x)",
        "unit": "nats per image",
        "ours_mean": "87.0",
        "ours_se": "1.0",
        "n": "2",
        "paper": "85.7",
        "paper_half_bar": "",
        "paper_source": "Table 2, DLGM+NF (k = 40)",
        "difference": repr(87.0 - 85.7),
        "note": "1 of 3 diverged",
        "run_ids": "r1 r2",
    }
    assert (lines[1]["length"], lines[1]["ours_mean"], lines[1]["n"], lines[1]["note"]) == ("0", "", "0", "not run")


def test_csv_of_text_is_what_the_table_shows_with_whole_run_ids():
    run = "ab" * 16
    rows = (Row("K = 0", (Entry("0.0006, of five"), Entry(run[:8], run_ids=(run,)))),)
    text = to_csv(Table("chosen", "c", ("cell", "learning rate", "run"), rows))
    assert text == f'cell,learning rate,run\nK = 0,"0.0006, of five",{run}\n'


@pytest.mark.parametrize(("count", "end"), [(1, "00000001 |"), (8, "00000008 |"), (9, "00000008 and 1 more |")])
def test_markdown_names_some_runs_and_csv_all(count, end):
    ids = tuple(f"{n:08x}" * 4 for n in range(1, count + 1))
    entry = Entry(text=" ".join(run_id[:8] for run_id in ids), run_ids=ids)
    found = Table("t", "caption", ("cell", "runs"), (Row("a", (entry,)),))
    assert to_markdown(found).splitlines()[2].endswith(end)
    assert to_csv(found).splitlines()[1] == f"a,{' '.join(ids)}"


def test_markdown_is_exact():
    assert to_markdown(table()).splitlines() == [
        "| row | paper | ours |",
        "|:--|--:|--:|",
        r"| NF\_1 \| 50 % | ≤ 85.7 | ≤ 87.00 ± 1.00 (2) |",
        r"| \<b\> |  | not run |",
        "",
        r"*A\_caption ±*",
    ]


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("a_b", r"a\_b"),
        ("\\", r"\\"),
        ("{x}^~", r"{x}^\~"),
        ("−1 ≤ β", "−1 ≤ β"),
        ("a\n# b", r"a \# b"),
        ("[x](y)", r"\[x\](y)"),
    ],
    ids=["underscore", "backslash", "braces", "signs", "new line", "link"],
)
def test_markdown_escapes(text, markdown):
    assert markdown_text(text) == markdown
