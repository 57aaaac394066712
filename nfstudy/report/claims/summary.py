"""The ledger and the readings in a few sentences: what of a paper stands, what does not, what depends on the reading.

Every body of evidence is one reading of the paper: how its text is taken, and how much of its protocol is followed. A
claim that one contradicts and another does not depends on the reading.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nfstudy.report.claims.inequalities import QUANTITY_MARK
from nfstudy.report.claims.ledger import JudgedClaim
from nfstudy.report.claims.verdicts import ways
from nfstudy.report.exhibits.base import ReadingSpan
from nfstudy.report.tables import Entry, format_number

Fate = Literal["supported", "contradicted", "mixed", "undecided", "not run"]
"""What becomes of a claim over all bodies of evidence."""

FEWEST_TOGETHER = 3
"""So many claims about one thing are told as one, where they are all that there are and all fare alike."""


@dataclass(frozen=True)
class _Words:
    """How a fate is told."""

    lead: str
    one: str
    many: str


_WORDS: Mapping[Fate, _Words] = {
    "supported": _Words("What stands", "stands", "stand"),
    "contradicted": _Words("What does not stand", "does not", "do not"),
    "mixed": _Words("What depends on the reading", "depends on the reading", "depend on the reading"),
    "undecided": _Words("Undecided", "is undecided", "are undecided"),
    "not run": _Words("Not run", "has no runs yet", "have no runs yet"),
}


@dataclass(frozen=True)
class Phrase:
    """Some words, and where they lead."""

    text: str
    claim: str = ""
    """Id of the claim whose verdicts and inequalities they lead to."""
    body: str = ""
    """Name of the body of evidence whose page they lead to."""
    run_ids: tuple[str, ...] = ()
    """The runs behind a number."""


@dataclass(frozen=True)
class Sentence:
    """A sentence of a verdict."""

    lead: str
    """What it begins with, such as `What stands`; empty for the first, which counts."""
    phrases: tuple[Phrase, ...]
    fate: Fate | None = None

    @property
    def text(self) -> str:
        """The whole of it as plain text."""
        return f"{f'{self.lead}: ' if self.lead else ''}{_texts(self.phrases)}"


@dataclass(frozen=True)
class BodyReadings:
    """What readings of the paper say of its numbers, of one body of evidence."""

    body: str
    spans: tuple[ReadingSpan, ...]
    stamp: str = ""
    """How incomplete it is; empty where it is not."""


def fate_of(judged: JudgedClaim) -> Fate:
    """Return what becomes of a claim: one that only some bodies of evidence contradict is mixed."""
    found = {verdict.verdict for verdict in judged.bodies.values()} - {"not run"}
    if not found:
        return "not run"
    if "contradicted" in found:
        return "contradicted" if len(found) == 1 else "mixed"
    return "supported" if "supported" in found else "undecided"


def verdict_sentences(
    claims: Sequence[JudgedClaim], readings: Sequence[BodyReadings] = (), paper: str = ""
) -> tuple[Sentence, ...]:
    """Say in a few sentences what becomes of a paper's claims; empty of a paper without claims and readings.

    Arguments:
        claims: the paper's, judged on every body of evidence.
        readings: of the bodies that say how far its numbers move with what its text leaves open.
        paper: its name; empty where there is no other from which it must be told.
    """
    fates: dict[Fate, list[JudgedClaim]] = {fate: [] for fate in _WORDS}
    for judged in claims:
        fates[fate_of(judged)].append(judged)
    total = Counter(judged.claim.about for judged in claims)
    sentences = [_count(fates, paper)] if claims else []
    for fate, found in fates.items():
        phrases = [*_listed(found, fate, total)] if len(found) < len(claims) or fate != "not run" else []
        if fate == "mixed":
            phrases += [Phrase(" ")] * bool(phrases and any(each.spans for each in readings)) + [*_spans(readings)]
        if phrases:
            sentences.append(Sentence(_WORDS[fate].lead, tuple(_led_once(phrases)), fate))
    return tuple(sentences)


def _led_once(phrases: Iterable[Phrase]) -> Iterator[Phrase]:
    """Yield phrases of which only the first that names a body of evidence leads to its page."""
    seen = set()
    for phrase in phrases:
        yield replace(phrase, body="") if phrase.body in seen else phrase
        seen.add(phrase.body)


def _count(fates: Mapping[Fate, Sequence[JudgedClaim]], paper: str) -> Sentence:
    """Count the claims by what becomes of them."""
    total = sum(map(len, fates.values()))
    whose = f" of {paper}" if paper else ""
    if total == 1:
        fate = next(fate for fate, found in fates.items() if found)
        word = "does not stand" if fate == "contradicted" else _WORDS[fate].one
        return Sentence("", (Phrase(f"The only claim{whose or ' of the paper'} {word}."),))
    which = f"Of the {total} claims{whose}" if paper else f"Of the paper's {total} claims"
    if len(fates["not run"]) == total:
        return Sentence("", (Phrase(f"{which}, none has runs yet."),))
    told = [
        f"{len(found)} {_WORDS[fate].one if len(found) == 1 else _WORDS[fate].many}"
        for fate, found in fates.items()
        if found
    ]
    told = told if fates["supported"] else ["none stands", *told]
    return Sentence("", (Phrase(f"{which}, {_joined(told)}."),))


def _joined(words: Sequence[str]) -> str:
    """Return words as a list in a sentence: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _listed(found: Sequence[JudgedClaim], fate: Fate, total: Mapping[str, int]) -> Iterator[Phrase]:
    """Yield the claims of one fate: those about one thing together, and of these, those that say the same of it."""
    by_about: dict[str, list[JudgedClaim]] = {}
    for judged in found:
        by_about.setdefault(judged.claim.about, []).append(judged)
    for number, (about, claims) in enumerate(by_about.items()):
        yield Phrase(f"{'; ' if number else ''}on {about}, ")
        if len(claims) == total[about] >= FEWEST_TOGETHER:
            yield Phrase(f"all {len(claims)} claims", claim=claims[0].claim.id)
            continue
        by_words: dict[str, list[JudgedClaim]] = {}
        for judged in claims:
            words = judged.claim.brief.that if judged.claim.brief else judged.claim.id
            by_words.setdefault(words if QUANTITY_MARK in words else judged.claim.id, []).append(judged)
        for place, alike in enumerate(by_words.values()):
            yield from [Phrase("; ")] * bool(place)
            yield from _told(alike, fate)
    if found:
        yield Phrase(".")


