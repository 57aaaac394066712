"""What a training run gives back: plain records that travel between processes, free of torch and mlflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["finished", "diverged", "pruned", "failed"]


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


OnEpoch = Callable[[EpochRecord], bool]
"""Called after each epoch; False ends the training there (pruned)."""


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended. A diverged or pruned trial is a result, not an error."""

    outcome: Outcome
    update: int
    """The update at which it ended."""
    reason: str = ""
    """Why it did not finish; of a finished trial, which metrics from outside could not be computed, else empty."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Name -> value of the metrics of the splits test and time."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """File name -> content: `checkpoint.pt`, `samples.png`, `reconstructions.png`, a failed trial's `traceback.txt`."""
    retry: bool = True
    """Of a failed trial, whether another attempt may end otherwise; not where the user has something to mend."""


@dataclass(frozen=True)
class Resumed:
    """A trial goes on from a checkpoint."""

    update: int
    """Parameter updates that are in it."""


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
