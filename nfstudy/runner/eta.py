"""Estimated time of a study: from its logged runs where there are any, else from measured costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping

import pandas as pd

from nfstudy.runs.result import Cost
from nfstudy.study.cells import Trial, cost_key
from nfstudy.study.searches import epoch_updates, epochs
from nfstudy.study.settings import Settings

LONGEST = 3.2e9
"""Seconds of a run that can be believed: a century."""


def run_seconds(settings: Settings, cost: Cost, stage: str = "repetition") -> float:
    """Return the wall-clock seconds of one training run; the trials of a search have no test evaluation."""
    test = cost.test if stage == "repetition" else 0.0
    if settings.problem == "drawn":
        return test
    # Of data from outside whose size is not known: as if all updates were one epoch.
    return settings.train.updates * cost.update + (epochs(settings) or 1) * cost.validation + test


def epoch_share(settings: Settings) -> float:
    """Return which part of a run's updates an epoch is, at most 1."""
    each = epoch_updates(settings)
    return 1.0 if settings.problem == "drawn" or each is None else min(each / settings.train.updates, 1.0)


ANNEALED_ALIKE = {"annealing": "none", "beta_start": 1.0, "anneal_updates": 1}
"""Of the section `objective`, what costs nothing, at any values that are the same for all."""


def cost_signature(settings: Settings) -> str:
    """Return what decides the cost of a run: settings that differ only in numbers the cost does not depend on agree."""
    parts = (
        settings.data and settings.data.source(),
        settings.energy,
        settings.drawn,
        settings.model,
        settings.flow,
        settings.evaluation,
        settings.train.batch,
        settings.train.precision,
        settings.train.optimiser,
        settings.objective.model_copy(update=ANNEALED_ALIKE),
    )
    return repr(parts)


def expected_seconds(frame: pd.DataFrame, measured: Mapping[str, float]) -> dict[str, float]:
    """Return `cost_key` -> what a repetition of a cell, or a trial of its search, may be expected to take.

    That is what runs of this store took, else what was measured here. What imported runs took, elsewhere, says how runs
    compare; how long they are here is said by those that are known both ways, and where none is, by those known here.

    Arguments:
        frame: the study's runs.
        measured: `cost_key` -> seconds, of updates that were timed.
    """
    own = frame["imported"] == ""
    here, elsewhere = dict(measured) | _median_seconds(frame[own]), _median_seconds(frame[~own])
    if not here:
        return elsewhere
    paces = [here[key] / elsewhere[key] for key in here.keys() & elsewhere.keys() if elsewhere[key]]
    slower = statistics.median(paces) if paces else 0.0
    return {key: slower * seconds for key, seconds in elsewhere.items() if slower} | here


def _median_seconds(frame: pd.DataFrame) -> dict[str, float]:
    """Return `cost_key` -> median wall-clock seconds of the finished runs.

    A busy machine makes a run take several times as long, which a mean would hold against all that are to come.
    """
    done = frame[(frame["outcome"] == "finished") & (frame["stage"] != "rerun")]
    # What a store says may have been edited: a time that cannot be one says nothing.
    done = done[done["time/wall_seconds"].between(0, LONGEST)]
    medians = done.groupby(["cell", "stage"])["time/wall_seconds"].median().to_dict()
    return {cost_key(cell, stage): seconds for (cell, stage), seconds in medians.items()}


class Forecast:
    """The time left of a study at work: expected seconds of what is left, corrected by what has ended so far."""

    def __init__(self, expected: Mapping[str, float], workers: int) -> None:
        """Take `cost_key` -> expected seconds of one run; an unknown one counts as their mean."""
        self._expected = {key: seconds for key, seconds in expected.items() if 0 <= seconds <= LONGEST}
        known = self._expected.values()
        self._mean = sum(known) / len(known) if known else math.nan
        self._workers = workers
        self._spent = 0.0
        self._foreseen = 0.0

    def expected(self, key: str) -> float:
        """Return the expected seconds of one run, by its `cost_key`."""
        return self._expected.get(key, self._mean)

    def ended(self, trial: Trial, seconds: float) -> None:
        """Learn what a run took."""
        expected = self.expected(trial.cost_key)
        if math.isfinite(expected):
            self._foreseen += expected
            self._spent += seconds

    def left(self, waiting: Iterable[str], running: Iterable[tuple[str, float]]) -> float:
        """Return the seconds left, nan if unknown.

        Arguments:
            waiting: cost keys of the runs that have not begun.
            running: of the others, cost key and the fraction that is done.
        """
        work = [self.expected(key) for key in waiting]
        work += [self.expected(key) * (1 - fraction) for key, fraction in running]
        pace = self._spent / self._foreseen if self._foreseen else 1.0
        # The longest run bounds what more workers can do.
        return max(sum(work) / self._workers, max(work, default=0.0)) * pace


def format_duration(seconds: float) -> str:
    """Return a duration for people, such as `2 h 05 min`; `unknown` for what is none, such as nan."""
    if not math.isfinite(seconds) or seconds < 0:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
