"""What the front page and README begin with where papers and exhibits come from outside, and where there is little."""

import pytest
from support.fake_runs import FakeRuns, run_all, study

from nfstudy.core import registry
from nfstudy.core.declarations import ExhibitDeclaration, Paper
from nfstudy.core.errors import ReportError
from nfstudy.core.registry import Origin
from nfstudy.report.exhibits.base import Exhibit, measured
from nfstudy.report.pages.front_markdown import NOTHING, FrontMarkdown
from nfstudy.report.pages.overview import write_front
from nfstudy.report.paper import PaperFacts
from nfstudy.report.tables import Entry, Row, Table
from nfstudy.runs.metrics import FREE_ENERGY

MINE = Origin(file="mine.py", digest="00")
LEDGER = """
- id: smith-below
  says: "Planar chains have a lower F than NICE | [of] Smith."
  where: Table 9
  exhibit: flow-length
  study: mine
  quantity: F
  level: 0.95
  inequality: {form: below, family: planar, other: nice-perm, lengths: [2]}
"""
STUDY = """
study: mine
title: Mine
paper: smith2030
data: {name: digits}
grid: {flow.family: [planar, nice-perm], flow.length: [0, 2]}
repetitions: 3
budgets: {short: {}, "a/b _c": {train.updates: 7}}
exhibits: [flow-length, theirs]
"""
SMALL = """
study: mnist
title: Small
data: {name: mnist, binarisation: static}
grid: {flow.family: [planar, nice-perm], flow.length: [0, 10, 20, 40, 80]}
repetitions: 3
budgets: {full: {}, laptop: {train.updates: 2000}}
budget: full
exhibits: [table-2, figure-4]
"""


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Have each test declare into a copy of what there is."""
    for kind in ("exhibits", "papers"):
        registry.all_of(kind)
    monkeypatch.setattr(registry, "_declared", {kind: dict(found) for kind, found in registry._declared.items()})
    registry._version += 1
    yield
    registry._version += 1


def theirs(bodies):
    rows = [
        Row(cell.label.row, (Entry(text="1.0"), *(measured(each.cells[n], FREE_ENERGY) for each in bodies)))
        for n, cell in enumerate(bodies[0].cells)
    ]
    table = Table("theirs", "F.", ("model", "paper", *(each.name for each in bodies)), tuple(rows))
    return Exhibit("theirs", "Table 9", "One line.", (table,))


def declare(bodies=theirs):
    paper = Paper(name="smith2030", label="Smith", citation="Smith (2030)", claims=lambda: LEDGER, facts=PaperFacts)
    registry.declare(paper, MINE)
    registry.declare(
        ExhibitDeclaration(
            name="theirs", paper="smith2030", make=lambda _: Exhibit("theirs", "Table 9", ""), bodies=bodies
        ),
        MINE,
    )


def front(folder, *specs, runs=None):
    """The front page of studies, each with all repetitions under its first budgets unless their runs are given."""
    stores = {}
    for spec in specs:
        stores[spec.study] = FakeRuns([r for name in spec.budgets for r in run_all(spec, name).records])
    stores |= runs or {}
    made = write_front({f"studies/{spec.study}.yaml": spec for spec in specs}, stores.__getitem__, folder)
    return made, (folder / "index.html").read_text(), FrontMarkdown(made)


def test_a_paper_from_outside_has_a_verdict_and_a_table_of_its_bodies(tmp_path):
    declare()
    made, page, text = front(tmp_path, study(STUDY))
    (opening,) = made.openings
    assert opening.figure is None
    assert text.verdict == (
        "The only claim of the paper is undecided.\n\n**Undecided:** on mine, "
        "[“Planar chains have a lower F than NICE \\| \\[of\\] Smith”](reports/mine/index.md#claims-of-the-paper)."
    )
    head = "| model | paper | [mine short](reports/mine/index.md) | [mine a/b \\_c]("
    assert f"{head}reports/mine/budget-a%252Fb%2520_c/index.md) |" in text.evidence
    assert "\n\nOne line.\n\n" in text.evidence
    assert '<a href="mine/budget-a%252Fb%2520_c/index.html">mine a/b _c</a></th>' in page
    assert page.index("The only claim") < page.index("<h2>Table 9") < page.index('class="study" id="mine"')


def test_two_papers_have_a_verdict_each(tmp_path):
    declare()
    made, page, text = front(tmp_path, study(STUDY), study(SMALL))
    assert [opening.paper.name for opening in made.openings] == ["rezende2015", "smith2030"]
    assert "Of the 18 claims of Normalizing flows, " in text.verdict
    assert "The only claim of Smith is undecided." in text.verdict
    assert 'id="paper-rezende2015"' in page
    assert 'id="paper-smith2030"' in page


def test_a_mistake_in_a_table_of_bodies_is_told_with_its_file(tmp_path):
    declare(lambda bodies: bodies[9])
    with pytest.raises(ReportError, match=r"mine\.py: exhibit theirs: IndexError"):
        front(tmp_path, study(STUDY))


def test_no_runs_at_all(tmp_path):
    made, page, text = front(tmp_path, study(SMALL), runs={"mnist": FakeRuns()})
    assert text.verdict == "Of the paper's 18 claims, none has runs yet."
    assert text.evidence == ""
    assert made.leading == set()
    assert "<h2>Table 2" not in page


def test_no_paper(tmp_path):
    made, _, text = front(tmp_path, study(STUDY.replace("smith2030", "none").replace(", theirs", "")))
    assert made.openings == []
    assert (text.verdict, text.evidence) == (NOTHING, "")


def test_every_number_of_readme_leads_to_its_run(tmp_path):
    made, _, text = front(tmp_path, study(SMALL))
    assert "[![Figure 4: effect of the flow length](reports/mnist/figures/figure-4.png)](reports/mnist/index.md)" in (
        text.verdict
    )
    pages = {name: (tmp_path / f"{folder}/index.md").read_text() for name, folder in made.folders.items()}
    rows = [line for line in text.evidence.split("### Claims")[0].splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 9
    for row in rows:
        name, _, *numbers = (cell.strip() for cell in row.strip("|").split("|"))
        assert len(numbers) == 2
        for number, (body, folder) in zip(numbers, made.folders.items(), strict=True):
            shown, _, place = number.partition("](")
            page, _, anchor = place.removesuffix(")").partition("#")
            assert page == f"reports/{folder}/index.md"
            (line,) = [line for line in pages[body].splitlines() if f'<a id="{anchor}"></a>' in line]
            assert f"| {name} |" in line
            assert f"{shown.removeprefix('[')} |" in pages[body]


def test_bodies_of_one_repetition_are_shown_where_there_are_no_others(tmp_path):
    budgets = "budgets: {full: {}, laptop: {train.updates: 2000, repetitions: 1}, once: {repetitions: 1}}"
    spec = study(SMALL.replace("budgets: {full: {}, laptop: {train.updates: 2000}}", budgets))
    _, page, text = front(tmp_path / "all", spec)
    assert "| paper | [mnist full \\*](reports/mnist/index.md) |\n" in text.evidence
    assert "mnist/budget-once/index.html" in page
    _, _, text = front(tmp_path / "two", spec, runs={"mnist": FakeRuns(run_all(spec, "laptop").records)})
    assert "| paper | [mnist laptop \\*](reports/mnist/index.md) |\n" in text.evidence


def test_a_run_that_a_page_does_not_list_is_led_to_its_list(tmp_path):
    spec = study(SMALL, repetitions="30")
    _, _, text = front(tmp_path, spec, runs={"mnist": run_all(spec, "full")})
    rows = [line for line in text.evidence.splitlines() if line.startswith(("| NICE-perm, K = 80 |", "| diagonal"))]
    assert "(reports/mnist/index.md#run-" in rows[0]
    assert rows[1].endswith("(30)](reports/mnist/index.md#runs) |")
