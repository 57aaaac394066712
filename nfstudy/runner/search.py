"""The only module that imports optuna: proposes cells and searched settings, and keeps the trials in a journal file.

One process, the coordinator, opens the journal, under the study's lock. There is one Optuna study for the cells of a
(study, budget), its trials being cells, their value the mean validation free energy F over the repetitions; and one for
the search inside each cell. Which runs are done is not decided here but by what the tracking store holds.

Every proposal is drawn with a seed of its own number, in generations whose values are told in order: so the same study
makes the same proposals whatever the number of workers, and after any interruption.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import BaseTrial, FrozenTrial, TrialState

from nfstudy.core.errors import StoreError
from nfstudy.core.seeds import derive_seed
from nfstudy.runner.journal import drop_torn_line, odd_line
from nfstudy.runner.scheduler import Plan, Task
from nfstudy.runs.result import Outcome, TrialResult
from nfstudy.study.cells import KEY_VERSION, Cell, Trial
from nfstudy.study.plan import Further, StudyPlan
from nfstudy.study.spec import Axis, Pruner, Range, Sampling

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # of samplers that users name
logging.getLogger("optuna").setLevel(logging.ERROR)

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed, deterministic_objective=False),
    "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed, warn_independent_sampling=False),
    "nsgaii": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "nsgaiii": lambda seed: optuna.samplers.NSGAIIISampler(seed=seed),
}

KNOWN_OPERATIONS = {operation.value for operation in JournalOperation}

PRUNERS: dict[str, Callable[..., optuna.pruners.BasePruner]] = {
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "successive-halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "threshold": optuna.pruners.ThresholdPruner,
}


def study_plan(plan: StudyPlan, journal: Path) -> Plan:
    """Return the work of a whole study under one budget.

    Arguments:
        plan: the study under the budget.
        journal: the file in which Optuna keeps the trials; made where it is not there.

    Raises:
        StoreError: the journal cannot be read or written.
    """
    prefix = f"{plan.name}/{plan.budget}/"
    name = prefix + _digest(plan)
    with _as_store_error(journal):
        storage = _open_storage(journal)
        _abandon_others(storage, prefix, name)
        proposals = Proposals(storage, name, plan.study.grid, plan.sampling, plan.study.settings.seed)
    if plan.sampling:
        return _sampled_plan(plan, storage, proposals, plan.sampling)
    return _exhaustive_plan(plan, storage, proposals)


def further_plan(plan: StudyPlan, journal: Path, cells: Sequence[Cell], further: Mapping[str, Further]) -> Plan:
    """Return the work of further repetitions of some cells, at the settings that their searches have chosen.

    Arguments:
        plan: the study under the budget.
        journal: the file in which Optuna keeps the trials.
        cells: those that get more repetitions.
        further: cell key -> how many in all, and for which look.

    Raises:
        StoreError: the journal cannot be read or written.
    """
    with _as_store_error(journal):
        storage = _open_storage(journal)
    return _further_plan([_cell_plan(plan, cell, storage, None, further[cell.key]) for cell in cells])


def _further_plan(work: list[Plan]) -> Plan:
    yield work


def _open_storage(journal: Path) -> JournalStorage:
    journal.parent.mkdir(parents=True, exist_ok=True)
    drop_torn_line(journal)
    return JournalStorage(JournalFileBackend(str(journal)))


def _exhaustive_plan(plan: StudyPlan, storage: JournalStorage, proposals: Proposals) -> Plan:
    cells = {cell.key: cell for cell in plan.cells}
    proposals.enqueue(cells.values())
    yield [
        _told_plan(proposals, trial, _cell_plan(plan, cells[trial.user_attrs["cell"]], storage, None))
        for trial in proposals.queued()
    ]


def _told_plan(proposals: Proposals, trial: BaseTrial, work: Plan) -> Plan:
    """Do the work of one cell and record how it ended at once, not when the whole grid has."""
    (result,) = yield [work]
    proposals.tell(trial, result)


def _sampled_plan(plan: StudyPlan, storage: JournalStorage, proposals: Proposals, sampling: Sampling) -> Plan:
    for numbers in _generations(sampling):
        trials = [proposals.trial(number) for number in numbers]
        plans = []
        for trial in trials:
            should_continue = proposals.should_continue(trial) if sampling.pruner else None
            plans.append(_cell_plan(plan, plan.cell_at(proposals.suggest(trial)), storage, should_continue))
        results = yield plans
        for trial, result in zip(trials, results, strict=True):
            proposals.tell(trial, result)


def _cell_plan(
    plan: StudyPlan,
    cell: Cell,
    storage: JournalStorage,
    should_continue: Callable[[int, float], bool] | None,
    further: Further | None = None,
) -> Plan:
    """Search the cell's nuisance settings, if the study does, then run its repetitions; return their mean F."""
    settings = cell.settings
    if cell.search:
        chosen = yield [_search_plan(plan, cell, storage)]
        settings = settings.replace(chosen[0])
    repetitions = [Task(trial) for trial in plan.repetitions_of(cell, settings, further)]
    results: list[TrialResult] = []
    if should_continue:
        repetitions[0] = Task(repetitions[0].trial, should_continue)
        results = yield repetitions[:1]
        if results[0].outcome == "pruned":
            return results[0]
    results += yield repetitions[len(results) :]
    worst: Outcome = next((result.outcome for result in results if result.outcome != "finished"), "finished")
    return TrialResult(worst, value=fmean(result.value for result in results))


