"""Claims judged on one body of evidence: the runs of one study under one budget.

With α = (1 − level) / 2, the error of one side of a claim's interval:

- A part is *contradicted* where its p-value against it, over all looks and with Holm's correction for the number of
  the claim's parts, is at most α: of a claim whose parts are all true, one is contradicted with a probability of at
  most α.
- A part is *supported* where its p-value for it, over all looks, is at most α. A claim is when all its parts are, which
  takes no correction (intersection-union test: Berger 1982, Technometrics 24).

`nfstudy.report.statistics.looks` says how α is spent over looks; a study without added repetitions has had one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from nfstudy.core.declarations import Metric
from nfstudy.report.claims.inequalities import Claim, Part, Place
from nfstudy.report.exhibits.base import what_is_missing
from nfstudy.report.exhibits.trust import why_not_converged
from nfstudy.report.labels import Label
from nfstudy.report.statistics.contrasts import Contrast, contrast_of, holm
from nfstudy.report.statistics.estimates import CellResult, Results, runs_of
from nfstudy.report.statistics.looks import look_level, look_share, look_size, looks_up_to, sequential_p
from nfstudy.report.statistics.power import seeds_text
from nfstudy.report.tables import format_interval

Verdict = Literal["supported", "contradicted", "undecided", "not run"]

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Look:
    """What the first so many repetitions of a part's cells say."""

    number: int
    """1, 2, ..."""
    repetitions: int
    contrast: Contrast
    within: float
    """The p-value that speaks for the part, by itself."""
    outside: float
    """The p-value that speaks against it, by itself."""
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Evidence:
    """A part with its looks, or with what it lacks."""

    part: Part
    cells: tuple[CellResult, ...] = ()
    """Of the inequality's terms; empty where one of them is not one cell."""
    looks: tuple[Look, ...] = ()
    notes: tuple[str, ...] = ()
    run_ids: tuple[str, ...] = ()
    """The runs behind the last look; those of the cells that have run, where there is none."""
    marked: bool = False
    """Whether one of the cells' estimates is not converged in samples."""

    def p_value(self, side: Literal["within", "outside"]) -> float:
        """Return the p-value of one side over all looks."""
        return sequential_p([getattr(look, side) for look in self.looks])


@dataclass(frozen=True)
class PartVerdict:
    """One inequality with what the runs say of it."""

    evidence: Evidence
    verdict: Verdict
    note: str = ""
    """Why it is not decided, which way it is contradicted, or what its evidence lacks."""
    against: float = 1.0
    """The p-value against it, over all looks and among all parts."""

    @property
    def part(self) -> Part:
        """The inequality."""
        return self.evidence.part

    @property
    def looks(self) -> tuple[Look, ...]:
        """The looks that have been taken; none where a cell has no finished run."""
        return self.evidence.looks

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The runs behind it."""
        return self.evidence.run_ids

    @property
    def contrast(self) -> Contrast | None:
        """That of the last look; None where a cell has no finished run."""
        return self.looks[-1].contrast if self.looks else None

    @property
    def level(self) -> float:
        """That of the last look's interval; over all looks together they hold at the claim's level."""
        return look_level(self.part.claim.level, max(len(self.looks), 1))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the contrast's confidence interval; None where nothing is known of the spread."""
        return self.contrast.interval(self.level, safe=True) if self.contrast else None

    @property
    def interval_text(self) -> str:
        """The interval as `[−1.50, −0.50]`, empty where there is none."""
        if self.interval is None:
            return ""
        return format_interval(self.interval, self.part.quantity.decimals)

    @property
    def statistic(self) -> str:
        """What the interval is of, such as `mean of paired differences, 96 % t interval`."""
        single = len(self.part.inequality.terms) == 1
        paired = self.contrast is None or bool(self.contrast.repetitions)
        kind = "mean" if single else "mean of paired differences" if paired else "difference of means"
        look = f", look {len(self.looks)}" if len(self.looks) > 1 else ""
        return f"{kind}, {100 * self.level:.6g} % {'t' if single or paired else 'Welch'} interval{look}"


