"""The claims file, and its verdicts on planted runs."""

import csv
import io
import json
import math
import re
from types import SimpleNamespace

import pytest
from scipy import stats
from support.fake_runs import FakeRuns, run_all, study

from nfstudy.core.errors import ReportError, SpecError
from nfstudy.papers.rezende2015 import REZENDE2015
from nfstudy.papers.rezende2015.facts import FACTS
from nfstudy.papers.rezende2015.published import FIGURE_3, FIGURE_4, TABLE_3, find_published
from nfstudy.papers.rezende2015.stated import why_not_comparable
from nfstudy.report.claims.inequalities import parse_claims, read_claims
from nfstudy.report.claims.ledger import judge_on, ledger, ledger_table, side_by_side, verdict_lines
from nfstudy.report.claims.verdicts import evaluate, ways
from nfstudy.report.latex import to_latex
from nfstudy.report.statistics.estimates import BOUNDS, first_of, gather_results
from nfstudy.report.tables import to_csv
from nfstudy.study.plan import Further
from nfstudy.study.settings import setting_defaults

CLAIMS = read_claims(REZENDE2015)
PARTS = [part for claim in CLAIMS for part in claim.parts()]

CLAIM = """
- id: longer
  says: Longer is lower.
  where: Figure 4(a)
  exhibit: figure-4
  study: mnist
  on: {data.name: mnist}
  quantity: F
  level: 0.95
  inequality: {form: falls, family: planar, lengths: [0, 10, 20]}
"""
FALLS = "{form: falls, family: planar, lengths: [0, 10, 20]}"

SMALL = """
study: mnist
title: Two lengths
data: {name: mnist}
grid: {flow.family: [planar], flow.length: [0, 10]}
repetitions: 3
budgets: {full: {}}
exhibits: [summary]
"""

ENERGIES = """
study: energies
title: Energies
energy: {name: u1}
grid: {energy.name: [u1, u2], flow.family: [planar, nice-perm], flow.length: [2, 32]}
repetitions: 2
exhibits: [summary]
"""


def planted(spec, values, budget="full"):
    """Runs whose F is `values[flow family, length]`, a list over the repetitions; None is a repetition not run."""
    runs = FakeRuns()
    for cell in spec.under(budget).cells:
        flow = cell.settings.flow
        for trial in spec.under(cell.budget).repetitions_of(cell):
            value = values.get((flow.family, flow.length), [None] * 9)[trial.index - 1]
            if value is not None:
                runs.add(trial, test__elbo=-value)
    return gather_results(spec.under(budget), runs)


def judged(text, results):
    """Return part id without its claim -> verdict on the part, and the verdict on the only claim."""
    (found,) = evaluate(parse_claims(text, "claims.yaml", FACTS), results)
    return {part.part.id.partition("/")[2]: part for part in found.parts}, found


def test_the_file_is_a_ledger_of_settings_and_cells_that_exist():
    assert len({part.id for part in PARTS}) == len(PARTS)
    for part in PARTS:
        assert part.where.keys() <= {"data.name", "energy.name", *setting_defaults()}
        assert part.published is not None, part.id


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.id)
def test_the_papers_own_numbers_satisfy_its_claims(part):
    lower, upper = part.bounds
    assert lower < part.published.value < upper


def test_a_tolerance_is_a_third_of_the_papers_gain_and_stands_in_the_sentence():
    longest = {"mnist": 80, "cifar10": 10}
    near = [claim for claim in CLAIMS if claim.inequality.form in ("near", "gains")]
    assert len(near) == 6
    for claim in near:
        ends = (("none", 0), ("planar", longest[claim.on["data.name"]]))
        start, end = (find_published(claim.on, claim.quantity, *place).value for place in ends)
        assert claim.inequality.tolerance == round((start - end) / 3, 1)
        assert f"within {claim.inequality.tolerance:g} nats" in claim.says


def test_the_margin_of_alike_is_below_what_tells_the_families_apart_on_each_energy():
    (alike,) = [claim for claim in CLAIMS if claim.inequality.form == "alike"]
    gaps = [
        FIGURE_3[energy, nice, 2].value - FIGURE_3[energy, "planar", 2].value
        for energy in alike.each["energy.name"]
        for nice in ("nice-perm", "nice-orth")
    ]
    assert alike.inequality.margin < min(gaps)
    assert f"below {alike.inequality.margin:g} nats" in alike.says


