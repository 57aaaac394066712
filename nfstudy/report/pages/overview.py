"""The front page: all studies on one page, with the runs behind every number inside it, so that it needs no server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nfstudy.core import registry
from nfstudy.core.declarations import Paper
from nfstudy.core.errors import StudyDeletedError, untold
from nfstudy.report.build import MANIFEST, Report, make_report, manifest, write_files
from nfstudy.report.claims.inequalities import GROUPS, read_claims
from nfstudy.report.claims.judge import judge_bodies
from nfstudy.report.claims.ledger import BODIES_CAPTION, CAPTION, JudgedClaim, body_names, ledger_table
from nfstudy.report.claims.verdicts import VERDICTS, ClaimVerdict
from nfstudy.report.exhibits.base import stamped
from nfstudy.report.pages.drawings import dark_rules
from nfstudy.report.pages.embedded import embed_runs
from nfstudy.report.pages.opening import Made, Opening, openings
from nfstudy.report.pages.study_page import Page, embed_drawings, environment, run_line
from nfstudy.report.shown import Shown, gather_fullest, placed, repeated_bodies, shown_bodies
from nfstudy.report.statistics.estimates import Results
from nfstudy.report.tables import Row, Table
from nfstudy.runs.archive.runs import ArchivedRuns
from nfstudy.runs.former import runs_of_study
from nfstudy.runs.frame import LoggedRuns
from nfstudy.study.spec import StudySpec

_SHOWN_OF_A_PART = ("verdict", "ours", "interval", "paper", "note")
"""Columns of the ledger; a number opens its runs, so they need none."""
_JSON = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}


@dataclass(frozen=True)
class FrontPage:
    """All that the template shows."""

    reports: Mapping[str, Report]
    """Study file -> its report, for the studies that have runs."""
    made: Mapping[str, Sequence[Made]]
    """Of these, study file -> the study under each budget that has a page, that of the report first."""
    idle: Mapping[str, StudySpec]
    """Study file -> study, for those that have none."""
    claims: Sequence[JudgedClaim]
    """The ledgers of the papers."""
    parts: Mapping[tuple[str, str], Table]
    """(id of a claim, body of evidence) -> its parts that have runs."""
    papers: Sequence[Paper]
    """Those that the studies rebuild."""
    openings: Sequence[Opening]
    """What is told of each of them first."""

    @property
    def title(self) -> str:
        """What stands over the page."""
        return _over([paper.long_title for paper in self.papers])

    @property
    def short_title(self) -> str:
        """What a browser's tab shows."""
        return _over([paper.title for paper in self.papers])

    @property
    def bodies(self) -> list[str]:
        """The bodies of evidence that bear on any claim."""
        return body_names(self.claims)

    def verdicts(self, body: str) -> list[tuple[str, int]]:
        """(verdict, how many claims) of one body of evidence, in the ledger's order of verdicts."""
        counts = Counter(claim.bodies[body].verdict for claim in self.claims if body in claim.bodies)
        return [(word, counts[word]) for word in VERDICTS]

    @property
    def groups(self) -> list[tuple[str, list[JudgedClaim]]]:
        """(heading, claims) of each group that has any."""
        found = [(text, [c for c in self.claims if c.claim.group == group]) for group, text in GROUPS.items()]
        return [(text, claims) for text, claims in found if claims]

    @property
    def pages(self) -> list[Page]:
        """The studies that have runs."""
        return [report.page for report in self.reports.values()]

    @property
    def all_shown(self) -> list[Shown]:
        """The studies that have runs, each under every budget that has a page."""
        return [each.shown for own in self.made.values() for each in own]

    @property
    def folders(self) -> dict[str, str]:
        """Body of evidence -> the folder of its page."""
        return {each.results.name: each.folder for each in self.all_shown}

    @property
    def leading(self) -> set[tuple[str, str]]:
        """(folder of a report, id) of the figures that stand at the head of the page."""
        figures = [opening.figure for opening in self.openings if opening.figure]
        return {(figure.made.shown.folder, figure.drawing.id) for figure in figures}

    @property
    def done(self) -> int:
        """How many of the `cells` are."""
        return sum(len(each.results.cells) - len(each.results.unfinished) for each in self.all_shown)

    @property
    def cells(self) -> int:
        """How many cells the studies that have runs have, under all budgets that have a page."""
        return sum(len(each.results.cells) for each in self.all_shown)

    @property
    def outcomes(self) -> list[tuple[str, int]]:
        """(outcome, how many runs), by name."""
        counts = Counter(outcome for each in self.all_shown for outcome in each.results.runs["outcome"])
        return sorted(counts.items())


def _over(titles: Sequence[str]) -> str:
    """Return the page's title from those of the papers."""
    if not titles:
        return "Studies of normalizing flows"
    return f"{'; '.join(titles)}: the {'paper' if len(titles) == 1 else 'papers'} and our runs"


def build_front(
    studies: Mapping[str, StudySpec],
    runs_of: Callable[[str], LoggedRuns],
    folder: Path,
    is_active: Callable[[str], bool] = lambda _: False,
    tell: Callable[[str], None] = untold,
) -> Path:
    """Write the report of every study that has runs, and the front page over all of them; return the page's path.

    Arguments and errors are those of `write_front`.
    """
    write_front(studies, runs_of, folder, is_active, tell)
    return folder / "index.html"


