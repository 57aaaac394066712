"""What to run next so that claims are decided: for each its next look, what it takes, and what it promises."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nfstudy.report.claims.verdicts import ClaimVerdict, PartVerdict, one_sided
from nfstudy.report.statistics.estimates import Results
from nfstudy.report.statistics.looks import SCHEDULE, look_share, look_size
from nfstudy.report.statistics.power import POWER, chance

LOOKS = SCHEDULE
"""When looks are taken, for people."""

Cost = Callable[[Sequence[str]], float]
"""Cell keys, one a run, -> expected seconds of them all."""


@dataclass(frozen=True)
class Step:
    """The next look at one undecided claim on one body of evidence: further repetitions of the cells it depends on."""

    claim: str
    results: Results
    look: int
    repetitions: int
    """Of each of the cells, in all."""
    parts: tuple[str, ...]
    """The undecided parts that get a new look."""
    runs: tuple[str, ...]
    """Cell keys, one a run that is to do."""
    seconds: float
    """Expected, on the workers there are; nan where nothing is known of them."""
    chance: float
    """The probability that the look decides, were the means and spreads of now the true ones."""
    enough: tuple[int, float] | None
    """(repetitions, seconds from now) of the first look that decides with a probability of `POWER`; None beyond the
    limit."""

    @property
    def cells(self) -> dict[str, str]:
        """Cell key -> label of those that get more repetitions."""
        labels = {result.cell.key: result.cell.label for result in self.results.cells}
        return {key: labels[key] for key in dict.fromkeys(self.runs)}

    @property
    def promise(self) -> float:
        """What steps are ordered by, the best first: the probability for each second."""
        return max(self.chance, 1e-6) / max(self.seconds, 1e-9) if math.isfinite(self.seconds) else 0.0

    @property
    def record(self) -> str:
        """What its runs say of it, as JSON."""
        content = {
            "first": self.results.first_look,
            "look": self.look,
            "repetitions": self.repetitions,
            "share": look_share(self.look),
            "schedule": SCHEDULE,
            "claim": self.claim,
        }
        return json.dumps(content, ensure_ascii=False)


def next_step(verdict: ClaimVerdict, results: Results, cost: Cost, most: int) -> Step | str:
    """Return the next look at an undecided claim, or why there is none.

    Its undecided parts that have had the fewest looks get one more. A part is not looked at again once it is decided.

    Arguments:
        verdict: an undecided claim on a body of evidence.
        results: the body.
        cost: the expected time of runs.
        most: how many repetitions a cell may have in all.
    """
    first = results.first_look
    undecided = [part for part in verdict.parts if part.verdict == "undecided"]
    if absent := [part for part in verdict.parts if part.verdict == "not run"]:
        return f"{len(absent)} of its parts cannot be judged ({absent[0].note})"
    if any(cell.ended < first for part in undecided for cell in part.evidence.cells):
        return "its cells are not complete; hint: run the study first"
    look = 1 + min(len(part.looks) for part in undecided)
    chosen = [part for part in undecided if len(part.looks) == look - 1]
    size = look_size(first, look)
    if size > most:
        return f"its next look is at {size} repetitions, beyond the limit of {most}"
    runs = _to_do(chosen, size)
    probability = _chance(chosen, verdict, look, size)
    enough = None
    further = look
    while enough is None and look_size(first, further) <= most:
        then = look_size(first, further)
        if _chance(chosen, verdict, further, then) >= POWER:
            enough = then, cost(_to_do(chosen, then))
        further += 1
    names = tuple(part.part.id for part in chosen)
    return Step(verdict.claim.id, results, look, size, names, runs, cost(runs), probability, enough)


def _to_do(parts: Sequence[PartVerdict], size: int) -> tuple[str, ...]:
    """Return the key of each cell of some parts, once for each of its first `size` repetitions that has not ended."""
    cells = {cell.cell.key: cell for part in parts for cell in part.evidence.cells}
    return tuple(key for key, cell in cells.items() for _ in range(cell.absent(size)))


def _chance(parts: Sequence[PartVerdict], verdict: ClaimVerdict, look: int, size: int) -> float:
    """Return the probability that a look contradicts one of the parts, or supports all that are undecided."""
    share = look_share(look) * one_sided(verdict.claim)
    within, outside = 1.0, 1.0
    for part in parts:
        contrast, bounds = part.contrast, part.part.bounds
        assert contrast is not None
        found = chance(contrast, max(size, 2), bounds, share, share / len(verdict.parts))
        if bounds[0] < contrast.mean < bounds[1]:
            within *= found
        else:
            within, outside = 0.0, outside * (1 - found)
    if len(parts) < sum(part.verdict == "undecided" for part in verdict.parts):
        within = 0.0
    return 1 - outside * (1 - within)


def known_seconds(runs: Sequence[str], each: Mapping[str, float], workers: int) -> float:
    """Return the expected seconds of runs on some workers; nan where that of a cell is not known."""
    times = [each.get(key, math.nan) for key in runs]
    return max(math.fsum(times) / workers, max(times, default=0.0))