@pytest.mark.parametrize(
    ("inequality", "terms"),
    [
        (
            FALLS,
            {
                "K=0..10": "+planar 10, -none 0",
                "K=10..20": "+planar 20, -planar 10",
                "K=0..20": "+planar 20, -none 0",
            },
        ),
        ("{form: falls, family: planar, lengths: [10, 20]}", {"K=10..20": "+planar 20, -planar 10"}),
        ("{form: below, family: planar, other: nice-perm, lengths: [10]}", {"K=10": "+planar 10, -nice-perm 10"}),
        (
            "{form: approaches, family: nice-perm, other: planar, lengths: [10, 20]}",
            {"K=10..20": "+nice-perm 20, -planar 20, +nice-perm 10, -planar 10"},
        ),
        (
            "{form: alike, family: nice-perm, other: nice-orth, lengths: [10], margin: 0.5}",
            {"K=10": "+nice-perm 10, -nice-orth 10"},
        ),
        (
            "{form: near, cells: {none: [0], planar: [10]}, tolerance: 2.0}",
            {"none,K=0": "+none 0", "planar,K=10": "+planar 10"},
        ),
        ("{form: gains, family: planar, lengths: [0, 20], tolerance: 2.0}", {"K=0..20": "+none 0, -planar 20"}),
    ],
    ids=["falls", "falls in one step", "below", "approaches", "alike", "near", "gains"],
)
def test_a_form_expands_to_contrasts(inequality, terms):
    (claim,) = parse_claims(CLAIM.replace(FALLS, inequality), "claims.yaml", FACTS)
    shown = {
        part.inequality.name: ", ".join(f"{c:+d} {f} {k}".replace("1 ", "", 1) for c, (f, k) in part.inequality.terms)
        for part in claim.parts()
    }
    assert shown == terms


def test_each_makes_the_claim_for_every_value():
    text = CLAIM.replace("on: {data.name: mnist}", "each: {energy.name: [u1, u3]}").replace("[0, 10, 20]", "[2, 8]")
    (claim,) = parse_claims(text, "claims.yaml", FACTS)
    assert [(part.id, part.where) for part in claim.parts()] == [
        ("longer/u1/K=2..8", {"energy.name": "u1"}),
        ("longer/u3/K=2..8", {"energy.name": "u3"}),
    ]
    # Figure 3(d), energy 1, planar: −0.212 − 0.062.
    assert claim.parts()[0].published.value == pytest.approx(-0.274, abs=1e-12)
    assert claim.parts()[0].published.display == "−0.27"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("level: 0.95", "level: 1.5", r"claims.yaml:9:10: 0.level: got 1.5; expected: .*less than 1"),
        ("form: falls", "form: rises", r"claims.yaml:10:.* 0.inequality.*falls"),
        ("exhibit: figure-4", "exhibit: figure-9", r"0.exhibit: got 'figure-9'; expected: .*table-2"),
        ("quantity: F", "quantity: ELBO", r"0.quantity: got 'ELBO'; expected: .*KL"),
        ("family: planar", "family: convex", r"family: got 'convex'; expected: .*planar"),
        ("says: Longer is lower.", "say: Longer.", r"0.says: got a mapping; expected: Field required"),
        ("[0, 10, 20]", "[0]", "expected: .*at least 2"),
    ],
)
def test_mistakes_in_the_file_are_told_with_their_place(old, new, message):
    with pytest.raises(SpecError, match=message):
        parse_claims(CLAIM.replace(old, new), "claims.yaml", FACTS)


def test_an_id_stands_once_and_near_needs_a_number_of_the_paper():
    with pytest.raises(ReportError, match=r"claims.yaml: the id 'longer' is duplicated; expected: once"):
        parse_claims(CLAIM + CLAIM, "claims.yaml", FACTS)
    near = CLAIM.replace(FALLS, "{form: near, cells: {planar: [7]}, tolerance: 1.0}")
    with pytest.raises(ReportError, match=r"longer/planar,K=7: the paper gives no F there"):
        parse_claims(near, "claims.yaml", FACTS)[0].parts()


