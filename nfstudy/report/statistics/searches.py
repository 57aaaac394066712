"""Searches as logged runs tell them: which trials each had, what they came to, and what so many trials come to."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from nfstudy.report.statistics.estimates import CellResult, Results
from nfstudy.runs.frame import drawn_values, is_absent
from nfstudy.runs.metrics import VALID_NLL
from nfstudy.runs.readable import is_object
from nfstudy.study.cells import Cell
from nfstudy.study.spec import Axis

RESAMPLES = 2000
CONFIDENCE = 0.95
BOUND = "valid/elbo"


@dataclass(frozen=True)
class TriedTrial:
    """A trial of a search that has ended."""

    number: int
    values: Mapping[str, Any]
    """Dotted path -> value of what is searched."""
    free_energy: float
    """The last validation F, in the study's unit; of a pruned trial, where it was pruned; inf where it diverged."""
    outcome: str
    """Finished, pruned or diverged."""
    reason: str
    run_ids: tuple[str, ...]
    """Its run; of a cell that a sampler proposed, those of its repetitions."""
    settings: Mapping[str, Any]
    """Dotted path -> value of all settings that it used."""
    nll: float = math.nan
    """−ln p(x) of the validation images, in the study's unit; NaN where it was not estimated."""

    @property
    def words(self) -> str:
        """What came of it, such as `pruned at epoch 3 at F 101.20`."""
        if self.outcome == "finished":
            return "finished"
        return f"{self.outcome} {self.reason.removeprefix('pruned ')}".strip()


@dataclass(frozen=True)
class SearchResult:
    """One search: inside a cell, or that of a study's sampler over its grid."""

    label: str
    sampler: str
    space: Mapping[str, Axis]
    wanted: int
    """How many trials it is to have."""
    trials: tuple[TriedTrial, ...]
    """By number."""
    cell: CellResult | None = None
    """Whose settings it chooses; None of a sampler over the grid."""

    @property
    def best(self) -> TriedTrial | None:
        """The finished trial with the least F, the earliest of equal ones; None where nothing has finished."""
        finished = [trial for trial in self.trials if trial.outcome == "finished" and math.isfinite(trial.free_energy)]
        return min(finished, key=lambda trial: (trial.free_energy, trial.number), default=None)

    @cached_property
    def _worked_out(self) -> tuple[str, dict[str, float]]:
        """The run that says how much each setting matters, and what it says; both empty where none does."""
        runs = self.cell.repetitions[["run_id", "search"]].itertuples(index=False, name=None) if self.cell else ()
        for run_id, text in runs:
            found = json.loads(text).get("importances") if is_object(text) else None
            if isinstance(found, dict):  # In MLflow, somebody may have edited it.
                return run_id, {path: float(share) for path, share in found.items() if isinstance(share, int | float)}
        return "", {}

    @property
    def importances(self) -> dict[str, float]:
        """Setting -> its share of the variance of F by itself, as the search that has ended has worked it out."""
        return self._worked_out[1]

    @property
    def importances_of(self) -> tuple[str, ...]:
        """The run that they were logged with."""
        return (self._worked_out[0],) if self.importances else ()


def searches_of(results: Results) -> list[SearchResult]:
    """Return the searches of a study that have trials, in its order: those inside cells, or its sampler's."""
    if results.plan.search:
        found = [_inside(results, cell) for cell in results.cells]
    elif sampling := results.plan.sampling:
        trials = tuple(_of_cell(number, cell, results) for number, cell in enumerate(results.cells) if cell.complete)
        found = [SearchResult(f"sampler {sampling.name}", sampling.name, results.study.axes, sampling.trials, trials)]
    else:
        found = []
    return [search for search in found if search.trials]


