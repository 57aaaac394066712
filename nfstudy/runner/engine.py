"""The interface of an engine, which provides workers: processes of this machine, or actors of a cluster.

The coordinator knows workers by what is here alone. Engines differ in how a worker is started, reached and ended; what
a worker does (`nfstudy.runner.worker`), and what becomes of one that dies, is the same on all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from nfstudy.core.errors import UserError
from nfstudy.inference.training.checkpoints import CheckpointPlan
from nfstudy.runner.worker import Alive, Died, Evaluate, Measure, Message, Order, Ready, Run
from nfstudy.runs.code import code_state, differing, plugin_sources
from nfstudy.study.cells import Trial
from nfstudy.study.settings import Settings

MAX_FAILED_STARTS = 3
"""How often each worker may die before any is ready: machines take processes away while they start, too."""
MAX_NAMES = 5
"""Of sources, in a message."""


class WorkerError(UserError):
    """Workers that cannot be started."""


class OtherCodeError(WorkerError):
    """A worker that would run other code than its launch is logged with."""


class Worker(ABC):
    """A worker as the coordinator holds it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.device: str | None = None
        """None until it has started."""
        self.environment: Mapping[str, str] | None = None
        """`provenance.environment` of its machine; None where that is the coordinator's."""
        self.messages = 0
        """How many it has sent, and of `words` those that are more than a sign of life."""
        self.words = 0
        self.task: Any = None
        """What the coordinator has given it to do; None when it is idle."""

    def run(self, trial: Trial, asks: bool, plan: CheckpointPlan | None = None, numbers: str = "") -> None:
        """Start a trial, with checkpoints if planned; where it `asks`, it waits for `answer` after each epoch.

        `numbers` is the fingerprint of the data that its run is logged with.
        """
        self.send(Run(trial, asks, plan, numbers))

    def measure(self, settings: Settings) -> None:
        """Start measuring what a trial with these settings takes."""
        self.send(Measure(settings))

    def evaluate(self, order: Evaluate) -> None:
        """Start evaluating the kept weights of a run."""
        self.send(order)

    @abstractmethod
    def send(self, order: Order) -> None:
        """Give an order, which is lost if the worker has died: `Engine.events` will tell of that."""

    @abstractmethod
    def answer(self, should_continue: bool) -> None:
        """Answer a trial that asked whether to go on."""

    @abstractmethod
    def receive(self) -> Message:
        """Return the message that is there, `Died` if it is the last."""

    @abstractmethod
    def stop(self) -> None:
        """Ask it to save what it is at and leave."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once, whatever it is doing, even if it does not react to anything."""


class Engine(ABC):
    """So many workers; one that dies is replaced."""

    shows_life: bool = False
    """Whether workers send a sign of life every so often: where nothing else tells that a machine is lost."""
    starts_wait: bool = False
    """Whether a worker may have to wait before it can start."""

    def __init__(self, size: int, threads: int) -> None:
        """Start the workers, which get ready while other things are done.

        Arguments:
            size: how many.
            threads: of each; the cores are to be shared, since two processes of two threads on two cores are far slower
                than two of one.
        """
        self.threads = threads
        self.sources = {**code_state().sources, **plugin_sources()}
        """Name -> digest of the sources that this launch is logged with."""
        self._failed_starts = 0
        """How many workers have died before they were ready, since one was."""
        self._stopping = False
        self._given_up: list[tuple[Worker, Died]] = []
        self.workers = [self._start(number) for number in range(1, size + 1)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def events(self, timeout: float | None = None) -> Iterator[tuple[Worker, Message]]:
        """Wait, at most so many seconds, for messages and yield them with their workers.

        A worker that died is replaced before it is told of, unless all are to stop.

        Raises:
            WorkerError: workers die before they are ready, one after another.
            OtherCodeError: a worker has loaded other sources than those that runs are logged with.
        """
        given_up = bool(self._given_up)
        while self._given_up:
            worker, died = self._given_up.pop(0)
            self._replace_worker(worker, died)
            yield worker, died
        for worker in self._wait(0.0 if given_up else timeout):
            message = worker.receive()
            worker.messages += 1
            if isinstance(message, Alive):
                continue
            worker.words += 1
            if isinstance(message, Died):
                self._replace_worker(worker, message)
            elif isinstance(message, Ready):
                if changed := differing(self.sources, message.sources):
                    raise OtherCodeError(_other_code(changed))
                worker.device, worker.environment = message.device, message.environment
                self._failed_starts = 0
            yield worker, message

    def give_up(self, worker: Worker, reason: str) -> None:
        """End a worker that is of no more use; `events` tells of it as of one that died, for this reason."""
        if worker in self.workers and all(worker is not other for other, _ in self._given_up):
            worker.kill()
            self._given_up.append((worker, Died(reason)))

    def stop(self) -> None:
        """Ask all workers to save what they are at and leave; `events` tells of each that has."""
        self._stopping = True
        for worker in self.workers:
            worker.stop()

    @abstractmethod
    def close(self) -> None:
        """End all workers at once, whatever they are doing."""

    @abstractmethod
    def _start(self, number: int) -> Any:
        """Return a new worker, which need not be ready."""

    @abstractmethod
    def _wait(self, timeout: float | None) -> list[Any]:
        """Return the workers that have a message, after waiting so many seconds at most for the first."""

    def _replace_worker(self, worker: Worker, died: Died) -> None:
        if self._stopping:
            self.workers.remove(worker)
            return
        self._failed_starts += worker.device is None
        if self._failed_starts > MAX_FAILED_STARTS * len(self.workers):
            raise WorkerError(
                f"workers do not start ({died.reason}); hint: check the installation of torch, and free memory"
            )
        self.workers[self.workers.index(worker)] = self._start(worker.number)


def _other_code(changed: Sequence[str]) -> str:
    """Return what is wrong with a worker that has other sources."""
    listed = ", ".join(changed[:MAX_NAMES]) + (f" and {len(changed) - MAX_NAMES} others" if changed[MAX_NAMES:] else "")
    return (
        f"a worker has loaded other code than the runs of this launch are logged with ({listed}): "
        "sources were edited, or are others on its machine; hint: start again, and runs are logged with what they run"
    )
