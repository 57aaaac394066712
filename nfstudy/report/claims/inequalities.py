"""A paper's claims as records, read from the ledger beside its declaration, and the inequalities each comes down to.

A claim has one form, such as `falls`; it expands to parts, each of them one linear contrast of a quantity between
cells, with bounds: lower < Σ_i c_i x(cell_i) < upper. `nfstudy.report.claims.ledger` judges them on logged runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PrivateAttr, TypeAdapter, ValidationError

from nfstudy.core import registry
from nfstudy.core.declarations import Kind, Metric, Paper
from nfstudy.core.errors import ReportError
from nfstudy.core.fields import Positive, Record, expected
from nfstudy.report.labels import Label, setting_name, setting_text
from nfstudy.report.paper import PaperFacts, Published, facts_of
from nfstudy.report.statistics.contrasts import combine
from nfstudy.report.statistics.estimates import BOUNDS
from nfstudy.report.tables import format_number
from nfstudy.runs.metrics import unit_of
from nfstudy.study.sections import DataSpec
from nfstudy.study.spec import Scalar
from nfstudy.study.yaml_document import Document, shown

QUANTITIES = {quantity.title: quantity for quantity in BOUNDS}
"""Name in a ledger -> metric."""

QUANTITY_MARK = "{quantity}"
"""What stands for the claim's quantity in a `Brief`."""

Group = Literal["order", "gain", "level"]
"""What a claim is about: which of our cells is lower, or how alike they are; how much a longer flow gains, beside the
paper's gain; or the level of a number, beside the paper's."""

GROUPS: Mapping[Group, str] = {
    "order": "Order: our cells against each other",
    "gain": "Gain: a difference of ours against the paper's",
    "level": "Level: numbers of ours against the paper's",
}
"""In the order in which they are shown, each with its heading."""

Length = Annotated[int, Field(ge=0, le=100_000)]
Lengths = Annotated[tuple[Length, ...], Field(min_length=1)]


def _known(kind: Kind) -> AfterValidator:
    """Return what refuses a name that nothing of its kind has."""

    def check(name: str) -> str:
        if name not in registry.all_of(kind):
            raise ValueError(f"expected: {registry.allowed(kind, name)}")
        return name

    return AfterValidator(check)


Family = Annotated[str, _known("flows")]
Place = tuple[Family, int]
"""A flow's family and its length K; (none, 0) is the diagonal Gaussian that every family starts from."""

Terms = tuple[tuple[int, Place], ...]
"""(c_i, cell_i) of a contrast."""


@dataclass(frozen=True)
class Inequality:
    """lower < Σ_i c_i x(cell_i) < upper, in the quantity's unit."""

    name: str
    """Within its claim, such as `K=10..20`."""
    terms: Terms
    upper: float = 0.0
    lower: float = -math.inf
    about_paper: bool = False
    """Whether both bounds are relative to the paper's value of the same contrast."""
    distances: bool = False
    """Whether absolute values are compared: |the first half of the terms| − |the second half|."""

    def combine(self, numbers: Sequence[float]) -> float:
        """Return what is bounded, from x(cell_i) in the order of the terms."""
        return combine([c for c, _ in self.terms], numbers, self.distances)


def _place(family: Family, length: int) -> Place:
    return (family, length) if length else ("none", 0)


class Falls(Record):
    """x(K′) − x(K) < 0 for neighbouring lengths K, K′ of a family, and for its first and last."""

    form: Literal["falls"]
    family: Family
    lengths: Annotated[tuple[Length, ...], Field(min_length=2)]

    def inequalities(self) -> Iterator[Inequality]:
        """Yield one inequality a step, and the overall one where there are several steps."""
        overall = (self.lengths[0], self.lengths[-1])
        for short, long in dict.fromkeys((*itertools.pairwise(self.lengths), overall)):
            terms = ((1, _place(self.family, long)), (-1, _place(self.family, short)))
            yield Inequality(f"K={short}..{long}", terms)


