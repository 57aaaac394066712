"""What a report begins with: the question of its study, and the answer that its runs give, made from logged numbers.

The question is that of the claims that concern the study and declare one; else the first that an exhibit answers; else
which cell has the lowest bound, or, of a single cell, whether it reaches the paper's number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from nfstudy.core.declarations import Metric
from nfstudy.report.claims.inequalities import Claim, Falls, read_claims
from nfstudy.report.claims.verdicts import VERDICTS, ClaimVerdict, PartVerdict, concerns, evaluate
from nfstudy.report.exhibits.base import Answer, Exhibit
from nfstudy.report.labels import family_name, setting_name, setting_text
from nfstudy.report.paper import Published
from nfstudy.report.statistics.contrasts import Contrast, contrast_of, decide
from nfstudy.report.statistics.estimates import CellResult, Results
from nfstudy.report.tables import format_estimate, format_interval, format_number

LEVEL = 0.95
"""Of the intervals by which two cells, or a cell and the paper's number, are told apart."""

OF_TARGET = ("data.", "energy.")
"""What settings begin with that say what is approximated, and so what a bound is of."""
OF_TRAINING_DATA = ("data.training_split", "data.train_images", "data.train_patches")
"""Those of them that change what is trained on alone."""

_WORDS = {"supported": "Yes", "contradicted": "No", "undecided": "Undecided", "not run": "To do"}
_OVERALL = {"contradicted": "Yes overall, but not at each step", "undecided": "Yes overall; at each step, undecided"}
"""Of a claim about steps and the whole way, where the whole is supported."""


def answers_of(results: Results, exhibits: Sequence[Exhibit]) -> tuple[Answer, ...]:
    """Return what a report begins with, at least one; where cells are missing, each answer says so.

    Arguments:
        results: the study's runs under the budget that is shown.
        exhibits: those of its report.
    """
    claims = [claim for claim in read_claims(results.paper) if claim.question and concerns(claim, results)]
    found = [Answer(claim.question, _of_claim(evaluate([claim], results)[0])) for claim in claims]
    if not found:
        found = [exhibit.answer for exhibit in exhibits if exhibit.answer][:1] or [_of_bound(results)]
    stamp = f" So far: {results.stamp.removeprefix('incomplete: ')}." if results.stamp else ""
    return tuple(Answer(answer.question, answer.text + stamp) for answer in found)


def _of_claim(found: ClaimVerdict) -> str:
    """Answer by a claim's verdict, with how many of its inequalities hold and the numbers of the chief ones."""
    if not found.is_judged:
        return "To do: its cells have not run."
    parts = [part for part in _chief(found) if part.contrast]
    counts = Counter(part.verdict for part in found.parts)
    others = [f"{counts[word]} {word}" for word in VERDICTS[1:] if counts[word]]
    told = ", ".join((f"{counts['supported']} of {len(found.parts)} inequalities supported", *others))
    word = _WORDS[found.verdict]
    if found.verdict != "supported" and isinstance(found.claim.inequality, Falls) and len(found.parts) > len(parts):
        overall = {part.verdict for part in _chief(found)}
        word = _OVERALL[found.verdict] if overall == {"supported"} else word
    lead = f"{_subject(found.claim)}, in nats with confidence intervals"
    numbers = f" {lead}: {'; '.join(map(_number, parts))}." if parts else ""
    few = [part.contrast.n for part in parts if part.contrast]
    return f"{word}: {told}.{numbers}{_seeds(few)}"


def _chief(found: ClaimVerdict) -> list[PartVerdict]:
    """Return the parts whose numbers an answer tells: of chains that get longer, from the first length to the last."""
    if not isinstance(found.claim.inequality, Falls):
        return list(found.parts)
    names = [inequality.name for inequality in found.claim.inequality.inequalities()]
    return [part for part in found.parts if part.part.inequality.name == names[-1]]


def _subject(claim: Claim) -> str:
    """Say what the numbers of a claim's chief parts are of."""
    inequality = claim.inequality
    match inequality.form:
        case "falls":
            return f"{claim.quantity} at K = {inequality.lengths[-1]} less that at K = {inequality.lengths[0]}"
        case "approaches":
            lengths = f"K = {inequality.lengths[0]} to {inequality.lengths[-1]}"
            return f"Change of their distance in {claim.quantity} from {lengths}"
        case "below" | "alike":
            names = f"{family_name(inequality.family)} less {family_name(inequality.other)}"
            return f"{claim.quantity}, {names}"
        case _:
            return f"{claim.quantity} beside the paper's"


def _number(part: PartVerdict) -> str:
    """Return one difference with its interval, after where it is taken."""
    inequality, decimals = part.part.inequality, part.part.quantity.decimals
    at = [setting_text(value) for value in part.part.at.values()]
    if part.part.claim.inequality.form in ("below", "alike", "near"):
        at.append(inequality.name.replace("=", " = "))
    mean = format_number(part.contrast.mean, decimals, signed=True) if part.contrast else ""
    number = " ".join(filter(None, (mean, part.interval_text)))
    return f"{', '.join(at)}: {number}" if at else number