@dataclass(frozen=True)
class ClaimVerdict:
    """A claim with the verdicts on its parts, of one body of evidence."""

    claim: Claim
    parts: tuple[PartVerdict, ...]

    @property
    def verdict(self) -> Verdict:
        """Contradicted if a part is; supported if all are; not run if none has evidence; else undecided."""
        found = {part.verdict for part in self.parts}
        if "contradicted" in found:
            return "contradicted"
        return next(iter(found)) if found in ({"supported"}, {"not run"}) else "undecided"

    @property
    def note(self) -> str:
        """How many parts have which verdict and which way they go, or how to come by evidence where there is none."""
        if not self.with_runs:
            return f"evidence: run studies/{self.claim.study}.yaml"
        counts = Counter(part.verdict for part in self.parts)
        others = [f"{counts[word]} {word}" for word in VERDICTS[1:] if counts[word]]
        text = ", ".join((f"{counts['supported']} of {len(self.parts)} parts supported", *others))
        return f"{text}: {self.way}" if self.way else text

    @property
    def way(self) -> str:
        """Say which way the contradicted parts go, such as `ours is lower by 0.81 to 4.12 nats`; empty without any."""
        return ways(self.parts)

    @property
    def with_runs(self) -> tuple[PartVerdict, ...]:
        """The parts of which any cell has a finished run."""
        return tuple(part for part in self.parts if part.run_ids)

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The runs behind it, each once."""
        return tuple(dict.fromkeys(run_id for part in self.parts for run_id in part.run_ids))

    @property
    def is_incomplete(self) -> bool:
        """Whether repetitions of its cells are still to do: its first look is then at those that there are."""
        return any(not cell.complete for part in self.parts if part.looks for cell in part.evidence.cells)

    @property
    def is_judged(self) -> bool:
        """Whether all cells of some part have runs."""
        return any(part.looks for part in self.parts)


def ways(parts: Iterable[PartVerdict]) -> str:
    """Say which way those of some parts go that are contradicted, as `ClaimVerdict.way` does."""
    found = [part.part.way(part.contrast.mean) for part in parts if part.verdict == "contradicted" and part.contrast]
    words: dict[str, list[str]] = {}
    for text in found:
        start, _, rest = text.rpartition(" by ")
        words.setdefault(start, []).append(rest.removesuffix(" nats"))
    return "; ".join(f"{start} by {_span(sizes)} nats" for start, sizes in words.items())


def _span(sizes: Sequence[str]) -> str:
    ends = sorted(sizes, key=float)
    return ends[0] if ends[0] == ends[-1] else f"{ends[0]} to {ends[-1]}"


def evaluate(claims: Iterable[Claim], results: Results | None) -> tuple[ClaimVerdict, ...]:
    """Judge claims on one body of evidence.

    Cells are found by flow and by the settings that the claim names.

    Arguments:
        claims: the ledger's claims.
        results: the runs of a study under one budget; None has no cells.
    """
    return tuple(_judge(claim, [_evidence(part, results) for part in claim.parts()]) for claim in claims)


def concerns(claim: Claim, results: Results) -> bool:
    """Say whether a study has all cells of some part of a claim, whether or not they have run."""
    return any(
        all(len(_cells_at(place, part, results.cells)) == 1 for _, place in part.inequality.terms)
        for part in claim.parts()
    )


def one_sided(claim: Claim) -> float:
    """Return α, the error of one side of a claim's interval, and of either verdict on it."""
    return (1 - claim.level) / 2


def _judge(claim: Claim, evidence: Sequence[Evidence]) -> ClaimVerdict:
    # A part that has not been run counts among them: how many there are was declared beforehand.
    against = holm([found.p_value("outside") for found in evidence])
    parts = [_verdict(found, p, len(evidence)) for found, p in zip(evidence, against, strict=True)]
    return ClaimVerdict(claim, tuple(parts))