def _told(alike: Sequence[JudgedClaim], fate: Fate) -> Iterator[Phrase]:
    """Yield what claims say that differ in the quantity alone, each quantity leading to its claim."""
    brief = alike[0].claim.brief
    before, _, after = brief.that.partition(QUANTITY_MARK) if brief and QUANTITY_MARK in brief.that else ("", "", "")
    differing = [tuple(_differing(judged, fate)) for judged in alike]
    of_all = differing[0] if len({_texts(phrases) for phrases in differing}) == 1 else ()
    yield from [Phrase(f"that {before}")] * bool(before or after)
    for place, judged in enumerate(alike):
        claim = judged.claim
        if place:
            yield Phrase(" and " if place == len(alike) - 1 else ", ")
        text = claim.quantity if before or after else f"that {claim.that}" if brief else f"“{claim.that}”"
        way = _way(judged) if fate == "contradicted" else ""
        yield Phrase(f"{text} ({way})" if way else text, claim=claim.id)
        yield from () if of_all else differing[place]
    yield from [Phrase(after)] * bool(after)
    yield from of_all


def _texts(phrases: Iterable[Phrase]) -> str:
    return "".join(phrase.text for phrase in phrases)


def _differing(judged: JudgedClaim, fate: Fate) -> Iterator[Phrase]:
    """Yield in brackets which bodies of evidence say something else than the fate's name does."""
    words = {"supported": ("undecided",), "mixed": ("contradicted", "supported", "undecided")}.get(fate, ())
    said = {word: [name for name, found in judged.bodies.items() if found.verdict == word] for word in words}
    told = [(word, names) for word, names in said.items() if names]
    for place, (word, names) in enumerate(told):
        yield Phrase(f"{'; ' if place else ' ('}{word} by ")
        for number, name in enumerate(names):
            yield from [Phrase(" and " if number == len(names) - 1 else ", ")] * bool(number)
            yield from [Phrase("the incomplete ")] * judged.bodies[name].is_incomplete
            yield Phrase(name, body=name)
        if word == "contradicted" and (way := _way(judged)):
            yield Phrase(f", {way}")
    yield from [Phrase(")")] * bool(told)


def _way(judged: JudgedClaim) -> str:
    """Say which way the numbers of a claim about the paper's numbers go, over all bodies that contradict it."""
    if judged.claim.group == "order":
        return ""
    return ways(part for found in judged.bodies.values() for part in found.parts)


def _spans(readings: Iterable[BodyReadings]) -> Iterator[Phrase]:
    """Yield a sentence for each number: between what distances to the paper's readings put it, with their runs."""
    for place, (each, span) in enumerate((own, span) for own in readings for span in own.spans):
        name = span.name.replace(", K = ", " for K = ")
        which = " " if place else " of what the text leaves open "
        yield Phrase(f"{' ' if place else ''}{span.readings} readings{which}put our {name}, ")
        yield Phrase(_off(span.low), run_ids=span.low.run_ids)
        yield Phrase(" to ")
        yield Phrase(_off(span.high), run_ids=span.high.run_ids)
        yield Phrase(" nats off the paper's (")
        yield Phrase(each.body, body=each.body)
        most = max((end.estimate.n for end in (span.low, span.high) if end.estimate), default=0)
        yield Phrase(", ".join(("", *filter(None, ("one seed each" if most == 1 else "", each.stamp)))))
        yield Phrase(").")


def _off(entry: Entry) -> str:
    if entry.difference is None:
        raise ValueError("a reading without a difference to the paper's number; expected: one that has it")
    return format_number(entry.difference, 2, signed=True)


def bodies_of(claims: Iterable[JudgedClaim]) -> dict[str, str]:
    """Return id of a claim -> the body of evidence that shows its fate first; of a claim without runs, none."""
    found = {}
    for judged in claims:
        fate = fate_of(judged)
        word = "contradicted" if fate == "mixed" else fate
        named = [name for name, verdict in judged.bodies.items() if verdict.verdict == word]
        if named:
            found[judged.claim.id] = named[0]
    return found
