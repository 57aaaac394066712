"""What Optuna proposes, prunes and keeps of one search, in a journal file; `dashboard` alone imports optuna as well.

Every proposal is drawn with a seed of its own number, in generations whose values are told in order, and a trial is
pruned by what trials of earlier generations have come to: so the same study makes the same proposals and prunes the
same trials whatever the number of workers, after any interruption, and with a journal that is rebuilt. A trial that has
been run is taken as it was run (`runner.tried`), not as this processor would round what was proposed for it.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
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
from nfstudy.runner.tried import RunAt
from nfstudy.runs.result import EpochRecord, OnEpoch, TrialResult
from nfstudy.study.cells import Cell
from nfstudy.study.searches import annealed_after, draws_whole_numbers
from nfstudy.study.settings import Settings
from nfstudy.study.spec import Axis, Pruner, Range, Sampling

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # of samplers that users name
logging.getLogger("optuna").setLevel(logging.ERROR)

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed, deterministic_objective=False),
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed, warn_independent_sampling=False),
}

PRUNERS: dict[str, Callable[..., optuna.pruners.BasePruner]] = {
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "threshold": optuna.pruners.ThresholdPruner,
}
"""Those that judge a trial by itself or by trials that have completed. Successive halving and Hyperband judge it by
those that have come as far, running ones included: by how many workers there are, and how fast each is."""

KNOWN_OPERATIONS = {operation.value for operation in JournalOperation}


Proposed = BaseTrial
"""A trial of a search: its `number`, and the values that were proposed for it."""

LABEL = "label"
"""The attribute of an Optuna study that names it for people."""

DRAWS_OF_IMPORTANCE = 0
"""Seeds the random forest of fANOVA."""


class Journal:
    """The file in which Optuna keeps the trials of a study's searches; one process has it open, under a lock."""

    def __init__(self, path: Path) -> None:
        """Open or make it; a last line that is torn is cut off. Raises StoreError."""
        self._path = path
        with journal_read(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            drop_torn_line(path)
            self._storage = JournalStorage(JournalFileBackend(str(path)))

    def proposals(
        self,
        name: str,
        space: Mapping[str, Axis],
        sampling: Sampling | None,
        seed: int,
        draws: str,
        label: str,
        run_at: RunAt,
    ) -> Proposals:
        """Open or make one search; raises StoreError.

        One whose trials cannot all be gone on with is made anew: the same is proposed again, and what has been run is
        told again, as where the whole journal is lost.

        Arguments:
            name: of the Optuna study.
            space: dotted path -> what is proposed for it.
            sampling: how; None where trials are only those that are enqueued.
            seed: of the study.
            draws: what tells the random draws of this search from others of the same seed.
            label: what people call it.
            run_at: what trials of it have been run at.
        """
        with journal_read(self._path):
            study = self._study(name)
            if sampling and not all(_can_go_on(trial, space, run_at) for trial in study.get_trials(deepcopy=False)):
                optuna.delete_study(study_name=name, storage=self._storage)
                study = self._study(name)
            if LABEL not in study.user_attrs:
                study.set_user_attr(LABEL, label)
            return Proposals(study, space, sampling, seed, draws, run_at)

    def abandon_others(self, name: str) -> None:
        """Fail the trials that were under way when the study was stopped and then edited.

        Nobody will resume them, unless the edit is undone.

        Arguments:
            name: of the Optuna study that goes on, `STUDY/BUDGET/DIGEST`; others have another digest, of that length.
        """
        # A budget's name may hold slashes, and keys of cells, in names of their searches, are longer than digests.
        folder = name.rpartition("/")[0]
        with journal_read(self._path):
            for other in optuna.get_all_study_names(self._storage):
                if other != name and other.rpartition("/")[0] == folder and len(other) == len(name):
                    study = self._study(other)
                    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                        study.tell(trial.number, state=TrialState.FAIL)

    def _study(self, name: str) -> optuna.Study:
        return optuna.create_study(storage=self._storage, study_name=name, direction="minimize", load_if_exists=True)


@contextmanager
def journal_read(journal: Path) -> Iterator[None]:
    """Tell of what goes wrong with a journal in this context as of a StoreError."""
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


class Proposals:
    """One Optuna study in the journal, minimising F."""

    def __init__(
        self,
        study: optuna.Study,
        space: Mapping[str, Axis],
        sampling: Sampling | None,
        seed: int,
        draws: str,
        run_at: RunAt,
    ) -> None:
        self._study = study
        self._space = {path: _distribution(path, axis) for path, axis in space.items()}
        self._sampling = sampling
        self._seed = seed
        self._draws = draws
        self._run_at = run_at
        self._ended = optuna.create_study(direction="minimize")
        """What has completed in earlier generations, for the pruner."""
        self._generations = 0
        """How many trials the generations had of which that is so."""

    def enqueue(self, cells: Iterable[Cell]) -> None:
        """Put every cell in the queue that is neither in it nor begun nor complete."""
        known = {trial.user_attrs.get("cell") for trial in self._trials() if trial.state != TrialState.FAIL}
        for cell in cells:
            if cell.key not in known:
                self._study.enqueue_trial(dict(cell.point), user_attrs={"cell": cell.key})

    def queued(self) -> list[BaseTrial]:
        """Begin every trial in the queue; return all that have not failed, in order."""
        self._study.sampler = optuna.samplers.RandomSampler(seed=0)
        for _ in [trial for trial in self._trials() if trial.state == TrialState.WAITING]:
            self.suggest(self._study.ask())
        return [self._live(trial) for trial in self._trials() if trial.state != TrialState.FAIL]

    def trial(self, number: int) -> BaseTrial:
        """Return trial `number` with its values: proposed now, or as an earlier launch did or ran it, ended or not."""
        assert self._sampling is not None
        # Quasi-random points are one sequence, so that sampler has one seed for all numbers.
        axes = () if self._sampling.name == "qmc" else (number,)
        seed = derive_seed(self._seed, "proposal", self._draws, *axes) % 2**32
        self._study.sampler = SAMPLERS[self._sampling.name](seed)
        trials = self._trials()
        if number < len(trials):
            return self._live(trials[number])
        trial = self._study.ask()
        proposed = self.suggest(trial)  # Now, while the sampler is the one of this number.
        return self._as_run(trial, self._run_at(number, proposed))

    def suggest(self, trial: BaseTrial) -> dict[str, Any]:
        """Return the trial's values, dotted path -> value."""
        return {path: _suggest(trial, path, distribution) for path, distribution in self._space.items()}

    def pruning(self, first: int, settings: Settings) -> OnEpoch | None:
        """Return what decides after each epoch of a trial whether it goes on; None without a pruner.

        Arguments:
            first: the number of the first trial of its generation.
            settings: the trial's.
        """
        if not self._sampling or not (record := self._sampling.pruner):
            return None
        for trial in self._trials()[self._generations : first]:
            if trial.state == TrialState.COMPLETE:
                self._ended.add_trial(trial)
        self._generations = max(self._generations, first)
        return _Pruning(record, settings, self._ended)

    def tell(self, trial: BaseTrial, result: TrialResult) -> None:
        """Record how a trial ended; one that had ended before is left as it is.

        A generation may hold the same cell twice, and with it twice each trial of the search inside that cell.
        """
        if not isinstance(trial, optuna.Trial):
            return
        frozen = self._trials()[trial.number]
        if frozen.state.is_finished():
            return
        for epoch in sorted(result.epochs.keys() - frozen.intermediate_values.keys()):
            trial.report(result.epochs[epoch], epoch)
        if result.outcome == "failed":
            self._study.tell(trial, state=TrialState.FAIL)
        elif result.outcome == "pruned":
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, result.value)

    def importances(self) -> dict[str, float]:
        """Return what share of the variance of F each setting accounts for by itself, by fANOVA (Hutter et al. 2014).

        They are computed from the trials that have completed with a finite F, the largest share first. It is empty
        where there are fewer than two, or where F or the settings do not vary.
        """
        ended = [trial for trial in self._trials() if trial.state == TrialState.COMPLETE]
        trials = [trial for trial in ended if trial.value is not None and math.isfinite(trial.value)]
        finite = optuna.create_study(direction="minimize")
        finite.add_trials(trials)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=DRAWS_OF_IMPORTANCE)
        if len({trial.value for trial in trials}) < 2:
            return {}
        try:
            found = optuna.importance.get_param_importances(finite, evaluator=evaluator, normalize=False)
        except (ValueError, RuntimeError):
            return {}
        return {path: float(share) for path, share in found.items()}

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _as_run(self, trial: optuna.Trial, values: Mapping[str, Any]) -> optuna.Trial:
        """Put values that a trial was run at in the place of those proposed, for what is proposed after it too."""
        for path, value in values.items():
            distribution = self._space[path]
            self._study._storage.set_trial_param(
                trial._trial_id, path, distribution.to_internal_repr(value), distribution
            )
        return optuna.Trial(self._study, trial._trial_id) if values else trial

    def _live(self, trial: FrozenTrial) -> BaseTrial:
        """Return a trial that an earlier launch began in the form that takes reports; an ended one as it is."""
        return trial if trial.state.is_finished() else optuna.Trial(self._study, trial._trial_id)


