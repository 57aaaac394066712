"""What a study does, as plans: which cells, which trials of the searches inside them, and which repetitions.

There is one Optuna study for the cells of a (study, budget), its trials being cells, their value the mean validation
free energy F over the repetitions; and one for the search inside each cell (`runner.proposals`). Which runs are done is
not decided here but by what the tracking store holds. A search goes on when all trials of a generation have a result:
one that failed is waited for, since what is proposed next depends on it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from nfstudy.core.errors import SpecError
from nfstudy.runner.proposals import Journal, Proposals, Proposed
from nfstudy.runner.scheduler import Plan, Task
from nfstudy.runner.tried import Tried
from nfstudy.runs.result import OnEpoch, Outcome, TrialResult
from nfstudy.runs.tags import Tag
from nfstudy.study.cells import KEY_VERSION, Cell, Trial
from nfstudy.study.plan import Further, StudyPlan
from nfstudy.study.spec import Range, Sampling

Say = Callable[[str], None]
"""Told what people should know, in a line."""

IMPOSSIBLE = TrialResult("diverged")
"""What a sampler is told of a proposal whose settings are impossible together: nothing is run, F is infinite."""


@dataclass(frozen=True)
class Choice:
    """What the search inside a cell has come to."""

    values: Mapping[str, Any]
    """Dotted path -> value, of the finished trial with the least F; of the first trial where none finished."""
    number: int
    """That trial's."""
    free_energy: float
    """Its validation F."""
    proposals: Proposals

    @cached_property
    def tags(self) -> dict[str, str]:
        """The tag that says to runs at these settings how they were chosen."""
        found: dict[str, Any] = {"trial": self.number, "importances": self.proposals.importances()}
        return {Tag.SEARCH: json.dumps(found)}


@dataclass(frozen=True)
class _Study:
    """What all plans of a study are made of."""

    plan: StudyPlan
    journal: Journal
    tried: Tried
    say: Say


def study_plan(plan: StudyPlan, journal: Path, say: Say = lambda words: None, tried: Tried | None = None) -> Plan:
    """Return the work of a whole study under one budget.

    Arguments:
        plan: the study under the budget.
        journal: the file in which Optuna keeps the trials; made where it is not there.
        say: told what the searches inside the cells choose, and what they wait for.
        tried: what the trials of its searches have been run at, where some have been.

    Raises:
        StoreError: the journal cannot be read or written.
    """
    name = f"{plan.name}/{plan.budget}/{_digest(plan)}"
    study = _Study(plan, Journal(journal), tried or Tried(plan), say)
    study.journal.abandon_others(name)
    proposals = study.journal.proposals(
        name,
        plan.study.axes,
        plan.sampling,
        plan.study.settings.seed,
        name,
        f"{plan.name}, {plan.budget}: cells",
        study.tried.in_grid,
    )
    return _sampled_plan(study, proposals, plan.sampling) if plan.sampling else _exhaustive_plan(study, proposals)


def further_plan(
    plan: StudyPlan,
    journal: Path,
    cells: Sequence[Cell],
    further: Mapping[str, Further],
    say: Say = lambda words: None,
    tried: Tried | None = None,
) -> Plan:
    """Return the work of further repetitions of some cells, at the settings that their searches have chosen.

    Arguments:
        plan: the study under the budget.
        journal: the file in which Optuna keeps the trials.
        cells: those that get more repetitions.
        further: cell key -> how many in all, and for which look.
        say: told what the searches inside the cells choose, and what they wait for.
        tried: what the trials of its searches have been run at, where some have been.

    Raises:
        StoreError: the journal cannot be read or written.
    """
    study = _Study(plan, Journal(journal), tried or Tried(plan), say)
    return _further_plan([_cell_plan(study, cell, None, further[cell.key]) for cell in cells])


def _further_plan(work: list[Plan]) -> Plan:
    yield work


def _exhaustive_plan(study: _Study, proposals: Proposals) -> Plan:
    cells = {cell.key: cell for cell in study.plan.cells}
    proposals.enqueue(cells.values())
    yield [
        _told_plan(proposals, trial, _cell_plan(study, cells[trial.user_attrs["cell"]], None))
        for trial in proposals.queued()
    ]


def _told_plan(proposals: Proposals, trial: Proposed, work: Plan) -> Plan:
    """Do the work of one cell and record how it ended at once, not when the whole grid has."""
    (result,) = yield [work]
    proposals.tell(trial, result)


