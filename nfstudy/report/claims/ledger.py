"""The claims ledger: each claim of the paper judged on logged runs, and the table that shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from nfstudy.core.declarations import Metric
from nfstudy.report.claims.inequalities import Claim, Part, Place
from nfstudy.report.exhibits.base import Exhibit, measured, runs_behind, stamped
from nfstudy.report.labels import Label
from nfstudy.report.statistics.contrasts import MOST_SEEDS, Contrast, contrast_of, decide, seeds_to_decide
from nfstudy.report.statistics.estimates import CellResult, Estimate, Results
from nfstudy.report.tables import Entry, Row, Table, format_interval, format_number

Verdict = Literal["supported", "contradicted", "undecided", "not run"]

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

CAPTION = (
    "Claims of the paper, and below each the inequalities that it comes down to, on the test set, in nats (per image "
    "or patch where there are images). Ours: mean ± standard error (number of repetitions) of the left-hand side. "
    "Equal repetitions have equal seeds, so cells are compared in pairs. Supported: the whole confidence interval "
    "satisfies the inequality; contradicted: none of it does; undecided: else, with the number of seeds at which an "
    "interval about the same mean with the same spread would decide. A claim is supported when all of its parts are, "
    "contradicted when one is; each interval holds by itself, without a correction for their number. Place: in the "
    "paper."
)


@dataclass(frozen=True)
class PartVerdict:
    """One inequality with what the runs say of it."""

    part: Part
    verdict: Verdict
    note: str = ""
    """Why it is not decided, or what its evidence lacks."""
    contrast: Contrast | None = None
    """None where a cell has no finished run."""
    run_ids: tuple[str, ...] = ()
    """The runs behind the contrast; those of the cells that have run, where it cannot be formed."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends of the contrast's confidence interval; None where there are not two repetitions."""
        return self.contrast.interval(self.part.claim.level) if self.contrast else None

    @property
    def interval_text(self) -> str:
        """The interval as `[−1.50, −0.50]`, empty where there is none."""
        if self.interval is None:
            return ""
        return format_interval(self.interval, self.part.quantity.decimals)

    @property
    def statistic(self) -> str:
        """What the interval is of, such as `mean of paired differences, 95 % t interval`."""
        single = len(self.part.inequality.terms) == 1
        paired = self.contrast is None or bool(self.contrast.repetitions)
        kind = "mean" if single else "mean of paired differences" if paired else "difference of means"
        return f"{kind}, {100 * self.part.claim.level:g} % {'t' if single or paired else 'Welch'} interval"


@dataclass(frozen=True)
class ClaimVerdict:
    """A claim with the verdicts on its parts."""

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
        """How many parts have which verdict, or how to come by evidence where there is none."""
        if not self.with_runs:
            return f"evidence: run studies/{self.claim.study}.yaml"
        counts = Counter(part.verdict for part in self.parts)
        others = [f"{counts[word]} {word}" for word in VERDICTS[1:] if counts[word]]
        return ", ".join((f"{counts['supported']} of {len(self.parts)} parts supported", *others))

    @property
    def with_runs(self) -> tuple[PartVerdict, ...]:
        """The parts of which any cell has a finished run."""
        return tuple(part for part in self.parts if part.run_ids)


def evaluate(claims: Iterable[Claim], results: Results | None) -> tuple[ClaimVerdict, ...]:
    """Judge claims on the cells of a study.

    Cells are found by flow and by the settings that the claim names. A repetition counts for a part when all of the
    part's cells have finished it; each interval holds by itself, without a correction for their number.

    Arguments:
        claims: the ledger's claims.
        results: the study's; None has no cells.
    """
    cells = results.cells if results else ()
    return tuple(ClaimVerdict(claim, tuple(_judge(part, cells) for part in claim.parts())) for claim in claims)


