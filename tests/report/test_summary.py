"""The verdict in a few sentences: counts, grammar, what is told together, and where each phrase leads."""

from types import SimpleNamespace

import pytest

from nfstudy.report.claims.inequalities import parse_claims
from nfstudy.report.claims.ledger import JudgedClaim
from nfstudy.report.claims.summary import BodyReadings, bodies_of, fate_of, verdict_sentences
from nfstudy.report.exhibits.base import ReadingSpan
from nfstudy.report.paper import PaperFacts, Published
from nfstudy.report.statistics.estimates import Estimate
from nfstudy.report.tables import Entry

FORM = "{form: below, family: planar, other: nice-perm, lengths: [10]}"


def claim(name, about="MNIST", that="", quantity="F"):
    brief = f'  brief: {{on: "{about}", that: "{that}"}}\n' if that else ""
    text = (
        f'- id: {name}\n  says: "It is so, of {name}."\n{brief}  where: Table 1\n  exhibit: summary\n  study: s\n'
        f"  quantity: {quantity}\n  level: 0.95\n  inequality: {FORM}\n"
    )
    return parse_claims(text, "test", PaperFacts())[0]


def judged(name, *verdicts, **how):
    """A claim with these verdicts of the bodies b1, b2, ...; one with a star is of cells that are not complete."""
    bodies = {
        f"b{n}": SimpleNamespace(verdict=word.rstrip("*"), parts=(), is_incomplete=word.endswith("*"))
        for n, word in enumerate(verdicts, 1)
    }
    return JudgedClaim(claim(name, **how), bodies)


def texts(*claims, **others):
    return [sentence.text for sentence in verdict_sentences(claims, **others)]


@pytest.mark.parametrize(
    ("verdicts", "fate"),
    [
        ((), "not run"),
        (("not run",), "not run"),
        (("supported",), "supported"),
        (("supported", "undecided", "not run"), "supported"),
        (("contradicted", "contradicted"), "contradicted"),
        (("contradicted", "not run"), "contradicted"),
        (("contradicted", "undecided"), "mixed"),
        (("contradicted", "supported"), "mixed"),
        (("undecided", "undecided"), "undecided"),
    ],
)
def test_what_becomes_of_a_claim_over_all_bodies(verdicts, fate):
    assert fate_of(judged("a", *verdicts)) == fate


def test_without_claims_nothing_is_said():
    assert texts() == []


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        (("supported",), "stands"),
        (("contradicted",), "does not stand"),
        (("contradicted", "supported"), "depends on the reading"),
        (("undecided",), "is undecided"),
        ((), "has no runs yet"),
    ],
)
def test_one_claim(verdicts, words):
    first, *_ = texts(judged("a", *verdicts))
    assert first == f"The only claim of the paper {words}."
    first, *_ = texts(judged("a", *verdicts), paper="Smith (2030)")
    assert first == f"The only claim of Smith (2030) {words}."


def test_a_body_that_is_not_complete_is_told_as_such():
    _, told = texts(judged("a", "contradicted*", "supported", "undecided*"))
    assert told.endswith("(contradicted by the incomplete b1; supported by b2; undecided by the incomplete b3).")


def test_what_differs_alike_is_told_once_and_each_body_leads_once_in_a_sentence():
    falls = "longer chains lower {quantity} at each step"
    claims = [
        judged("f", "supported", "undecided*", that=falls),
        judged("n", "supported", "undecided*", that=falls, quantity="−ln p(x)"),
        judged("x", "supported", "undecided", that="mixing is alike"),
        judged("m", "contradicted", "supported", that="the levels are the paper's"),
    ]
    _, stands, mixed = verdict_sentences(claims)
    assert stands.text == (
        "What stands: on MNIST, that longer chains lower F and −ln p(x) at each step (undecided by the incomplete b2); "
        "that mixing is alike (undecided by b2)."
    )
    assert [phrase.body for phrase in stands.phrases if phrase.text == "b2"] == ["b2", ""]
    assert [phrase.body for phrase in mixed.phrases if phrase.text == "b2"] == ["b2"]


