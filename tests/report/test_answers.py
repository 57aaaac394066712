"""What a report begins with: yes, no, undecided, to do or one seed, as planted runs have it."""

import re

import pytest
from support.fake_runs import FakeRuns, run_all, study

from nfstudy.papers.rezende2015 import REZENDE2015
from nfstudy.report.build import build_report, make_report
from nfstudy.report.claims.inequalities import read_claims
from nfstudy.report.claims.verdicts import concerns
from nfstudy.report.statistics.estimates import gather_results

MNIST = """
study: mnist
title: On MNIST
data: {name: mnist, binarisation: static}
grid: {flow.family: [planar], flow.length: [0, 10, 20, 40, 80]}
repetitions: 3
budgets: {full: {}}
exhibits: [summary]
"""
ONE = """
study: one
title: One cell
data: {name: mnist, binarisation: static}
repetitions: 3
budgets: {full: {}}
exhibits: [summary]
"""
DIGITS = """
study: digits
title: Digits
paper: none
data: {name: digits}
objective: {annealing: energy}
grid: {flow.family: [planar], flow.length: [8], objective.annealing: [energy, kl]}
repetitions: 3
budgets: {full: {}}
exhibits: [summary]
"""
FALLS = {0: 90.0, 10: 88.0, 20: 87.0, 40: 86.0, 80: 85.0}
NOISE = (0.0, 0.1, 0.25)
"""Of repetitions 1 to 3, alike in all cells and so of no weight in pairs but for `UNLIKE`."""
UNLIKE = (0.0, 0.02, -0.01)


def report(text, nll, wanted=lambda trial: True):
    """Return the report of runs whose −ln p(x) is `nll(settings by path, repetition)`."""
    spec, runs = study(text), FakeRuns()
    for cell in spec.under().cells:
        for trial in spec.under(cell.budget).repetitions_of(cell):
            if wanted(trial):
                runs.add(trial, test__nll=nll(trial.settings.flat(), trial.index), test__nll_mc_se=0.0)
    return make_report(gather_results(spec.under(), runs))


def only(found):
    (answer,) = found.page.answers
    return answer.question, answer.text


