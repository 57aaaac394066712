"""The engine of one machine: a pool of spawned processes that live over many trials, each with its share of the cores.

A process dies with its parent. On a CUDA device all workers are threads of one process: kernels of several processes
take turns on it, and those of several threads run side by side. They start, and die, together.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from nfstudy.core.output import outlive_readers
from nfstudy.core.plugins import Plugin, install_all, installed
from nfstudy.inference.training.stop import OF_THE_GROUP, Stopped, StopRequest
from nfstudy.runner.engine import Engine, Worker
from nfstudy.runner.worker import Died, Message, Order, load_sources, serve, work_variables

PR_SET_PDEATHSIG = 1
LOOK_EVERY = 0.1
"""Seconds between two looks at threads."""


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

    def __init__(
        self, size: int, threads: int, device: str, data_folders: Sequence[Path], together: bool | None = None
    ) -> None:
        """Start the workers, which get ready while other things are done.

        Arguments:
            size: how many.
            threads: of each.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            data_folders: where data files are looked for; the coordinator has made sure that they are there.
            together: whether all are threads of one process; None: on a CUDA device.
        """
        self._arguments = (threads, device, tuple(data_folders), tuple(installed()))
        self._together = size if (device.startswith("cuda") if together is None else together) else 1
        self._waiting: dict[int, tuple[BaseProcess, Connection]] = {}
        """Workers that have been started together with others, and that nobody has asked for yet."""
        super().__init__(size, threads)

    def close(self) -> None:
        """End all workers at once, whatever they are doing."""
        for worker in self.workers:
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            worker.connection.close()
        for _, connection in self._waiting.values():
            connection.close()

    def _start(self, number: int) -> Process:
        if number not in self._waiting:
            for _, connection in self._waiting.values():
                connection.close()
            numbers = range(1, self._together + 1) if self._together > 1 else (number,)
            process, connections = self._spawn(len(numbers))
            self._waiting = {each: (process, own) for each, own in zip(numbers, connections, strict=True)}
        return Process(number, *self._waiting.pop(number))

    def _spawn(self, workers: int) -> tuple[BaseProcess, list[Connection]]:
        """Start a process of so many workers, and return our ends of their pipes too."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = zip(*(context.Pipe() for _ in range(workers)), strict=True)
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
        for end in theirs:
            end.close()
        return process, [*ours]

    def _wait(self, timeout: float | None) -> list[Process]:
        by_handle = {worker.connection: worker for worker in self.workers}
        return [by_handle[handle] for handle in wait(list(by_handle), timeout)]  # type: ignore[index]


class _Pipe:
    """A worker's end of its pipe: orders and answers come in turn, so one `recv` does for both."""

    def __init__(self, connection: Connection) -> None:
        self.send = connection.send
        self.order = self.answer = connection.recv


def _work(
    connections: Sequence[Connection],
    parent: int,
    threads: int,
    device: str,
    data_folders: Sequence[Path],
    plugins: Sequence[Plugin],
) -> None:
    """Be a worker, or several, until the coordinator's ends of the pipes close."""
    of_threads = [StopRequest() for _ in connections] if len(connections) > 1 else []
    stop = StopRequest(of_threads)
    try:
        stop.listen()
        _die_with(parent)
        outlive_readers()
        from nfstudy.data import load_dataset

        install_all(plugins)
        find: Callable[[Any], Any] = partial(load_dataset, folders=data_folders, download=False)
        if not of_threads:
            serve(_Pipe(connections[0]), threads, device, find, stop)
            return
        find = _Once(find)
        load_sources()  # Once, and before there are threads, which would all import the same.
        serving = [
            Thread(target=_serve, args=(_Pipe(connection), threads, device, find, own), daemon=True)
            for connection, own in zip(connections, of_threads, strict=True)
        ]
        for thread in serving:
            thread.start()
        while any(thread.is_alive() for thread in serving):
            time.sleep(LOOK_EVERY)
            stop.check()
    except Stopped:
        os._exit(0)  # All is saved, and somebody waits: to take torch down would be a second or more.


def _serve(*arguments: Any) -> None:
    """Be one of several workers of a process; what ends one without an answer ends all."""
    try:
        serve(*arguments)
    except Stopped:
        pass  # What it was at is saved; the process ends when that is so of all.
    except BaseException:
        traceback.print_exc()
        os._exit(1)


class _Once:
    """A function of hashable arguments that several threads call: each value is found once."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._lock = Lock()
        self._found: dict[Any, Any] = {}

    def __call__(self, argument: Any) -> Any:
        with self._lock:
            if argument not in self._found:
                self._found[argument] = self._function(argument)
            return self._found[argument]


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the coordinator goes; elsewhere than on Linux the closed pipe ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
