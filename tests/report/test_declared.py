"""Exhibits, metrics, families and papers from outside: what a report makes of them, and of their mistakes."""

from pathlib import Path
from typing import Literal

import pytest
from support.fake_runs import FakeRuns, run_all, study

from nfstudy.cli.check_plugin import check_declaration
from nfstudy.core import registry
from nfstudy.core.declarations import ExhibitDeclaration, ExhibitOptions, FlowFamily, Metric, Paper
from nfstudy.core.errors import ReportError, SpecError, UserError
from nfstudy.core.fields import Positive, Record
from nfstudy.core.plugins import install, read_plugin
from nfstudy.core.registry import Origin
from nfstudy.report.build import build_report, call_readme, make_exhibit, make_report
from nfstudy.report.claims.judge import all_claims
from nfstudy.report.exhibits.base import Exhibit
from nfstudy.report.labels import Label, family_name
from nfstudy.report.pages.readme import results_text, shown_exhibits
from nfstudy.report.paper import PaperFacts, Published
from nfstudy.report.plots.curves import family_colour
from nfstudy.report.shown import placed
from nfstudy.report.statistics.estimates import gather_results
from nfstudy.report.tables import Entry, Row, Table
from nfstudy.study.reader import parse_study

EXAMPLE = Path(__file__).parents[2] / "examples" / "exhibit"
MINE = Origin(file="mine.py", digest="00")
STUDY = """
study: mine
title: Mine
paper: none
data: {name: digits}
grid: {flow.family: [planar, radial], flow.length: [0, 2]}
repetitions: 2
exhibits: [active-units, flow-length, summary, effects]
"""
MNIST = STUDY.replace("digits", "mnist").replace("active-units, ", "")


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Have each test declare into a copy of what there is."""
    for kind in ("flows", "metrics", "exhibits", "papers"):
        registry.all_of(kind)
    monkeypatch.setattr(registry, "_declared", {kind: dict(found) for kind, found in registry._declared.items()})
    monkeypatch.setattr("nfstudy.core.plugins._installed", {})
    registry._version += 1
    yield
    registry._version += 1


def with_units(spec, *units):
    """Runs of a study, the first of which have logged active units."""
    runs = run_all(spec, spec.budget)
    for record, count in zip(runs.records, units, strict=False):
        record["test/active_units"] = float(count)
    return runs


def report_of(spec, runs, tmp_path):
    build_report(spec.under(), runs, tmp_path / "report")
    return (tmp_path / "report" / "index.md").read_text()


def install_example():
    install(read_plugin("active_units.py", EXAMPLE))


def test_an_exhibit_from_outside_shows_its_own_metric(tmp_path):
    install_example()
    spec = study(STUDY)
    text = report_of(spec, with_units(spec, *range(4, 10)), tmp_path)
    assert "| diagonal Gaussian, K = 0 | 4.5 ± 0.5 (2) |" in text
    assert "active units" in (tmp_path / "report" / "tables" / "summary.md").read_text()
    assert (tmp_path / "report" / "figures" / "active-units.svg").exists()


def test_runs_from_before_the_metric_have_none_and_the_report_is_made(tmp_path):
    install_example()
    spec = study(STUDY)
    text = report_of(spec, run_all(spec, spec.budget), tmp_path)
    assert "No run has logged them." in text
    assert "2 without a finite value" in text


def test_a_study_of_no_paper_has_no_claims_and_no_paper(tmp_path):
    install_example()
    spec = study(STUDY)
    text = report_of(spec, with_units(spec, 4, 5, 6, 7, 8, 9), tmp_path)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Rezende" not in text + page
    assert "paper" not in (text + page).lower()
    assert "| setting | value |\n|:--------|:------|\n| data.name | digits |\n" in text


def test_a_study_says_nothing_of_a_paper_that_it_is_not_of():
    spec = study(MNIST)
    runs = run_all(spec, spec.budget)
    part = results_text(placed([gather_results(spec.under(), runs)]), {f"mine {spec.budget}": 1})
    assert "paper" not in part


def test_a_second_paper_brings_its_numbers_settings_and_claims(tmp_path):
    class Facts(PaperFacts):
        repetitions = 7

        def find(self, where, quantity, family, length):
            return Published(90.0, "Table 9", "printed") if (quantity, family, length) == ("F", "none", 0) else None

        def stated_settings(self, flat):
            return {"train.batch": 20}

    ledger = """
    - id: diagonal-f
      says: "The diagonal Gaussian has the F of Table 9."
      where: Table 9
      exhibit: flow-length
      study: mine
      quantity: F
      level: 0.95
      inequality: {form: near, cells: {none: [0]}, tolerance: 20.0}
    """
    registry.declare(
        Paper(name="smith2030", citation="Smith (2030)", claims=lambda: ledger, facts=lambda: Facts()), MINE
    )
    assert [claim.id for claim in all_claims()][-1] == "diagonal-f"
    spec = study(MNIST.replace("paper: none", "paper: smith2030"))
    text = report_of(spec, run_all(spec, spec.budget), tmp_path)
    assert "- **Paper:** Smith (2030)" in text
    assert "| train.batch | 100 | 20 |" in text
    assert "Of 1 claims about these cells: 1 supported." in text
    assert "mnist-planar" not in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ("paper: none", "paper: rezende2014"),
            r"mine.yaml:4:8: paper: got 'rezende2014'; expected: none, rezende2015",
        ),
        (("summary", "sumary"), r"exhibits.2: got 'sumary'; .*did you mean 'summary'"),
        (
            ("data: {name: digits}", "energy: {name: u1}"),
            r"got 'active-units' with no data.name; expected: with",
        ),
    ],
    ids=["paper", "exhibit", "needs"],
)
def test_a_mistake_is_told_when_the_study_is_read(changes, message):
    install_example()
    with pytest.raises(SpecError, match=message):
        parse_study(STUDY.replace(*changes), "mine.yaml")


def broken(results):
    raise KeyError("no such column")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (broken, r"mine.py: exhibit mine: KeyError: 'no such column' \(.*test_declared.py:\d+\); no run is lost"),
        (lambda results: "a text", r"mine.py: exhibit mine: got str; expected: an Exhibit of report"),
        ("not.there:make", r"mine.py: exhibit mine: ModuleNotFoundError"),
    ],
    ids=["fails", "makes none", "is not there"],
)
def test_an_exhibit_that_fails_is_named_and_no_run_is_lost(make, message):
    registry.declare(ExhibitDeclaration(name="mine", make=make), MINE)
    spec = study(STUDY.replace("active-units", "mine"))
    with pytest.raises(ReportError, match=message):
        make_report(gather_results(spec.under(), run_all(spec, spec.budget)))


@pytest.mark.parametrize(
    ("readme", "message"),
    [
        (broken, r"mine.py: exhibit mine: KeyError: 'no such column' \(.*; no run is lost"),
        (lambda results: "a text", r"mine.py: exhibit mine: got str; expected: a Table of report"),
    ],
)
def test_a_short_table_that_fails_is_named(readme, message):
    registry.declare(ExhibitDeclaration(name="mine", make=lambda results: None, readme=readme), MINE)
    with pytest.raises(ReportError, match=message):
        call_readme("mine", readme, None)


def test_readme_shows_the_tables_of_papers_first():
    def readme(results):
        raise AssertionError

    registry.declare(ExhibitDeclaration(name="mine", make=lambda results: Exhibit("", "", ""), readme=readme), MINE)
    assert list(shown_exhibits()) == ["table-2", "table-3", "energies", "mine"]


def test_families_of_ours_keep_names_and_colours():
    names = ["none", "planar", "radial", "nice-perm", "nice-orth", "iaf", "sylvester", "householder", "full-covariance"]
    names += ["realnvp", "glow", "spline", "hamiltonian", "langevin"]
    assert [family_name(name) for name in names] == [
        "diagonal Gaussian",
        "NF (planar)",
        "NF (radial)",
        "NICE-perm",
        "NICE-orth",
        "IAF",
        "Sylvester",
        "Householder",
        "full covariance",
        "RealNVP",
        "Glow",
        "spline",
        "HVI",
        "Langevin",
    ]
    assert [registry.find("flows", name).colour for name in names] == [7, 0, 2, 1, 4, 5, 3, 22, 18, 9, 21, 20, 23, 24]


def test_other_families_have_colours_of_their_own_and_nothing_fails_for_want_of_a_name():
    before = {name: family_colour(name) for name in registry.all_of("flows")}
    for number in range(30):
        registry.declare(FlowFamily(name=f"mine-{number}", implementation="not.there:Flow"), MINE)
    colours = [family_colour(f"mine-{number}") for number in range(8)]
    assert len({*colours, *before.values()}) == len(colours) + len(before)
    assert {name: family_colour(name) for name in before} == before
    assert family_colour("mine-29")
    assert family_colour("nobody's")
    assert Label("nobody's", 3, (("flow.unheard_of", 0.5),)).row == "nobody's, K = 3, unheard of = 0.5"


def test_an_exhibit_is_made_without_runs():
    install_example()
    spec = study(STUDY)
    made = make_exhibit("active-units", gather_results(spec.under(), FakeRuns()))
    assert made.drawings == ()


class FindsWithLess(PaperFacts):
    def find(self, where, quantity):
        return None


class FindsNumbers(PaperFacts):
    def find(self, where, quantity, family, length):
        return 89.9


class StatesNothing(PaperFacts):
    def stated_settings(self, flat):
        return None


class DepartsInOneWord(PaperFacts):
    def departures(self, settings):
        return "all"


NEAR = """
- id: smith-near
  says: The number is Smith's.
  where: Table 1
  exhibit: summary
  study: mine
  quantity: F
  level: 0.95
  inequality: {form: near, cells: {planar: [2]}, tolerance: 1.0}