def write_front(
    studies: Mapping[str, StudySpec],
    runs_of: Callable[[str], LoggedRuns],
    folder: Path,
    is_active: Callable[[str], bool] = lambda _: False,
    tell: Callable[[str], None] = untold,
) -> FrontPage:
    """Write the report of every study that has runs, and the front page over all of them; return what the page shows.

    What is missing is marked, never refused. The same runs give the same bytes, and files are swapped in as those of
    a single report are. Studies that show a table or figure of the paper come first, those without runs last; else
    they stand in the order given.

    Arguments:
        studies: study file, as one would type it, -> the study; their names are distinct.
        runs_of: name of a study -> its logged runs.
        folder: where to write, such as `reports`; each study gets a folder in it.
        is_active: whether a coordinator is at work on a study now.
        tell: is told what people should know of the runs, such as those that are left out.

    Raises:
        ReportError: a folder holds something else than an earlier report of its study.
    """
    ordered = sorted(studies.items(), key=lambda item: _rank(item[1]))
    found = {
        path: _gather(study, runs_of_study(study, runs_of), any(map(is_active, study.logged_names)))
        for path, study in ordered
    }
    for note in dict.fromkeys(note for (first, *_) in found.values() for note in first.results.notes):
        tell(note)
    shown = {path: own for path, own in found.items() if len(own[0].results.runs)}
    reports: dict[str, Report] = {}
    made: dict[str, list[Made]] = {}
    for path, own in shown.items():
        for each in own:
            report = make_report(each.results, each.others, each.home)
            write_files(folder / each.folder, report.files, each.results.study.study)
            reports.setdefault(path, report)
            made.setdefault(path, []).append(Made(each, report.page))
    idle = {path: study for path, study in studies.items() if path not in reports}
    named = {study.paper for study in studies.values()}
    papers = [paper for name, paper in registry.all_of("papers").items() if name in named]
    bodies = [each.results for path in studies if path in shown for each in repeated_bodies(shown[path])]
    judged = {paper.name: judge_bodies(read_claims(paper), bodies) for paper in papers}
    claims = [claim for own in judged.values() for claim in own]
    opened = openings(papers, [each for own in made.values() for each in own], judged)
    front = FrontPage(reports, made, idle, claims, _parts_of(claims, bodies), papers, opened)
    files = {"index.html": _render(front).encode()}
    write_files(folder, {**files, MANIFEST: manifest({"studies": _contents(front)}, files)}, None)
    return front


def _gather(study: StudySpec, runs: LoggedRuns, active: bool) -> tuple[Shown, ...]:
    """Read a study that may have been deleted from the store: then it has no runs, and a note says how to have them."""
    try:
        return shown_bodies(study, runs, active)
    except StudyDeletedError as error:
        return placed([replace(gather_fullest(study, ArchivedRuns()), notes=(str(error),))])


def _rank(study: StudySpec) -> int:
    """Return the place of a study's first exhibit of a paper among all, as papers declare them; without one, the last.

    So MNIST, of the first table that a paper declares, stands before CIFAR-10.
    """
    declared = [name for name, found in registry.all_of("exhibits").items() if found.paper]
    return min((declared.index(name) for name in study.exhibits if name in declared), default=len(declared))


def _parts_of(claims: Sequence[JudgedClaim], bodies: Sequence[Results]) -> dict[tuple[str, str], Table]:
    """Return (id of a claim, body) -> the ledger's lines of its parts, each under its statement."""
    by_name = {results.name: results for results in bodies}
    return {
        (judged.claim.id, body): _parts(found, by_name[body])
        for judged in claims
        for body, found in judged.bodies.items()
    }


def _parts(found: ClaimVerdict, results: Results) -> Table:
    """Return the ledger's lines of a claim's parts on one body of evidence, each under its statement."""
    table = ledger_table([found], results)
    columns = table.columns[1:]
    kept = [place for place, column in enumerate(columns) if column in _SHOWN_OF_A_PART]
    rows = tuple(
        Row(row.entries[columns.index("statement")].text, tuple(row.entries[place] for place in kept))
        for row in table.rows[1:]
    )
    headers = ("statement", *(columns[place] for place in kept))
    caption = stamped(f"{results.name}, in nats. Ours: mean ± standard error (number of repetitions).", results)
    return Table(f"claim-{found.claim.id}", caption, headers, rows)


def _render(front: FrontPage) -> str:
    lines = {
        run_id: f"{quote(each.folder)}/index.html{run_line(run_id)}"
        for each in front.all_shown
        for run_id in each.results.runs["run_id"]
    }
    pictures = {path: _pictures(report) for path, report in front.reports.items()}
    of_study = {report.page.results.study.study: pictures[path] for path, report in front.reports.items()}
    made = environment()
    made.policies["json.dumps_kwargs"] = _JSON
    return made.get_template("front.html.jinja").render(
        front=front,
        caption=CAPTION,
        bodies_caption=BODIES_CAPTION,
        heads={name: f"{quote(folder)}/index.html" for name, folder in front.folders.items()},
        version=version("nfstudy"),
        pictures=pictures,
        of_study=of_study,
        dark=dark_rules(drawing for own in pictures.values() for drawing in own.values()),
        lines=lines,
        rows=[(each, Page(each.results, (), "")) for each in front.all_shown],
        runs=embed_runs({each.folder: each.results for each in front.all_shown}),
    )


def _pictures(report: Report) -> dict[str, str]:
    """Return figure's id -> the element that shows it."""
    ids = [drawing.id for exhibit in report.page.exhibits for drawing in exhibit.drawings]
    files = {id: report.files[f"figures/{id}.svg"] for id in ids}
    return embed_drawings(report.page, files, f"{report.page.results.study.study}-")


def _contents(front: FrontPage) -> Sequence[dict[str, Any]]:
    return [
        {
            "study": each.results.study.study,
            "budget": each.results.budget,
            "manifest": f"{each.folder}/{MANIFEST}",
        }
        for each in front.all_shown
    ]