def test_the_papers_gains_are_those_of_its_figure():
    # Figure 4 as the facts have it: 7.17 nats in F and 4.77 in −ln p(x) from K = 0 to 80.
    gains = {part.id: part.published.value for part in PARTS if part.claim.inequality.form == "gains"}
    assert gains == {
        "mnist-gain-f/K=0..80": pytest.approx(7.17, abs=0.005),
        "mnist-gain-nll/K=0..80": pytest.approx(4.77, abs=0.005),
    }


def test_verdicts_by_hand():
    # K = 10 − K = 0: −5, −4, −6 (mean −5, se 1/√3, t at 0.98 4.848732, half-width 2.799).
    # K = 20 − K = 10: 1, −1, −1.5 (mean −0.5, undecided). K = 20 − K = 0: −4, −5, −7.5 (mean −5.5).
    values = {("none", 0): [97, 98, 99], ("planar", 10): [92, 94, 93], ("planar", 20): [93, 93, 91.5]}
    parts, claim = judged(CLAIM, planted(study(), values))
    assert {name: part.verdict for name, part in parts.items()} == {
        "K=0..10": "supported",
        "K=10..20": "undecided",
        "K=0..20": "supported",
    }
    first = parts["K=0..10"]
    assert first.contrast.mean == -5.0
    assert first.interval == pytest.approx((-5 - 4.848732 / math.sqrt(3), -5 + 4.848732 / math.sqrt(3)), abs=1e-6)
    assert first.interval_text == "[−7.80, −2.20]"
    assert first.statistic == "mean of paired differences, 96 % t interval"
    assert len(first.run_ids) == 6
    # sd² = (1.5² + 0.5² + 1²) / 2 = 1.75: an effect of 0.378 sd, at 2 % one-sided, of which looks leave 0.8 of 2.5 %.
    found = re.fullmatch(r"80 % power takes (\d+) seeds \((\d+) to more than 1,000\)", parts["K=10..20"].note)
    power = [stats.nct.sf(stats.t.isf(0.02, n - 1), n - 1, 0.5 * math.sqrt(n / 1.75)) for n in range(2, 99)]
    assert int(found[1]) == 2 + next(i for i, p in enumerate(power) if p >= 0.8)
    assert (claim.verdict, claim.note) == ("undecided", "2 of 3 parts supported, 1 undecided")


@pytest.mark.parametrize(
    ("last", "verdict", "note"),
    [
        ([80, 81, 82.5], "supported", "3 of 3 parts supported"),
        (
            [190, 191, 193],
            "contradicted",
            "1 of 3 parts supported, 2 contradicted: NF (planar), K = 20 is higher by 93.33 to 98.33 nats",
        ),
        ([None] * 3, "undecided", "1 of 3 parts supported, 2 not run"),
        ([80, None, None], "undecided", "1 of 3 parts supported, 2 undecided"),
    ],
    ids=["all", "one against", "a cell not run", "one seed"],
)
def test_a_claim_is_what_its_parts_are(last, verdict, note):
    values = {("none", 0): [97, 98, 99], ("planar", 10): [92, 94, 93], ("planar", 20): last}
    _, claim = judged(CLAIM, planted(study(), values))
    assert (claim.verdict, claim.note) == (verdict, note)


def test_what_is_missing_is_said():
    values = {("none", 0): [97, 98, 99], ("planar", 10): [92, None, None]}
    parts, claim = judged(CLAIM, planted(study(), values))
    assert parts["K=0..10"].note == "NF (planar), K = 10: 2 of 3 not run; an interval takes at least 2 seeds"
    assert parts["K=10..20"].note == "NF (planar), K = 20: not run"
    assert (parts["K=10..20"].verdict, parts["K=10..20"].contrast) == ("not run", None)
    assert claim.verdict == "undecided"
    parts, _ = judged(CLAIM, planted(study(SMALL), values))
    assert parts["K=10..20"].note == "NF (planar), K = 20: not in this study"