class Below(Record):
    """x(family, K) − x(other, K) < 0 for each length K."""

    form: Literal["below"]
    family: Family
    other: Family
    lengths: Lengths

    def inequalities(self) -> Iterator[Inequality]:
        """Yield one inequality a length."""
        for length in self.lengths:
            yield Inequality(f"K={length}", ((1, (self.family, length)), (-1, (self.other, length))))


class Approaches(Record):
    """|x(family, K′) − x(other, K′)| − |x(family, K) − x(other, K)| < 0: from K to K′ the distance shrinks.

    It is a distance, so that it does not matter which family is the lower one. Noise makes a small distance larger, and
    so speaks against the claim, if at all.
    """

    form: Literal["approaches"]
    family: Family
    other: Family
    lengths: Annotated[tuple[Length, ...], Field(min_length=2, max_length=2)]

    def inequalities(self) -> Iterator[Inequality]:
        """Yield the one inequality."""
        short, long = self.lengths
        there = ((1, (self.family, long)), (-1, (self.other, long)))
        here = ((1, (self.family, short)), (-1, (self.other, short)))
        yield Inequality(f"K={short}..{long}", (*there, *here), distances=True)


class Alike(Record):
    """|x(family, K) − x(other, K)| < margin for each length K; being alike is shown, not merely not disproved."""

    form: Literal["alike"]
    family: Family
    other: Family
    lengths: Lengths
    margin: Positive
    """In the quantity's unit."""

    def inequalities(self) -> Iterator[Inequality]:
        """Yield one inequality a length."""
        for length in self.lengths:
            terms = ((1, (self.family, length)), (-1, (self.other, length)))
            yield Inequality(f"K={length}", terms, self.margin, -self.margin)


class Near(Record):
    """|x(cell) − the paper's number| < tolerance for each cell."""

    form: Literal["near"]
    cells: Annotated[dict[Family, Lengths], Field(min_length=1)]
    tolerance: Positive
    """In the quantity's unit."""

    def inequalities(self) -> Iterator[Inequality]:
        """Yield one inequality a cell."""
        for family, lengths in self.cells.items():
            for length in lengths:
                terms = ((1, _place(family, length)),)
                yield Inequality(f"{family},K={length}", terms, self.tolerance, -self.tolerance, about_paper=True)


class Gains(Record):
    """|x(K) − x(K′) − the same of the paper| < tolerance, for a family's first length K and its last K′."""

    form: Literal["gains"]
    family: Family
    lengths: Annotated[tuple[Length, ...], Field(min_length=2, max_length=2)]
    tolerance: Positive
    """In the quantity's unit."""

    def inequalities(self) -> Iterator[Inequality]:
        """Yield the one inequality."""
        short, long = self.lengths
        terms = ((1, _place(self.family, short)), (-1, _place(self.family, long)))
        yield Inequality(f"K={short}..{long}", terms, self.tolerance, -self.tolerance, about_paper=True)


class Brief(Record):
    """A claim in a few words, for lists of claims about the same thing."""

    on: Annotated[str, Field(min_length=1)]
    """What it is about, such as `MNIST`."""
    that: Annotated[str, Field(min_length=1)]
    """The rest of the sentence, such as `longer planar chains lower {quantity}`; claims that differ in the quantity
    alone are told as one where {quantity} stands for it."""


