"""The whole flagship: hours of Table 2's nine cells, five seeds, 40,000 updates, with evaluation, on this machine.

Each cell is trained for a few epochs and evaluated as a whole, by the study's own command, with a worker a core, so
that cells share caches and memory as they would. An update and an epoch's validation then cost what they did; the rest
is once a run. Trials of the search are not counted.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from ruamel.yaml import YAML

from benchmarks.paper import environment
from benchmarks.result import Result, Row, Verdict
from nfstudy.runs.provenance import usable_cores
from nfstudy.runs.tracking.open import load_frame

STUDY = Path(__file__).parents[1] / "studies" / "mnist.yaml"
BUDGET = "reference"
MOST_HOURS = 5.0
EPOCHS = 3
"""Trained of each cell. The first holds what is done once, such as compiling loops, as the rest of a training does."""
TRAINING_IMAGES = 60_000
PARTS = ("training_hours", "validation_hours", "evaluation_hours")


class Scale(NamedTuple):
    """How much there is to do of each cell."""

    updates: int
    epochs: float
    seeds: int


def measure(quick: bool) -> Result:
    """Train each cell a little, and say what the whole would take.

    Arguments:
        quick: a handful of updates, evaluated on a handful of images, which say nothing of the whole.
    """
    study = YAML(typ="safe").load(STUDY)
    budget = study["budgets"][BUDGET]
    each = TRAINING_IMAGES // study.get("train", {}).get("batch", 100)
    scale = Scale(budget["train.updates"], budget["train.updates"] / each, budget["repetitions"])
    if quick:
        budget |= {"evaluation.test_images": 20, "evaluation.tight_images": 2, "data.train_images": 500}
        budget |= {"data.training_split": "train"}
    updates = 10 if quick else EPOCHS * each
    del budget["search.settings"]
    study["budgets"] = {BUDGET: budget | {"repetitions": 1, "train.updates": updates}}
    study["budget"] = BUDGET
    study["exhibits"] = ["summary"]
    del study["search"]
    frame, seconds = _run(study)
    rows = [_row(run, scale) for _, run in frame.sort_values("run_name").iterrows()]
    cores = usable_cores()
    busy = frame["time/wall_seconds"].sum() / cores
    hours = sum(row["hours"] for row in rows) / cores
    shares = {part: sum(row[part] for row in rows) / sum(row["hours"] for row in rows) for part in PARTS}
    said = [f"{name.removesuffix('_hours')}: {share:.1%} of the time" for name, share in shares.items()]
    said.append(f"beside the runs, this little study took {seconds - busy:.0f} s: loading, an estimate, its report")
    what = f"{len(rows)} cells, {scale.seeds} seeds, {scale.updates:,} updates, from {updates:,} of each cell"
    return Result(
        f"the flagship: {what}, {cores} workers",
        rows,
        [Verdict("hours of all runs", f"{hours:.2f}", f"under {MOST_HOURS:g}", hours < MOST_HOURS)],
        notes=said,
    )


def _row(run: pd.Series[Any], scale: Scale) -> Row:
    """Return what all seeds of a run's cell would take of one worker."""
    training = run["update"] / run["time/updates_per_second"]
    validation = run["time/wall_seconds"] - training - run["time/evaluation_seconds"]
    parts = (
        scale.updates * training / run["update"],
        scale.epochs * validation / EPOCHS,
        run["time/evaluation_seconds"],
    )
    hours = [scale.seeds * part / 3600 for part in parts]
    return {
        "cell": run["run_name"].partition(" D=")[0],
        "update_milliseconds": 1000 * training / run["update"],
        "validation_seconds": validation / EPOCHS,
        "evaluation_seconds": run["time/evaluation_seconds"],
        **dict(zip(PARTS, hours, strict=True)),
        "hours": sum(hours),
    }


def _run(study: dict[str, Any]) -> tuple[pd.DataFrame, float]:
    """Run a study in a new folder; return its runs and its wall time in seconds."""
    with tempfile.TemporaryDirectory(prefix="nfstudy-bench-") as name:
        folder = Path(name)
        (folder / "mlruns").mkdir()
        YAML(typ="safe").dump(study, folder / "study.yaml")
        command = [sys.executable, "-m", "nfstudy", "run", "study.yaml", "--workers", str(usable_cores())]
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment(), check=True, stdout=sys.stderr)
        seconds = time.perf_counter() - started
        return load_frame(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}", study["study"]), seconds
