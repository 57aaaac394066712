"""The scheduler: plans are generators that yield tasks and are sent their results; it drives many plans at once.

A plan yields a list of tasks, each a trial to run or another plan, and is resumed with the list of their outcomes
when all are there. So a plan reads from top to bottom, though its trials run on many workers, beside other plans'.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nfstudy.runs.result import EpochRecord, OnEpoch, TrialResult
from nfstudy.study.cells import Identity, Trial


@dataclass(eq=False)
class Task:
    """A trial that a plan wants run, and what is known of it while a worker is at it."""

    trial: Trial
    should_continue: OnEpoch | None = None
    """Asked after each epoch; False prunes the trial. None: it is never pruned."""
    tags: Callable[[], Mapping[str, str]] | None = None
    """Returns what its run is tagged with beside what is known of the trial."""
    others: int = 0
    """How many runs are not to do where it is pruned: the other repetitions of its cell."""
    run_id: str = ""
    """Of the attempt that is under way; empty where none is."""
    record: EpochRecord | None = None
    """The last epoch of that attempt."""
    epochs: dict[int, float] = field(default_factory=dict)
    """Epoch -> validation F of that attempt."""

    @property
    def fraction(self) -> float:
        """How much of its training is done."""
        return self.record.update / self.record.updates if self.record else 0.0


Plan = Generator[list[Any], list[Any], Any]
"""Yields lists of `Task` and `Plan`; is sent lists of `TrialResult` and of what the plans returned."""


@dataclass
class _Job:
    plan: Plan
    parent: _Job | None = None
    slot: int = 0
    answers: list[Any] | None = None
    """By slot, None where there is none yet; None before its plan has begun."""
    waiting: int = 0


class Scheduler:
    """Runs a plan: hands out each trial once, first repetitions of all cells first, and passes the outcomes back."""

    def __init__(self, plan: Plan, known: Mapping[Identity, TrialResult]) -> None:
        """Start a plan; `known` holds the outcomes of trials that have been run before."""
        self._known = dict(known)
        self._waiters: dict[Identity, list[tuple[_Job, int]]] = {}
        self._ready: list[tuple[tuple[int, int, int], Task]] = []
        self._order = itertools.count()
        self._advance(_Job(plan))

    @property
    def done(self) -> bool:
        """Whether nothing is left to start or to wait for."""
        return not self._waiters

    @property
    def waiting(self) -> list[Task]:
        """The tasks that could start now, in the order in which they will."""
        return [task for _, task in sorted(self._ready, key=lambda entry: entry[0])]

    def next(self) -> Task | None:
        """Hand out the next task, or None when all that are left wait for running ones."""
        return heapq.heappop(self._ready)[1] if self._ready else None

    def tell(self, task: Task, result: TrialResult) -> None:
        """Pass on how a task that was handed out ended, in what `TrialResult.told` returns."""
        identity = task.trial.identity
        self._known[identity] = result
        for job, slot in self._waiters.pop(identity):
            if self._answer(job, slot, result):
                self._advance(job)

    def put_back(self, task: Task) -> None:
        """Take back a task that was handed out and got no result, to hand it out again."""
        trial = task.trial
        task.run_id, task.record, task.epochs = "", None, {}
        priority = (0, 0) if trial.stage == "search" else (1, trial.index)
        heapq.heappush(self._ready, ((*priority, next(self._order)), task))

    def _advance(self, job: _Job) -> None:
        """Go on with a plan that has all its answers, and with what that lets go on, until all of it waits for trials.

        The first of what a plan wants goes on as far as it can before the second begins.
        """
        # A stack, not recursion: the generations of a long search whose results are all known would nest too deep.
        steps: list[_Job | tuple[_Job, int, Any]] = [job]
        while steps:
            step = steps.pop()
            if isinstance(step, _Job):
                steps += reversed(self._wanted(step))
                continue
            job, slot, task = step
            if not isinstance(task, Task):
                steps.append(_Job(task, job, slot))
            elif known := self._known.get(task.trial.identity):
                if self._answer(job, slot, known):
                    steps.append(job)
            elif task.trial.identity in self._waiters:
                self._waiters[task.trial.identity].append((job, slot))
            else:
                self._waiters[task.trial.identity] = [(job, slot)]
                self.put_back(task)

    def _wanted(self, job: _Job) -> list[_Job | tuple[_Job, int, Any]]:
        """Go on with a plan to what it yields next; return, in order, what is to be done then."""
        try:
            wanted = next(job.plan) if job.answers is None else job.plan.send(job.answers)
        except StopIteration as stop:
            return [job.parent] if job.parent and self._answer(job.parent, job.slot, stop.value) else []
        job.answers, job.waiting = [None] * len(wanted), len(wanted)
        return [(job, slot, task) for slot, task in enumerate(wanted)] or [job]

    def _answer(self, job: _Job, slot: int, answer: Any) -> bool:
        """Note an answer that a plan waits for; return whether it has all of them now."""
        assert job.answers is not None
        job.answers[slot] = answer
        job.waiting -= 1
        return job.waiting == 0
