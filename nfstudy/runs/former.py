"""A study's runs, some of which are logged as another study's or budget's (`nfstudy.study.spec.Budget.formerly`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from nfstudy.core.errors import StudyDeletedError
from nfstudy.runs.frame import LoggedRuns, joined, make_frame, make_history, notes, with_notes
from nfstudy.study.spec import StudySpec


def runs_of_study(study: StudySpec, logged: Callable[[str], LoggedRuns]) -> LoggedRuns:
    """Return the runs of a study, each under the budget that it is of now.

    Arguments:
        study: the study.
        logged: gives the runs that are logged as those of a study of some name.
    """
    if not any(budget.formerly for budget in study.budgets.values()):
        return logged(study.study)
    return _MergedRuns(study, logged)


@dataclass(frozen=True)
class _MergedRuns:
    """The runs of a study, and of those that are budgets of it now; what `nfstudy.runs.frame.LoggedRuns` asks for."""

    study: StudySpec
    logged: Callable[[str], LoggedRuns]

    def frame(self, metrics: Collection[str] | None = None) -> pd.DataFrame:
        """Return one row a run; see `nfstudy.runs.frame.LoggedRuns`."""
        frames, told = [], list[str]()
        for name, frame in self._frames(metrics):
            told += notes(frame)
            logged = zip(frame["budget"], frame["cell"], strict=True)
            budgets = [self.study.budget_of(name, budget, cell) for budget, cell in logged]
            kept = np.array([budget is not None for budget in budgets], dtype=bool)
            frames.append(frame.assign(budget=pd.array([budget or "" for budget in budgets], dtype="str")).loc[kept])
        return with_notes(joined(frames), told)

    def history(self, run_ids: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
        """Return the logged points: columns run_id, metric, update, value; sorted by these."""
        own = {name: [each for each in run_ids if self._where.get(each) == name] for name in self._parts}
        points = [self._parts[name].history(some, metrics) for name, some in own.items() if some]
        if not points:
            return make_history(())
        return pd.concat(points).sort_values(["run_id", "metric", "update"], kind="stable", ignore_index=True)

    def artifact(self, run_id: str, name: str) -> bytes | None:
        """Return a file of a run, or None where it has no such file."""
        return self._parts[self._where[run_id]].artifact(run_id, name) if run_id in self._where else None

    def link(self, run_id: str) -> str | None:
        """Return the address of the run's page where a tracking server is set, else None."""
        return self._parts[self._where[run_id]].link(run_id) if run_id in self._where else None

    def _frames(self, metrics: Collection[str] | None) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield (name that runs are logged with, their frame); where a study of before was deleted, a note says so."""
        for name, runs in self._parts.items():
            try:
                yield name, runs.frame(metrics)
            except StudyDeletedError as error:
                if name == self.study.study:
                    raise
                yield name, with_notes(make_frame([], metrics), [str(error)])

    @cached_property
    def _parts(self) -> dict[str, LoggedRuns]:
        return {name: self.logged(name) for name in self.study.logged_names}

    @cached_property
    def _where(self) -> dict[str, str]:
        """Run id -> the name of the study that it is logged with."""
        return {run_id: name for name, frame in self._frames(()) for run_id in frame["run_id"]}
