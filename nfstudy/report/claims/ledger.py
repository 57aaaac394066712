"""The claims ledger: verdicts as tables and as plain text, with bodies of evidence side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote

from nfstudy.report.claims.inequalities import GROUPS, Claim
from nfstudy.report.claims.verdicts import VERDICTS, ClaimVerdict, PartVerdict, evaluate
from nfstudy.report.exhibits.base import Exhibit, runs_behind, stamped
from nfstudy.report.exhibits.trust import MARK, WHAT_IT_MEANS
from nfstudy.report.statistics.estimates import Estimate, Results
from nfstudy.report.statistics.looks import SCHEDULE
from nfstudy.report.tables import Entry, Row, Table, format_number

CAPTION = (
    "Claims of the paper on {body}, and below each the inequalities that it comes down to, on the test set, in nats "
    "(per image or patch where there are images). Ours: mean ± standard error (number of repetitions) of the left-hand "
    "side, Monte-Carlo error included. Equal repetitions have equal seeds, so cells are compared in pairs, or by "
    "Welch's interval where these are too few. Supported: the whole confidence interval satisfies the inequality; "
    "contradicted: none of it does, also with Holm's correction for the number of parts; undecided: else, with the "
    "number of seeds that a new study would need for a power of 80 % at this mean and spread, and in brackets what "
    "that is at both ends of the spread's 90 % interval. A claim is supported when all of its parts are, which takes "
    "no correction, and contradicted when one is. Intervals are wider than 95 %, since repetitions may be added by "
    f"`decide`, with looks at {SCHEDULE}. Place: in the paper."
)
BODIES_CAPTION = (
    "Every claim on every body of evidence, a study under one budget, whose cells it is about; –: it is about none of "
    "them. Each verdict holds for its body alone; there is no correction for the number of claims or bodies."
)
NO_EVIDENCE = "–"
INCOMPLETE = " (incomplete)"
OF_INCOMPLETE = " Incomplete: so far, with repetitions of its cells still to do."


@dataclass(frozen=True)
class JudgedClaim:
    """A claim on all bodies of evidence that bear on it."""

    claim: Claim
    bodies: Mapping[str, ClaimVerdict]
    """Name of the body, such as `mnist laptop`, -> the verdicts; empty where nothing has run."""

    @property
    def note(self) -> str:
        """How to come by evidence where there is none."""
        return "" if self.bodies else f"evidence: run studies/{self.claim.study}.yaml"


def judge_on(claims: Sequence[Claim], bodies: Sequence[Results]) -> tuple[JudgedClaim, ...]:
    """Judge each claim on every body of evidence that bears on it.

    These are the bodies of which a part of the claim has all its cells; and what there is of the claim's own study.
    The own study's come first.
    """
    judged = []
    for claim in claims:
        ordered = sorted(bodies, key=lambda results: results.study.study != claim.study)
        found = [(results, evaluate([claim], results)[0]) for results in ordered]
        kept = {
            results.name: verdict
            for results, verdict in found
            if verdict.is_judged or (results.study.study == claim.study and verdict.with_runs)
        }
        judged.append(JudgedClaim(claim, kept))
    return tuple(judged)


def body_names(judged: Sequence[JudgedClaim]) -> list[str]:
    """List the bodies of evidence that bear on any claim."""
    return list(dict.fromkeys(name for found in judged for name in found.bodies))


def side_by_side(
    judged: Sequence[JudgedClaim], name: str = "claims-bodies", caption: str = BODIES_CAPTION, briefly: bool = False
) -> Table:
    """Return a table with a line a claim, by group, and a column for each body of evidence.

    Arguments:
        judged: the claims.
        name: of the table.
        caption: below it.
        briefly: whether claims are told in words, and not by their ids and groups.
    """
    bodies = body_names(judged)
    incomplete = {
        body: [found.bodies[body].is_incomplete for found in judged if body in found.bodies] for body in bodies
    }
    if any(map(any, incomplete.values())):
        caption += OF_INCOMPLETE
    rows = []
    for group in GROUPS:
        for found in judged:
            if found.claim.group == group:
                texts = [_brief(found.bodies.get(body), whole=all(incomplete[body])) for body in bodies]
                row = found.claim.short if briefly else found.claim.id
                rows.append(Row(row, tuple(Entry(text=text) for text in (*([] if briefly else [group]), *texts))))
    heads = [f"{body}{INCOMPLETE}" if all(incomplete[body]) else body for body in bodies]
    return Table(name, caption, ("claim", *([] if briefly else ["about"]), *heads), tuple(rows))


def _brief(found: ClaimVerdict | None, whole: bool) -> str:
    """Return a verdict, which way where it is against the claim, and whether it may still change.

    That is not said where the head of the column says it of the `whole` body.
    """
    if found is None:
        return NO_EVIDENCE
    way = f": {found.way}" if found.verdict == "contradicted" and found.claim.group != "order" else ""
    return f"{found.verdict}{INCOMPLETE if found.is_incomplete and not whole else ''}{way}"


def counts_text(verdicts: Sequence[ClaimVerdict]) -> str:
    """Count verdicts, such as `5 supported, 1 undecided`."""
    counts = Counter(verdict.verdict for verdict in verdicts)
    return ", ".join(f"{counts[word]} {word}" for word in VERDICTS if counts[word])


def ledger(claims: Sequence[Claim], bodies: Sequence[Results]) -> Exhibit:
    """Return the exhibit of a study's report: a line a claim, and below it one for each of its parts that has a run.

    Arguments:
        claims: the ledger's.
        bodies: the study under each budget that has runs, the one that the report shows first.
    """
    first, *others = bodies
    verdicts = evaluate(claims, first)
    text = f"Of {len(verdicts)} claims about these cells: {counts_text(verdicts)}."
    tables = [ledger_table(verdicts, first)]
    if others:
        text = f"Under the budget {first.budget}, of {len(verdicts)} claims about its cells: {counts_text(verdicts)}."
        tables = [side_by_side(judge_on(claims, bodies)), *tables]
        names = [f"claims-{quote(body.budget, safe='')}" for body in others]
        further = (ledger_table(evaluate(claims, body), body, name) for body, name in zip(others, names, strict=True))
        tables += [replace(table, in_markdown=False) for table in further]
    return Exhibit("claims", "Claims of the paper", text, tuple(tables))


def ledger_table(verdicts: Sequence[ClaimVerdict], results: Results, name: str = "claims") -> Table:
    """Return the table of one body of evidence."""
    rows = [row for verdict in verdicts for row in (_claim_row(verdict), *map(_part_row, verdict.with_runs))]
    columns = ("claim", "verdict", "statement", "ours", "interval", "paper", "note", "place", "exhibit", "runs")
    meaning = f" {WHAT_IT_MEANS}" if any(entry.marked for row in rows for entry in row.entries) else ""
    return Table(name, stamped(f"{CAPTION.format(body=results.name)}{meaning}", results), columns, tuple(rows))


def _claim_row(found: ClaimVerdict) -> Row:
    claim = found.claim
    texts = (found.verdict, claim.says, "", "", "", found.note, claim.where, claim.exhibit, "")
    return Row(claim.id, tuple(Entry(text=text) for text in texts))


def _part_row(found: PartVerdict) -> Row:
    part, contrast, published = found.part, found.contrast, found.part.published
    interval = f"{found.statistic} {found.interval_text}" if found.interval else ""
    # The difference of two bounds bounds nothing.
    quantity = part.quantity if len(part.inequality.terms) == 1 else replace(part.quantity, mark="")
    ours = Entry(
        quantity=quantity,
        estimate=Estimate(contrast.n, contrast.mean, contrast.se, found.run_ids) if contrast else None,
        reference=published,
        note="; ".join(filter(None, (found.verdict, interval, found.note))),
        run_ids=found.run_ids,
        marked=found.evidence.marked,
    )
    note = "; ".join(filter(None, (found.note if contrast else "", *_looks(found))))
    entries = (
        Entry(text=found.verdict),
        Entry(text=f"{part.text} ({found.statistic})"),
        ours,
        Entry(text=found.interval_text),
        Entry(text=published.display, reference=published, note=published.source) if published else Entry(text="–"),
        Entry(text=note),
        Entry(),
        Entry(),
        runs_behind(ours),
    )
    return Row(part.id, entries)


def _looks(found: PartVerdict) -> Iterator[str]:
    """Yield what each look said, where there was more than one."""
    if len(found.looks) > 1:
        decimals = found.part.quantity.decimals
        for look in found.looks:
            yield (
                f"look {look.number} at {look.repetitions}: {format_number(look.contrast.mean, decimals)}, "
                f"p for {look.within:.2g}, against {look.outside:.2g}"
            )


def verdict_lines(judged: Sequence[JudgedClaim]) -> Iterator[str]:
    """Yield the ledger as plain text: a line a claim and body, and below it one for each part that has a run.

    After all of them stand what a mark on a number means, and the bodies side by side.
    """
    for group, heading in GROUPS.items():
        yield f"{heading}"
        for found in judged:
            if found.claim.group == group:
                yield from _lines(found)
    if any(part.evidence.marked for found in judged for body in found.bodies.values() for part in body.with_runs):
        yield f"\n{WHAT_IT_MEANS}"
    bodies = body_names(judged)
    if bodies:
        width = max(len(found.claim.id) for found in judged)
        yield ""
        yield "  ".join((f"{'':<{width}}", *(f"{name:<{max(len(name), 12)}}" for name in bodies))).rstrip()
        for found in judged:
            words = (found.bodies[name].verdict if name in found.bodies else NO_EVIDENCE for name in bodies)
            columns = (f"{word:<{max(len(name), 12)}}" for name, word in zip(bodies, words, strict=True))
            yield "  ".join((f"{found.claim.id:<{width}}", *columns)).rstrip()


def _lines(judged: JudgedClaim) -> Iterator[str]:
    if not judged.bodies:
        yield f"not run      {judged.claim.id}  ({judged.note})"
    for body, found in judged.bodies.items():
        yield f"{found.verdict:<12} {found.claim.id}  on {body}  ({found.note})"
        for part in found.with_runs:
            note = "; ".join(filter(None, (part.note, *_looks(part))))
            yield f"  {part.verdict:<12} {part.part.id}{_numbers(part)}{f'  ({note})' if note else ''}"


def _numbers(found: PartVerdict) -> str:
    if found.contrast is None:
        return ""
    mean = format_number(found.contrast.mean, found.part.quantity.decimals)
    mark = f" {MARK}" if found.evidence.marked else ""
    return f"  {mean} {found.interval_text}".rstrip() + f" nats, n = {found.contrast.n}{mark}"
