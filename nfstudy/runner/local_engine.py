"""The engine of one machine: a pool of spawned processes that live over many trials, each with its share of the cores.

A process dies with its parent.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from nfstudy.core.output import outlive_readers
from nfstudy.core.plugins import Plugin, install_all, installed
from nfstudy.inference.training.stop import OF_THE_GROUP, Stopped, StopRequest
from nfstudy.runner.engine import Engine, Worker
from nfstudy.runner.worker import Died, Message, Order, serve, work_variables

PR_SET_PDEATHSIG = 1


class Process(Worker):
    """One process, and the end of its pipe that the coordinator holds."""

    def __init__(self, number: int, process: BaseProcess, connection: Connection) -> None:
        super().__init__(number)
        self.process, self.connection = process, connection

    def send(self, order: Order | bool) -> None:
        """Give an order."""
        with suppress(OSError):
            self.connection.send(order)

    def answer(self, should_continue: bool) -> None:
        """Answer a trial that asked whether to go on."""
        self.send(should_continue)

    def receive(self) -> Message:
        """Return the message that is there, `Died` if it is the last."""
        try:
            message: Message = self.connection.recv()
            return message
        except (EOFError, OSError):
            self.process.join(10)
            self.connection.close()
        code = self.process.exitcode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return Died(f"its worker process exited with {how}", clean_exit=code == 0)

    def stop(self) -> None:
        """Ask it to save what it is at and leave."""
        self.process.terminate()

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        self.process.kill()
        self.process.join(10)
        self.connection.close()


class Pool(Engine):
    """Worker processes of this machine."""

    workers: list[Process]

    def __init__(self, size: int, threads: int, device: str, data_folders: Sequence[Path]) -> None:
        """Start the workers, which get ready while other things are done.

        Arguments:
            size: how many.
            threads: of each.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            data_folders: where data files are looked for; the coordinator has made sure that they are there.
        """
        self._arguments = (threads, device, tuple(data_folders), tuple(installed()))
        super().__init__(size, threads)

    def close(self) -> None:
        """End all workers at once, whatever they are doing."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            worker.connection.close()

    def _start(self, number: int) -> Process:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        # A spawned process inherits them.
        wanted = work_variables(self.threads)
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        # Ctrl-C, or a terminal that is closed, reaches the whole group: a new process has them wait until
        # `StopRequest.listen` says what to do.
        resource_tracker.ensure_running()  # Else it is started with the process, and lets the signal through again.
        signal.pthread_sigmask(signal.SIG_BLOCK, OF_THE_GROUP)
        try:
            process = context.Process(target=_work, args=(theirs, os.getpid(), *self._arguments), daemon=True)
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, OF_THE_GROUP)
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        theirs.close()
        return Process(number, process, ours)

    def _wait(self, timeout: float | None) -> list[Process]:
        by_handle = {worker.connection: worker for worker in self.workers}
        return [by_handle[handle] for handle in wait(list(by_handle), timeout)]  # type: ignore[index]


class _Pipe:
    """A worker's end of its pipe: orders and answers come in turn, so one `recv` does for both."""

    def __init__(self, connection: Connection) -> None:
        self.send = connection.send
        self.order = self.answer = connection.recv


def _work(
    connection: Connection,
    parent: int,
    threads: int,
    device: str,
    data_folders: Sequence[Path],
    plugins: Sequence[Plugin],
) -> None:
    """Be a worker until the coordinator's end of the pipe closes."""
    stop = StopRequest()
    try:
        stop.listen()
        _die_with(parent)
        outlive_readers()
        from nfstudy.data import load_dataset

        install_all(plugins)

        serve(_Pipe(connection), threads, device, partial(load_dataset, folders=data_folders, download=False), stop)
    except Stopped:
        os._exit(0)  # All is saved, and somebody waits: to take torch down would be a second or more.


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the coordinator goes; elsewhere than on Linux the closed pipe ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