def _search_plan(plan: StudyPlan, cell: Cell, storage: JournalStorage) -> Plan:
    """Run the search trials of one cell and return the values (dotted path -> value) with the best validation bound.

    Ties, and a search in which nothing finished, go to the earliest trial.
    """
    assert cell.search is not None
    sampling = cell.search.sampler
    name = f"{plan.name}/{plan.budget}/search/{cell.key}"
    proposals = Proposals(storage, name, cell.search.space, sampling, plan.study.settings.seed)
    tried: list[tuple[float, int, dict[str, Any]]] = []
    for numbers in _generations(sampling):
        trials = [proposals.trial(number) for number in numbers]
        values = [proposals.suggest(trial) for trial in trials]
        tasks = [
            Task(
                Trial(plan.name, cell, cell.settings.replace(value), "search", trial.number),
                proposals.should_continue(trial) if sampling.pruner else None,
            )
            for trial, value in zip(trials, values, strict=True)
        ]
        results = yield tasks
        for trial, value, result in zip(trials, values, results, strict=True):
            proposals.tell(trial, result)
            tried.append((result.value if result.outcome == "finished" else math.inf, trial.number, value))
    return min(tried, key=lambda entry: entry[:2])[2]


def _generations(sampling: Sampling) -> Iterator[range]:
    for first in range(0, sampling.trials, sampling.batch):
        yield range(first, min(first + sampling.batch, sampling.trials))


