"""What reports show of searches, and of any setting that a study varies: known answers, on runs made by hand."""

import json
import math
from itertools import combinations

import numpy as np
import pytest
from support.fake_runs import FakeRuns, plausible_metrics

from nfstudy.core.errors import SpecError
from nfstudy.report.build import build_report, make_exhibit
from nfstudy.report.exhibits.varied import grouped
from nfstudy.report.plots.curves import render
from nfstudy.report.statistics.estimates import gather_results
from nfstudy.report.statistics.searches import best_so_far, expected_best, searches_of
from nfstudy.report.tables import to_markdown
from nfstudy.study.cells import Trial
from nfstudy.study.reader import parse_study

BASE = """\
study: mnist
title: A search
data: {name: mnist}
train: {updates: 200, optimiser: adam}
objective: {anneal_updates: 20}
"""
SEARCH = (
    BASE
    + """\
grid: {flow.family: [planar, nice-perm], flow.length: [4]}
search:
  sampler: {name: random, trials: 4}
  settings: {train.updates: 150}
  space: {train.learning_rate: {low: 1e-4, high: 1e-1, log: true}, train.batch: [50, 100]}
exhibits: [search, expected-best, importances, slices, parallel]
"""
)
VARIED = (
    BASE
    + """\
grid: {flow.family: [planar, nice-perm], flow.length: [0, 4], model.latent: [2, 40]}
exhibits: [{name: curve, x: model.latent, colour: flow.length}, {name: map, x: model.latent, y: flow.length}]
"""
)
RATES = (1e-4, 1e-3, 1e-2, 1e-1)
OUTCOMES = ("finished", "pruned", "finished", "diverged")


def searched(reverse=False, nll=False):
    """Return a study and runs: in each cell four trials, of which the third is best, and a repetition at its values."""
    plan = parse_study(SEARCH, "s.yaml").under()
    runs = FakeRuns()
    for cell in reversed(plan.cells) if reverse else plan.cells:
        best = 90.0 if cell.settings.flow.family == "planar" else 95.0
        for number, (rate, outcome) in enumerate(zip(RATES, OUTCOMES, strict=True)):
            values = {"train.learning_rate": rate, "train.batch": 50}
            bounds = {"valid__elbo": -(best + abs(number - 2))} if outcome != "diverged" else {}
            if nll and bounds:
                bounds["valid__nll"] = best - 1.5
            reason = "at epoch 3 at F 91.00" if outcome == "pruned" else ""
            trial = Trial("mnist", cell, cell.tried(values), "search", number)
            run_id = runs.add(trial, outcome, started=1, search="", reason=reason, test__elbo=math.nan, **bounds)
            if outcome != "diverged":
                runs.add_history(run_id, best + abs(number - 2), 200, epochs=5)
        told = {"trial": 2, "importances": {"train.learning_rate": 0.75, "train.batch": 0.125}}
        chosen = cell.chosen({"train.learning_rate": 1e-2, "train.batch": 50})
        runs.add(Trial("mnist", cell, chosen, "repetition", 1), started=1, search=json.dumps(told))
    return plan, runs


@pytest.mark.parametrize("values", [[3.0], [5.0, 1.0], [2.0, 7.0, 1.0, 4.0, 4.0]])
def test_the_expected_best_of_k_trials_is_the_mean_over_all_subsets(values):
    by_hand = [np.mean([min(some) for some in combinations(values, k)]) for k in range(1, len(values) + 1)]
    found = expected_best(values)
    assert found.mean.tolist() == pytest.approx(by_hand)
    assert found.mean[-1] == min(values)
    if len(values) > 1:
        assert np.all(found.low <= found.high)
    else:
        assert np.isnan([*found.low, *found.high]).all()


def test_the_interval_of_the_expected_best_covers_what_more_trials_would_come_to():
    """Of uniform values the expected least of k is 1 / (k + 1); the bootstrap covers it about as often as it says."""
    generator = np.random.default_rng(3)
    covered = [
        low <= 1 / 4 <= high
        for found in (expected_best(generator.random(20)) for _ in range(100))
        for low, high in [(found.low[2], found.high[2])]
    ]
    assert 85 <= sum(covered) <= 100


def test_a_diverged_trial_counts_as_the_worst_of_those_that_did_not():
    assert expected_best([2.0, math.inf, 5.0]).mean.tolist() == expected_best([2.0, 5.0, 5.0]).mean.tolist()
    assert np.isnan(expected_best([math.inf]).mean).all()