def test_the_runs_behind_a_part_are_those_that_are_compared():
    values = {("none", 0): [97, 98, None], ("planar", 10): [95, 94, 93], ("planar", 20): [None, None, 90]}
    parts, _ = judged(CLAIM, planted(study(), values))
    assert (parts["K=0..10"].contrast.repetitions, parts["K=0..10"].contrast.mean) == ((1, 2), -3.0)
    assert len(parts["K=0..10"].run_ids) == 4
    assert parts["K=0..20"].contrast.repetitions == ()
    assert len(parts["K=0..20"].run_ids) == 3


def test_one_pair_does_not_discard_what_else_there_is():
    # 97, 98 against 94, 93, one repetition in common: Welch's statistic of all four, with 1 degree of freedom.
    values = {("none", 0): [97, 98, None], ("planar", 10): [None, 94, 93]}
    part = judged(CLAIM, planted(study(), values))[0]["K=0..10"]
    assert (part.contrast.mean, part.contrast.se) == (-4.0, pytest.approx(math.sqrt(0.5)))
    assert part.interval == pytest.approx((-4 - 15.894545 * math.sqrt(0.5), -4 + 15.894545 * math.sqrt(0.5)), abs=1e-5)
    assert part.statistic == "difference of means, 96 % Welch interval"
    assert len(part.run_ids) == 4


AHEAD = {10: 0.45, 20: 1.154}


def test_a_part_is_contradicted_only_among_all_parts():
    # Planar is 0.45 nats behind at K = 10, and 1.15 at 20, se 0.102/√3: t = 7.6 and 19.6, ν = 2.
    text = CLAIM.replace(FALLS, "{form: below, family: planar, other: nice-perm, lengths: [10, 20, 40, 80]}")
    spread = [-0.102, 0.0, 0.102]
    values = {("nice-perm", length): [90, 91, 92] for length in (10, 20, 40, 80)}
    values |= {("planar", k): [x + s + y for x, y in zip([90, 91, 92], spread, strict=True)] for k, s in AHEAD.items()}
    parts, claim = judged(text, planted(study(), values))
    assert [parts[f"K={k}"].verdict for k in (10, 20, 40)] == ["undecided", "contradicted", "not run"]
    by_itself = [float(stats.t.sf(s / (0.102 / math.sqrt(3)), 2)) / 0.8 for s in AHEAD.values()]
    assert by_itself[0] < 0.025 < 3 * by_itself[0]
    assert f"against it by itself, p = {by_itself[0]:.2g}, but not among its claim's 4 parts: p =" in parts["K=10"].note
    assert parts["K=20"].against == pytest.approx(4 * by_itself[1], rel=1e-6)
    assert parts["K=20"].note.startswith("NF (planar), K = 20 is higher by 1.15 nats; p = 0.00")
    assert claim.verdict == "contradicted"


def test_equal_differences_are_undecided():
    values = {("none", 0): [97, 98, 99], ("planar", 10): [92, 93, 94], ("planar", 20): [91.5, 92, 93.5]}
    parts, _ = judged(CLAIM, planted(study(), values))
    assert (parts["K=0..10"].verdict, parts["K=0..10"].note) == ("undecided", "equal values: no spread to judge by")


@pytest.mark.parametrize(
    ("inequality", "values", "way"),
    [
        (
            "{form: near, cells: {none: [0]}, tolerance: 1.0}",
            {("none", 0): [92.6, 92.7, 92.8]},
            "ours is lower by 4.05",
        ),
        ("{form: near, cells: {none: [0]}, tolerance: 1.0}", {("none", 0): [99, 99.1, 98.9]}, "ours is higher by 2.25"),
        (
            "{form: gains, family: planar, lengths: [0, 10], tolerance: 1.0}",
            {("none", 0): [92, 93, 94], ("planar", 10): [92, 93.1, 93.9]},
            "our gain is smaller by 3.18",
        ),
        (
            "{form: alike, family: planar, other: nice-perm, lengths: [10], margin: 0.5}",
            {("planar", 10): [92, 93, 94], ("nice-perm", 10): [95, 96.1, 96.9]},
            "NF (planar), K = 10 is lower by 3.00",
        ),
        (
            "{form: approaches, family: nice-perm, other: planar, lengths: [10, 20]}",
            {
                **{("planar", 10): [92, 93, 94], ("nice-perm", 10): [92.5, 93.6, 94.4]},
                **{("planar", 20): [92, 93, 94], ("nice-perm", 20): [95, 96, 97]},
            },
            "the distance grows by 2.50",
        ),
    ],
    ids=["a level that is lower", "one that is higher", "a gain", "alike", "a distance"],
)
def test_a_contradiction_says_which_way(inequality, values, way):
    _, claim = judged(CLAIM.replace(FALLS, inequality), planted(study(), values))
    assert claim.verdict == "contradicted"
    assert claim.way == f"{way} nats"


