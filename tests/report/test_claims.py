"""The claims file, and its verdicts on planted runs."""

import csv
import io
import math
import re

import pytest
from support.fake_runs import FakeRuns, run_all, study

from nfstudy.core.errors import ReportError, SpecError
from nfstudy.papers.rezende2015 import REZENDE2015
from nfstudy.papers.rezende2015.facts import FACTS
from nfstudy.papers.rezende2015.published import FIGURE_3, FIGURE_4, TABLE_3, find_published
from nfstudy.papers.rezende2015.stated import why_not_comparable
from nfstudy.report.claims.inequalities import parse_claims, read_claims
from nfstudy.report.claims.ledger import evaluate, ledger, verdict_lines
from nfstudy.report.statistics.estimates import gather_results
from nfstudy.report.tables import to_csv, to_latex
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
        ("family: planar", "family: spline", r"family: got 'spline'; expected: .*planar"),
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
    # K = 10 − K = 0: −5, −4, −6 (mean −5, se 1/√3, t 4.302653, half-width 2.484).
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
    assert first.interval == pytest.approx((-5 - 4.302653 / math.sqrt(3), -5 + 4.302653 / math.sqrt(3)), abs=1e-6)
    assert first.interval_text == "[−7.48, −2.52]"
    assert first.statistic == "mean of paired differences, 95 % t interval"
    assert len(first.run_ids) == 6
    # sd² = (1.5² + 0.5² + 1²) / 2 = 1.75; 30 seeds leave 2.04523 √(1.75/30) = 0.494 < 0.5, 29 leave 0.503.
    assert parts["K=10..20"].note == "would take 30 seeds"
    assert (claim.verdict, claim.note) == ("undecided", "2 of 3 parts supported, 1 undecided")


