"""Searches on a real journal file: what is proposed does not depend on order, workers or interruptions."""

import json
import math

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from support.fake_runs import FakeRuns

from nfstudy.core.errors import StoreError
from nfstudy.runner.launch import known_outcomes, with_epochs
from nfstudy.runner.proposals import PRUNERS, SAMPLERS
from nfstudy.runner.scheduler import Scheduler
from nfstudy.runner.search import further_plan, study_plan
from nfstudy.runner.tried import tried_before
from nfstudy.runs.result import EpochRecord, TrialResult
from nfstudy.runs.tags import Tag
from nfstudy.study.plan import Further
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
            told = train(task, epochs)
            if ran == stop:  # Its result is lost, though its epochs were seen.
                return outcomes
            outcomes[task.trial.identity] = told
            ran += 1
            scheduler.tell(task, told)
    return outcomes


def train(task, epochs):
    """Stand in for a worker: F falls by a nat an epoch towards `value`, and is told after each."""
    seen = {}
    for epoch in range(1, epochs + 1) if task.should_continue else ():
        seen[epoch] = value(task.trial) + epochs - epoch
        if not task.should_continue(EpochRecord(epoch, 10 * epoch, 10 * epochs, {"valid/elbo": -seen[epoch]})):
            return TrialResult("pruned", epochs=seen)
    return TrialResult("finished", value=value(task.trial), epochs=seen)


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


def test_further_repetitions_are_at_what_the_search_has_chosen(tmp_path):
    before = carry_out(SEARCHED, tmp_path / "s.journal")
    plan = parse_study(SEARCHED, "s.yaml").under()
    cell = plan.cells[1]
    work = further_plan(plan, tmp_path / "s.journal", [cell], {cell.key: Further(4, "look 2")})
    scheduler = Scheduler(work, before)
    tasks = [scheduler.next(), scheduler.next()]
    assert scheduler.next() is None
    assert [(task.trial.index, task.trial.look) for task in tasks] == [(3, "look 2"), (4, "look 2")]
    own = {identity[3] for identity in before if identity[:2] == (cell.key, "repetition")}
    assert {task.trial.identity[3] for task in tasks} == own
    told = json.loads(tasks[0].tags()[Tag.SEARCH])
    assert (cell.key, "search", told["trial"], *own) in before


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


class OtherProcessor(optuna.samplers.BaseSampler):
    """A sampler as it is where logarithms and exponentials have another last digit."""

    def __init__(self, sampler):
        self.sampler = sampler

    def infer_relative_search_space(self, study, trial):
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space):
        found = self.sampler.sample_relative(study, trial, search_space)
        return {path: self.rounded(value, search_space[path]) for path, value in found.items()}

    def sample_independent(self, study, trial, name, distribution):
        return self.rounded(self.sampler.sample_independent(study, trial, name, distribution), distribution)

    def rounded(self, value, distribution):
        is_range = isinstance(distribution, optuna.distributions.FloatDistribution)
        return math.nextafter(value, distribution.low) if is_range else value


def go_elsewhere(monkeypatch):
    for name, make in SAMPLERS.items():
        monkeypatch.setitem(SAMPLERS, name, lambda seed, make=make: OtherProcessor(make(seed)))


def run_logged(text, journal, runs, stop=math.inf):
    """Run what is still to do of a study as `run` does, up to `stop` trials, and log it; return what was run."""
    plan, ran = parse_study(text, "s.yaml").under(), []
    frame = runs.frame()
    work = study_plan(plan, journal, tried=tried_before(plan, frame))
    scheduler = Scheduler(work, known_outcomes(frame, plan.budget))
    while not scheduler.done and len(ran) < stop:
        task = scheduler.next()
        told = train(task, 0)
        runs.add(task.trial, point=json.dumps(dict(task.trial.cell.point)), valid__elbo=-told.value)
        ran.append(task.trial.identity)
        scheduler.tell(task, told)
    return ran