def test_a_name_with_by_in_it_is_no_size():
    said = ("Householder by blocks, K = 4 is lower by 0.30 nats", "Householder by blocks, K = 4 is lower by 0.10 nats")
    parts = [
        SimpleNamespace(verdict="contradicted", contrast=SimpleNamespace(mean=0.0), part=SimpleNamespace(way=way))
        for way in (lambda _, text=text: text for text in said)
    ]
    assert ways(parts) == "Householder by blocks, K = 4 is lower by 0.10 to 0.30 nats"


def planted_looks(spec, values, first=3):
    """As `planted`, with repetitions beyond the study's number as `decide` leaves them."""
    runs = FakeRuns()
    for cell in spec.under("full").cells:
        flow = cell.settings.flow
        own = values.get((flow.family, flow.length), [])
        look = json.dumps({"first": first})
        for trial in spec.under("full").repetitions_of(cell, further=Further(len(own), look))[: len(own)]:
            runs.add(trial, test__elbo=-own[trial.index - 1], look=trial.look)
    return gather_results(spec.under("full"), runs)


FALLS_ONCE = CLAIM.replace(FALLS, "{form: falls, family: planar, lengths: [0, 10]}")
ZEROS = {("none", 0): [97.0] * 12}


def test_repetitions_beyond_the_studys_number_count_at_looks_alone_and_in_no_table():
    values = [96.0, 97.5, 96.2, 95.0, 95.2, 95.4, 95.1, 95.3]
    spec = study(SMALL)
    for count, looks in ((3, 1), (5, 1), (6, 2), (8, 2)):
        results = planted_looks(spec, {("none", 0): [97.0] * count, ("planar", 10): values[:count]})
        part = judged(FALLS_ONCE, results)[0]["K=0..10"]
        assert [look.repetitions for look in part.looks] == [3, 6][:looks]
        assert part.contrast.n == 3 * looks
        assert results.cells[1].estimate(BOUNDS[0]).n == 3
    # Differences of six: mean, sd and p by scipy; look 2 spends a tenth of the error.
    alone = stats.ttest_1samp([x - 97 for x in values[:6]], 0, alternative="less").pvalue
    assert part.evidence.p_value("within") == pytest.approx(alone / 0.1, rel=1e-9)
    assert part.level == pytest.approx(0.995)
    assert part.statistic == "mean of paired differences, 99.5 % t interval, look 2"
    _, row = ledger_table(evaluate(parse_claims(FALLS_ONCE, "c", FACTS), results), results).rows
    assert re.search(r"look 1 at 3: −0.43, p for 0.\d+, against 0.\d+; look 2 at 6: −1.12, p for", row.entries[5].text)


def test_looks_that_disagree_decide_nothing_and_the_note_says_so():
    # Three pairs for it, all but equal, then 21 so far against it that all 24 are, whose error is a tenth.
    values = [96.0, 96.0001, 95.9999, *(99.0 + 0.1 * (n % 3) for n in range(21))]
    results = planted_looks(study(SMALL), {("none", 0): [97.0] * 24, ("planar", 10): values})
    part = judged(FALLS_ONCE, results)[0]["K=0..10"]
    assert part.evidence.p_value("within") < 0.025 > part.evidence.p_value("outside")
    assert part.verdict == "undecided"
    assert part.note.startswith("its looks disagree: one is for it, one against it")
    assert "by itself" not in part.note