def test_a_search_is_read_back_as_it_ran_and_its_choice_is_the_best_that_finished():
    plan, runs = searched()
    planar, nice = searches_of(gather_results(plan, runs))
    assert [trial.number for trial in planar.trials] == [0, 1, 2, 3]
    assert [trial.free_energy for trial in planar.trials] == [92.0, 91.0, 90.0, math.inf]
    assert best_so_far(planar.trials) == [92.0, 92.0, 90.0, 90.0], "a pruned trial is no result to choose"
    assert (planar.best.number, planar.best.values["train.learning_rate"]) == (2, 1e-2)
    assert planar.trials[1].words == "pruned at epoch 3 at F 91.00"
    assert nice.importances == {"train.learning_rate": 0.75, "train.batch": 0.125}


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", '{"importances": 3}', '{"importances": {"train.batch": "x"}}'])
def test_an_edited_tag_of_a_search_ends_no_report(text):
    plan, runs = searched()
    frame = runs.frame()
    frame["search"] = text
    runs.frame = lambda metrics=None: frame
    assert [search.importances for search in searches_of(gather_results(plan, runs))] == [{}, {}]


def test_the_report_of_a_search_says_what_was_tried_and_chosen():
    plan, runs = searched()
    results = gather_results(plan, runs)
    shown = make_exhibit("search", results)
    assert shown.text == "The trials of the search had train.updates = 150 in place of what the repetitions have."
    chosen, trials = shown.tables
    text = to_markdown(chosen)
    assert "| NF (planar), K = 4 | 2 finished, 1 pruned, 1 diverged | 0.01" in text
    assert "| 50 | 90.00" in " ".join(text.split())
    assert len(trials.rows) == 8
    assert "pruned at epoch 3 at F 91.00" in to_markdown(trials)
    best = make_exhibit("expected-best", results, {}).tables[0]
    assert [row.name for row in best.rows] == ["NF (planar)", "NICE-perm"]
    assert best.columns[2] == "expected best of 4"
    assert best.rows[0].entries[1].text == "90.00"
    shares = make_exhibit("importances", results).tables[0]
    assert [entry.text for entry in shares.rows[0].entries] == ["0.750", "0.125"]


def test_a_search_shows_the_likelihood_of_validation_images_where_trials_have_it():
    plan, runs = searched(nll=True)
    chosen, trials = make_exhibit("search", gather_results(plan, runs)).tables
    for table in (chosen, trials):
        place = table.columns.index("validation −ln p(x)") - 1
        assert all(len(row.entries) == len(table.columns) - 1 for row in table.rows)
        texts = [row.entries[place].text for row in table.rows]
        # Trial 2 is chosen; the last diverged and has none.
        assert texts == (["88.50", "93.50"] if table is chosen else [*3 * ["88.50"], "–", *3 * ["93.50"], "–"])
    plan, runs = searched()
    chosen, trials = make_exhibit("search", gather_results(plan, runs)).tables
    assert "validation −ln p(x)" not in (*chosen.columns, *trials.columns)


