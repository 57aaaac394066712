"""Preparation of a launch: data checks, and the measured cost of a run of each cell on these workers."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence

from nfstudy.core.project import Project
from nfstudy.data import Dataset, load_dataset
from nfstudy.runner.engine import Engine
from nfstudy.runner.eta import cost_signature, run_seconds
from nfstudy.runner.signals import STOP_SECONDS, StopSignal
from nfstudy.runner.watch import AtWork, Watch
from nfstudy.runner.worker import Ready
from nfstudy.runs.result import Cost
from nfstudy.runs.whole_run import DataRecord
from nfstudy.study.cells import Cell
from nfstudy.study.plan import StudyPlan
from nfstudy.study.sections import DataSpec
from nfstudy.study.settings import Settings

MAX_MEASURED = 12
"""Of a study whose cells have more cost signatures than this, so many are measured, spread over its grid."""


def prepare_data(plan: StudyPlan, project: Project) -> dict[DataSpec, DataRecord]:
    """Make sure that every data set of a study is there and intact; raises DataError.

    Returns:
        What a data set is loaded by (`DataSpec.source`) -> what runs say of it.
    """
    return {spec: data_record(load_dataset(spec, project.data_folders)) for spec in plan.data_sources}


def data_record(dataset: Dataset) -> DataRecord:
    """Return what runs say of a data set."""
    shapes = {"train": dataset.train.shape, "valid": dataset.valid.shape, "test": dataset.test.shape}
    return DataRecord.of(dataset.name, dataset.fingerprint, dataset.source, shapes)


def measure_costs(
    pool: Engine,
    cells: Sequence[Cell],
    stop: StopSignal,
    worker_timeout: float | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Return cell key -> expected seconds of one run, measured on the workers, one cell of each cost signature.

    Arguments:
        pool: the workers.
        cells: all of the study's.
        stop: what may ask to stop.
        worker_timeout: see `nfstudy.runner.options.RetryPolicy`.
        meanwhile: called again and again.
    """
    signatures = {cell.key: cost_signature(cell.settings) for cell in cells}
    examples: dict[str, Settings] = {}
    for cell in cells:
        examples.setdefault(signatures[cell.key], cell.settings)
    costs: dict[str, Cost] = {}
    waiting = list(examples)[:: math.ceil(len(examples) / MAX_MEASURED) or 1]
    watch = Watch(pool, worker_timeout, lambda words: print(words, file=sys.stderr, flush=True))
    timing = AtWork("timing a few updates")
    while waiting or any(worker.task for worker in pool.workers):
        for worker in pool.workers:
            if worker.device and worker.task is None and waiting:
                worker.task = waiting.pop(0)
                worker.measure(examples[worker.task])
        stop.check()
        if meanwhile:
            meanwhile()
        for worker, message in pool.events(STOP_SECONDS):
            if isinstance(message, Cost):
                costs[worker.task] = message
            # A measurement that fails leaves its cells without an estimate; running them will say why.
            if not isinstance(message, Ready):
                worker.task = None
        watch.look({worker.number: timing for worker in pool.workers if worker.task})
    return {
        cell.key: run_seconds(cell.settings, costs[signature])
        for cell in cells
        if (signature := signatures[cell.key]) in costs
    }