@pytest.mark.parametrize("name", ["searched", *SAMPLERS])
def test_a_search_goes_on_on_another_processor_from_what_was_run_on_the_first(name, monkeypatch, tmp_path):
    text, whole, runs, lost = TEXTS[name], FakeRuns(), FakeRuns(), FakeRuns()
    straight = run_logged(text, tmp_path / "here.journal", whole)
    half = run_logged(text, tmp_path / "half.journal", runs, stop=len(straight) // 2)
    assert half == straight[: len(half)]
    lost.records = [*runs.records]
    go_elsewhere(monkeypatch)
    assert run_logged(text, tmp_path / "there.journal", whole) == []
    other = run_logged(text, tmp_path / "other.journal", FakeRuns())
    assert set(other).isdisjoint(straight[-3:]), "it would propose others, were it not told what was run"
    assert run_logged(text, tmp_path / "other.journal", whole) == [], "though it had proposed its own"
    rest = run_logged(text, tmp_path / "half.journal", runs)
    assert len(half) + len(rest) == len(straight)
    assert {(stage, index) for _, stage, index, _ in half + rest} == {identity[1:3] for identity in straight}
    assert len(run_logged(text, tmp_path / "lost.journal", lost)) == len(rest)
    assert run_logged(text, tmp_path / "lost.journal", lost) == []


IDLE_RANGES = {
    "a length of no family": "grid:\n  flow.family: [none, planar]\n  flow.length: {low: 1, high: 8}\n"
    "  train.learning_rate: {low: 1e-5, high: 1e-2, log: true}\nsampler: {name: tpe, trials: 24}\n",
    "a length of no family, logarithmic": "grid:\n  flow.family: [none, planar]\n"
    "  flow.length: {low: 1, high: 8, log: true}\n"
    "  train.learning_rate: {low: 1e-5, high: 1e-2, log: true}\nsampler: {name: tpe, trials: 24}\n",
    "a decay that a search puts to use": "train: {optimiser: rmsprop}\n"
    "grid:\n  train.weight_decay: {low: 1e-5, high: 1e-2, log: true}\n  train.batch: {low: 10, high: 20, step: 10}\n"
    "sampler: {name: random, trials: 8}\n"
    "search:\n  sampler: {name: random, trials: 3}\n  space: {train.optimiser: [rmsprop, adam]}\n",
}


@pytest.mark.parametrize("name", IDLE_RANGES)
def test_ranges_that_a_cell_does_not_use_keep_what_was_proposed_for_them(name, monkeypatch, tmp_path):
    text, runs, whole = BASE + IDLE_RANGES[name], FakeRuns(), FakeRuns()
    straight = run_logged(text, tmp_path / "a.journal", whole)
    half = run_logged(text, tmp_path / "b.journal", runs, stop=len(straight) // 2)
    begun = [trial.datetime_start for trial in all_trials(tmp_path / "b.journal")]
    assert run_logged(text, tmp_path / "b.journal", runs, stop=0) == []
    again = [trial.datetime_start for trial in all_trials(tmp_path / "b.journal")]
    assert again == begun, "a journal in which nothing is to change is kept"
    assert half + run_logged(text, tmp_path / "b.journal", runs) == straight
    go_elsewhere(monkeypatch)
    assert run_logged(text, tmp_path / "c.journal", whole) == []


def test_where_two_processors_have_run_the_same_trials_each_keeps_its_own(monkeypatch, tmp_path):
    """As a search was run before the trials of another processor were known, or were imported."""
    here, there = FakeRuns(), FakeRuns()
    run_logged(SEARCHED, tmp_path / "here.journal", here)
    with monkeypatch.context() as patch:
        go_elsewhere(patch)
        run_logged(SEARCHED, tmp_path / "there.journal", there, stop=18)
    here.records += [{**record, "started": record["started"] + 10**6} for record in there.records]
    assert run_logged(SEARCHED, tmp_path / "here.journal", here) == []


def test_a_search_takes_what_was_run_whatever_it_would_propose_itself(monkeypatch, tmp_path):
    """As another Optuna might, or a Gaussian process, whose optimiser amplifies rounding: trials have numbers."""
    runs = FakeRuns()
    straight = run_logged(SEARCHED, tmp_path / "here.journal", runs)
    monkeypatch.setitem(SAMPLERS, "tpe", SAMPLERS["random"])
    assert run_logged(SEARCHED, tmp_path / "there.journal", runs) == []
    assert set(run_logged(SEARCHED, tmp_path / "alone.journal", FakeRuns())) != set(straight)


def test_what_made_no_difference_to_a_run_stays_as_proposed(monkeypatch, tmp_path):
    """A chain of no step is of no family, and its run logs none: its search has proposed one all the same."""
    text = BASE + (
        "search:\n  sampler: {name: random, trials: 8}\n  space:\n    flow.family: [planar, nice-perm]\n"
        "    flow.length: [0, 2]\n    train.learning_rate: {low: 1e-5, high: 1e-2, log: true}\n"
    )
    runs = FakeRuns()
    run_logged(text, tmp_path / "a.journal", runs)
    before = all_trials(tmp_path / "a.journal")
    assert any(trial.params.get("flow.length") == 0 for trial in before)
    assert run_logged(text, tmp_path / "a.journal", runs) == []
    kept = [trial.datetime_start for trial in all_trials(tmp_path / "a.journal")]
    assert kept == [trial.datetime_start for trial in before], "nothing is begun anew"
    go_elsewhere(monkeypatch)
    assert run_logged(text, tmp_path / "b.journal", runs) == []
    assert [trial.params for trial in all_trials(tmp_path / "b.journal")] == [trial.params for trial in before]


def all_trials(journal):
    return [trial for trials in trials_in(journal).values() for trial in trials]


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


CUT = {
    "median": "name: median, n_startup_trials: 1, n_warmup_steps: 2",
    "percentile": "name: percentile, percentile: 40.0, n_startup_trials: 2, n_warmup_steps: 0",
    "threshold": "name: threshold, upper: 97.0, n_warmup_steps: 3",
}


def cut(sampler, pruner):
    return sampled(sampler).replace("batch: 3}", f"batch: 3, pruner: {{{CUT[pruner]}}}}}") + "train: {updates: 60}\n"


@pytest.mark.parametrize(("sampler", "pruner"), [*zip(["tpe", "random", "tpe"], PRUNERS, strict=True)])
def test_what_is_pruned_depends_on_no_worker_interruption_or_journal(sampler, pruner, tmp_path):
    text = cut(sampler, pruner)
    straight = carry_out(text, tmp_path / "a.journal", epochs=6)
    pruned = {identity: told for identity, told in straight.items() if told.outcome == "pruned"}
    assert pruned
    assert all(max(told.epochs) < 6 for told in pruned.values()), "nothing is saved after the last epoch"
    assert {index for _, _, index, _ in pruned} == {1}
    for cell, *_ in pruned:
        assert len([identity for identity in straight if identity[0] == cell]) == 1, "no more repetitions of it"
    assert carry_out(text, tmp_path / "b.journal", epochs=6, backwards=True) == straight
    half = carry_out(text, tmp_path / "c.journal", epochs=6, stop=len(straight) // 2)
    assert carry_out(text, tmp_path / "c.journal", half, epochs=6) == straight
    assert carry_out(text, tmp_path / "lost.journal", half, epochs=6) == straight, "the journal can be lost"
    # Its journal may know more than the store, as where runs have been deleted: later trials still count for nothing.
    assert carry_out(text, tmp_path / "a.journal", epochs=6) == straight


def test_a_rebuilt_journal_gets_the_epochs_that_the_store_has_logged(tmp_path):
    """What `run` hands to the scheduler at its start: the results of a store with the F of every epoch."""
    text = cut("tpe", "median")
    straight = carry_out(text, tmp_path / "a.journal", epochs=6)
    half = carry_out(text, tmp_path / "b.journal", epochs=6, stop=len(straight) // 2)
    plan, runs = parse_study(text, "s.yaml").under(), FakeRuns()
    cells = {cell.key: cell for cell in study_cells_of(plan, tmp_path / "b.journal")}
    for (key, _, index, _), told in half.items():
        trial = plan.repetitions_of(cells[key])[index - 1]
        run_id = runs.add(trial, told.outcome, valid__elbo=-told.value)
        runs.points += [(run_id, "valid/elbo", 10 * epoch, -value) for epoch, value in told.epochs.items()]
    frame = runs.frame()
    without = known_outcomes(frame, plan.budget)
    assert without.keys() == half.keys()
    assert with_epochs(without, frame, runs) == half
    assert carry_out(text, tmp_path / "c.journal", with_epochs(without, frame, runs), epochs=6) == straight


def study_cells_of(plan, journal):
    """Return the cells that a sampler has proposed, by its journal."""
    for trials in trials_in(journal).values():
        yield from (plan.cell_at(trial.params) for trial in trials)


def test_a_trial_that_is_interrupted_is_judged_by_what_it_is_at_not_by_what_it_had_come_to(tmp_path):
    study = parse_study(cut("random", "threshold").replace("upper: 97.0", "upper: 99.5"), "s.yaml")
    task = Scheduler(study_plan(study.under(), tmp_path / "s.journal"), {}).next()
    for attempt in range(2):
        goes_on = [
            task.should_continue(EpochRecord(epoch, 10 * epoch, 60, {"valid/elbo": -free_energy}))
            for epoch, free_energy in enumerate((101.0, 99.0, 98.0, 102.0, 95.0), start=1)
        ]
        assert goes_on == [True, True, True, False, True], attempt


def test_a_pruner_without_a_warm_up_of_its_own_waits_for_the_annealing(tmp_path):
    text = sampled("random").replace("batch: 3}", "batch: 3, pruner: {name: threshold, upper: 1.0}}")
    text += "objective: {anneal_updates: 45}\ntrain: {updates: 100}\n"
    task = Scheduler(study_plan(parse_study(text, "s.yaml").under(), tmp_path / "s.journal"), {}).next()
    answers = [task.should_continue(EpochRecord(e, 10 * e, 100, {"valid/elbo": -50.0})) for e in range(1, 11)]
    assert answers == [True] * 4 + [False] * 5 + [True]
    assert task.others == 1, "its cell's second repetition is not run where it is pruned"


def test_a_search_waits_for_a_trial_that_failed_and_then_goes_on_as_if_it_had_not(tmp_path):
    straight = carry_out(SEARCHED, tmp_path / "a.journal")
    heard, known, study = [], {}, parse_study(SEARCHED, "s.yaml")
    scheduler = Scheduler(study_plan(study.under(), tmp_path / "b.journal", heard.append), known)
    first = study.under().cells[0].key
    while task := scheduler.next():
        lost = task.trial.cell.key == first and task.trial.stage == "search" and task.trial.index == 3
        told = TrialResult("failed") if lost else train(task, 0)
        scheduler.tell(task, told)
        if not lost:
            known[task.trial.identity] = told
    assert scheduler.done
    assert [identity[2] for identity in known if identity[0] == first] == [0, 1, 2]
    assert heard[0] == (
        "diagonal Gaussian K=0 D=40: its search waits for trial 3, which failed; nothing more of the cell runs before"
    )
    assert carry_out(SEARCHED, tmp_path / "b.journal", known) == straight


def test_all_cells_are_searched_alike(tmp_path):
    """The draws that do not depend on what was found, those of random search, are the same in every cell."""
    text = SEARCHED.replace("name: tpe", "name: random")
    carry_out(text, tmp_path / "s.journal")
    searches = [trials for name, trials in trials_in(tmp_path / "s.journal").items() if "/search/" in name]
    assert len(searches) == 3
    assert len({str([trial.params for trial in trials]) for trials in searches}) == 1


def test_a_search_has_settings_of_its_own_and_may_choose_what_puts_others_to_use(tmp_path):
    text = BASE + (
        "flow: {coupling_hidden: 7}\ntrain: {updates: 500, optimiser: adam}\n"
        "search:\n  sampler: {name: random, trials: 6}\n  settings: {train.updates: 50}\n"
        "  space: {flow.family: [planar, nice-perm], flow.length: [0, 2]}\n"
    )
    ran, study = [], parse_study(text, "s.yaml")
    scheduler = Scheduler(study_plan(study.under(), tmp_path / "s.journal"), {})
    while task := scheduler.next():
        ran.append(task.trial)
        scheduler.tell(task, train(task, 0))
    tried, repeated = ([t.settings for t in ran if t.stage == stage] for stage in ("search", "repetition"))
    assert {s.train.updates for s in tried} == {50}
    assert {s.train.updates for s in repeated} == {500}
    assert {s.flow.coupling_hidden for s in tried} == {7}, "idle at K = 0, and used by what the search may choose"
    (cell,) = study.under().cells
    assert cell.identity()["flow.coupling_hidden"] == 7
    assert cell.identity()["flow.family"]["with"] == {"train.updates": 50}
    assert cell.label == "flow=? K=? D=40"


def test_a_proposal_that_is_impossible_counts_as_a_trial_and_is_not_run(tmp_path):
    text = BASE + (
        "model: {hidden_counts: pieces, maxout: 2}\n"
        "search: {sampler: {name: tpe, trials: 12}, space: {model.hidden: {low: 4, high: 12}}}\n"
    )
    outcomes = carry_out(text, tmp_path / "s.journal")
    (trials,) = (trials for name, trials in trials_in(tmp_path / "s.journal").items() if "/search/" in name)
    odd = [trial for trial in trials if trial.params["model.hidden"] % 2]
    assert odd
    assert all(trial.value == math.inf for trial in odd)
    assert sorted(i[2] for i in outcomes if i[1] == "search") == [t.number for t in trials if t not in odd]


def test_how_a_search_chose_is_told_to_the_runs_at_its_choice(tmp_path):
    study = parse_study(SEARCHED, "s.yaml")
    scheduler = Scheduler(study_plan(study.under(), tmp_path / "s.journal"), {})
    tags = []
    while task := scheduler.next():
        tags += [json.loads(task.tags()["nfstudy.search"])] if task.tags else []
        scheduler.tell(task, train(task, 0))
    assert len(tags) == 3 * 2
    for found in tags:
        assert found["importances"] == pytest.approx({"train.learning_rate": 1.0})
        assert 0 <= found["trial"] < 12


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


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_edit_that_is_undone_changes_no_proposal(tmp_path, name):
    text, journal = sampled(name), tmp_path / "s.journal"
    straight = carry_out(text, tmp_path / "a.journal")
    half = carry_out(text, journal, stop=8)
    carry_out(text + "train: {updates: 7}\n", journal, stop=0)
    failed = [trial for trials in trials_in(journal).values() for trial in trials if trial.state == TrialState.FAIL]
    assert failed
    assert carry_out(text, journal, half) == straight
    assert [trial.state for trial in next(t for t in trials_in(journal).values() if len(t) == 13)] == (
        [TrialState.COMPLETE] * 13
    )


def test_trials_of_a_budget_whose_name_goes_on_with_a_slash_stay_under_way(tmp_path):
    text, journal = sampled("random") + "budgets: {fast: {}, fast/wide: {}, fast/search: {}}\n", tmp_path / "s.journal"
    text += "search: {sampler: {name: random, trials: 2}, space: {flow.coupling_hidden: [3, 4]}}\n"
    budgets = ("fast/wide", "fast", "fast/search", "fast/wide")
    for budget in budgets:
        assert not Scheduler(study_plan(parse_study(text, "s.yaml").under(budget), journal), {}).done
    states = [trial.state for trials in trials_in(journal).values() for trial in trials]
    assert set(states) == {TrialState.RUNNING}


@pytest.mark.parametrize(("name", "trials"), [("random", 4), ("tpe", 13), ("qmc", 4)])
def test_a_journal_cut_after_any_line_makes_the_same_proposals(tmp_path, name, trials):
    grid = "{flow.length: {low: 0, high: 20}, train.learning_rate: {low: 1e-5, high: 1e-2, log: true}}"
    text = BASE + f"flow: {{family: planar}}\ngrid: {grid}\nsampler: {{name: {name}, trials: {trials}}}\n"
    straight = carry_out(text, tmp_path / "a.journal")
    lines = (tmp_path / "a.journal").read_bytes().splitlines(keepends=True)
    for count in range(max(len(lines) - 20, 0), len(lines)):
        (tmp_path / f"{count}.journal").write_bytes(b"".join(lines[:count]))
        assert carry_out(text, tmp_path / f"{count}.journal", straight) == straight, lines[count]


@pytest.mark.parametrize("lost", [1, 5, 100, 400])
def test_a_torn_journal_is_mended_and_gone_on_with(tmp_path, lost):
    straight = carry_out(SEARCHED, tmp_path / "a.journal")
    half = carry_out(SEARCHED, tmp_path / "b.journal", stop=9)
    content = (tmp_path / "b.journal").read_bytes()
    (tmp_path / "b.journal").write_bytes(content[:-lost])
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