def _verdict(found: Evidence, against: float, parts: int) -> PartVerdict:
    if not found.looks:
        return PartVerdict(found, "not run", "; ".join(found.notes))
    part, contrast, error = found.part, found.looks[-1].contrast, one_sided(found.part.claim)
    # Both at once takes two looks that disagree; then nothing is decided.
    sides = (found.p_value("within") <= error, against <= error)
    verdict: Verdict = (
        "supported" if sides == (True, False) else "contradicted" if sides == (False, True) else "undecided"
    )
    notes = list(found.notes)
    among = f", Holm among {parts} parts" if parts > 1 else ""
    if verdict == "contradicted":
        notes += [part.way(contrast.mean), f"p = {against:.2g}{among}"]
    if verdict == "undecided" and against <= error:
        notes.append("its looks disagree: one is for it, one against it")
    elif verdict == "undecided" and found.p_value("outside") <= error:
        alone = found.p_value("outside")
        notes.append(
            f"against it by itself, p = {alone:.2g}, but not among its claim's {parts} parts: p = {against:.2g} by Holm"
        )
    if verdict == "undecided":
        share = look_share(1)
        notes.append(contrast.lack or seeds_text(contrast, part.bounds, share * error, share * error / parts))
    return PartVerdict(found, verdict, "; ".join(dict.fromkeys(filter(None, notes))), against)


def _evidence(part: Part, results: Results | None) -> Evidence:
    places = [place for _, place in part.inequality.terms]
    found = [_cells_at(place, part, results.cells if results else ()) for place in places]
    values = [own[0].by_repetition(part.quantity, further=True) if len(own) == 1 else {} for own in found]
    run_ids = tuple(dict.fromkeys(run_id for cell in values for run_id, _ in cell.values()))
    missing = (_lack(part.quantity, *of_place) for of_place in zip(places, found, values, strict=True))
    lacks = "; ".join(dict.fromkeys(filter(None, missing)))
    if part.inequality.about_paper and part.published and run_ids:
        lacks = lacks or part.published.why_not_comparable(found[0][0].cell.settings)
    if not lacks and part.inequality.distances and not set.intersection(*(set(cell) for cell in values)):
        lacks = "its cells share no repetition"
    if lacks or results is None:
        return Evidence(part, notes=(lacks,), run_ids=run_ids)
    cells = tuple(own[0] for own in found)
    looks = _looks(part, cells, values, results.first_look)
    if not looks:
        return Evidence(part, cells, notes=("its cells share no repetition of the first look",), run_ids=run_ids)
    lacking = [(cell.label.row, what_is_missing(cell, part.quantity)) for cell in cells]
    notes = tuple(f"{row}: {text}" if len(cells) > 1 else text for row, text in lacking if text)
    marked = any(why_not_converged(cell, part.quantity) for cell in cells)
    return Evidence(part, cells, looks, notes, looks[-1].run_ids, marked)


def _looks(
    part: Part, cells: Sequence[CellResult], values: Sequence[Mapping[int, tuple[str, float]]], first: int
) -> tuple[Look, ...]:
    """Take the looks that have been reached: the first at what there is of it, a later one when all of it has ended."""
    found: list[Look] = []
    noise = [cell.noise(part.quantity, further=True) for cell in cells]
    for number in range(1, looks_up_to(first, min(cell.ended for cell in cells)) + 1):
        size = look_size(first, number)
        upto = [{r: value for r, value in cell.items() if r <= size} for cell in values]
        numbers = [{r: value for r, (_, value) in cell.items()} for cell in upto]
        if not all(numbers) or (part.inequality.distances and not set.intersection(*map(set, numbers))):
            return tuple(found)
        coefficients = [c for c, _ in part.inequality.terms]
        contrast = contrast_of(coefficients, numbers, part.inequality.distances, noise)
        p_values = contrast.p_within(*part.bounds), contrast.p_outside(*part.bounds)
        found.append(Look(number, size, contrast, *p_values, runs_of(contrast, upto)))
    return tuple(found)


def _cells_at(place: Place, part: Part, cells: Sequence[CellResult]) -> list[CellResult]:
    return [
        result
        for result in cells
        if (result.label.family, result.label.length) == place
        and part.where.items() <= result.cell.settings.flat().items()
    ]


def _lack(quantity: Metric, place: Place, found: Sequence[CellResult], values: Mapping[int, tuple[str, float]]) -> str:
    """Say why a place has no values to compare; empty where it has."""
    name = Label(*place).row
    if not found:
        return f"{name}: not in this study"
    if len(found) > 1:
        variants = "; ".join(result.label.variant_text for result in found)
        return f"{name}: ambiguous, {len(found)} cells differ in {variants}"
    return "" if values else f"{name}: {what_is_missing(found[0], quantity) or 'no finite value'}"
