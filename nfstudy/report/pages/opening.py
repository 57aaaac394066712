"""What the front page and README begin with, of each paper: its verdict, a figure, and all bodies of evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nfstudy.core import registry
from nfstudy.core.declarations import Paper
from nfstudy.report.build import call_exhibit
from nfstudy.report.claims.ledger import JudgedClaim
from nfstudy.report.claims.summary import BodyReadings, Sentence, verdict_sentences
from nfstudy.report.exhibits.base import Drawing, Exhibit
from nfstudy.report.pages.study_page import Page
from nfstudy.report.shown import Shown


@dataclass(frozen=True)
class Made:
    """A study under a budget with its page, whose figures may still be drawn from."""

    shown: Shown
    page: Page

    @property
    def name(self) -> str:
        """That of the body of evidence."""
        return self.shown.results.name


@dataclass(frozen=True)
class Figure:
    """The figure that a paper's part begins with."""

    made: Made
    """Of whose report it is."""
    exhibit: Exhibit
    drawing: Drawing


@dataclass(frozen=True)
class Opening:
    """What is told of one paper before anything else."""

    paper: Paper
    sentences: tuple[Sentence, ...]
    figure: Figure | None
    exhibits: tuple[Exhibit, ...]
    """With a column for each body of evidence."""


def openings(
    papers: Sequence[Paper], made: Sequence[Made], claims: Mapping[str, Sequence[JudgedClaim]]
) -> list[Opening]:
    """Return what there is to tell of each paper; a paper without claims, runs, figure and table has no part.

    Arguments:
        papers: those that the studies rebuild.
        made: the studies that have runs, each under every budget that has a page, in the page's order.
        claims: name of a paper -> its claims, judged on every body of evidence.
    """
    found = []
    for paper in papers:
        own = [each for each in made if each.shown.results.study.paper == paper.name]
        name = paper.title if len(papers) > 1 else ""
        sentences = verdict_sentences(claims[paper.name], [_readings(each) for each in own], name)
        opening = Opening(paper, sentences, _figure(paper, own), tuple(_tables(paper, own)))
        if opening.sentences or opening.figure or opening.exhibits:
            found.append(opening)
    return found


def _readings(made: Made) -> BodyReadings:
    spans = [span for exhibit in made.page.exhibits for span in exhibit.spans]
    return BodyReadings(made.name, tuple(spans), made.shown.results.stamp)


def _figure(paper: Paper, made: Sequence[Made]) -> Figure | None:
    """Return the first figure of an exhibit of the paper that leads, of the first study whose own report has one."""
    leading = [name for name, found in registry.all_of("exhibits").items() if found.leads and found.paper == paper.name]
    for each in (each for each in made if each.shown.folder == each.shown.results.study.study):
        for exhibit in each.page.exhibits:
            if exhibit.drawings and exhibit.name in leading:
                return Figure(each, exhibit, exhibit.drawings[0])
    return None


def _tables(paper: Paper, made: Sequence[Made]) -> list[Exhibit]:
    """Return the paper's exhibits of all bodies of evidence that show them.

    Those of one repetition, whose numbers have no errors, are among them where there are no others.
    """
    found = []
    for name, declaration in registry.all_of("exhibits").items():
        bodies = [each.shown.results for each in made if name in each.shown.results.study.exhibits]
        bodies = [each for each in bodies if each.plan.repetitions > 1] or bodies
        if declaration.bodies and declaration.paper == paper.name and bodies:
            found.append(call_exhibit(name, declaration.bodies, bodies))
    return found
