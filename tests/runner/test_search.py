"""Searches on a real journal file: what is proposed does not depend on order, workers or interruptions."""

import json
import math

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from nfstudy.core.errors import StoreError
from nfstudy.runner.scheduler import Scheduler
from nfstudy.runner.search import PRUNERS, SAMPLERS, study_plan
from nfstudy.runs.result import TrialResult
from nfstudy.study.reader import parse_study

pytestmark = pytest.mark.slow

BASE = """\
study: s
title: T
data: {name: digits}
repetitions: 2
exhibits: [summary]
"""
EXHAUSTIVE = BASE + "grid: {flow.family: [planar, nice-perm], flow.length: [0, 2]}\n"
SEARCHED = EXHAUSTIVE + (
    "search:\n  sampler: {name: tpe, trials: 12}\n  space: {train.learning_rate: {low: 1e-5, high: 1e-2, log: true}}\n"
)
SAMPLED = BASE + (
    "grid: {flow.family: [planar, nice-perm], flow.length: [0, 2, 4, 8], "
    "train.learning_rate: {low: 1e-5, high: 1e-2, log: true}}\n"
    "sampler: {name: %s, trials: 13, batch: 3}\n"
)
BEST_RATE = 10**-3.3


def value(trial):
    """Stand in for a validation F: best at K = 8 and a learning rate of 10^-3.3."""
    rate = trial.settings.train.learning_rate
    return 100 - trial.settings.flow.length + abs(math.log10(rate / BEST_RATE)) + 0.1 * trial.index


def carry_out(text, journal, known=None, stop=math.inf, backwards=False, epochs=0):
    """Run a study's plan, all that is ready at a time; return its outcomes by identity, up to `stop` of them."""
    study = parse_study(text, "s.yaml")
    outcomes = dict(known or {})
    scheduler = Scheduler(study_plan(study.under(), journal), outcomes)
    ran = 0
    while not scheduler.done:
        ready = []
        while task := scheduler.next():
            ready.append(task)
        for task in reversed(ready) if backwards else ready:
            if ran == stop:
                return outcomes
            told = TrialResult("finished", value=value(task.trial))
            for epoch in range(1, epochs + 1):
                if task.should_continue and not task.should_continue(epoch, value(task.trial) + epochs - epoch):
                    told = TrialResult("pruned")
                    break
            outcomes[task.trial.identity] = told
            ran += 1
            scheduler.tell(task, told)
    return outcomes


def trials_in(journal):
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    return {s.study_name: storage.get_all_trials(s._study_id) for s in storage.get_all_studies()}


def test_the_whole_grid_is_enqueued_and_completed_once(tmp_path):
    journal = tmp_path / "s.journal"
    outcomes = carry_out(EXHAUSTIVE, journal)
    assert len(outcomes) == 3 * 2
    ((_, trials),) = trials_in(journal).items()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert [trial.params for trial in trials] == [
        {"flow.family": "planar", "flow.length": 0},
        {"flow.family": "planar", "flow.length": 2},
        {"flow.family": "nice-perm", "flow.length": 2},
    ]
    assert trials[1].value == pytest.approx(98 + abs(math.log10(1e-5 / BEST_RATE)) + 0.15)
    assert carry_out(EXHAUSTIVE, journal, outcomes) == outcomes
    assert len(trials_in(journal).popitem()[1]) == 3


def test_a_cell_is_recorded_as_soon_as_it_has_ended(tmp_path):
    carry_out(EXHAUSTIVE, tmp_path / "s.journal", stop=5)
    ((_, trials),) = trials_in(tmp_path / "s.journal").items()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.RUNNING]


def test_trials_from_before_the_keys_changed_are_not_taken_for_todays(tmp_path, monkeypatch):
    carry_out(EXHAUSTIVE, tmp_path / "s.journal", stop=3)
    monkeypatch.setattr("nfstudy.study.cells.KEY_VERSION", 99)
    monkeypatch.setattr("nfstudy.runner.search.KEY_VERSION", 99)
    assert len(carry_out(EXHAUSTIVE, tmp_path / "s.journal")) == 3 * 2


