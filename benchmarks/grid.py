"""A grid of 3,000 cells: how long a dry run and `status` take, which expand it, and how much memory `status` does.

A dry run's time includes that of starting workers, which load torch, and of a few measured cells.
"""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.result import Result, Row, Verdict
from benchmarks.store import run_command

STUDY = """\
study: grid
title: A large grid
data: {{name: digits}}
model: {{hidden: 8, layers: 1, maxout: 2}}
train: {{updates: 60, optimiser: adam}}
evaluation: {{samples: 8, test_images: 50}}
grid:
  flow.family: [planar, radial, nice-perm, nice-orth, iaf]
  flow.length: [1, 2, 4, 8, 16]
  model.latent: [2, 4, 8, 16]
  train.batch: [10, 20, 30, 40, 50, 60]
  train.learning_rate: {rates}
budgets: {{smoke: {{repetitions: 1}}, laptop: {{}}}}
exhibits: [summary]
"""
RATES = (1e-3, 2e-3, 3e-3, 4e-3, 5e-3)
"""With all of them there are 3,000 cells."""
COMMANDS = {"status": (("status", "grid.yaml"), 3.0, 300.0), "dry run": (("run", "grid.yaml", "--dry-run"), 5.0, None)}
"""What is measured -> (arguments, limit in seconds, limit in megabytes; None where workers would count)."""


def measure(quick: bool) -> Result:
    """Time the commands.

    Arguments:
        quick: on a fifth of the grid.
    """
    rates = list(RATES[:1] if quick else RATES)
    cells = 600 * len(rates)
    rows: list[Row] = []
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="nfstudy-grid-") as name:
        folder = Path(name)
        (folder / "grid.yaml").write_text(STUDY.format(rates=rates))
        for what, (arguments, limit, megabytes) in COMMANDS.items():
            # From a new and small process, since a process counts as at least as large as the one that started it.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as starter:
                seconds, peak = starter.submit(run_command, arguments, folder).result()
            print(f"grid: {what}: {seconds:.1f} s", file=sys.stderr, flush=True)
            memory = peak if megabytes else None
            rows.append({"what": f"{what}, {cells:,} cells", "seconds": seconds, "peak_megabytes": memory})
            asked = f"at most {limit:g} s" + (f" and {megabytes:g} MB" if megabytes else "")
            found = f"{seconds:.1f} s" + (f", {peak:.0f} MB" if megabytes else "")
            within = seconds <= limit and (megabytes is None or peak <= megabytes)
            verdicts.append(Verdict(f"{what}, {cells:,} cells", found, asked, within))
    return Result("a grid of thousands of cells", rows, verdicts)
