"""Workers whose trials end at once; apart from their benchmark, so that their processes load little."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection

from nfstudy.runner.worker import Message, Ready, worker_sources
from nfstudy.runs.result import EpochRecord, TrialResult

EPOCHS = 3


def empty_trial() -> Iterator[Message]:
    """Yield what a worker says of a trial that takes no time."""
    for epoch in range(1, EPOCHS + 1):
        yield EpochRecord(epoch, epoch, EPOCHS, {"train/elbo": -1.0, "train/objective": 1.0, "valid/elbo": -1.0})
    yield TrialResult("finished", EPOCHS, metrics={"test/elbo": -1.0, "test/nll": 1.0, "time/wall_seconds": 0.0})


def answer_at_once(connection: Connection) -> None:
    """Be the worker at the other end of a pipe."""
    connection.send(Ready("cpu", sources=worker_sources()))
    with suppress(EOFError, OSError):
        while connection.recv():
            for message in empty_trial():
                connection.send(message)


class EmptyActor:
    """What `ray_engine` asks of an actor, with no work."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[object] = queue.SimpleQueue()

    def messages(self) -> Iterator[Message]:
        """Yield what the worker says."""
        yield Ready("cpu", sources=worker_sources())
        while self._orders.get():
            yield from empty_trial()

    def tell(self, order: object) -> None:
        """Give an order."""
        self._orders.put(order)
