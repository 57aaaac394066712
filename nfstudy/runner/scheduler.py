"""The order of work: plans are generators that ask for trials and are sent the outcomes; this drives many at once.

A plan yields a list of requests, each a trial to run or another plan, and is resumed with the list of their outcomes
when all are there. So a plan reads from top to bottom, though its trials run on many workers, beside other plans'.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nfstudy.runs.result import Outcome
from nfstudy.study.cells import Identity, Trial


@dataclass(frozen=True)
class Told:
    """How a trial ended, as far as a plan needs to know."""

    outcome: Outcome
    value: float
    """The validation free energy F at the end, in nats per image; inf where there is none."""


@dataclass(frozen=True)
class Request:
    """A trial that a plan wants run."""

    trial: Trial
    should_continue: Callable[[int, float], bool] | None = None
    """Asked after each epoch with (epoch, validation F); False prunes the trial. None: it is never pruned."""


Plan = Generator[list[Any], list[Any], Any]
"""Yields lists of `Request` and `Plan`; is sent lists of `Told` and of what the plans returned."""


@dataclass
class _Job:
    plan: Plan
    parent: _Job | None = None
    slot: int = 0
    answers: list[Any] = field(default_factory=list)
    waiting: int = 0


class Scheduler:
    """Runs a plan: hands out each trial once, first repetitions of all cells first, and passes the outcomes back."""

    def __init__(self, plan: Plan, known: Mapping[Identity, Told]) -> None:
        """Start a plan; `known` holds the outcomes of trials that have been run before."""
        self._known = dict(known)
        self._waiters: dict[Identity, list[tuple[_Job, int]]] = {}
        self._ready: list[tuple[tuple[int, int, int], Request]] = []
        self._order = itertools.count()
        self._advance(_Job(plan), None)

    @property
    def done(self) -> bool:
        """Whether nothing is left to start or to wait for."""
        return not self._waiters

    @property
    def waiting(self) -> list[Request]:
        """The requests that could start now, in the order in which they will."""
        return [request for _, request in sorted(self._ready, key=lambda entry: entry[0])]

    def next(self) -> Request | None:
        """Hand out the next request, or None when all that are left wait for running ones."""
        return heapq.heappop(self._ready)[1] if self._ready else None

    def tell(self, request: Request, told: Told) -> None:
        """Pass on how a request that was handed out ended."""
        identity = request.trial.identity
        self._known[identity] = told
        for job, slot in self._waiters.pop(identity):
            self._answer(job, slot, told)

    def put_back(self, request: Request) -> None:
        """Take back a request that was handed out and got no outcome, to hand it out again."""
        trial = request.trial
        priority = (0, 0) if trial.stage == "search" else (1, trial.index)
        heapq.heappush(self._ready, ((*priority, next(self._order)), request))

    def _advance(self, job: _Job, answers: list[Any] | None) -> None:
        try:
            wanted = next(job.plan) if answers is None else job.plan.send(answers)
        except StopIteration as stop:
            if job.parent:
                self._answer(job.parent, job.slot, stop.value)
            return
        job.answers, job.waiting = [None] * len(wanted), len(wanted)
        if not wanted:
            self._advance(job, [])
        for slot, request in enumerate(wanted):
            if not isinstance(request, Request):
                self._advance(_Job(request, job, slot), None)
            elif told := self._known.get(request.trial.identity):
                self._answer(job, slot, told)
            elif request.trial.identity in self._waiters:
                self._waiters[request.trial.identity].append((job, slot))
            else:
                self._waiters[request.trial.identity] = [(job, slot)]
                self.put_back(request)

    def _answer(self, job: _Job, slot: int, answer: Any) -> None:
        job.answers[slot] = answer
        job.waiting -= 1
        if job.waiting == 0:
            self._advance(job, job.answers)