class Proposals:
    """One Optuna study in the journal, minimising F."""

    def __init__(
        self, storage: JournalStorage, name: str, space: Mapping[str, Axis], sampling: Sampling | None, seed: int
    ) -> None:
        """Open or make it; without a `sampling` its trials are only those that are enqueued."""
        self._space = {path: _distribution(axis) for path, axis in space.items()}
        self._sampling = sampling
        self._seed = seed
        self._name = name
        pruner = _pruner(sampling.pruner if sampling else None)
        self.study = optuna.create_study(
            storage=storage, study_name=name, direction="minimize", pruner=pruner, load_if_exists=True
        )

    def enqueue(self, cells: Iterable[Cell]) -> None:
        """Put every cell in the queue that is neither in it nor begun nor complete."""
        known = {trial.user_attrs.get("cell") for trial in self._trials() if trial.state != TrialState.FAIL}
        for cell in cells:
            if cell.key not in known:
                self.study.enqueue_trial(dict(cell.point), user_attrs={"cell": cell.key})

    def queued(self) -> list[BaseTrial]:
        """Begin every trial in the queue; return all that have not failed, in order."""
        self.study.sampler = optuna.samplers.RandomSampler(seed=0)
        for _ in [trial for trial in self._trials() if trial.state == TrialState.WAITING]:
            self.suggest(self.study.ask())
        return [self._live(trial) for trial in self._trials() if trial.state != TrialState.FAIL]

    def trial(self, number: int) -> BaseTrial:
        """Return trial `number` with its values: proposed now, or as an earlier launch proposed it, ended or not."""
        assert self._sampling is not None
        # Quasi-random points are one sequence, so that sampler has one seed for all numbers.
        axes = () if self._sampling.name == "qmc" else (number,)
        seed = derive_seed(self._seed, "proposal", self._name, *axes) % 2**32
        self.study.sampler = SAMPLERS[self._sampling.name](seed)
        trials = self._trials()
        trial = self.study.ask() if number == len(trials) else self._live(trials[number])
        self.suggest(trial)  # Now, while the sampler is the one of this number.
        return trial

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Return the trial's values, dotted path -> value."""
        return {path: _suggest(trial, path, distribution) for path, distribution in self._space.items()}

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _live(self, trial: FrozenTrial) -> BaseTrial:
        """Return a trial that an earlier launch began in the form that takes reports; an ended one as it is."""
        return trial if trial.state.is_finished() else optuna.Trial(self.study, trial._trial_id)

    def should_continue(self, trial: BaseTrial) -> Callable[[int, float], bool]:
        """Return the function that reports an epoch's F to the pruner and says whether to go on."""

        def report(epoch: int, value: float) -> bool:
            trial.report(value, epoch)
            return not trial.should_prune()

        return report

    def tell(self, trial: BaseTrial, result: TrialResult) -> None:
        """Record how a trial ended; one that had ended before is left as it is.

        A generation may hold the same cell twice, and with it twice each trial of the search inside that cell.
        """
        if not isinstance(trial, optuna.Trial) or self._trials()[trial.number].state.is_finished():
            return
        if result.outcome == "failed":
            self.study.tell(trial, state=TrialState.FAIL)
        elif result.outcome == "pruned":
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, result.value)


@contextmanager
def _as_store_error(journal: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{journal}: cannot be opened: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise StoreError(
            f"{journal}: is not a journal of Optuna trials as Optuna {optuna.__version__} writes it "
            f"({odd_line(journal, KNOWN_OPERATIONS) or error}); "
            "expected: an intact one; hint: remove it, and it is rebuilt from the tracking store"
        ) from None


def _distribution(axis: Axis) -> BaseDistribution:
    if not isinstance(axis, Range):
        return CategoricalDistribution(axis)
    if isinstance(axis.low, int) and isinstance(axis.high, int):
        return IntDistribution(axis.low, axis.high, log=axis.log, step=int(axis.step or 1))
    return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)


def _suggest(trial: BaseTrial, path: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(path, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            path, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(path, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _pruner(record: Pruner | None) -> optuna.pruners.BasePruner:
    if record is None:
        return optuna.pruners.NopPruner()
    return PRUNERS[record.name](**record.model_dump(exclude={"name"}))


def _digest(plan: StudyPlan) -> str:
    """Return what an edit of the study changes, if the trials from before it are no trials of what it is now."""
    study = plan.study
    axes = {path: axis.model_dump() if isinstance(axis, Range) else axis for path, axis in study.grid.items()}
    search = study.search.model_dump() if study.search else None
    content = [KEY_VERSION, axes, search, plan.settings.identity()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def _abandon_others(storage: JournalStorage, prefix: str, name: str) -> None:
    """Fail the trials that were under way when the study was stopped and then edited: nobody will resume them."""
    for other in optuna.get_all_study_names(storage):
        if other.startswith(prefix) and other != name and "/search/" not in other:
            study = optuna.load_study(study_name=other, storage=storage)
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                study.tell(trial.number, state=TrialState.FAIL)
