"""What others have published: none unconfirmed, none in two ways, and Table 2 as it is printed."""

import pytest
from support.fake_runs import run_all, study

from nfstudy.core.errors import SpecError
from nfstudy.papers.rezende2015.follow_ups import follow_ups, parse_sources, read_sources
from nfstudy.papers.rezende2015.published import TABLE_2
from nfstudy.report.statistics.estimates import gather_results
from nfstudy.report.tables import to_csv, to_markdown

ROWS = [(source, row) for source in read_sources() for row in source.rows]
FROM_MEMORY = {
    "Salimans et al. (2015)": "bound",
    "Gregor et al. (2014)": "bound",
    "van den Berg et al. (2018)": "nll",
}
"""Source -> the number of its rows that nobody here has read."""


def test_no_row_is_unconfirmed():
    assert {source.of(row, "confidence") for source, row in ROWS} == {"one source", "two sources"}
    assert [
        row.name for source, row in ROWS if source.source in FROM_MEMORY and getattr(row, FROM_MEMORY[source.source])
    ] == []
    assert not any("Cremer" in source.source for source, _ in ROWS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("confidence: one source", "confidence: memory"), "'memory'; expected: 'one source' or 'two"),
        (('nll: "88.1"', "nll: 88.1"), "expected: a valid string"),
        (('nll: "88.1"', 'nll: "about 88"'), "'about 88'; expected: String should match"),
        (("binarisation: static", "binarisation: fixed"), "'fixed'; expected: 'static', 'dynamic'"),
        (("rows:", "lines:"), "rows"),
    ],
)
def test_a_row_that_is_not_as_its_record_says_is_refused_by_line(change, words):
    text = (
        '- source: A\n  where: B\n  confidence: one source\n  binarisation: static\n  rows: [{name: C, nll: "88.1"}]\n'
    )
    assert parse_sources(text)[0].rows[0].nll == "88.1"
    with pytest.raises(SpecError, match=r"follow_ups.yaml") as told:
        parse_sources(text.replace(*change))
    assert words in str(told.value)


def test_every_row_has_a_number_and_a_name_of_its_own():
    assert [row.name for _, row in ROWS if row.nll is None and row.bound is None] == []
    names = [(source.source, row.name) for source, row in ROWS]
    assert len(set(names)) == len(names)


def test_minus_ln_p_is_never_above_f():
    for _, row in ROWS:
        if row.nll and row.bound:
            assert float(row.nll.split()[0]) < float(row.bound.split()[0]), row.name


def test_what_table_2_quotes_is_the_same_here():
    quoted = [line.published.printed for line in TABLE_2 if line.quoted_from]
    here = [row.nll for source, row in ROWS if source.where == "Rezende & Mohamed (2015), Table 2"]
    assert here == quoted == ["88.08", "86.40", "85.51", "84.71", "84.13"]


def test_table_2_is_as_the_paper_prints_it():
    own = [line.published.printed for line in TABLE_2 if not line.quoted_from]
    assert own == [f"≤ {x}" for x in (89.9, 87.5, 86.5, 85.7, 85.1, 88.6, 87.9, 87.3, 87.2)]
    assert [line.name for line in TABLE_2][:2] == ["DLGM diagonal covariance", "DLGM+NF (k = 10)"]
    assert [(line.quoted_from, line.name) for line in TABLE_2 if line.quoted_from] == [
        *(("Salimans et al. (2015)", f"DLGM + HVI ({n} leapfrog step{'s' * (n > 1)})") for n in (1, 4, 8)),
        ("Gregor et al. (2014)", "DARN n_h = 500"),
        ("Gregor et al. (2014)", "DARN n_h = 500, adaNoise"),
    ]


def test_the_exhibit_has_ours_and_theirs_with_their_protocols():
    spec = study(exhibits="[follow-ups]")
    static, others = follow_ups(gather_results(spec.under("full"), run_all(spec, "full"))).tables
    rows = {(row.name, row.entries[6].text): [e.display for e in row.entries] for row in (*static.rows, *others.rows)}
    assert rows["diagonal Gaussian, K = 0", "ours"][0].startswith("≤ 90.90 ± 0.06 (3)")
    assert rows["diagonal Gaussian, K = 0", "ours"][2:6] == ["static", "2 × 400 Maxout 4", "40", "200"]
    assert rows["VAE", "pythae"][:6] == ["89.78 ± 0.01", "–", "static", "1 × 400 ReLU", "40", "200"]
    assert rows["VAE, 2 layers, k = 1", "Burda et al. (2016)"][2:6] == [
        "static",
        "2 stochastic layers",
        "–",
        "5,000",
    ]
    assert len(static.rows) + len(others.rows) == len(rows) == len(ROWS) + 9
    assert {row.entries[2].text for row in static.rows} == {"static", "–"}
    assert "static" not in {row.entries[2].text for row in others.rows}
    line = next(line for line in to_csv(others).splitlines() if line.startswith("IAF,"))
    assert ",84.2," in line
    assert "89.78 ± 0.01" in to_markdown(static)


def test_where_each_source_was_read_stands_once_below_the_table_and_in_each_line_of_its_csv():
    spec = study(exhibits="[follow-ups]")
    static, others = follow_ups(gather_results(spec.under("full"), run_all(spec, "full"))).tables
    for table in (static, others):
        named = {row.entries[6].text for row in table.rows} - {"ours"}
        where = [f"{source.source}: {source.where}" for source in read_sources() if source.source in named]
        assert table.caption.partition("Where: ")[2].startswith(f"{'; '.join(where)}.")
    assert "Burda et al. (2016): arXiv:1509.00519, IWAE, k = 50" in to_csv(static)
