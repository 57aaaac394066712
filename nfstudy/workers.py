"""A pool of spawned processes that live over many trials, each with its share of the cores.

A worker knows of no store and no search: it is sent trials, and sends back epochs and results. It dies with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfstudy.cells import Trial
from nfstudy.errors import UserError
from nfstudy.outcomes import Cost, EpochRecord, TrialResult
from nfstudy.sections import DataSpec
from nfstudy.settings import Settings

if TYPE_CHECKING:
    from nfstudy.data import Dataset

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
DETERMINISM_VARIABLES = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""Without it, cuBLAS refuses to multiply once torch is asked for deterministic algorithms."""
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ready:
    """A worker has started."""

    device: str


@dataclass(frozen=True)
class Died:
    """A worker's process has ended, without an answer."""

    reason: str


Message = Ready | EpochRecord | TrialResult | Cost | Died


@dataclass
class Worker:
    """One process, and the end of its pipe that the coordinator holds."""

    number: int
    process: BaseProcess
    connection: Connection
    device: str | None = None
    """None until it has started."""
    task: Any = field(default=None)
    """What the coordinator has given it to do; None when it is idle."""

    def run(self, trial: Trial, asks: bool) -> None:
        """Start a trial; when it `asks`, it waits for `answer` after each epoch."""
        self._send(("run", trial, asks))

    def measure(self, settings: Settings) -> None:
        """Start measuring what a trial with these settings takes."""
        self._send(("measure", settings))

    def answer(self, keep_going: bool) -> None:
        """Answer a trial that asked whether to go on."""
        self._send(keep_going)

    def _send(self, order: object) -> None:
        # A worker that has died meanwhile will be told of by `Pool.events`.
        with contextlib.suppress(OSError):
            self.connection.send(order)


class WorkerError(UserError):
    """Worker processes that cannot be started."""


class Pool:
    """So many workers; one that dies is replaced."""

    def __init__(self, size: int, threads: int, device: str, data_folders: Sequence[Path]) -> None:
        """Start the workers, which get ready while other things are done.

        Arguments:
            size: how many.
            threads: of each; the cores are to be shared, since two processes of two threads on two cores are far slower
                than two of one.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            data_folders: where data files are looked for; the coordinator has made sure that they are there.
        """
        self.threads = threads
        self._stillborn = 0
        """How many workers in a row have died before they were ready."""
        self._arguments = (threads, device, tuple(data_folders))
        self.workers = [self._start(number) for number in range(1, size + 1)]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def events(self, timeout: float | None = None) -> Iterator[tuple[Worker, Message]]:
        """Wait, at most so many seconds, for messages and yield them with their workers.

        A worker that died is replaced before it is told of.
        """
        by_handle = {worker.connection: worker for worker in self.workers}
        for handle in wait(list(by_handle), timeout):
            worker = by_handle[handle]  # type: ignore[index]
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                message = self._bury(worker)
            if isinstance(message, Ready):
                worker.device = message.device
            yield worker, message

    def close(self) -> None:
        """End all workers at once, whatever they are doing."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            worker.connection.close()

    def _bury(self, worker: Worker) -> Died:
        worker.process.join(10)
        code = worker.process.exitcode
        worker.connection.close()
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        self._stillborn = 0 if worker.device else self._stillborn + 1
        if self._stillborn > len(self.workers):
            raise WorkerError(
                f"worker processes do not start: they end with {how}; allowed: a working torch, free memory"
            )
        self.workers[self.workers.index(worker)] = self._start(worker.number)
        return Died(f"its worker process ended with {how}")

    def _start(self, number: int) -> Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        # Libraries read these once, when torch is imported; a spawned process inherits them.
        wanted = {**dict.fromkeys(THREAD_VARIABLES, str(self.threads)), **DETERMINISM_VARIABLES}
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            process = context.Process(target=_work, args=(theirs, os.getpid(), *self._arguments), daemon=True)
            process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        theirs.close()
        return Worker(number, process, ours)


def resolve_device(device: str) -> str:
    """Return the torch device that `auto` stands for here: a CUDA device if there is one."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _work(connection: Connection, parent: int, threads: int, device: str, data_folders: Sequence[Path]) -> None:
    """Be a worker: answer the coordinator's orders until its pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the coordinator decides.
    _die_with(parent)
    import torch

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    # Some operations have no deterministic form on CUDA: there torch warns, and last bits may differ.
    torch.use_deterministic_algorithms(True, warn_only=True)
    device = resolve_device(device)
    datasets: dict[DataSpec, Dataset] = {}
    with contextlib.suppress(EOFError, OSError):
        connection.send(Ready(device))
        while True:
            order, *arguments = connection.recv()
            settings = arguments[0] if order == "measure" else arguments[0].settings
            connection.send(_guarded(connection, order, arguments, settings, device, datasets, data_folders))


def _guarded(
    connection: Connection,
    order: str,
    arguments: list[Any],
    settings: Settings,
    device: str,
    datasets: dict[DataSpec, Dataset],
    data_folders: Sequence[Path],
) -> TrialResult | Cost:
    """Carry out one order; whatever goes wrong in it becomes a failed result with its traceback."""
    from nfstudy.cost import measure_cost
    from nfstudy.data import load_dataset
    from nfstudy.trial import run_trial

    def on_epoch(record: EpochRecord) -> bool:
        nonlocal update
        update = record.update
        connection.send(record)
        return connection.recv() if arguments[1] else True

    update = 0
    try:
        source = settings.data and settings.data.source()
        if source and source not in datasets:
            datasets[source] = load_dataset(source, data_folders, download=False)
        dataset = datasets[source] if source else None
        if order == "measure":
            return measure_cost(settings, dataset, device)
        return run_trial(arguments[0], dataset, device, on_epoch)
    except (EOFError, BrokenPipeError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return TrialResult("failed", update, reason, files={"traceback.txt": traceback.format_exc().encode()})


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the coordinator goes; elsewhere than on Linux the closed pipe ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