class _Pruning:
    """Decides for one trial after each epoch, by itself and by the trials of earlier generations, whether it goes on.

    An interrupted trial is told its epochs again from the first one on: what it had come to before does not count.
    """

    def __init__(self, record: Pruner, settings: Settings, ended: optuna.Study) -> None:
        computed = {"n_warmup_steps": 0} if record.n_warmup_steps is None else {}
        self._pruner = PRUNERS[record.name](**record.model_dump(exclude={"name"}) | computed)
        self._warm_up = annealed_after(settings) if computed else 0
        self._ended = ended
        self._epochs: dict[int, float] = {}

    def __call__(self, record: EpochRecord) -> bool:
        """Say whether the trial goes on; after its last epoch there is nothing to save, so it always does."""
        if record.epoch == 1:
            self._epochs = {}
        self._epochs[record.epoch] = record.free_energy
        if record.update < self._warm_up or record.update >= record.updates:
            return True
        trial = optuna.trial.create_trial(state=TrialState.RUNNING, intermediate_values=self._epochs)
        return not self._pruner.prune(self._ended, trial)


def _can_go_on(trial: FrozenTrial, space: Mapping[str, Axis], run_at: RunAt) -> bool:
    """Say whether a trial of an earlier launch can be taken as it is.

    One that has failed, as the study was edited and the edit then undone, can be told nothing more. One that was
    killed between two of its values would get others for the rest: its draws begin anew. One that was proposed here has
    been run elsewhere since, and its runs imported.
    """
    if trial.state == TrialState.FAIL or trial.params.keys() != space.keys():
        return False
    return not run_at(trial.number, trial.params)


def _distribution(path: str, axis: Axis) -> BaseDistribution:
    if not isinstance(axis, Range):
        return CategoricalDistribution(axis)
    if draws_whole_numbers(path):
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=int(axis.step or 1))
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