"""

BAD_PAPERS = {
    "facts whose numbers are bare": (
        {"facts": FindsNumbers, "claims": lambda: NEAR},
        r"FindsNumbers\.find: returned 89\.9; expected: a Published or None",
    ),
    "a claim about a number that the paper lacks": (
        {"facts": PaperFacts, "claims": lambda: NEAR},
        "claim smith-near/planar,K=2: the paper gives no F there; expected: its own cells",
    ),
    "facts of fewer arguments": (
        {"facts": FindsWithLess},
        r"facts: find: got a function \(where, quantity\);",
    ),
    "facts that are none": ({"facts": lambda: 3}, "papers smith2030: facts: got 3; expected: a PaperFacts"),
    "facts that are nowhere": ({"facts": "no.such:FACTS"}, "papers smith2030: facts: cannot be loaded: No module"),
    "claims that are no text": ({"claims": lambda: None}, "smith2030: claims: got nothing .null.; expected: text"),
    "claims without a file": ({"claims": "nfstudy.papers:none.yaml"}, "claims: got 'nfstudy.papers:none.yaml', which"),
    "claims without a package": ({"claims": "no.such:claims.yaml"}, "claims: got 'no.such:claims.yaml', which cannot"),
}


@pytest.mark.parametrize("case", BAD_PAPERS)
def test_a_paper_that_is_not_as_it_is_declared_is_named(case):
    fields, words = BAD_PAPERS[case]
    with pytest.raises(ReportError, match=words):
        check_declaration(Paper(name="smith2030", citation="Smith (2030)", **fields))


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: StatesNothing().stated_settings({}), "StatesNothing.stated_settings: returned None; expected: a map"),
        (lambda: DepartsInOneWord().departures(None), "DepartsInOneWord.departures: returned 'all'; expected: a seq"),
    ],
    ids=["stated settings", "departures"],
)
def test_what_a_paper_says_is_of_its_types(ask, words):
    with pytest.raises(ReportError, match=words):
        ask()


def test_an_exhibits_axes_are_settings_by_option():
    class Options(ExhibitOptions):
        along: str = "flow.length"

        def axes(self):
            return [self.along]

    registry.declare(ExhibitDeclaration(name="mine", make=lambda results, options: None, options=Options), MINE)
    with pytest.raises(
        SpecError, match=r"exhibits\.0: axes of its options: returned .*; expected: a mapping of text to"
    ):
        study(STUDY.replace("[active-units, flow-length, summary, effects]", "[mine]"))


@pytest.mark.parametrize("declared", [Metric, ExhibitDeclaration])
def test_a_need_that_no_run_can_meet_is_named(declared):
    fields = {
        Metric: {"name": "test/mine", "meaning": "mine", "unit": "", "compute": lambda problem, generator: 1.0},
        ExhibitDeclaration: {"name": "mine", "make": lambda results: None},
    }
    with pytest.raises(UserError, match=r"mine: needs: got 'flow\.lenght'; expected: the dotted .*'flow\.length'"):
        check_declaration(declared(**fields[declared], needs={"flow.lenght": (2,)}))
    for path, value, words in (
        ("flow.family", "planr", "flow.family: got 'planr'; expected: .*did you mean 'planar'"),
        ("data.name", "mnsit", "data.name: got 'mnsit'; expected: .*did you mean 'mnist'"),
        ("data.binarisation", "statik", "data.binarisation: got 'statik'; expected: 'static'"),
        ("model.latent", "2", "model.latent: got '2'; expected: integer"),
        ("model.latent", True, "model.latent: got True; expected: integer"),
        ("energy.name", "u9", "energy.name: got 'u9'; expected: 'u1'"),
    ):
        with pytest.raises(UserError, match=f"mine: needs: {words}"):
            check_declaration(declared(**fields[declared], needs={path: (value,)}))
    possible = {"flow.length": (0, 80), "train.schedule.name": ("StepLR",), "drawn.density": ("normal",), "seed": ()}
    assert check_declaration(declared(**fields[declared], needs=possible))


@pytest.mark.parametrize(
    ("field", "default", "words"),
    [
        (Positive, -1.0, r"default of size: got -1\.0; expected: greater than 0"),
        (int, 1.5, r"default of size: got 1\.5; expected: a valid integer"),
        (Literal["a", "b"], "c", r"default of size: got 'c'; expected: 'a' or 'b'"),
    ],
)
def test_a_default_keeps_to_its_own_bounds(field, default, words):
    class Sized(Record):
        size: field = default

    with pytest.raises(ValueError, match=f"flows mine: settings: {words}"):
        FlowFamily(name="mine", implementation="math:pi", settings=Sized)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (Exhibit("mine", "Mine", ("text",)), "its text: got .'text',.; expected: text"),
        (
            Exhibit("mine", "Mine", "text", [Table("t", "c", ("row",), ())]),
            "its tables: got .*; expected: a tuple",
        ),
        (
            Exhibit("mine", "Mine", "text", (Table("t", "c", ("row", "n"), (Row("a", (Entry(text=3),)),)),)),
            "its tables.0.rows.0.entries.0.text: got 3; expected: text",
        ),
    ],
    ids=["text", "a list", "a number"],
)
def test_an_exhibit_whose_parts_are_not_of_their_types_is_named(made, words):
    registry.declare(ExhibitDeclaration(name="mine", make=lambda results: made), MINE)
    with pytest.raises(ReportError, match=f"exhibit mine: {words}"):
        make_exhibit("mine", None)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("../evil", "", "exhibit mine: tables: got the id '../evil'; expected: a file's name, or a path that stays"),
        ("a/../../../evil", "", "exhibit mine: tables: got the id 'a/../../../evil'; expected: a file's name"),
        ("/tmp/evil", "", "exhibit mine: tables: got the id '/tmp/evil'; expected: a file's name"),
        ("", "", "exhibit mine: tables: got the id ''; expected: a file's name"),
        ("a\nb", "", "exhibit mine: tables: got the id .*; expected: a file's name"),
        ("t", "t", "exhibit mine: tables: got the id 't'; expected: one that exhibit mine does not have"),
        ("summary", "", "got the id 'summary'; expected: one that exhibit (mine|summary) does not have"),
    ],
)
def test_a_table_writes_no_file_but_its_own(first, second, words, tmp_path):
    tables = tuple(Table(name, "c", ("row",), ()) for name in (first, second)[: 1 + bool(second)])
    made = Exhibit("mine", "Mine", "text", tables)
    registry.declare(ExhibitDeclaration(name="mine", make=lambda results: made), MINE)
    spec = study(STUDY.replace("[active-units, flow-length, summary, effects]", "[mine, summary]"))
    with pytest.raises(ReportError, match=words):
        report_of(spec, run_all(spec, spec.budget), tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == []


def test_a_published_number_is_one():
    with pytest.raises(ValueError, match="Published: value: got '40'; expected: a number"):
        Published("40", "Table 1", "printed")