def test_no_runs():
    assert texts(judged("a"), judged("b")) == ["Of the paper's 2 claims, none has runs yet."]


def test_many_are_counted_and_each_is_named_with_its_way_back():
    claims = [
        judged("f", "supported", "supported", that="longer chains lower {quantity} at each step"),
        judged("n", "undecided", "supported", that="longer chains lower {quantity} at each step", quantity="−ln p(x)"),
        judged("k", "supported", that="longer chains lower {quantity} at each step", quantity="KL"),
        judged("x", "supported", that="mixing is alike"),
        judged("m", "contradicted", "undecided", "supported", that="the levels are the paper's"),
        judged("u", "undecided", about="CIFAR-10", that="longer chains lower {quantity}"),
    ]
    sentences = verdict_sentences(claims)
    assert [sentence.text for sentence in sentences] == [
        "Of the paper's 6 claims, 4 stand, 1 depends on the reading and 1 is undecided.",
        "What stands: on MNIST, that longer chains lower F, −ln p(x) (undecided by b1) and KL at each step; that "
        "mixing is alike.",
        "What depends on the reading: on MNIST, that the levels are the paper's (contradicted by b1; supported by b3; "
        "undecided by b2).",
        "Undecided: on CIFAR-10, that longer chains lower F.",
    ]
    leads = {phrase.text: phrase.claim or phrase.body for sentence in sentences for phrase in sentence.phrases}
    assert (leads["−ln p(x)"], leads["KL"], leads["that mixing is alike"], leads["b3"]) == ("n", "k", "x", "b3")
    assert leads["F"] == "u"
    assert bodies_of(claims) == {"f": "b1", "n": "b2", "k": "b1", "x": "b1", "m": "b1", "u": "b1"}


def test_none_stands_is_said():
    assert texts(judged("a", "contradicted", that="it is so"), judged("b")) == [
        "Of the paper's 2 claims, none stands, 1 does not and 1 has no runs yet.",
        "What does not stand: on MNIST, that it is so.",
        "Not run: on s, “It is so, of b”.",
    ]


def test_all_claims_about_one_thing_are_told_as_one_where_they_fare_alike():
    claims = [judged(f"e{n}", "undecided", about="the plane", that=f"it is so {n}") for n in range(3)]
    _, told = texts(*claims)
    assert told == "Undecided: on the plane, all 3 claims."
    _, one, two = texts(*claims[:2], judged("e3", "supported", about="the plane", that="it is not"))
    assert one == "What stands: on the plane, that it is not."
    assert two == "Undecided: on the plane, that it is so 0; that it is so 1."


def span(name, low, high, n=1):
    def entry(difference, run):
        paper = Published(90.0, "Table 9", "printed")
        return Entry(
            estimate=Estimate(n, 90 + difference, None, (run,)), reference=paper, difference=difference, run_ids=(run,)
        )

    return ReadingSpan(name, 4, entry(low, "r1"), entry(high, "r2"))


def test_readings_say_how_far_numbers_move_and_lead_to_their_runs():
    readings = [
        BodyReadings("readings paper", (span("gain in F, K = 0 to 80", -4.0, 0.25),), "incomplete: 4 of 8 cells")
    ]
    _, _, told = verdict_sentences([judged("a", "supported", that="it is so")], readings)
    assert told.text == (
        "What depends on the reading: 4 readings of what the text leaves open put our gain in F for K = 0 to 80, −4.00 "
        "to +0.25 nats off the paper's (readings paper, one seed each, incomplete: 4 of 8 cells)."
    )
    leads = {phrase.text: phrase.run_ids for phrase in told.phrases if phrase.run_ids}
    assert leads == {"−4.00": ("r1",), "+0.25": ("r2",)}
    assert "one seed" not in texts(readings=[BodyReadings("b", (span("F", 1.0, 2.0, n=3),))])[0]
    assert texts(readings=[BodyReadings("b", ())]) == []
    (several,) = texts(readings=[*readings, BodyReadings("c", (span("gain in F", 1.0, 2.0),))])
    assert several.endswith(" 4 readings put our gain in F, +1.00 to +2.00 nats off the paper's (c, one seed each).")
