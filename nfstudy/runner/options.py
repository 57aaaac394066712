"""The record of a launch: the study under its budget, its store, its workers, and its retry policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nfstudy.core.project import Project
from nfstudy.study.plan import StudyPlan


@dataclass(frozen=True)
class RetryPolicy:
    """How often trials are saved, and started again where they fail; changes no number."""

    checkpoint_every: float = 60.0
    """Seconds between two checkpoints of a trial."""
    retries: int = 2
    """How often a trial that fails, or whose worker dies, is started again before it counts as failed.

    Attempts that end further on than the one before are not counted: a machine may take a worker away any number of
    times.
    """

    worker_timeout: float | None = None
    """Seconds after which a worker that says nothing is killed, which counts as an attempt; None: it is waited for."""

    @property
    def attempts(self) -> int:
        """How many attempts a trial has in all."""
        return self.retries + 1


@dataclass(frozen=True)
class WorkerOptions:
    """Which workers a launch asks for."""

    engine: Literal["local", "ray"] = "local"
    count: int | None = None
    """None: as many as there are cores for."""
    threads: int = 1
    """Of each worker."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    gpus: float = 0.0
    """How much of a GPU each worker holds, with `ray`."""


@dataclass(frozen=True)
class Launch:
    """One launch of a study."""

    plan: StudyPlan
    project: Project
    """Where journal and checkpoints go, if the store is not a file."""
    uri: str
    """The tracking store's, made if it is not there."""
    workers: WorkerOptions = field(default_factory=WorkerOptions)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