def test_a_number_of_repetitions_that_is_raised_in_the_file_is_still_a_later_look():
    values = {("none", 0): [97.0] * 6, ("planar", 10): [96.0, 97.5, 96.2, 95.0, 95.2, 95.4]}
    runs = planted_looks(study(SMALL), values).store
    raised = gather_results(study(SMALL, repetitions="6").under("full"), runs)
    assert raised.first_look == 3
    assert [look.repetitions for look in judged(FALLS_ONCE, raised)[0]["K=0..10"].looks] == [3, 6]


@pytest.mark.parametrize("look", ["", "two", "[]", '{"first": "3"}', '{"first": 0}', "null"])
def test_a_tag_that_was_edited_is_left_out(look):
    assert first_of(look) is None


def test_claims_stand_on_every_body_of_evidence_side_by_side():
    falling = {("none", 0): [97, 98, 99], ("planar", 10): [92, 94, 93], ("planar", 20): [91, 92.5, 92]}
    own = planted(study(), falling)
    other = planted(study(study="mnist-again"), {**falling, ("planar", 20): [91, 99, 80]})
    without = planted(study(SMALL, study="small"), {})
    near = CLAIM.replace(FALLS, "{form: near, cells: {none: [0]}, tolerance: 1.0}").replace("id: longer", "id: level")
    claims = parse_claims(CLAIM + near, "c", FACTS)
    judged_claims = judge_on(claims, [other, without, own])
    assert [[*found.bodies] for found in judged_claims] == [["mnist full", "mnist-again full"]] * 2
    table = side_by_side(judged_claims)
    assert table.columns == ("claim", "about", "mnist full", "mnist-again full")
    assert [(row.name, *(entry.display for entry in row.entries)) for row in table.rows] == [
        ("longer", "order", "supported", "undecided"),
        ("level", "level", "undecided", "undecided"),
    ]


def test_a_verdict_on_cells_whose_repetitions_are_still_to_do_says_so():
    falling = {("none", 0): [97, 98, 99], ("planar", 10): [92, 94, 93], ("planar", 20): [91, 92.5, None]}
    (claim,) = parse_claims(CLAIM, "c", FACTS)
    judged_claims = judge_on([claim], [planted(study(), falling)])
    assert [verdict.is_incomplete for verdict in judged_claims[0].bodies.values()] == [True]
    table = side_by_side(judged_claims, caption="All.")
    assert table.columns == ("claim", "about", "mnist full (incomplete)")
    assert [entry.display for entry in table.rows[0].entries] == ["order", "undecided"]
    assert table.caption.startswith("All. Incomplete: so far, with repetitions")
    level = "{form: near, cells: {none: [0]}, tolerance: 1.0}"
    claims = parse_claims(CLAIM + CLAIM.replace(FALLS, level).replace("id: longer", "id: level"), "c", FACTS)
    table = side_by_side(judge_on(claims, [planted(study(), falling)]))
    assert table.columns == ("claim", "about", "mnist full")
    assert [entry.display for row in table.rows for entry in row.entries[1:]] == ["undecided (incomplete)", "undecided"]


def test_two_cells_at_one_place_are_ambiguous_unless_the_claim_names_the_setting():
    spec = study(SMALL, grid="{flow.family: [planar], flow.length: [0, 10], model.latent: [2, 40]}")
    values = {("none", 0): [97, 98, 99], ("planar", 10): [92, 94, 93]}
    text = CLAIM.replace("[0, 10, 20]", "[0, 10]")
    parts, _ = judged(text, planted(spec, values))
    assert parts["K=0..10"].verdict == "not run"
    assert parts["K=0..10"].note == (
        "NF (planar), K = 10: ambiguous, 2 cells differ in D = 2; D = 40; "
        "diagonal Gaussian, K = 0: ambiguous, 2 cells differ in D = 2; D = 40"
    )
    parts, _ = judged(text.replace("{data.name: mnist}", "{data.name: mnist, model.latent: 40}"), planted(spec, values))
    assert parts["K=0..10"].verdict == "supported"