class Claim(Record):
    """One claim of the paper, and what of the runs speaks for or against it."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    says: Annotated[str, Field(min_length=1)]
    """The claim in our own words."""
    brief: Brief | None = None
    """The same in a few words; None where `says` is told whole."""
    question: Annotated[str, Field(pattern=r"^(.+[?])?$")] = ""
    """What a report of runs that the claim concerns asks and answers first; empty for most claims."""
    where: Annotated[str, Field(min_length=1)]
    """Section, table or figure of the paper."""
    exhibit: Annotated[str, _known("exhibits")]
    """The exhibit of our reports that shows the same numbers."""
    study: Annotated[str, Field(min_length=1)]
    """The study that is made for it; it is judged on every other one too whose cells have these settings."""
    on: Annotated[dict[str, Scalar], Field(default_factory=dict)]
    """Dotted path -> value of the settings that all its cells have."""
    each: Annotated[dict[str, tuple[Scalar, ...]], Field(default_factory=dict)]
    """Dotted path -> values: the claim is made for every one of them."""
    quantity: Literal["F", "KL", "−ln p(x)"]
    level: Annotated[float, Field(gt=0, lt=1)]
    """Of the two-sided confidence interval of each part."""
    inequality: Annotated[Falls | Below | Approaches | Alike | Near | Gains, Field(discriminator="form")]
    _facts: PaperFacts = PrivateAttr(default_factory=PaperFacts)
    """What the paper says whose claim it is."""

    @property
    def facts(self) -> PaperFacts:
        """What the paper says whose claim it is."""
        return self._facts

    @property
    def group(self) -> Group:
        """What it is about."""
        forms: dict[str, Group] = {"gains": "gain", "near": "level"}
        return forms.get(self.inequality.form, "order")

    @property
    def about(self) -> str:
        """What it is about, such as `MNIST`; its study where it has no brief."""
        return self.brief.on if self.brief else self.study

    @property
    def that(self) -> str:
        """What it says of that, in a few words if it has these."""
        return self.brief.that.replace(QUANTITY_MARK, self.quantity) if self.brief else self.says.removesuffix(".")

    @property
    def short(self) -> str:
        """It in a line of a table, such as `MNIST: longer planar chains lower F`."""
        return f"{self.about[:1].upper()}{self.about[1:]}: {self.that}"

    def parts(self) -> tuple[Part, ...]:
        """Expand the claim; raises ReportError where it needs a number that the paper does not give."""
        points = itertools.product(*self.each.values())
        return tuple(
            Part(self, dict(zip(self.each, point, strict=True)), inequality)
            for point in points
            for inequality in self.inequality.inequalities()
        )


@dataclass(frozen=True)
class Part:
    """One inequality of a claim at one value of each setting that the claim ranges over."""

    claim: Claim
    at: Mapping[str, Any]
    """Dotted path -> value, of `Claim.each`."""
    inequality: Inequality

    def __post_init__(self) -> None:
        if self.inequality.about_paper and self.published is None:
            quantity = self.claim.quantity
            raise ReportError(f"claim {self.id}: the paper gives no {quantity} there; expected: its own cells")

    @property
    def id(self) -> str:
        """What the ledger and its baseline call it, such as `mnist-planar-f-falls/K=10..20`."""
        return "/".join((self.claim.id, *map(str, self.at.values()), self.inequality.name))

    @property
    def where(self) -> dict[str, Any]:
        """Dotted path -> value of the settings that all its cells have."""
        return {**self.claim.on, **self.at}

    @property
    def quantity(self) -> Metric:
        """What is compared, in the unit that it has there."""
        name = self.where.get("data.name", "")
        values = DataSpec(name=name).values if name in registry.all_of("data") else "bits"
        unit = unit_of(None if "energy.name" in self.where else values)
        return replace(QUANTITIES[self.claim.quantity], unit=unit)

    @property
    def published(self) -> Published | None:
        """The paper's value of the same contrast; None where it lacks one of the numbers."""
        found = [
            (c, self.claim.facts.find(self.where, self.quantity.title, *place)) for c, place in self.inequality.terms
        ]
        numbers = [(c, number) for c, number in found if number]
        if len(numbers) < len(found):
            return None
        value = self.inequality.combine([number.value for _, number in numbers])
        sources = dict.fromkeys(number.source for _, number in numbers)
        confidences = dict.fromkeys(number.confidence for _, number in numbers)
        return Published(
            value,
            "; ".join(sources),
            "; ".join(confidences),
            printed=format_number(value, self.quantity.decimals),
            why_not_comparable=numbers[0][1].why_not_comparable,
        )

    @property
    def bounds(self) -> tuple[float, float]:
        """Both bounds of the contrast, in the quantity's unit; the lower may be −∞."""
        centre = self.published.value if self.inequality.about_paper and self.published else 0.0
        return centre + self.inequality.lower, centre + self.inequality.upper

    def way(self, mean: float) -> str:
        """Say which way a contrast of this mean departs, such as `ours is lower by 4.1 nats`."""
        inequality = self.inequality
        off = mean - (self.published.value if inequality.about_paper and self.published else 0.0)
        size = f"{format_number(abs(off), self.quantity.decimals)} nats"
        if inequality.about_paper and len(inequality.terms) == 1:
            return f"ours is {'lower' if off < 0 else 'higher'} by {size}"
        if inequality.about_paper:
            return f"our gain is {'smaller' if off < 0 else 'larger'} by {size}"
        if inequality.distances:
            return f"the distance {'shrinks' if off < 0 else 'grows'} by {size}"
        return f"{Label(*inequality.terms[0][1]).row} is {'lower' if off < 0 else 'higher'} by {size}"

    @property
    def text(self) -> str:
        """The inequality in words and signs, such as `F: [NF (planar), K = 20] − [NF (planar), K = 10] < 0`."""
        decimals = self.quantity.decimals
        signed = [f"{'+' if c > 0 else '−'} [{Label(*place).row}]" for c, place in self.inequality.terms]
        middle = len(signed) // 2 if self.inequality.distances else 0
        sums = [" ".join(part).removeprefix("+ ") for part in (signed[:middle], signed[middle:]) if part]
        contrast = " − ".join(f"|{text}|" for text in sums) if middle else sums[0]
        lower, upper = self.bounds
        between = f"between {format_number(lower, decimals)} and {format_number(upper, decimals)} nats"
        at = "".join(f", {setting_name(path)} {setting_text(value)}" for path, value in self.at.items())
        return f"{self.quantity.title}{at}: {contrast} {'< 0' if lower == -math.inf else between}"