def _inside(results: Results, result: CellResult) -> SearchResult:
    search = result.cell.search
    assert search is not None
    runs = results.runs
    own = runs[(runs["cell"] == result.cell.key) & (runs["stage"] == "search")]
    own = own[own["outcome"].isin(["finished", "pruned", "diverged"])]
    trials = tuple(
        TriedTrial(
            int(run["index"]),
            _tried(result.cell, run),
            _free_energy(run["outcome"], run[BOUND]),
            run["outcome"],
            run["reason"],
            (run["run_id"],),
            {path: run[path] for path in own.columns if "." in path and not is_absent(run[path])},
            run[VALID_NLL.name],
        )
        for run in own.sort_values("index").to_dict("records")
    )
    return SearchResult(result.label.row, search.sampler.name, search.space, search.sampler.trials, trials, cell=result)


def _tried(cell: Cell, run: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a trial has tried, by its logged settings; without what a choice of it left idle."""
    assert cell.search is not None
    values = drawn_values(cell.search, run)
    if None not in values.values():
        return values
    try:
        used = cell.tried(values).flat()
    except ValidationError:  # Somebody has edited the run.
        used = {}
    return {path: value for path, value in values.items() if value is not None or path in used}


def _of_cell(number: int, result: CellResult, results: Results) -> TriedTrial:
    """Return a cell that a sampler proposed as a trial; its F is the mean over its repetitions."""
    runs, flat = result.repetitions, result.cell.settings.flat()
    outcome = "pruned" if result.state.state == "pruned" else "finished"
    if (runs["outcome"] == "diverged").any():
        outcome = "diverged"
    values = [_free_energy(run.outcome, bound) for run, bound in zip(runs.itertuples(), runs[BOUND], strict=True)]
    mean = sum(values) / len(values) if values else math.inf
    point = {path: result.cell.point.get(path, flat.get(path)) for path in results.study.axes}
    reason = result.state.note.removeprefix("pruned ") if outcome == "pruned" else ""
    return TriedTrial(number, point, mean, outcome, reason, tuple(runs["run_id"]), flat)


def _free_energy(outcome: str, bound: float) -> float:
    return -bound if outcome != "diverged" and math.isfinite(bound) else math.inf


def best_so_far(trials: Sequence[TriedTrial]) -> list[float]:
    """Return after each trial the least F of those that have finished; inf before the first."""
    values = [trial.free_energy if trial.outcome == "finished" else math.inf for trial in trials]
    return np.minimum.accumulate(values).tolist() if values else []


@dataclass(frozen=True)
class ExpectedBest:
    """The expected least F of k = 1, 2, ... trials."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    """The ends of its interval; NaN with fewer than two trials."""


def expected_best(values: Sequence[float]) -> ExpectedBest:
    """Return what the best of k of n trials comes to, for k = 1 ... n.

    E_k = Σ_i v_(i) C(n − i, k − 1) / C(n, k), where v_(1) ≤ ... ≤ v_(n): the mean over all subsets of k trials. For
    trials drawn independently it is an unbiased estimate of the expected least value of k of them; Dodge et al. (2019),
    'Show Your Work', draw with replacement instead. Its interval is the bootstrap's over trials, by percentiles.

    Arguments:
        values: F of the trials, in any order; one that is not finite counts as the largest that is.
    """
    finite = [value for value in values if math.isfinite(value)]
    worst, n = max(finite, default=math.nan), len(values)
    numbers = np.array([value if math.isfinite(value) else worst for value in values])
    weights = np.array(
        [[math.comb(n - i, k - 1) / math.comb(n, k) for k in range(1, n + 1)] for i in range(1, n + 1)]
    ).reshape(n, n)
    mean = np.sort(numbers) @ weights
    if n < 2:
        return ExpectedBest(mean, np.full(n, math.nan), np.full(n, math.nan))
    # The same draws each time, so that a report has the same bytes.
    places = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
    resampled = np.sort(numbers[places], axis=1) @ weights
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return ExpectedBest(mean, low, high)


def epochs_of(results: Results, trials: Sequence[TriedTrial]) -> pd.DataFrame:
    """Return validation F over the updates of some trials: columns run_id, update, value, finite ones alone."""
    points = results.store.history([trial.run_ids[0] for trial in trials if trial.run_ids], [BOUND])
    points = points.assign(value=-points["value"].astype(float))
    return points.loc[np.isfinite(points["value"]), ["run_id", "update", "value"]]