def _sampled_plan(study: _Study, proposals: Proposals, sampling: Sampling) -> Plan:
    for numbers in _generations(sampling):
        trials, works = [proposals.trial(number) for number in numbers], {}
        for trial in trials:
            try:
                cell = study.plan.cell_at(proposals.suggest(trial))
            except SpecError:
                continue
            pruning = proposals.pruning(numbers[0], cell.settings)
            works[trial.number] = _cell_plan(study, cell, pruning)
        results = dict(zip(works, (yield [*works.values()]), strict=True))
        if not _tell_all(proposals, trials, results):
            waits = f"{sampling.name} waits for cells with failed runs; nothing more is proposed before"
            study.say(f"{study.plan.name}: {waits}")
            return


def _tell_all(proposals: Proposals, trials: list[Proposed], results: Mapping[int, TrialResult]) -> bool:
    """Record how a generation ended; return whether none of it failed. Those that did stay under way."""
    for trial in trials:
        result = results.get(trial.number, IMPOSSIBLE)
        if result.outcome != "failed":
            proposals.tell(trial, result)
    return all(result.outcome != "failed" for result in results.values())


def _cell_plan(study: _Study, cell: Cell, should_continue: OnEpoch | None, further: Further | None = None) -> Plan:
    """Search the cell's nuisance settings, if the study does, then run its repetitions; return their mean F."""
    settings, tags = cell.settings, None
    if cell.search:
        (choice,) = yield [_search_plan(study, cell)]
        if choice is None:
            return TrialResult("failed")
        settings, tags = cell.chosen(choice.values), lambda: choice.tags
    repetitions = [Task(trial, tags=tags) for trial in study.plan.repetitions_of(cell, settings, further)]
    results: list[TrialResult] = []
    if should_continue:
        repetitions[0].should_continue, repetitions[0].others = should_continue, len(repetitions) - 1
        results = yield repetitions[:1]
        if results[0].outcome == "pruned":
            return results[0]
    results += yield repetitions[len(results) :]
    worst: Outcome = next((result.outcome for result in results if result.outcome != "finished"), "finished")
    if any(result.outcome == "failed" for result in results):
        worst = "failed"
    return TrialResult(worst, value=fmean(result.value for result in results), epochs=results[0].epochs)


def _search_plan(study: _Study, cell: Cell) -> Plan:
    """Run the search trials of one cell and return the `Choice` with the best validation bound.

    Ties, and a search in which nothing finished, go to the earliest trial. It is None where a trial failed, for the
    search then has not ended, or where none was possible.
    """
    assert cell.search is not None
    plan, sampling = study.plan, cell.search.sampler
    name = f"{plan.name}/{plan.budget}/search/{cell.key}"
    # The draws do not depend on the cell: equal searches, as far as what they come to does not part them.
    label = f"{plan.name}, {plan.budget}: search in {cell.label}"
    proposals = study.journal.proposals(
        name, cell.search.space, sampling, plan.study.settings.seed, "search", label, study.tried.in_search(cell)
    )
    ended: list[tuple[float, int, dict[str, Any]]] = []
    for numbers in _generations(sampling):
        trials = [proposals.trial(number) for number in numbers]
        values = {trial.number: proposals.suggest(trial) for trial in trials}
        tasks = {}
        for number, value in values.items():
            try:
                settings = cell.tried(value)
            except ValidationError:
                continue
            pruning = proposals.pruning(numbers[0], settings)
            tasks[number] = Task(Trial(plan.name, cell, settings, "search", number), pruning)
        results = dict(zip(tasks, (yield [*tasks.values()]), strict=True))
        if not _tell_all(proposals, trials, results):
            failed = ", ".join(str(number) for number, result in results.items() if result.outcome == "failed")
            waits = f"its search waits for trial {failed}, which failed; nothing more of the cell runs before"
            study.say(f"{cell.label}: {waits}")
            return None
        for number, result in results.items():
            ended.append((result.value if result.outcome == "finished" else math.inf, number, values[number]))
    if not ended:
        why = "all settings that its search proposed are impossible together; nothing of the cell runs"
        study.say(f"{cell.label}: {why}")
        return None
    best, number, value = min(ended, key=lambda entry: entry[:2])
    text = Trial(plan.name, cell, cell.tried(value), "search", number).values
    study.say(f"{cell.label}: chosen of {len(ended)} trials: {text} (trial {number}, validation F {best:.2f})")
    return Choice(value, number, best, proposals)


def _generations(sampling: Sampling) -> Iterator[range]:
    for first in range(0, sampling.trials, sampling.batch):
        yield range(first, min(first + sampling.batch, sampling.trials))


def _digest(plan: StudyPlan) -> str:
    """Return what an edit of the study changes, if the trials from before it are no trials of what it is now."""
    study = plan.study
    axes = {path: axis.model_dump() if isinstance(axis, Range) else axis for path, axis in study.axes.items()}
    search = plan.search.model_dump() if plan.search else None
    content = [KEY_VERSION, axes, search, plan.settings.identity()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
