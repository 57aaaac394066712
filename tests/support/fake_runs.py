"""Logged runs in memory, for tests of the report: numbers that follow from the cell and the repetition alone."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from PIL import Image

from nfstudy.runs.frame import RUN_COLUMNS
from nfstudy.runs.metrics import known_metrics
from nfstudy.study.cells import Trial, settings_digest
from nfstudy.study.reader import parse_study
from nfstudy.study.settings import setting_defaults
from nfstudy.study.spec import StudySpec

STUDY = """
study: mnist
title: Flow length on MNIST
description: Planar flows and NICE with random permutations, as in Section 6.2.
data: {name: mnist, binarisation: static}
grid:
  flow.family: [planar, nice-perm]
  flow.length: [0, 10, 20, 40, 80]
repetitions: 3
budgets:
  full: {}
  laptop: {train.updates: 20000, repetitions: 3}
exhibits: [summary, table-2, figure-4, flow-length, learning-curves, samples]
"""


def study(text: str = STUDY, **changes: str) -> StudySpec:
    """Read a study; each change replaces the line of that key."""
    for key, value in changes.items():
        lines = [f"{key}: {value}" if line.startswith(f"{key}:") else line for line in text.splitlines()]
        text = "\n".join(lines)
    return parse_study(text, "test.yaml")


@dataclass
class FakeRuns:
    """A `LoggedRuns` over records."""

    records: list[dict] = field(default_factory=list)
    points: list[tuple[str, str, int, float]] = field(default_factory=list)
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    server: str | None = None

    def frame(self, metrics: Collection[str] | None = None) -> pd.DataFrame:
        settings = ("data.name", *setting_defaults()) if metrics is None else ()
        numbers = [name for name in known_metrics() if metrics is None or name in metrics]
        frame = pd.DataFrame(self.records, columns=[*RUN_COLUMNS, *settings, *numbers])
        frame = frame.astype({**RUN_COLUMNS, **dict.fromkeys(numbers, "float")}).copy()
        return frame.sort_values(["cell", "stage", "index", "started", "run_id"], ignore_index=True)

    def history(self, run_ids: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
        points = pd.DataFrame(self.points, columns=["run_id", "metric", "update", "value"])
        points = points[points["run_id"].isin(run_ids) & points["metric"].isin(metrics)]
        return points.sort_values(["run_id", "metric", "update"], ignore_index=True)

    def artifact(self, run_id: str, name: str) -> bytes | None:
        return self.files.get((run_id, name))

    def link(self, run_id: str) -> str | None:
        return f"{self.server}/#/runs/{run_id}" if self.server else None

    def add(self, trial: Trial, outcome: str = "finished", attempt: int = 1, **values: object) -> str:
        """Log a run of a trial; `values` replace columns, or metrics given as `test__nll`."""
        numbers = {name.replace("__", "/"): value for name, value in values.items()}
        run_id = hashlib.sha256(repr((trial.study, *trial.identity, attempt)).encode()).hexdigest()[:32]
        record = {
            "run_id": run_id,
            "run_name": trial.label,
            "budget": trial.cell.budget,
            "cell": trial.cell.key,
            "settings": settings_digest(trial.settings),
            "stage": trial.stage,
            "index": trial.index,
            "point": "{}",
            "outcome": outcome,
            "reason": "" if outcome == "finished" else f"{outcome} at update 1,200",
            "update": float(trial.settings.train.updates),
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "dirty": False,
            "code_known": True,
            "earlier_code": "",
            "imported": "",
            "data": "mnist static",
            "data_fingerprint": "ab" * 32,
            "device": "cpu",
            "threads": "1",
            "attempt": attempt,
            "started": 1_700_000_000_000 + len(self.records),
            **trial.settings.flat(),
            **(plausible_metrics(trial) if outcome == "finished" else {}),
            **numbers,
        }
        self.records.append(record)
        return run_id

    def add_history(self, run_id: str, end: float, updates: int, epochs: int = 40) -> None:
        """Log F that falls to `end`, the training F half a nat below the validation F."""
        for epoch in range(1, epochs + 1):
            fall = 400 * np.exp(-12 * epoch / epochs) + 6 * (1 - epoch / epochs)
            for metric, gap in (("train/elbo", 0.5), ("valid/elbo", 0.0)):
                self.points.append((run_id, metric, updates * epoch // epochs, -(end + fall - gap)))

    def add_pictures(self, run_id: str) -> None:
        pixels = np.kron(
            np.random.default_rng(int(run_id[:8], 16)).integers(0, 255, (20, 20), np.uint8), np.ones((8, 8))
        )
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "png")
        for name in ("samples.png", "reconstructions.png"):
            self.files[run_id, name] = buffer.getvalue()


def plausible_metrics(trial: Trial) -> dict[str, float]:
    """Return numbers a nat above the paper's curves, spread over the repetitions by 0.1 nats."""
    flow = trial.settings.flow
    gain = {"none": 0.0, "planar": 7.2, "nice-perm": 4.0}.get(flow.family, 6.0) * (1 - np.exp(-flow.length / 25))
    kl = 6.8 - 0.35 * gain
    nll = 90.9 - 0.65 * gain + 0.1 * (trial.index - 2)
    return {
        "test/elbo": -(nll + kl),
        "test/nll": nll,
        "test/kl": kl,
        "test/nll_mc_se": 0.01 if trial.settings.data else math.nan,
        "train/elbo": -(nll + kl - 1),
        "valid/elbo": -(nll + kl),
        "time/wall_seconds": 100.0 + 10 * flow.length,
        "time/evaluation_seconds": 10.0,
        "time/updates_per_second": 200.0 - flow.length,
    }


def run_all(
    spec: StudySpec,
    budget: str,
    outcome: Callable[[Trial], str | None] = lambda _: "finished",
    reverse: bool = False,
) -> FakeRuns:
    """Log all of a study's repetitions, with histories and pictures; a trial whose outcome is None is left out."""
    runs = FakeRuns()
    for trial in _ordered(spec, budget, reverse):
        result = outcome(trial)
        if result is None:
            continue
        run_id = runs.add(trial, result, started=1_700_000_000_000)
        if result == "finished":
            runs.add_history(run_id, -runs.records[-1]["valid/elbo"], trial.settings.train.updates)
            runs.add_pictures(run_id)
    return runs


def _ordered(spec: StudySpec, budget: str, reverse: bool) -> Iterable[Trial]:
    trials = [t for cell in spec.under(budget).cells for t in spec.under(cell.budget).repetitions_of(cell)]
    return reversed(trials) if reverse else trials
