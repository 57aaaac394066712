"""The exhibit `follow-ups`: what others have published of the same data, each number with the protocol behind it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from nfstudy.core.declarations import Metric
from nfstudy.core.fields import Count, Record, expected
from nfstudy.report.exhibits.base import Exhibit, bounded, cell_row, measured, remark
from nfstudy.report.labels import setting_text
from nfstudy.report.paper import Published
from nfstudy.report.statistics.estimates import CellResult, Results
from nfstudy.report.tables import Entry, Row, Table
from nfstudy.runs.metrics import FREE_ENERGY, NLL
from nfstudy.study.yaml_document import Document, shown

FILE = "follow_ups.yaml"
NOT_STATED = "–"
CAPTION = (
    "−ln p(x) and F on the MNIST test set, in nats per image, lower is better; in italics as others have published "
    "them. Rows compare only where binarisation, model and number of samples are alike, and −ln p(x) not with F. "
    "–: not stated in what was read. Source: in how many sources a number was read; none is from memory."
)
TABLES = {
    "follow-ups": "Static binarisation, as the paper has it, and the rows that its Table 2 quotes.",
    "follow-ups-others": "Other binarisations, or none that is stated.",
}
"""Table -> what is in it."""
QUOTED = "Rezende & Mohamed (2015), Table 2"

Printed = Annotated[str, Field(pattern=r"^\d+\.\d+( ± \d+\.\d+)?$")]
"""A number as printed, with its spread where one is."""
Confidence = Literal["one source", "two sources"]
Binarisation = Literal["static", "dynamic", "threshold", "grey levels"]


class FollowUp(Record):
    """A published row; what it leaves out is that of its source."""

    name: str
    nll: Printed | None = None
    """−ln p(x), in nats per image."""
    bound: Printed | None = None
    """F, in nats per image."""
    binarisation: Binarisation | None = None
    model: str | None = None
    latent: Count | None = None
    samples: Count | None = None
    note: str | None = None
    confidence: Confidence | None = None


class Source(Record):
    """Who has published rows, where they were read, and what they have in common."""

    source: str
    where: str
    confidence: Confidence
    binarisation: Binarisation | None = None
    model: str | None = None
    latent: Count | None = None
    samples: Count | None = None
    note: str | None = None
    rows: Annotated[tuple[FollowUp, ...], Field(min_length=1)]

    def of(self, row: FollowUp, field: str) -> str:
        """Return what holds of a row, in words: its own, or that of all; `NOT_STATED` where there is neither."""
        found = getattr(row if field in row.model_fields_set else self, field)
        return NOT_STATED if found is None else setting_text(found)


@cache
def read_sources() -> tuple[Source, ...]:
    """Read the published rows; raises SpecError with line and key where the file is not as its records say."""
    return parse_sources((files(__package__) / FILE).read_text(encoding="utf-8"))


def parse_sources(text: str) -> tuple[Source, ...]:
    """Check a text of published rows; raises as `read_sources` does."""
    document = Document(text, FILE)
    try:
        return TypeAdapter(tuple[Source, ...]).validate_python(document.tree())
    except ValidationError as error:
        document.fail(
            (each["loc"], f"got {shown(each['input'])}; expected: {expected(each)}") for each in error.errors()
        )
        raise


def follow_ups(results: Results) -> Exhibit:
    """List our cells and what others have published of MNIST, each with its protocol."""
    rows: dict[str, list[Row]] = {name: [] for name in TABLES}
    read: dict[str, dict[str, str]] = {name: {} for name in TABLES}
    for result in results.cells:
        row, static = _our_row(result), result.cell.flat().get("data.binarisation") == "static"
        rows["follow-ups" if static else "follow-ups-others"].append(row)
    for source in read_sources():
        for published in source.rows:
            here = source.where == QUOTED or source.of(published, "binarisation") == "static"
            name = "follow-ups" if here else "follow-ups-others"
            rows[name].append(_published_row(source, published))
            read[name][source.source] = source.where
    columns = ("row", NLL.title, FREE_ENERGY.title, "binarisation", "model", "D", "samples", "by", "source", "note")
    tables = [
        Table(
            name,
            bounded(f"{words} {CAPTION} {_where(read[name])}", results),
            columns,
            tuple(rows[name]),
            in_markdown=name == "follow-ups",
        )
        for name, words in TABLES.items()
    ]
    return Exhibit("follow-ups", "What others have published of MNIST", "", tuple(tables))


def _where(read: Mapping[str, str]) -> str:
    """Say where the rows of each source were read."""
    return f"Where: {'; '.join(f'{source}: {where}' for source, where in read.items())}."


def _our_row(result: CellResult) -> Row:
    settings = result.cell.settings
    numbers = [measured(result, quantity) for quantity in (NLL, FREE_ENERGY)]
    protocol = (
        str(result.cell.flat().get("data.binarisation", NOT_STATED)),
        f"{settings.model.layers} × {settings.model.hidden} Maxout {settings.model.maxout}",
        setting_text(settings.model.latent),
        setting_text(settings.evaluation.samples),
        "ours",
        "logged runs",
    )
    return cell_row(result, [*numbers, *(Entry(text=text) for text in protocol), remark(numbers)])


def _published_row(source: Source, row: FollowUp) -> Row:
    certainty, note = source.of(row, "confidence"), source.of(row, "note")
    numbers = [
        _published(quantity, printed, f"{source.source}: {source.where}, {row.name}", certainty)
        for quantity, printed in ((NLL, row.nll), (FREE_ENERGY, row.bound))
    ]
    texts = [
        *(source.of(row, field) for field in ("binarisation", "model", "latent", "samples")),
        source.source,
        certainty,
        "" if note == NOT_STATED else note,
    ]
    return Row(row.name, (*numbers, *(Entry(text=text) for text in texts)))


def _published(quantity: Metric, printed: str | None, source: str, confidence: str) -> Entry:
    """Return the entry of a number as printed; its CSV line has the value."""
    if printed is None:
        return Entry(text="–")
    value, _, spread = printed.partition(" ± ")
    found = Published(float(value), source, confidence, float(spread) if spread else None, printed)
    return Entry(quantity=quantity, reference=found, note=printed)
