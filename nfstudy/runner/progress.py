"""Live progress: bars on a terminal, plain lines elsewhere, both on standard error."""

from __future__ import annotations

import sys
import time
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.table import Column

from nfstudy.runner.eta import format_duration
from nfstudy.runs.result import EpochRecord
from nfstudy.study.cells import Trial

QUIET_SECONDS = 60.0
"""Plain lines tell of a running trial at most this often."""

NARROW = 60
"""Columns of a terminal below which there is no room for bars: then each line is a name and a share."""


class StudyProgress(Protocol):
    """What the coordinator tells as it goes."""

    def begin(self, study: str, done: int, total: int, left: float) -> None:
        """Tell of the study: runs that have ended, runs in all, seconds left."""

    def epoch(self, worker: int, trial: Trial, record: EpochRecord, left: float) -> None:
        """Tell of an epoch of a trial; record.epoch 0 is its start."""

    def ended(self, worker: int, trial: Trial, words: str, done: int, total: int, left: float) -> None:
        """Tell how a trial ended."""

    def note(self, words: str) -> None:
        """Tell of something that people should know."""

    def close(self) -> None:
        """Tell nothing more."""


def make_progress(stream: TextIO | None = None) -> StudyProgress:
    """Return bars where the stream (standard error) is a terminal, else plain lines."""
    stream = stream or sys.stderr
    return Bars(Console(file=stream)) if stream.isatty() else Lines(stream)


def describe(record: EpochRecord) -> str:
    """Return an epoch in a few words."""
    bound = record.metrics.get("valid/elbo")
    return f"{record.update:,} of {record.updates:,} updates" + (f", valid F {-bound:.2f}" if bound else "")


def _start(trial: Trial) -> str:
    return f"starts, with {trial.values}" if trial.values else "starts"


class Bars:
    """One bar for the study with the time left, one line a worker; on a narrow terminal, lines without bars."""

    def __init__(self, console: Console) -> None:
        """Draw on a console."""
        self._narrow = console.width < NARROW
        columns: tuple[ProgressColumn, ...]
        if self._narrow:
            name = Column(ratio=1, no_wrap=True, overflow="ellipsis")
            columns = (TextColumn("{task.description}", table_column=name), TextColumn("{task.fields[words]}"))
        else:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[words]}"))
        self._progress = Progress(*columns, console=console, expand=self._narrow)
        self._study: TaskID | None = None
        self._workers: dict[int, TaskID] = {}
        self._counts = (0, 0)

    def begin(self, study: str, done: int, total: int, left: float) -> None:
        """Tell of the study."""
        self._counts = (done, total)
        self._study = self._progress.add_task(
            study, total=total, completed=done, words=self._overall(done, total, left)
        )
        self._progress.start()

    def epoch(self, worker: int, trial: Trial, record: EpochRecord, left: float) -> None:
        """Tell of an epoch."""
        if worker not in self._workers:
            self._workers[worker] = self._progress.add_task("", words="")
        words = f"{record.update / max(record.updates, 1):.0%}" if self._narrow else describe(record)
        self._progress.update(
            self._workers[worker],
            description=f"  {trial.label}",
            total=record.updates,
            completed=record.update,
            words=words,
        )
        assert self._study is not None
        self._progress.update(self._study, words=self._overall(*self._counts, left))

    def ended(self, worker: int, trial: Trial, words: str, done: int, total: int, left: float) -> None:
        """Tell how a trial ended."""
        assert self._study is not None
        self._counts = (done, total)
        self._progress.print(f"{trial.label}: {words}", highlight=False)
        self._progress.update(self._study, completed=done, total=total, words=self._overall(done, total, left))

    def note(self, words: str) -> None:
        """Tell of something."""
        self._progress.print(words, highlight=False)

    def close(self) -> None:
        """Take the workers' lines away."""
        for task in self._workers.values():
            self._progress.remove_task(task)
        self._progress.stop()

    def _overall(self, done: int, total: int, left: float) -> str:
        if self._narrow:
            return f"{done}/{total}" + (f", {format_duration(left)}" if done < total else "")
        return _overall(done, total, left)


class Lines:
    """A line when a trial starts and ends, and now and then between."""

    def __init__(self, stream: TextIO) -> None:
        """Write to a stream."""
        self._stream = stream
        self._told: dict[int, float] = {}

    def begin(self, study: str, done: int, total: int, left: float) -> None:
        """Tell of the study."""
        self._say(f"{study}: {_overall(done, total, left)}")

    def epoch(self, worker: int, trial: Trial, record: EpochRecord, left: float) -> None:
        """Tell of an epoch, if the last word was long enough ago."""
        if record.epoch == 0 or time.monotonic() - self._told.get(worker, 0.0) > QUIET_SECONDS:
            self._told[worker] = time.monotonic()
            self._say(f"[worker {worker}] {trial.label}: {_start(trial) if record.epoch == 0 else describe(record)}")

    def ended(self, worker: int, trial: Trial, words: str, done: int, total: int, left: float) -> None:
        """Tell how a trial ended."""
        self._say(f"[worker {worker}] {trial.label}: {words}; {_overall(done, total, left)}")

    def note(self, words: str) -> None:
        """Tell of something."""
        self._say(words)

    def close(self) -> None:
        """Nothing to take away."""

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def _overall(done: int, total: int, left: float) -> str:
    return f"{done} of {total} runs" + (f", about {format_duration(left)} left" if done < total else "")