def _seeds(counts: Sequence[int]) -> str:
    if not counts:
        return ""
    if max(counts) == 1:
        return " One seed each: no interval is known."
    least, most = min(counts), max(counts)
    return f" Seeds of each: {least if least == most else f'{least} to {most}'}."


def _of_bound(results: Results) -> Answer:
    """Answer by the number that a study's cells are judged by: −ln p(x), or on the plane the KL divergence."""
    quantity = results.bounds[-1]
    known = [result for result in results.cells if result.estimate(quantity).n]
    question = f"Which cell has the lowest {quantity.title}?"
    if results.study.settings.drawn:
        return Answer("", "Nothing is trained or measured here: its figures show what the flows do.")
    if not known:
        lack = f"no run has a finite {quantity.title}" if len(results.runs) else "no cell has run"
        return Answer(question, f"{'To do' if results.unfinished else 'Not known'}: {lack}.")
    if len(results.cells) == 1 and (paper := _published(known[0], quantity, results)):
        return _beside_paper(known[0], quantity, paper)
    if what := _targets(results):
        question = f"Of each {' and '.join(map(setting_name, what))}, which cell has the lowest {quantity.title}?"
        return Answer(question, _of_each(known, what, quantity))
    if len(known) == 1:
        others = "the only one" if len(results.cells) == 1 else "the only one that has run"
        return Answer(question, f"{_told(known[0], quantity)}, {others}.")
    return Answer(question, _lowest(known, quantity))


def _targets(results: Results) -> list[str]:
    """List the axes of the grid along which the cells are judged on other things: bounds across these say nothing."""
    return [path for path in results.study.axes if path.startswith(OF_TARGET) and path not in OF_TRAINING_DATA]


def _of_each(known: Sequence[CellResult], what: Sequence[str], quantity: Metric) -> str:
    """Name the cell with the lowest number among those that are judged on the same."""
    groups: dict[tuple[str, ...], list[CellResult]] = {}
    for result in known:
        flat = result.cell.settings.flat()
        groups.setdefault(tuple(setting_text(flat.get(path)) for path in what), []).append(result)
    parts = []
    for values, group in groups.items():
        text = _lowest(group, quantity) if len(group) > 1 else f"{_told(group[0], quantity)}, the only one."
        parts.append(f"{', '.join(values)}: {text}")
    return " ".join(parts)


def _published(only: CellResult, quantity: Metric, results: Results) -> Published | None:
    """Return the paper's number for a cell, where it is of the same quantity."""
    settings = only.cell.settings
    found = results.facts.find(settings.flat(), quantity.title, only.label.family, only.label.length)
    return None if found is None or found.why_not_comparable(settings) else found


def _beside_paper(only: CellResult, quantity: Metric, paper: Published) -> Answer:
    """Say whether the paper's number is reached: as lower is better, whether ours is at most that."""
    shown = f"{quantity.title} of {format_number(paper.value, quantity.decimals)} ({paper.source})"
    interval = _contrast([only], (1,), quantity).interval(LEVEL)
    off = interval and (interval[0] - paper.value, interval[1] - paper.value)
    word = _WORDS[decide(off, -math.inf, 0.0)]
    difference = format_number(_mean(only, quantity) - paper.value, quantity.decimals, signed=True)
    within = f", 95 % interval {format_interval(off, quantity.decimals)}" if off else ", one seed: no interval is known"
    text = f"{word}: {_told(only, quantity)}; ours less the paper's is {difference}{within}."
    return Answer(f"Is the paper's {shown} reached?", text)


def _lowest(known: Sequence[CellResult], quantity: Metric) -> str:
    """Name the cell with the lowest number, and say whether it can be told from the next."""
    first, second = sorted(known, key=lambda result: _mean(result, quantity))[:2]
    contrast = _contrast([first, second], (1, -1), quantity)
    interval = contrast.interval(LEVEL)
    next_one = f"the next, {second.label.row}"
    if interval is None:
        return f"{_told(first, quantity)}, and not to be told from {next_one}: {contrast.lack}."
    ends = format_interval(interval, quantity.decimals)
    by = f"{format_number(contrast.mean, quantity.decimals, signed=True)} {ends}"
    if interval[1] < 0:
        return f"{_told(first, quantity)}, lower than {next_one}, by a 95 % interval: {by}."
    return f"Undecided: {_told(first, quantity)} and {next_one}, differ by {by}, where 0 lies in it."


def _told(result: CellResult, quantity: Metric) -> str:
    """Return a cell's name with its number, such as `NF (planar), K = 8: 86.12 ± 0.01 (3) nats per image`."""
    return f"{result.label.row}, with {format_estimate(result.estimate(quantity), quantity.decimals)} {quantity.unit}"


def _mean(result: CellResult, quantity: Metric) -> float:
    found = result.estimate(quantity).mean
    if found is None:
        raise ValueError(f"{result.label.row} has no {quantity.title}; expected: a cell that has")
    return found


def _contrast(cells: Sequence[CellResult], coefficients: Sequence[float], quantity: Metric) -> Contrast:
    values = [{r: value for r, (_, value) in cell.by_repetition(quantity).items()} for cell in cells]
    return contrast_of(coefficients, values, noise=[cell.noise(quantity) for cell in cells])