@pytest.mark.parametrize(
    ("last", "verdict", "note"),
    [
        ([80, 81, 82.5], "supported", "3 of 3 parts supported"),
        ([190, 191, 192], "contradicted", "1 of 3 parts supported, 2 contradicted"),
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
    assert parts["K=0..10"].note == "2 of 3 not run; an interval takes at least 2 seeds"
    assert parts["K=10..20"].note == "NF (planar), K = 20: not run"
    assert (parts["K=10..20"].verdict, parts["K=10..20"].contrast) == ("not run", None)
    assert claim.verdict == "undecided"
    parts, _ = judged(CLAIM, planted(study(SMALL), values))
    assert parts["K=10..20"].note == "NF (planar), K = 20: not in this study"


def test_only_shared_repetitions_are_pairs_and_their_runs_alone_stand_behind():
    values = {("none", 0): [97, 98, None], ("planar", 10): [None, 94, 93], ("planar", 20): [90, None, None]}
    parts, _ = judged(CLAIM, planted(study(), values))
    assert (parts["K=0..10"].contrast.repetitions, parts["K=0..10"].contrast.mean) == ((2,), -4.0)
    assert len(parts["K=0..10"].run_ids) == 2
    assert parts["K=10..20"].contrast.repetitions == ()
    assert len(parts["K=10..20"].run_ids) == 3


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
    # Figure 4(a): F = 96.747 at K = 0; 95 ± 0.1 lies within 2 nats of it.
    text = CLAIM.replace(FALLS, "{form: near, cells: {none: [0]}, tolerance: 2.0}")
    values = {("none", 0): [94.9, 95.0, 95.1]}
    parts, _ = judged(text, planted(study(), values))
    found = parts["none,K=0"]
    assert (found.verdict, found.statistic) == ("supported", "mean, 95 % t interval")
    assert found.part.bounds == pytest.approx((94.747, 98.747))
    assert FIGURE_4["none", 0, "F"].value == found.part.published.value
    fewer = study(title="Fewer\nevaluation: {test_images: 500}")
    parts, _ = judged(text, planted(fewer, values))
    assert (parts["none,K=0"].verdict, parts["none,K=0"].note[:32]) == ("not run", "not comparable: 500 test images,")


def test_energies_are_told_apart_by_their_name():
    spec = study(ENERGIES)
    runs = run_all(spec, "default")
    for record in runs.records:
        # At K = 32 both are at 4. At K = 2 NICE is 2 nats below planar on u1, and where planar is on u2.
        lead = 2.0 if (record["flow.family"], record["energy.name"]) == ("nice-perm", "u1") else 0.0
        noise = 0.01 * record["index"] * (record["flow.length"] == 2)
        record["test/elbo"] = -(5.0 - lead + noise if record["flow.length"] == 2 else 4.0)
    found = {v.claim.id: v for v in evaluate(CLAIMS, gather_results(spec.under("default"), runs))}
    approaches = found["energies-nice-perm-approaches-planar"]
    assert [(part.part.id.split("/")[1], part.verdict) for part in approaches.with_runs] == [
        ("u1", "supported"),
        ("u2", "contradicted"),
    ]
    assert approaches.with_runs[0].contrast.mean == pytest.approx(-2.0)
    assert approaches.with_runs[0].part.text == (
        "F, energy u1: |[NICE-perm, K = 32] − [NF (planar), K = 32]| − |[NICE-perm, K = 2] − [NF (planar), K = 2]| < 0"
    )
    assert approaches.with_runs[0].part.quantity.unit == "nats"
    assert (found["energies-mixing-alike"].verdict, found["mnist-level-f"].verdict) == ("not run", "not run")


def test_the_ledger_is_a_table_of_all_claims_with_their_numbers():
    spec = study()
    values = {("none", 0): [97, 98, 99], ("planar", 10): [92, 94, 93]}
    results = planted(spec, values)
    shown = ledger(evaluate(CLAIMS, results), results)
    rows = {row.name: row for row in shown.tables[0].rows}
    assert rows.keys() >= {claim.id for claim in CLAIMS}
    untouched = [entry.display for entry in rows["cifar10-nll-falls"].entries]
    assert (untouched[0], untouched[5]) == ("not run", "evidence: run studies/cifar10.yaml")
    part = rows["mnist-planar-f-falls/K=0..10"]
    assert [entry.display for entry in part.entries[:6]] == [
        "supported",
        "F: [NF (planar), K = 10] − [diagonal Gaussian, K = 0] < 0 (mean of paired differences, 95 % t interval)",
        "−5.00 ± 0.58 (3)",
        "[−7.48, −2.52]",
        "−3.18",
        "",
    ]
    assert not any(name.startswith(("mnist-planar-f-falls/K=20", "energies-mixing-alike/")) for name in rows)
    (line,) = [
        line for line in csv.DictReader(io.StringIO(to_csv(shown.tables[0]))) if line["row"].endswith("f-falls/K=0..10")
    ]
    assert line["note"] == "supported; mean of paired differences, 95 % t interval [−7.48, −2.52]"
    assert (line["ours_mean"], line["n"], line["unit"]) == ("-5.0", "3", "nats per image")
    assert float(line["paper"]) == pytest.approx(93.565 - 96.747)
    assert len(line["run_ids"].split()) == 6
    assert shown.text == "Of 18 claims: 6 undecided, 12 not run."
    assert not re.search("[✓✗]", to_latex(shown.tables[0]))


def test_plain_lines_name_each_part_with_its_interval_and_n():
    values = {("none", 0): [97, 98, 99], ("planar", 10): [92, 94, 93]}
    lines = [*verdict_lines(evaluate(parse_claims(CLAIM, "c", FACTS), planted(study(), values)))]
    assert lines == [
        "undecided    longer  (1 of 3 parts supported, 2 not run)",
        "  supported    longer/K=0..10  −5.00 [−7.48, −2.52] nats, n = 3",
        "  not run      longer/K=10..20  (NF (planar), K = 20: not run)",
        "  not run      longer/K=0..20  (NF (planar), K = 20: not run)",
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