def falling(by_length):
    return lambda flat, r: by_length[flat["flow.length"]] + NOISE[r - 1] + UNLIKE[(r + flat["flow.length"] // 10) % 3]


@pytest.mark.parametrize(
    ("by_length", "begins"),
    [
        (FALLS, "Yes: 5 of 5 inequalities supported. −ln p(x) at K = 80 less that at K = 0, in nats with confidence "),
        (FALLS | {20: 88.0}, "Yes overall; at each step, undecided: 4 of 5 inequalities supported, 1 undecided."),
        (FALLS | {20: 89.0}, "Yes overall, but not at each step: 4 of 5 inequalities supported, 1 contradicted."),
        (dict.fromkeys(FALLS, 90.0), "Undecided: 0 of 5 inequalities supported, 5 undecided."),
        ({k: 180 - v for k, v in FALLS.items()}, "No: 0 of 5 inequalities supported, 5 contradicted."),
    ],
    ids=["falls", "one step level", "one step rises", "level", "rises"],
)
def test_a_claims_question_is_answered_by_its_verdict(by_length, begins):
    question, text = only(report(MNIST, falling(by_length)))
    assert question == "Do longer planar chains lower −ln p(x) on MNIST?"
    assert text.startswith(begins)
    assert text.endswith(" Seeds of each: 3.")


def test_the_number_is_that_of_the_runs():
    _, text = only(report(MNIST, lambda flat, r: FALLS[flat["flow.length"]] - 0.1 * r * (flat["flow.length"] == 80)))
    # K = 80 less K = 0: −5.1, −5.2, −5.3.
    assert re.search(r"nats with confidence intervals: −5\.20 \[−5\.\d\d, −4\.\d\d\]\. Seeds of each: 3\.$", text)


def test_one_seed_is_no_verdict():
    _, text = only(report(MNIST.replace("repetitions: 3", "repetitions: 1"), falling(FALLS)))
    assert text.startswith("Undecided: 0 of 5 inequalities supported, 5 undecided.")
    # UNLIKE of K = 80 less that of K = 0: 0 − 0.02.
    assert text.endswith(": −5.02. One seed each: no interval is known.")


def test_cells_that_have_not_run_are_told_of():
    _, text = only(report(MNIST, falling(FALLS), lambda trial: trial.settings.flow.length in (0, 10)))
    assert text.startswith("Undecided: 1 of 5 inequalities supported, 4 not run.")
    assert text.endswith(" So far: 2 of 5 cells.")
    _, text = only(report(MNIST, falling(FALLS), lambda trial: trial.settings.flow.length == 0))
    assert text == "To do: its cells have not run. So far: 1 of 5 cells."


@pytest.mark.parametrize(
    ("level", "repetitions", "begins"),
    [
        (
            89.0,
            3,
            "Yes: diagonal Gaussian, K = 0, with 89.10 ± 0.06 (3) nats per image; ours less the paper's",
        ),
        (91.0, 3, "No: "),
        (89.8, 3, "Undecided: "),
        (89.0, 1, "Undecided: "),
    ],
)
def test_a_single_cell_is_held_to_the_papers_number(level, repetitions, begins):
    text = ONE.replace("repetitions: 3", f"repetitions: {repetitions}")
    question, answer = only(report(text, lambda flat, r: level + 0.1 * (r - 1)))
    assert question == "Is the paper's −ln p(x) of 89.92 (Figure 4(c), K = 0) reached?"
    assert answer.startswith(begins)
    assert ("one seed: no interval is known" in answer) == (repetitions == 1)


@pytest.mark.parametrize(
    ("gap", "repetitions", "says"),
    [
        (
            1.0,
            3,
            r"^NF \(planar\), K = 8, annealing = kl, with .*, lower than .*: −1\.00 \[−1\.\d\d, −0\.\d\d\]",
        ),
        (0.01, 3, r"^Undecided: .*, where 0 lies in it\.$"),
        (1.0, 1, r"^NF .*annealing = kl, .*not to be told from the next, .*: an interval takes at least 2 seeds\.$"),
    ],
)
def test_without_a_claim_the_lowest_cell_is_named_as_far_as_it_can_be_told(gap, repetitions, says):
    def nll(flat, r):
        return 50.0 + NOISE[r - 1] - (gap + UNLIKE[r - 1]) * (flat["objective.annealing"] == "kl")

    question, text = only(report(DIGITS.replace("repetitions: 3", f"repetitions: {repetitions}"), nll))
    assert question == "Which cell has the lowest −ln p(x)?"
    assert re.search(says, text)


def test_cells_are_compared_with_those_that_are_judged_on_the_same():
    text = DIGITS.replace("objective.annealing: [energy, kl]", "data.binarisation: [static, dynamic]")
    text = text.replace("flow.length: [8]", "flow.length: [4, 8]")
    levels = {("static", 4): 50.0, ("static", 8): 48.0, ("dynamic", 4): 31.0, ("dynamic", 8): 33.0}

    def nll(flat, r):
        return (
            levels[flat["data.binarisation"], flat["flow.length"]]
            + NOISE[r - 1]
            + UNLIKE[(r + flat["flow.length"]) % 3]
        )

    question, text = only(report(text, nll))
    assert question == "Of each binarisation, which cell has the lowest −ln p(x)?"
    assert re.search(
        r"^static: NF \(planar\), K = 8, .*: −2\.\d\d \[.*\]\. dynamic: NF \(planar\), K = 4, .*: −2\.\d\d \[", text
    )


@pytest.mark.parametrize(
    ("gap", "says"),
    [
        (1.0, r"^Yes, in 1 of 1 comparison, each by its 95 % interval\. .*annealing = kl: −1\.003 \["),
        (0.0, r"^Not that these seeds can tell, in 1 comparison, .*: [−+]0\.\d{3} \[−0\.\d{3}, 0\.\d{3}\]\.$"),
    ],
)
def test_a_study_of_settings_answers_whether_they_change_anything(gap, says):
    def nll(flat, r):
        return 50.0 + NOISE[r - 1] - (gap + UNLIKE[r - 1]) * (flat["objective.annealing"] == "kl")

    question, text = only(report(DIGITS.replace("exhibits: [summary]", "exhibits: [summary, effects]"), nll))
    assert question == "Does another value of annealing than energy change −ln p(x)?"
    assert re.search(says, text)


@pytest.mark.parametrize(
    ("grid", "asks"),
    [
        (
            # A baseline is of the score function alone, and of no default's.
            "objective.estimator: [pathwise, score-function], objective.baseline: [none, running]",
            "Does another value of estimator than pathwise change −ln p(x)?",
        ),
        (
            "objective.annealing: [none, kl], train.precision: [float32, bfloat16]",
            "Does another value of annealing than none, or of precision than float32 change −ln p(x)?",
        ),
    ],
)
def test_a_question_names_the_settings_that_the_default_uses(grid, asks):
    text = DIGITS.replace("objective.annealing: [energy, kl]", grid).replace("annealing: energy", "annealing: none")
    question, _ = only(report(text.replace("exhibits: [summary]", "exhibits: [effects]"), lambda flat, r: 50.0 + r))
    assert question == asks


def test_a_study_of_settings_with_one_seed_decides_nothing():
    text = DIGITS.replace("exhibits: [summary]", "exhibits: [effects]").replace("repetitions: 3", "repetitions: 1")
    _, answer = only(report(text, lambda flat, r: 50.0 - (flat["objective.annealing"] == "kl")))
    assert answer.startswith("Undecided: an interval takes at least 2 seeds. Differences in nats per image: ")


def test_pages_begin_with_the_answer(tmp_path):
    spec = study(MNIST)
    runs = run_all(spec, "full")
    build_report(spec.under(), runs, tmp_path / "mnist")
    html, text = ((tmp_path / "mnist" / name).read_text() for name in ("index.html", "index.md"))
    lines = [line for line in text.splitlines() if line]
    assert lines[0] == "# On MNIST"
    assert lines[1].startswith("**Do longer planar chains lower −ln p(x) on MNIST?** ")
    assert html.index('class="answer"') < html.index("<dl>") < html.index("<section")


def test_only_claims_about_cells_of_the_study_are_shown():
    claims = read_claims(REZENDE2015)
    spec = study(MNIST)
    found = {claim.id for claim in claims if concerns(claim, gather_results(spec.under(), FakeRuns()))}
    assert found >= {"mnist-planar-f-falls", "mnist-gain-f", "mnist-level-nll"}
    assert not any(name.startswith(("energies", "cifar10")) or "nice" in name for name in found)
    shown = report(MNIST, falling(FALLS))
    (ledger,) = [exhibit for exhibit in shown.page.exhibits if exhibit.name == "claims"]
    assert {row.name for row in ledger.tables[0].rows if "/" not in row.name} == found


def test_a_study_that_no_claim_concerns_shows_none():
    text = DIGITS.replace("paper: none\n", "")
    shown = report(text, lambda flat, r: 50.0 + r)
    assert "claims" not in [exhibit.name for exhibit in shown.page.exhibits]
    assert "tables/claims.csv" not in shown.files
    ambiguous = MNIST.replace("grid: {", "grid: {model.layers: [1, 2], ")
    assert "tables/claims.csv" not in report(ambiguous, falling(FALLS)).files
