"""README's part as Markdown: the verdict with its figure, the table of all bodies of evidence, the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote

from nfstudy.report.claims.ledger import BODIES_CAPTION, INCOMPLETE, side_by_side
from nfstudy.report.claims.summary import Phrase, Sentence, bodies_of
from nfstudy.report.pages.opening import Figure
from nfstudy.report.pages.overview import FrontPage
from nfstudy.report.pages.study_page import listed_runs, run_anchor
from nfstudy.report.tables import Entry, Table, markdown_text, to_markdown

REPORTS = "reports/"
"""The folder of all reports, from README's."""
PAGE = "index.md"
CLAIMS = "#claims-of-the-paper"
"""The heading of a report's ledger, as code hosts name it."""
RUNS = "#runs"
"""That of its list of runs."""
NOTHING = "No study with runs rebuilds a paper, so that there is no claim to judge."


@dataclass(frozen=True)
class FrontMarkdown:
    """What README shows of the front page."""

    front: FrontPage

    @property
    def verdict(self) -> str:
        """The verdict on each paper, with its figure."""
        parts = []
        for opening in self.front.openings:
            parts += [self._sentence(sentence) for sentence in opening.sentences]
            parts += [self._figure(opening.figure)] if opening.figure else []
        return "\n\n".join(parts or [NOTHING])

    @property
    def evidence(self) -> str:
        """The tables of all bodies of evidence, and the ledger."""
        parts = []
        for exhibit in (exhibit for opening in self.front.openings for exhibit in opening.exhibits):
            parts += [f"### {markdown_text(exhibit.title)}", *map(self._table, exhibit.tables[:1])]
            first, *rest = map(markdown_text, exhibit.text.splitlines() or [""])
            parts += [first, "\n".join(f"- {line}" for line in rest)]
        return "\n\n".join(part.rstrip("\n") for part in [*parts, *self._ledger()] if part)

    @cached_property
    def _pages(self) -> dict[str, str]:
        """Body of evidence -> the address of its page."""
        return {name: f"{REPORTS}{quote(folder)}/{PAGE}" for name, folder in self.front.folders.items()}

    @cached_property
    def _places(self) -> dict[str, str]:
        """Run id -> the address of its line; of one that is not listed, that of the list."""
        found = {}
        for each in (each for own in self.front.made.values() for each in own):
            page, listed = self._pages[each.name], {run.id for run in listed_runs(each.page)}
            for run in each.page.run_rows:
                found[run.id] = f"{page}#{run_anchor(run.id)}" if run.id in listed else f"{page}{RUNS}"
        return found

    @cached_property
    def _claims(self) -> dict[str, str]:
        """Id of a claim -> the ledger that shows what becomes of it; of one without runs, none."""
        return {claim: f"{self._pages[body]}{CLAIMS}" for claim, body in bodies_of(self.front.claims).items()}

    def _sentence(self, sentence: Sentence) -> str:
        lead = f"**{sentence.lead}:** " if sentence.lead else ""
        return lead + "".join(map(self._phrase, sentence.phrases))

    def _phrase(self, phrase: Phrase) -> str:
        place = (
            (self._places.get(phrase.run_ids[0], "") if phrase.run_ids else "")
            or self._claims.get(phrase.claim, "")
            or self._pages.get(phrase.body, "")
        )
        text = markdown_text(phrase.text)
        if place:
            return f"[{text}]({place})"
        # `markdown_text` drops the spaces at both ends, which join this phrase to others.
        before, after = (" " if end else "" for end in (phrase.text[:1] == " ", phrase.text[-1:] == " "))
        return f"{before}{text}{after}" if text else " "

    def _figure(self, figure: Figure) -> str:
        """Return a figure that leads to its place in the report, and below it whose it is."""
        folder = f"{REPORTS}{quote(figure.made.shown.folder)}"
        page = self._pages[figure.made.name]
        title = markdown_text(figure.exhibit.title)
        of = f"{title}, of [{markdown_text(figure.made.name)}]({page})."
        return f"[![{title}]({folder}/figures/{figure.drawing.id}.png)]({page})\n\n{of}"

    def _table(self, table: Table) -> str:
        heads = {name: self._pages[name] for name in self._pages}
        heads |= {f"{name} *": page for name, page in self._pages.items()}
        notes = "; ".join(self._notes(table))
        text = to_markdown(table, heads, self._of_entry)
        return f"{text}\n{markdown_text(notes)}" if notes else text

    def _of_entry(self, entry: Entry) -> str:
        return self._places.get(entry.run_ids[0], "") if entry.run_ids else ""

    def _notes(self, table: Table) -> Iterator[str]:
        """Yield what is to be said of single numbers, beyond how far they are converged."""
        for row in table.rows:
            for column, entry in zip(table.columns[1:], row.entries, strict=True):
                if entry.note and entry.value is not None and not entry.marked:
                    yield f"{row.name}, {column.removesuffix(' *')}: {entry.note}"

    def _ledger(self) -> Iterator[str]:
        """Yield the ledger with its heading; nothing where no claim has runs."""
        if not self.front.bodies:
            return
        heads: Mapping[str, str] = {
            f"{name}{state}": f"{page}{CLAIMS}" for name, page in self._pages.items() for state in ("", INCOMPLETE)
        }
        yield "### Claims of the paper"
        yield to_markdown(side_by_side(self.front.claims, caption=BODIES_CAPTION, briefly=True), heads)