def read_claims(paper: Paper | None) -> tuple[Claim, ...]:
    """Read a paper's claims, in the order of its ledger; none where it has no ledger.

    Raises:
        SpecError: the file is not a list of claims; all mistakes are told, each with its place.
        ReportError: two claims have the same id, or what the paper's declaration names cannot be had.
    """
    facts = facts_of(paper)
    if paper is None or not paper.claims:
        return ()
    if callable(paper.claims):
        text, name = paper.claims(), f"claims of {paper.name}"
    else:
        package, _, name = paper.claims.partition(":")
        try:
            text = (files(package) / name).read_text(encoding="utf-8")
        except (ImportError, OSError, ValueError) as error:
            raise ReportError(
                f"papers {paper.name}: claims: got '{paper.claims}', which cannot be read: {error}"
            ) from None
    if not isinstance(text, str):
        raise ReportError(f"papers {paper.name}: claims: got {shown(text)}; expected: text")
    return parse_claims(text, name, facts)


def parse_claims(text: str, name: str, facts: PaperFacts) -> tuple[Claim, ...]:
    """Check a text of claims; `name` is what messages call the file. Raises as `read_claims` does."""
    document = Document(text, name)
    tree = document.tree()
    try:
        claims = TypeAdapter(tuple[Claim, ...]).validate_python(tree, strict=True)
    except ValidationError as error:
        document.fail((e["loc"], f"got {shown(e['input'])}; {_allowed(e)}") for e in error.errors())
        raise
    ids = [claim.id for claim in claims]
    twice = sorted({word for word in ids if ids.count(word) > 1})
    if twice:
        raise ReportError(f"{name}: the id '{twice[0]}' is duplicated; expected: once")
    for claim in claims:
        claim._facts = facts
    return claims


def _allowed(error: Mapping[str, Any]) -> str:
    return str(error["ctx"]["error"]) if error["type"] == "value_error" else f"expected: {expected(error)}"