def _judge(part: Part, cells: Sequence[CellResult]) -> PartVerdict:
    places = [place for _, place in part.inequality.terms]
    found = [_cells_at(place, part, cells) for place in places]
    values = [own[0].by_repetition(part.quantity) if len(own) == 1 else {} for own in found]
    run_ids = tuple(dict.fromkeys(run_id for cell in values for run_id, _ in cell.values()))
    missing = (_lack(part.quantity, *of_place) for of_place in zip(places, found, values, strict=True))
    lacks = "; ".join(dict.fromkeys(filter(None, missing)))
    if part.inequality.about_paper and part.published and run_ids:
        lacks = lacks or part.published.why_not_comparable(found[0][0].cell.settings)
    if not lacks and part.inequality.distances and not set.intersection(*(set(cell) for cell in values)):
        lacks = "its cells share no repetition"
    if lacks:
        return PartVerdict(part, "not run", lacks, run_ids=run_ids)
    coefficients = [c for c, _ in part.inequality.terms]
    numbers = [{r: value for r, (_, value) in cell.items()} for cell in values]
    contrast = contrast_of(coefficients, numbers, part.inequality.distances)
    verdict = decide(contrast.interval(part.claim.level), *part.bounds)
    notes = [*(measured(own[0], part.quantity).note for own in found)]
    if verdict == "undecided":
        notes.append(_seeds_needed(part, contrast))
    if contrast.se == 0:
        notes.append("equal values: an interval without width")
    used = [set(contrast.repetitions) or set(cell) for cell in values]
    behind = (cell[r][0] for cell, kept in zip(values, used, strict=True) for r in sorted(kept))
    note = "; ".join(dict.fromkeys(filter(None, notes)))
    return PartVerdict(part, verdict, note, contrast, tuple(dict.fromkeys(behind)))


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
    return "" if values else f"{name}: {measured(found[0], quantity).note}"


def _seeds_needed(part: Part, contrast: Contrast) -> str:
    if contrast.se is None:
        return "an interval takes at least 2 seeds"
    needed = seeds_to_decide(contrast, *part.bounds, part.claim.level)
    return f"would take {needed} seeds" if needed else f"would take more than {MOST_SEEDS:,} seeds"


def ledger(verdicts: Sequence[ClaimVerdict], results: Results) -> Exhibit:
    """Return the exhibit: a line a claim, and below it one for each of its parts that has a run."""
    rows = [row for verdict in verdicts for row in (_claim_row(verdict), *map(_part_row, verdict.with_runs))]
    columns = ("claim", "verdict", "statement", "ours", "interval", "paper", "note", "place", "exhibit", "runs")
    table = Table("claims", stamped(CAPTION, results), columns, tuple(rows))
    counts = Counter(verdict.verdict for verdict in verdicts)
    text = f"Of {len(verdicts)} claims: {', '.join(f'{counts[word]} {word}' for word in VERDICTS if counts[word])}."
    return Exhibit("claims", "Claims of the paper", text, (table,))


def _claim_row(found: ClaimVerdict) -> Row:
    claim = found.claim
    texts = (found.verdict, claim.says, "", "", "", found.note, claim.where, claim.exhibit, "")
    return Row(claim.id, tuple(Entry(text=text) for text in texts))


def _part_row(found: PartVerdict) -> Row:
    part, contrast, published = found.part, found.contrast, found.part.published
    interval = f"{found.statistic} {found.interval_text}" if found.interval else ""
    ours = Entry(
        quantity=part.quantity,
        estimate=Estimate(contrast.n, contrast.mean, contrast.se, found.run_ids) if contrast else None,
        reference=published,
        note="; ".join(filter(None, (found.verdict, interval, found.note))),
        run_ids=found.run_ids,
    )
    entries = (
        Entry(text=found.verdict),
        Entry(text=f"{part.text} ({found.statistic})"),
        ours,
        Entry(text=found.interval_text),
        Entry(text=published.display, reference=published, note=published.source) if published else Entry(text="–"),
        Entry(text=found.note if contrast else ""),
        Entry(),
        Entry(),
        runs_behind(ours),
    )
    return Row(part.id, entries)


def verdict_lines(verdicts: Iterable[ClaimVerdict]) -> Iterator[str]:
    """Yield the ledger as plain text: a line a claim, and below it, indented, one for each part that has a run."""
    for found in verdicts:
        yield f"{found.verdict:<12} {found.claim.id}  ({found.note})"
        for part in found.with_runs:
            yield f"  {part.verdict:<12} {part.part.id}{_numbers(part)}{f'  ({part.note})' if part.note else ''}"


def _numbers(found: PartVerdict) -> str:
    if found.contrast is None:
        return ""
    mean = format_number(found.contrast.mean, found.part.quantity.decimals)
    return f"  {mean} {found.interval_text}".rstrip() + f" nats, n = {found.contrast.n}"