def test_a_level_is_judged_only_where_it_is_the_papers_quantity():
    # Figure 4(a): F = 96.747 at K = 0; 95 ± 0.05 lies within 2 nats of it.
    text = CLAIM.replace(FALLS, "{form: near, cells: {none: [0]}, tolerance: 2.0}")
    values = {("none", 0): [94.95, 95.0, 95.05]}
    parts, _ = judged(text, planted(study(), values))
    found = parts["none,K=0"]
    assert (found.verdict, found.statistic) == ("supported", "mean, 96 % t interval")
    assert found.part.bounds == pytest.approx((94.747, 98.747))
    assert FIGURE_4["none", 0, "F"].value == found.part.published.value
    fewer = study(title="Fewer\nevaluation: {test_images: 500}")
    parts, _ = judged(text, planted(fewer, values))
    assert (parts["none,K=0"].verdict, parts["none,K=0"].note[:32]) == ("not run", "not comparable: 500 test images,")


def test_energies_are_told_apart_by_their_name():
    spec = study(ENERGIES)
    runs = run_all(spec, "default")
    for record in runs.records:
        # At K = 2 NICE is 2 nats below planar on u1, and where planar is on u2; at K = 32 it is the other way round.
        nice, long = record["flow.family"] == "nice-perm", record["flow.length"] == 32
        lead = 2.0 if nice and (record["energy.name"] == "u1") != long else 0.0
        record["test/elbo"] = -(5.0 - lead + 0.01 * record["index"] * nice * (not long))
    found = {v.claim.id: v for v in evaluate(CLAIMS, gather_results(spec.under("default"), runs))}
    approaches = found["energies-nice-perm-approaches-planar"]
    assert [(part.part.id.split("/")[1], part.verdict) for part in approaches.with_runs] == [
        ("u1", "supported"),
        ("u2", "contradicted"),
    ]
    assert approaches.with_runs[0].contrast.mean == pytest.approx(-1.985)
    assert approaches.with_runs[0].part.text == (
        "F, energy u1: |[NICE-perm, K = 32] − [NF (planar), K = 32]| − |[NICE-perm, K = 2] − [NF (planar), K = 2]| < 0"
    )
    assert approaches.with_runs[0].part.quantity.unit == "nats"
    assert (found["energies-mixing-alike"].verdict, found["mnist-level-f"].verdict) == ("not run", "not run")


def test_the_ledger_is_a_table_of_all_claims_with_their_numbers():
    spec = study()
    values = {("none", 0): [97, 98, 99], ("planar", 10): [92, 94, 93]}
    results = planted(spec, values)
    shown = ledger(CLAIMS, [results])
    rows = {row.name: row for row in shown.tables[0].rows}
    assert rows.keys() >= {claim.id for claim in CLAIMS}
    untouched = [entry.display for entry in rows["cifar10-nll-falls"].entries]
    assert (untouched[0], untouched[5]) == ("not run", "evidence: run studies/cifar10.yaml")
    part = rows["mnist-planar-f-falls/K=0..10"]
    assert [entry.display for entry in part.entries[:6]] == [
        "supported",
        "F: [NF (planar), K = 10] − [diagonal Gaussian, K = 0] < 0 (mean of paired differences, 96 % t interval)",
        "−5.00 ± 0.58 (3)",
        "[−7.80, −2.20]",
        "−3.18",
        "",
    ]
    assert not any(name.startswith(("mnist-planar-f-falls/K=20", "energies-mixing-alike/")) for name in rows)
    (line,) = [
        line for line in csv.DictReader(io.StringIO(to_csv(shown.tables[0]))) if line["row"].endswith("f-falls/K=0..10")
    ]
    assert line["note"] == "supported; mean of paired differences, 96 % t interval [−7.80, −2.20]"
    assert (line["ours_mean"], line["n"], line["unit"]) == ("-5.0", "3", "nats per image")
    assert float(line["paper"]) == pytest.approx(93.565 - 96.747)
    assert len(line["run_ids"].split()) == 6
    assert shown.text == "Of 18 claims about these cells: 6 undecided, 12 not run."
    assert not re.search("[✓✗]", to_latex(shown.tables[0]))


