"""The only module that imports ray: the engine of many machines, whose workers are actors of a Ray cluster.

An actor holds cores, and a share of a GPU where asked for, as long as the study runs; in it, one thread is the worker.
What it says comes back as one endless stream; orders go to it by calls. Ray starts nothing again: an actor that is
lost, alone or with its node, becomes `Died`, and the coordinator decides. Actors that find no room wait for it.
"""

from __future__ import annotations

import logging
import os
import queue
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if not any(name in os.environ for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
    # A Ray that we start listens on all of the machine's addresses: nobody is let in without this process's token. Ray
    # itself would write one into the home folder, where others may read it. It looks when it is imported.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from nfstudy.core.errors import UserError
from nfstudy.core.plugins import Plugin, install_all, installed
from nfstudy.core.project import variable
from nfstudy.data import Dataset
from nfstudy.inference.training.stop import Stopped, StopRequest
from nfstudy.runner.engine import Engine, Worker
from nfstudy.runner.watch import LIFE_SECONDS
from nfstudy.runner.worker import Alive, Died, Message, Order, serve, work_variables
from nfstudy.runs.provenance import environment, usable_cores
from nfstudy.study.sections import DataSpec

ADDRESS = "RAY_ADDRESS"
OBJECT_STORE_BYTES = 1_000_000_000
"""Of a Ray that we start ourselves; it holds the data sets."""
LONGEST_REASON = 300
"""Characters of Ray's own words for why an actor is lost."""
REACH_SECONDS = 10.0
END = None
"""The last thing in an actor's stream."""


class RayWorker(Worker):
    """An actor, and the stream of what it says."""

    def __init__(self, number: int, actor: Any) -> None:
        super().__init__(number)
        self.actor = actor
        self.stream = actor.messages.options(num_returns="streaming").remote()

    def send(self, order: Order) -> None:
        """Give an order."""
        self.actor.tell.remote(order)

    def answer(self, should_continue: bool) -> None:
        """Answer a trial that asked whether to go on."""
        self.actor.hear.remote(should_continue)

    def receive(self) -> Message:
        """Return the message that is there, `Died` if it is the last."""
        try:
            message: Message = ray.get(next(self.stream))
            return message
        except StopIteration:
            died = Died("its worker stopped on request", clean_exit=True)
        except RayError as error:
            died = Died(_reason(error))
        # It may be cut off and not dead: then it must not go on beside the one that takes its place.
        ray.kill(self.actor)
        return died

    def stop(self) -> None:
        """Ask it to save what it is at and leave; one that still waits for room is given up."""
        if self.device:
            self.actor.leave.remote()
        else:
            self.kill()

    def kill(self) -> None:
        """End it at once; where its node does not answer, as soon as that does, or is known to be lost."""
        ray.kill(self.actor)


class RayEngine(Engine):
    """Workers on the nodes of a Ray cluster."""

    workers: list[RayWorker]
    shows_life = True
    starts_wait = True

    def __init__(self, size: int, threads: int, device: str, gpus: float, datasets: Mapping[DataSpec, Dataset]) -> None:
        """Ask the cluster that `join_cluster` joined for actors, which start as it has room for them.

        Arguments:
            size: how many.
            threads: of each, and cores that it holds.
            device: `auto`, `cpu` or `cuda`.
            gpus: how much of a GPU each holds; 0: they use none.
            datasets: what a data set is loaded by -> the data set; sent to each node once, where all workers map the
                one copy. So nodes need no data folder, and nothing has to be checked there.
        """
        self._data = {source: ray.put(dataset) for source, dataset in datasets.items()}
        self._arguments = (threads, device if gpus else "cpu", tuple(installed()))
        remote: Any = ray.remote  # Ray's types lack max_concurrency.
        self._actor = remote(
            num_cpus=threads,
            num_gpus=gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=2,  # The stream, and the orders.
            runtime_env={"env_vars": work_variables(threads)},
        )(_Actor)
        super().__init__(size, threads)

    def close(self) -> None:
        """End all workers at once, whatever they are doing, and leave the cluster."""
        for worker in self.workers:
            ray.kill(worker.actor)
        ray.shutdown()

    def _start(self, number: int) -> RayWorker:
        return RayWorker(number, self._actor.remote(*self._arguments, self._data))

    def _wait(self, timeout: float | None) -> list[RayWorker]:
        by_stream = {worker.stream: worker for worker in self.workers}
        streams = list(by_stream)
        if ray.wait(streams, timeout=timeout, fetch_local=False)[0]:
            # Now that there is one, take all that are there.
            ready, _ = ray.wait(streams, num_returns=len(streams), timeout=0, fetch_local=False)
            return [by_stream[stream] for stream in ready]
        return []


class _Mailbox:
    """A worker's channel: what it says, and what it is told."""

    def __init__(self) -> None:
        self.said: queue.SimpleQueue[Message | BaseException | None] = queue.SimpleQueue()
        self.orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.send, self.answer = self.said.put, self.answers.get

    def order(self) -> Order:
        """Wait for the next order; raises Stopped where there will be none."""
        order = self.orders.get()
        if order is END:
            raise Stopped
        return order


class _Actor:
    """A worker as Ray sees it: its work is done in a thread of its own, so that it can be told things meanwhile."""

    def __init__(
        self, threads: int, device: str, plugins: Sequence[Plugin], data: Mapping[DataSpec, ray.ObjectRef[Dataset]]
    ) -> None:
        install_all(plugins)
        self._mailbox = _Mailbox()
        self._stop = StopRequest()
        self._arguments = (threads, device, lambda source: ray.get(data[source]), self._stop, environment())

    def messages(self) -> Iterator[Message]:
        """Begin to work, and yield what the worker says until it leaves."""
        threading.Thread(target=self._work, daemon=True).start()
        while (message := self._next()) is not END:
            if isinstance(message, BaseException):
                raise message
            yield message

    def _next(self) -> Message | BaseException | None:
        try:
            return self._mailbox.said.get(timeout=LIFE_SECONDS)
        except queue.Empty:
            return Alive()

    def tell(self, order: Order) -> None:
        """Give the worker an order."""
        self._mailbox.orders.put(order)

    def hear(self, should_continue: bool) -> None:
        """Answer a trial that asked whether to go on."""
        self._mailbox.answers.put(should_continue)

    def leave(self) -> None:
        """Ask the worker to save what it is at and leave: it looks after each update, and between two orders."""
        self._stop.asked = True
        self._mailbox.orders.put(END)

    def _work(self) -> None:
        end: BaseException | None = END
        try:
            serve(self._mailbox, *self._arguments)
        except Stopped:
            pass
        except BaseException as error:  # Such as a torch that cannot be loaded: it belongs into the stream.
            end = error
        self._mailbox.said.put(end)


def open_cluster(
    wanted: int | None,
    at_most: int,
    threads: int,
    device: str,
    gpus: float,
    datasets: Mapping[DataSpec, Dataset],
) -> RayEngine:
    """Join the cluster and ask it for workers.

    Arguments:
        wanted: how many workers; None: as many as it has room for.
        at_most: how many there is work for.
        threads: see `RayEngine`.
        device: see `RayEngine`.
        gpus: see `RayEngine`.
        datasets: see `RayEngine`.

    Raises:
        UserError: it cannot be joined, or has no room for a worker and nobody asked to wait for some.
    """
    join_cluster((wanted or 1) * threads)
    room = cluster_room(threads, gpus)
    size = min(wanted or room, at_most)
    if not size:
        ray.shutdown()
        raise UserError(
            f"--engine ray: no node of the cluster has {threads} cores{f' and {gpus:g} GPUs' if gpus else ''}; "
            "hint: ask for less, or for --workers N, which waits for nodes"
        )
    if room < size:
        print(f"the cluster has room for {room} of {size} workers now; the others wait for resources", file=sys.stderr)
    return RayEngine(size, threads, device, gpus, datasets)


def join_cluster(cores: int) -> None:
    """Join the Ray cluster at $RAY_ADDRESS; without one, start Ray on this machine, for as long as this process lives.

    Arguments:
        cores: how many the workers want of a Ray that is started here; it may hand out more than there are.

    Raises:
        UserError: there is no cluster there, or it runs another version of Ray or Python.
    """
    address = variable(ADDRESS)
    if address and "://" in address:
        raise UserError(f"{ADDRESS}={address}: expected: HOST:PORT, or auto on a machine of the cluster")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    ours: dict[str, Any] = {
        "num_cpus": max(usable_cores(), cores),
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            _reach(address)
        ray.init(address or "local", **quiet, **({} if address else ours))
    except (OSError, RuntimeError, ValueError) as error:
        words = f"{ADDRESS}={address}" if address else "Ray cannot be started here"
        raise UserError(
            f"{words}: {error}; expected: the HOST:PORT of a cluster of Ray {ray.__version__} on this version of Python"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray takes it, and would leave at once.


def cluster_room(threads: int, gpus: float) -> int:
    """Return for how many workers the nodes of the cluster have room, were they idle.

    Arguments:
        threads: cores of each worker.
        gpus: share of a GPU of each, at most 1; Ray lets a worker have its share of one GPU only.
    """
    rooms = []
    for node in ray.nodes():
        has = node["Resources"] if node["Alive"] else {}
        by_cores = int(has.get("CPU", 0)) // threads
        rooms.append(min(by_cores, int(has.get("GPU", 0)) * int(1 / gpus)) if gpus else by_cores)
    return sum(rooms)


def _reach(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), REACH_SECONDS).close()


def _reason(error: RayError) -> str:
    """Return in a line why an actor is lost."""
    if isinstance(error, RayTaskError):
        return f"its worker exited with {type(error.cause).__name__}: {error.cause}"[:LONGEST_REASON]
    if isinstance(error, ActorUnavailableError):
        return "its worker or node is unreachable"
    # The last line says why, and then what may have caused it.
    why = str(error).strip().splitlines()[-1].split(" Some common causes")[0]
    return f"lost its worker: {why}"[:LONGEST_REASON]