def test_the_pages_of_a_search_are_the_same_bytes_whatever_the_order_of_the_runs(tmp_path):
    written = []
    for reverse in (False, True):
        plan, runs = searched(reverse)
        folder = tmp_path / str(reverse)
        build_report(plan, runs, folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        written.append({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})
    assert written[0].keys() == written[1].keys()
    assert {name for name in written[0] if written[0][name] != written[1][name]} == set()
    figures = ("search-history", "search-trials", "expected-best-flow-family", "importances", "slices", "parallel")
    assert {f"figures/{name}.png" for name in figures} <= written[0].keys()


def varied():
    plan = parse_study(VARIED, "s.yaml").under()
    runs = FakeRuns()
    for cell in plan.cells:
        trial = plan.repetitions_of(cell)[0]
        runs.add(
            trial,
            **{**plausible_metrics(trial), "test/nll": 90.0 - cell.settings.flow.length + 0.1 * cell.settings.latent},
        )
    return gather_results(plan, runs)


def test_curves_go_over_any_setting_and_the_cell_of_length_0_starts_every_family():
    results = varied()
    groups = grouped(results, ("model.latent",))
    assert [group.label for group in groups] == ["diagonal Gaussian, K = 0", "NF (planar), K = 4", "NICE-perm, K = 4"]
    groups = grouped(results, ("flow.length",))
    assert {group.label: len(group.cells) for group in groups} == {
        "NF (planar), D = 2": 2,
        "NF (planar), D = 40": 2,
        "NICE-perm, D = 2": 2,
        "NICE-perm, D = 40": 2,
    }


def test_a_curve_and_a_map_have_names_of_their_own_and_all_numbers():
    results = varied()
    curve, heat_map = (make_exhibit(name, results, options) for name, options in results.study.shown)
    assert curve.name == "curve-model-latent-flow-length"
    assert heat_map.name == "map-model-latent-flow-length"
    assert len(curve.tables[0].rows) == len(heat_map.tables[0].rows) == 6
    axes = curve.drawings[0].figure.axes
    assert [ax.get_xlabel() for ax in axes[:3]] == ["D"] * 3
    lines = {line.get_label(): line for line in axes[2].containers}
    assert lines["NF (planar), K = 4"][0].get_ydata().tolist() == pytest.approx([86.2, 90.0])
    texts = [text.get_text() for text in heat_map.drawings[0].figure.axes[2].texts]
    assert sorted(texts) == sorted(["90.20", "94.00", "86.20", "90.00"])
    assert render(heat_map.drawings[0].figure, "png") == render(heat_map.drawings[0].figure, "png")


def test_a_cell_whose_value_is_null_is_shown():
    text = BASE + "grid: {data.train_images: [1000, null], train.clip_norm: [null, 5.0]}\nrepetitions: 1\n"
    text += "exhibits: [{name: curve, x: train.clip_norm}, {name: map, x: train.clip_norm, y: data.train_images}]\n"
    plan = parse_study(text, "s.yaml").under()
    runs = FakeRuns()
    for cell in plan.cells:
        trial = plan.repetitions_of(cell)[0]
        runs.add(trial, **plausible_metrics(trial))
    results = gather_results(plan, runs)
    groups = grouped(results, ("train.clip_norm",))
    assert [(group.label, len(group.cells)) for group in groups] == [
        ("training images = 1,000", 2),
        ("training images = null", 2),
    ]
    curve, heat_map = (make_exhibit(name, results, options) for name, options in results.study.shown)
    assert [text.get_text() for text in curve.drawings[0].figure.axes[0].get_xticklabels()] == ["null", "5"]
    assert len(heat_map.drawings[0].figure.axes[0].texts) == 4


def test_a_null_that_was_tried_is_told_and_what_no_trial_used_is_not_drawn():
    searched = "train.clip_norm: [null, 1.0], train.optimiser: [rmsprop, adam], "
    searched += "train.weight_decay: {low: 1e-6, high: 1e-2, log: true}"
    text = SEARCH.replace("train.learning_rate: {low: 1e-4, high: 1e-1, log: true}, train.batch: [50, 100]", searched)
    by = "[search, {name: expected-best, by: train.clip_norm}, importances, slices, parallel]"
    text = text.replace("[search, expected-best, importances, slices, parallel]", by)
    plan = parse_study(text.replace("updates: 200, optimiser: adam", "updates: 200, clip_norm: 5.0"), "s.yaml").under()
    runs = FakeRuns()
    for cell in plan.cells:
        for number, (norm, outcome) in enumerate(((None, "finished"), (1.0, "diverged"))):
            values = {"train.clip_norm": norm, "train.optimiser": "rmsprop"}
            runs.add(Trial("mnist", cell, cell.tried(values), "search", number), outcome, search="", valid__elbo=-90.0)
    results = gather_results(plan, runs)
    search, best, _, slices, _ = (make_exhibit(name, results, options) for name, options in plan.study.shown)
    chosen, trials = search.tables
    assert chosen.rows[0].entries[1].text == "null"
    assert [row.entries[0].text for row in trials.rows] == ["null", "1"] * 2
    assert [row.entries[2].text for row in trials.rows] == [""] * 4
    assert [(row.name, row.entries[1].text) for row in best.tables[0].rows] == [
        ("clip norm = null", "90.00"),
        ("clip norm = 1", "all diverged"),
    ]
    assert [axes.get_title() for axes in slices.drawings[0].figure.axes if axes.get_title()] == [
        "clip norm",
        "optimiser",
    ]
    runs.records[:] = [record for record in runs.records if record["outcome"] == "diverged"]
    _, (_, options), *_ = plan.study.shown
    assert make_exhibit("expected-best", gather_results(plan, runs), options).drawings == ()


def test_a_share_of_the_variance_leads_to_the_run_that_says_it():
    plan, runs = searched()
    found = make_exhibit("importances", gather_results(plan, runs))
    ids = [record["run_id"] for record in runs.records if record["stage"] == "repetition"]
    assert found.run_ids == tuple(ids)
    assert [entry.run_ids for row in found.tables[0].rows for entry in row.entries] == [(i,) for i in ids for _ in "ab"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("name: curve", ["exhibits.0.x: is missing"]),
        (
            "name: curve, x: model.hidden",
            ["exhibits.0.x: got 'model.hidden'", "flow.length, model.latent"],
        ),
        (
            "name: curve, x: model.latent, color: flow.length",
            ["exhibits.0.color: unknown key", "mean 'colour'"],
        ),
        ("name: map, x: model.latent, y: 3", ["exhibits.0.y: got 3"]),
        ("name: expected-best, by: model.hidden", ["exhibits.0.by: got 'model.hidden'"]),
    ],
)
def test_options_that_name_nothing_that_varies_are_told(options, words):
    text = VARIED.replace("{name: curve, x: model.latent, colour: flow.length}", f"{{{options}}}")
    with pytest.raises(SpecError) as caught:
        parse_study(text, "s.yaml")
    for word in words:
        assert word in str(caught.value)