@pytest.mark.parametrize(("drop", "mark"), [(0.2, " †"), (0.01, "")], ids=["still falling", "converged"])
def test_a_level_is_a_bound_and_a_difference_of_bounds_is_none_and_both_are_marked_if_a_cell_is_not_converged(
    drop, mark
):
    spec = study()
    runs = run_all(spec, "full")
    for record in runs.records:
        length, repetition = record["flow.length"], record["index"]
        record["test/nll"] = 90 - length / 10 + repetition / 10 + (length == 10) * repetition / 100
        record["test/nll_drop"] = drop if length == 10 else 0.01
    results = gather_results(spec.under("full"), runs)
    table = ledger_table(evaluate(CLAIMS, results), results)
    ours = {row.name: (row.entries[2].display, row.entries[5].display) for row in table.rows}
    assert ours["mnist-planar-nll-falls/K=0..10"][0].startswith("−0.98 ± ")
    assert ours["mnist-planar-nll-falls/K=0..10"][0].endswith(f"(3){mark}")
    assert ours["mnist-level-nll/planar,K=10"][0].startswith("≤ 89.22 ")
    assert ours["mnist-level-nll/planar,K=10"][0].endswith(f"(3){mark}")
    assert not ours["mnist-level-nll/none,K=0"][0].endswith("†")
    assert ("† not converged in samples" in table.caption) is bool(mark)
    assert "lowered" not in ours["mnist-level-nll/planar,K=10"][1]
    lines = [*verdict_lines(judge_on(CLAIMS, [results]))]
    assert sum(line.startswith("† not converged in samples") for line in "\n".join(lines).splitlines()) == bool(mark)
    (line,) = [line for line in lines if "mnist-planar-nll-falls/K=0..10 " in line]
    assert ("n = 3 †" in line) is bool(mark)


def test_plain_lines_name_each_part_with_its_interval_and_n():
    values = {("none", 0): [97, 98, 99], ("planar", 10): [92, 94, 93]}
    lines = [*verdict_lines(judge_on(parse_claims(CLAIM, "c", FACTS), [planted(study(), values)]))]
    assert lines == [
        "Order: our cells against each other",
        "undecided    longer  on mnist full  (1 of 3 parts supported, 2 not run)",
        "  supported    longer/K=0..10  −5.00 [−7.80, −2.20] nats, n = 3",
        "  not run      longer/K=10..20  (NF (planar), K = 20: not run)",
        "  not run      longer/K=0..20  (NF (planar), K = 20: not run)",
        "Gain: a difference of ours against the paper's",
        "Level: numbers of ours against the paper's",
        "",
        "        mnist full",
        "longer  undecided",
    ]


def test_published_numbers_are_found_by_experiment():
    assert find_published({"energy.name": "u2"}, "F", "nice-orth", 8).value == -0.630
    assert find_published({"energy.name": "u2"}, "KL", "nice-orth", 8) is None
    assert find_published({"data.name": "cifar10"}, "−ln p(x)", "none", 0).display == "−293.7"
    assert find_published({"data.name": "cifar10"}, "F", "none", 0) is None
    assert find_published({"data.name": "digits"}, "F", "none", 0) is None
    assert len(FIGURE_3) == 4 * 4 * 3
    assert [number.value for number in TABLE_3.values()] == [-293.7, -308.6, -317.9, -320.7]
    assert FIGURE_3["u1", "nice-perm", 32].display == "0.06 ± 0.11"
    assert FIGURE_3["u2", "planar", 2].display == "−0.64 ± 0.41"


@pytest.mark.parametrize(
    ("changes", "experiment", "reason"),
    [
        ({}, "mnist", ""),
        ({}, "cifar10", "not comparable: data mnist, the paper's is cifar10"),
        ({}, "energies", "not comparable: the level of Figure 3(d) holds an unexplained constant; differences compare"),
        ({"data.name": "cifar10", "model.latent": 30}, "cifar10", ""),
        ({"data.name": "cifar10"}, "cifar10", "not comparable: D = 40, the paper's is 30"),
        (
            {"data.name": "cifar10", "model.latent": 30, "data.patch": 4},
            "cifar10",
            "not comparable: patches of 4 pixels a side, the paper's of 8",
        ),
        ({"data.name": "cifar10", "model.latent": 30}, "mnist", "not comparable: data cifar10, the paper's is mnist"),
    ],
)
def test_comparability_is_judged_by_the_papers_experiment(changes, experiment, reason):
    assert why_not_comparable(study().settings.replace(changes), experiment) == reason
