"""Estimated time of a study: from its logged runs where there are any, else from measured costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import pandas as pd

from nfstudy.runs.result import Cost
from nfstudy.study.cells import Trial
from nfstudy.study.sections import ENERGY_EPOCH
from nfstudy.study.settings import Settings

LONGEST = 3.2e9
"""Seconds of a run that can be believed: a century."""


def run_seconds(settings: Settings, cost: Cost, stage: str = "repetition") -> float:
    """Return the wall-clock seconds of one training run; the trials of a search have no test evaluation."""
    test = cost.test if stage == "repetition" else 0.0
    if settings.problem == "drawn":
        return test
    epochs = math.ceil(settings.train.updates / _epoch_updates(settings))
    return settings.train.updates * cost.update + epochs * cost.validation + test


def epoch_share(settings: Settings) -> float:
    """Return which part of a run's updates an epoch is, at most 1."""
    return 1.0 if settings.problem == "drawn" else min(_epoch_updates(settings) / settings.train.updates, 1.0)


def _epoch_updates(settings: Settings) -> int:
    if settings.data is None:
        return ENERGY_EPOCH
    sizes = settings.data.examples()
    images = settings.data.train_images or (sizes and sizes[0])
    # Of data from outside whose size is not known: as if all updates were one epoch.
    return images // settings.train.batch if images else settings.train.updates


def cost_signature(settings: Settings) -> str:
    """Return what decides the cost of a run: settings that differ only in numbers the cost does not depend on agree."""
    parts = (
        settings.data,
        settings.energy,
        settings.drawn,
        settings.model,
        settings.flow,
        settings.evaluation,
        settings.train.batch,
        settings.train.optimiser,
    )
    return repr(parts)


def logged_seconds(frame: pd.DataFrame) -> dict[str, float]:
    """Return cell key -> mean wall-clock seconds of its finished repetitions."""
    done = frame[(frame["outcome"] == "finished") & (frame["stage"] == "repetition")]
    # What a store says may have been edited: a time that cannot be one says nothing.
    done = done[done["time/wall_seconds"].between(0, LONGEST)]
    means: dict[str, float] = done.groupby("cell")["time/wall_seconds"].mean().to_dict()
    return means


class Forecast:
    """The time left of a study at work: expected seconds of what is left, corrected by what has ended so far."""

    def __init__(self, expected: Mapping[str, float], workers: int) -> None:
        """Take cell key -> expected seconds of one run; an unknown cell counts as their mean."""
        self._expected = {cell: seconds for cell, seconds in expected.items() if 0 <= seconds <= LONGEST}
        known = self._expected.values()
        self._mean = sum(known) / len(known) if known else math.nan
        self._workers = workers
        self._spent = 0.0
        self._foreseen = 0.0

    def expected(self, cell: str) -> float:
        """Return the expected seconds of one run of a cell."""
        return self._expected.get(cell, self._mean)

    def ended(self, trial: Trial, seconds: float) -> None:
        """Learn what a run took."""
        expected = self.expected(trial.cell.key)
        if math.isfinite(expected):
            self._foreseen += expected
            self._spent += seconds

    def left(self, waiting: Iterable[str], running: Iterable[tuple[str, float]]) -> float:
        """Return the seconds left, nan if unknown.

        Arguments:
            waiting: cell keys of the runs that have not begun.
            running: of the others, cell key and the fraction that is done.
        """
        work = [self.expected(cell) for cell in waiting]
        work += [self.expected(cell) * (1 - fraction) for cell, fraction in running]
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
