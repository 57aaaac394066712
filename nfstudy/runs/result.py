"""What a training run gives back: plain records that travel between processes, free of torch and mlflow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["finished", "diverged", "pruned", "failed"]
RESULTS: tuple[Outcome, ...] = ("finished", "diverged", "pruned")
"""Outcomes that are results: such a run is not run again."""


def outcome_of(status: str, logged: str | None) -> str:
    """Return how a run ended: an outcome, or `killed` or `running`.

    Arguments:
        status: MLflow's RUNNING, FINISHED, FAILED or KILLED.
        logged: the outcome that the run was tagged with, if it was; only in a finished run does it count.
    """
    ended = {"FINISHED": logged or "killed", "FAILED": "failed", "KILLED": "killed"}
    return ended.get(status, "running")


@dataclass(frozen=True)
class EpochRecord:
    """The numbers of one epoch."""

    epoch: int
    """1, 2, ..."""
    update: int
    """Parameter updates done so far."""
    updates: int
    """Parameter updates in all."""
    metrics: Mapping[str, float]
    """Name -> value of the metrics of the splits train and valid."""

    @property
    def free_energy(self) -> float:
        """F on the validation images, in nats an image (on the plane: nats); NaN at the start."""
        return -self.metrics.get("valid/elbo", math.nan)


OnEpoch = Callable[[EpochRecord], bool]
"""Called after each epoch; False ends the training there (pruned)."""


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended: training, evaluation and the coordinator each add what they know.

    A diverged or pruned trial is a result, not an error.
    """

    outcome: Outcome
    update: int = 0
    """Updates done; of a diverged training, the number of the update (1, 2, ...) that went wrong."""
    reason: str = ""
    """Why it did not finish; of a finished trial, which metrics from outside could not be computed, else empty."""
    seconds: float = 0.0
    """Wall-clock seconds of the updates, without the validations; those of earlier attempts that led here included."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Name -> value of the metrics of the splits test and time."""
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """Name of a metric -> what is counted, such as samples -> value; it is logged in the place of the update."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """File name -> content: `checkpoint.pt`, `samples.png`, `reconstructions.png`, `images.csv`, those of
    `nfstudy.films`, a failed trial's `traceback.txt`."""
    retry: bool = True
    """Of a failed trial, whether another attempt may end otherwise; not where the user has something to mend."""
    value: float = math.inf
    """What a search minimises: the validation free energy F at the end, in nats an image; inf where there is none."""
    epochs: Mapping[int, float] = field(default_factory=dict)
    """Epoch -> F after it, of a trial that could be pruned; else empty."""

    def told(self, elbo: float, epochs: Mapping[int, float] | None = None) -> TrialResult:
        """Return what a search is told: the outcome, F where the trial finished and logged a bound, and F by epoch."""
        value = -elbo if self.outcome == "finished" and math.isfinite(elbo) else math.inf
        return TrialResult(self.outcome, value=value, epochs=epochs or {})


@dataclass(frozen=True)
class Resumed:
    """A trial goes on from a checkpoint."""

    update: int
    """Parameter updates that are in it."""
    other_code: tuple[str, ...] = ()
    """Digests of the sources that did some of them, where those are not the present ones; in order."""
    made_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What else trained it and was not the same throughout: name, such as device -> in order, the present one last."""


@dataclass(frozen=True)
class Notice:
    """Something about a trial under way that people should know."""

    words: str


@dataclass(frozen=True)
class Cost:
    """What a trial takes on this machine, measured, in seconds of wall clock."""

    update: float
    validation: float
    """One pass over the validation images."""
    test: float
    """The whole test evaluation."""
