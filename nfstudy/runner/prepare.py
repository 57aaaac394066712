"""Preparation of a launch: data checks, and the measured cost of a run of each cell on these workers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import pandas as pd

from nfstudy.core import registry
from nfstudy.core.errors import DataError
from nfstudy.core.project import Project
from nfstudy.data import Dataset, load_dataset, source_of
from nfstudy.data.checks import repeated_examples
from nfstudy.runner.engine import Engine, Worker
from nfstudy.runner.eta import cost_signature, run_seconds
from nfstudy.runner.signals import STOP_SECONDS, StopSignal
from nfstudy.runner.watch import AtWork, Watch
from nfstudy.runner.worker import Compiling, Died, Ready
from nfstudy.runs.frame import study_cells
from nfstudy.runs.result import RESULTS, Cost
from nfstudy.runs.whole_run import DataRecord
from nfstudy.study.cells import Cell, cost_key
from nfstudy.study.plan import StudyPlan
from nfstudy.study.sections import DataSpec
from nfstudy.study.settings import Settings

MAX_MEASURED = 12
"""Of a study whose cells have more cost signatures than this, so many are measured, spread over its grid."""


def prepare_data(
    plan: StudyPlan, project: Project, tell: Callable[[str], None] = lambda words: None
) -> dict[DataSpec, DataRecord]:
    """Make sure that every data set of a study is there and intact; raises DataError.

    A source from outside is asked twice: each worker loads its own, and runs say whose numbers they are of.

    Arguments:
        plan: the study.
        project: says where its data are.
        tell: told of held-out examples that somebody's own data have among those that are trained on.

    Returns:
        What a data set is loaded by (`DataSpec.source`) -> what runs say of it.
    """
    records = {}
    for spec in plan.data_sources:
        dataset = load_dataset(spec, project.data_folders)
        records[spec] = data_record(dataset)
        origin = registry.origin_of("data", spec.name)
        if origin != registry.BUILT_IN or source_of(spec).resolve:
            for split, count in repeated_examples(dataset).items():
                tell(
                    f"data {dataset.name}: {count:,} of {len(getattr(dataset, split)):,} {split} examples are training "
                    "examples too: what a model remembers counts there as what it has learned"
                )
        if origin == registry.BUILT_IN:
            continue
        if not load_dataset(spec, project.data_folders).fingerprint.startswith(records[spec].digest):
            raise DataError(
                f"data {spec.name}: {origin}: loader: got other numbers the second time; expected: the same at each "
                "call, drawn from data_generator(purpose) alone"
            )
    return records


def data_from_outside(plan: StudyPlan, project: Project) -> dict[DataSpec, DataRecord]:
    """Return what `prepare_data` does of those sources from outside whose data can be had here.

    Whatever a loader raises, of what it does not find nothing can be said.
    """
    records = {}
    for spec in plan.data_sources:
        if registry.origin_of("data", spec.name) != registry.BUILT_IN:
            with suppress(Exception, SystemExit):
                records[spec] = data_record(load_dataset(spec, project.data_folders))
    return records


def require_same_data(plan: StudyPlan, frame: pd.DataFrame, records: Mapping[DataSpec, DataRecord]) -> None:
    """Raise DataError where a study has results by the same settings of other numbers than its data are now.

    Keys hold the code of a source from outside, and not what that reads.

    Arguments:
        plan: the study.
        frame: its runs.
        records: what data sets are now, of those that are looked at.
    """
    results = frame[frame["outcome"].isin(RESULTS)]
    numbers = results.groupby("cell")["data_fingerprint"].unique()  # Once: a grid may have ten thousand cells.
    for cell in study_cells(plan, results):
        spec = cell.settings.data.source() if cell.settings.data else None
        if spec is None or spec not in records:
            continue
        others = [own for own in numbers.get(cell.key, ()) if own not in ("", records[spec].fingerprint)]
        if others:
            raise DataError(
                f"data {spec.name}: runs of {cell.label} are of other numbers, SHA-256 "
                f"{others[0][:10]}…, than it gives now, {records[spec].fingerprint[:10]}…, at the same settings; "
                "expected: the same, as settings and code are all that tells runs apart; hint: have the source's "
                "`resolve` put a digest of what it reads into a setting"
            )


def data_record(dataset: Dataset) -> DataRecord:
    """Return what runs say of a data set."""
    shapes = {"train": dataset.train.shape, "valid": dataset.valid.shape, "test": dataset.test.shape}
    return DataRecord.of(dataset.name, dataset.fingerprint, dataset.source, shapes)


class CostMeasurement:
    """The cost of a run of each cell, measured on the workers, one of each cost signature."""

    def __init__(self, pool: Engine, cells: Sequence[Cell]) -> None:
        """Give each worker its first cell at once: it is timed while the rest of a launch is loaded.

        Arguments:
            pool: the workers; those of this machine need not have started.
            cells: the cells.
        """
        self.pool = pool
        self.wanted = {(cell.key, "repetition"): cell.settings for cell in cells}
        self.wanted |= {(cell.key, "search"): cell.tried({}) for cell in cells if cell.search}
        self.signatures = {run: cost_signature(settings) for run, settings in self.wanted.items()}
        self.examples: dict[str, Settings] = {}
        for run, settings in self.wanted.items():
            self.examples.setdefault(self.signatures[run], settings)
        self.waiting = _families_first(self.examples)[:: math.ceil(len(self.examples) / MAX_MEASURED) or 1]
        if not pool.starts_wait:
            for worker in pool.workers:
                self._give(worker)

    def seconds(
        self,
        stop: StopSignal,
        tell: Callable[[str], None],
        worker_timeout: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> dict[str, float]:
        """Wait for the rest, and return `cost_key` -> expected seconds of one run.

        Arguments:
            stop: what may ask to stop.
            tell: told once of each loop that is compiled at its first use, and of workers that fall silent.
            worker_timeout: see `nfstudy.runner.options.RetryPolicy`.
            meanwhile: called again and again.
        """
        costs: dict[str, Cost] = {}
        compiled: set[str] = set()
        watch = Watch(self.pool, worker_timeout, tell)
        timing = AtWork("timing a few updates")
        while self.waiting or any(worker.task for worker in self.pool.workers):
            for worker in self.pool.workers:
                if worker.device and worker.task is None:
                    self._give(worker)
            stop.check()
            if meanwhile:
                meanwhile()
            for worker, message in self.pool.events(STOP_SECONDS):
                if isinstance(message, Cost):
                    costs[worker.task] = message
                if isinstance(message, Compiling) and message.loop not in compiled:
                    compiled.add(message.loop)
                    tell(f"compiling for this processor, once, some seconds each: {message.loop}")
                if isinstance(message, Died) and worker.task and worker.device is None:
                    self.waiting.insert(0, worker.task)  # It never began: its successor takes it.
                # A measurement that fails leaves its cells without an estimate; running them will say why.
                if not isinstance(message, Ready | Compiling):
                    worker.task = None
            watch.look({worker.number: timing for worker in self.pool.workers if worker.task and worker.device})
        return {
            cost_key(*run): run_seconds(settings, costs[signature], run[1])
            for run, settings in self.wanted.items()
            if (signature := self.signatures[run]) in costs
        }

    def _give(self, worker: Worker) -> None:
        if self.waiting:
            worker.task = self.waiting.pop(0)
            worker.measure(self.examples[worker.task])


def _families_first(examples: dict[str, Settings]) -> list[str]:
    """Return the keys, one of each flow family first, so that workers with loops to compile have different ones."""
    seen: Counter[str] = Counter()
    ranks = {}
    for key, settings in examples.items():
        family = settings.flow.family if settings.flow.length else ""
        # Without a flow there are the fewest loops.
        ranks[key] = (seen[family], not family)
        seen[family] += 1
    return sorted(examples, key=lambda key: ranks[key])