def test_each_cell_searches_with_equally_many_trials_and_repeats_its_own_best(tmp_path):
    outcomes = carry_out(SEARCHED, tmp_path / "s.journal")
    study = parse_study(SEARCHED, "s.yaml")
    plan_cells = {identity[0] for identity in outcomes}
    assert len(plan_cells) == 3
    for cell in plan_cells:
        search = {i[2]: (told.value, i[3]) for i, told in outcomes.items() if i[0] == cell and i[1] == "search"}
        repeated = {i[3] for i in outcomes if i[0] == cell and i[1] == "repetition"}
        assert sorted(search) == list(range(study.search.sampler.trials))
        # A trial's own index moves `value` by 0.1 a trial, as noise would: the best is the best as measured.
        assert repeated == {min(search.values())[1]}


def sampled(name):
    return SAMPLED % name


TEXTS = {"exhaustive": EXHAUSTIVE, "searched": SEARCHED} | {name: sampled(name) for name in SAMPLERS}


@pytest.mark.parametrize("name", TEXTS)
def test_proposals_do_not_depend_on_which_worker_is_first_or_on_an_interruption(name, tmp_path):
    text = TEXTS[name]
    straight = carry_out(text, tmp_path / "a.journal")
    backwards = carry_out(text, tmp_path / "b.journal", backwards=True)
    assert backwards == straight
    half = carry_out(text, tmp_path / "c.journal", stop=len(straight) // 2)
    assert len(half) < len(straight)
    assert carry_out(text, tmp_path / "c.journal", half) == straight
    assert carry_out(text, tmp_path / "lost.journal", half) == straight, "the journal can be lost"
    for trials in trials_in(tmp_path / "c.journal").values():
        assert all(trial.state.is_finished() for trial in trials)


def test_a_sampler_makes_as_many_proposals_as_asked_and_another_seed_makes_others(tmp_path):
    outcomes = carry_out(sampled("random"), tmp_path / "a.journal")
    assert len({identity[0] for identity in outcomes}) == 13
    other = carry_out(sampled("random") + "seed: 2\n", tmp_path / "b.journal")
    assert not outcomes.keys() & other.keys()


def test_proposals_that_come_to_the_same_cell_run_it_once(tmp_path):
    text = BASE + "grid: {flow.length: [0, 2], flow.family: [planar]}\nsampler: {name: random, trials: 8, batch: 8}\n"
    outcomes = carry_out(text, tmp_path / "s.journal")
    ((_, trials),) = trials_in(tmp_path / "s.journal").items()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 8
    proposed = {trial.params["flow.length"] for trial in trials}
    assert len(outcomes) == 2 * len(proposed)


def test_a_cell_proposed_twice_at_once_is_searched_once(tmp_path):
    """Four cells and generations of six: some generation holds a cell twice, and the search inside it."""
    text = SEARCHED.replace("trials: 12", "trials: 3") + "sampler: {name: random, trials: 12, batch: 6}\n"
    outcomes = carry_out(text, tmp_path / "s.journal")
    cells = {cell for cell, *_ in outcomes}
    assert len(cells) == 3  # of length 0 both families are one
    assert len(outcomes) == len(cells) * (3 + 2)


def test_pruning_depends_on_earlier_generations_only(tmp_path):
    text = sampled("random").replace(
        "batch: 3}", "batch: 3, pruner: {name: median, n_startup_trials: 1, n_warmup_steps: 1}}"
    )
    straight = carry_out(text, tmp_path / "a.journal", epochs=4)
    assert carry_out(text, tmp_path / "b.journal", epochs=4, backwards=True) == straight
    pruned = [identity for identity, told in straight.items() if told.outcome == "pruned"]
    assert pruned
    assert {index for _, _, index, _ in pruned} == {1}
    for cell, *_ in pruned:
        assert len([identity for identity in straight if identity[0] == cell]) == 1, "no more repetitions of it"


def test_a_failed_cell_is_offered_again_by_the_next_launch(tmp_path):
    journal = tmp_path / "s.journal"
    study = parse_study(EXHAUSTIVE, "s.yaml")
    scheduler = Scheduler(study_plan(study.under(), journal), {})
    while task := scheduler.next():
        scheduler.tell(task, TrialResult("failed"))
    outcomes = carry_out(EXHAUSTIVE, journal)
    assert len(outcomes) == 3 * 2
    ((_, trials),) = trials_in(journal).items()
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 3 + [TrialState.COMPLETE] * 3


def test_an_edited_grid_keeps_what_is_known(tmp_path):
    outcomes = carry_out(EXHAUSTIVE, tmp_path / "s.journal")
    more = carry_out(EXHAUSTIVE.replace("[0, 2]", "[0, 2, 4]"), tmp_path / "s.journal", outcomes)
    assert len(more) == 5 * 2
    assert outcomes.items() <= more.items()


@pytest.mark.parametrize("text", [EXHAUSTIVE, SAMPLED % "tpe"], ids=["exhaustive", "sampled"])
def test_a_study_edited_after_a_stop_goes_on_as_what_it_is_now(tmp_path, text):
    carry_out(text, tmp_path / "s.journal", stop=3)
    edited = text + "train: {updates: 7}\n"
    assert carry_out(edited, tmp_path / "s.journal") == carry_out(edited, tmp_path / "fresh.journal")
    for trials in trials_in(tmp_path / "s.journal").values():
        assert not [trial for trial in trials if trial.state == TrialState.RUNNING]


def test_the_records_fit_optunas_classes():
    for name in SAMPLERS:
        assert isinstance(SAMPLERS[name](3), optuna.samplers.BaseSampler)
    text = sampled("tpe").replace("batch: 3}", "batch: 3, pruner: {name: %s}}")
    options = {"percentile": "percentile, percentile: 25.0", "hyperband": "hyperband, max_resource: 9"}
    options["threshold"] = "threshold, upper: 500.0"
    for name in PRUNERS:
        record = parse_study(text % options.get(name, name), "s.yaml").sampler.pruner
        assert isinstance(PRUNERS[name](**record.model_dump(exclude={"name"})), optuna.pruners.BasePruner)


@pytest.mark.parametrize("cut", [1, 5, 100, 400])
def test_a_torn_journal_is_mended_and_gone_on_with(tmp_path, cut):
    straight = carry_out(SEARCHED, tmp_path / "a.journal")
    half = carry_out(SEARCHED, tmp_path / "b.journal", stop=9)
    content = (tmp_path / "b.journal").read_bytes()
    (tmp_path / "b.journal").write_bytes(content[:-cut])
    assert carry_out(SEARCHED, tmp_path / "b.journal", half) == straight


def test_the_zeros_that_a_power_failure_leaves_are_cut_off(tmp_path):
    straight = carry_out(SEARCHED, tmp_path / "a.journal")
    half = carry_out(SEARCHED, tmp_path / "b.journal", stop=9)
    with (tmp_path / "b.journal").open("ab") as file:
        file.write(b'{"op_code":6,"wor' + bytes(200))
    assert carry_out(SEARCHED, tmp_path / "b.journal", half) == straight


def _later_operation(record):
    return {**record, "op_code": 11}


def _other_operation(record):
    return {**record, "op_code": "set_trial_param"}


def _later_distribution(record):
    text = json.dumps({"name": "LaterDistribution", "attributes": {}})
    return {**record, "distribution": text} if "distribution" in record else record


def _no_value_any_more(record):
    return {key: value for key, value in record.items() if key != "param_value_internal"}


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (_later_operation, r"line 9 has operation 11, where it knows 0 to 10"),
        (_other_operation, r"line 9 has operation 'set_trial_param'"),
        (_later_distribution, r"[Uu]nknown distribution"),
        (_no_value_any_more, r"param_value_internal"),
    ],
)
def test_a_journal_of_a_later_optuna_is_a_clear_error_and_is_left_as_it_is(tmp_path, alter, words):
    journal, study = tmp_path / "s.journal", parse_study(EXHAUSTIVE, "s.yaml")
    carry_out(EXHAUSTIVE, journal, stop=2)
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    changed = records[:8] + [alter(record) for record in records[8:]]
    assert changed != records
    journal.write_text("".join(json.dumps(record) + "\n" for record in changed))
    before = journal.read_bytes()
    with pytest.raises(StoreError, match=rf"s\.journal: is not a journal .* Optuna {optuna.__version__} .*{words}"):
        study_plan(study.under(), journal)
    assert journal.read_bytes() == before


def test_a_journal_that_is_none_is_a_clear_error(tmp_path):
    (tmp_path / "s.journal").write_text("not a journal\n")
    study = parse_study(EXHAUSTIVE, "s.yaml")
    with pytest.raises(StoreError, match=r"s\.journal: is not a journal.*line 1 is no record"):
        study_plan(study.under(), tmp_path / "s.journal")
