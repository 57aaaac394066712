"""Train a logged run again from its recorded settings, and hold the new numbers to the old ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from nfstudy.core.errors import StoreError, UserError
from nfstudy.core.plugins import require_recorded
from nfstudy.core.project import Project
from nfstudy.data import load_dataset
from nfstudy.runner.coordinator import Assignment, Coordinator, Places
from nfstudy.runner.local_engine import Pool
from nfstudy.runner.prepare import data_record
from nfstudy.runner.progress import make_progress
from nfstudy.runner.scheduler import Plan, Scheduler, Task
from nfstudy.runner.signals import StopSignal
from nfstudy.runner.worker import resolve_device
from nfstudy.runs.code import code_state
from nfstudy.runs.conditions import Conditions, differences, present_conditions, recorded_conditions, recorded_settings
from nfstudy.runs.frame import RerunVerdict, latest_per_identity
from nfstudy.runs.metrics import LATER_METRICS, is_of_the_end, is_variance, known_metrics
from nfstudy.runs.provenance import environment
from nfstudy.runs.result import RESULTS
from nfstudy.runs.tags import THEN, Tag
from nfstudy.runs.tracking.mlflow_export import read_copy
from nfstudy.runs.tracking.store import Store
from nfstudy.runs.whole_run import DataRecord, RunCopy
from nfstudy.study.cells import Cell, Trial

ABSOLUTE, RELATIVE = 0.1, 1e-3
"""Of the last values of test/* and valid/*: a difference of more than both, in nats and of the old value, is one."""


@dataclass(frozen=True)
class Rerun:
    """A run that is to be trained again, and what has changed since."""

    old: RunCopy
    trial: Trial
    data: DataRecord | None
    device: str
    threads: int
    then: Conditions
    now: Conditions

    @property
    def changes(self) -> list[str]:
        """What has changed, for people."""
        return [*differences(self.then, self.now)]

    @property
    def same_machine(self) -> bool:
        """Whether bits are to be equal, if nothing else has changed."""
        return self.then.machine() == self.now.machine()


@dataclass(frozen=True)
class Comparison:
    """What came of it."""

    run_id: str
    """Of the new run."""
    verdict: RerunVerdict
    lines: tuple[str, ...]
    """What differs, for people."""


def prepare_rerun(
    store: Store,
    run_id: str,
    project: Project,
    device: str | None = None,
    threads: int | None = None,
    plugins: Sequence[Path] = (),
) -> Rerun:
    """Find a run and all that training it again takes.

    Arguments:
        store: where it is.
        run_id: its id, also that of where it was imported from.
        project: where data files are looked for.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; None for the recorded one, or the processor where there is no such.
        threads: of the worker; None for as many as are recorded.
        plugins: files of plug-ins that are not where the run found them.

    Raises:
        UserError: there is no such run, it is no repetition that has ended with a result, or its settings cannot be
            read.
        DataError: its data cannot be read.
    """
    old = read_copy(store, run_id)
    tags = old.record.tags
    if tags[Tag.STAGE] != "repetition" or old.record.outcome not in RESULTS:
        got = f"{tags[Tag.STAGE]}, {old.record.outcome}"
        raise UserError(f"run {run_id}: got {got}; expected: repetition, {', '.join(RESULTS)}")
    try:
        require_recorded(recorded_plugins(tags), project.root, plugins)
        settings = recorded_settings(old.record.params)
    except UserError as error:
        raise UserError(f"run {run_id}: {error}") from None
    dataset = load_dataset(settings.data.source(), project.data_folders) if settings.data else None
    then = _recorded(store, old)
    # A device that is not here is no reason not to try: the comparison says what comes of another.
    last, last_threads = (each.rpartition(THEN)[2] for each in (then.device, then.threads))
    device = resolve_device("auto" if not device and last.startswith("cuda") else device or last)
    threads = threads or (int(last_threads) if last_threads.isdecimal() else 1) or 1
    fingerprint = dataset.fingerprint if dataset else ""
    now = present_conditions(code_state(), settings, fingerprint, device, threads, environment())
    cell = Cell(settings.normalized(), tags.get(Tag.BUDGET, ""), point=json.loads(tags[Tag.POINT]))
    index, metrics = int(tags[Tag.INDEX]), _further_metrics(old)
    trial = Trial(
        tags[Tag.STUDY],
        cell,
        settings,
        "rerun",
        index,
        old.record.id,
        metrics,
        gradients=any(map(is_variance, old.histories)),
    )
    return Rerun(old, trial, data_record(dataset) if dataset else None, device, threads, then, now)


def train_again(rerun: Rerun, store: Store, project: Project) -> Comparison:
    """Train it into a new run of stage `rerun`, which no table counts; call it with the study's lock held.

    Raises:
        StoreError: the store cannot be used.
        Interrupted: asked to stop; the new run is marked killed.
    """
    trial, spec = rerun.trial, rerun.trial.settings.data
    folder = store.folder or project.store
    places = Places(
        store,
        store.experiment(trial.study),
        folder / "optuna" / f"{trial.study}.journal",
        folder / "checkpoints" / trial.study,
        project.page(project.report(trial.study)),
    )
    epochs = max((len(history) for history in rerun.old.histories.values()), default=0)
    # A pruned run was stopped after an epoch, by what other trials had come to.
    should_continue = (lambda record: record.epoch < epochs) if rerun.old.record.outcome == "pruned" else None
    scheduler = Scheduler(_plan(Task(trial, should_continue)), {})
    data = {spec.source(): rerun.data} if spec and rerun.data else {}
    expected = {trial.cell.key: took[-1][1]} if (took := rerun.old.numbers("time/wall_seconds")) else {}
    before = set(store.runs(trial.study).frame(())["run_id"])
    with (
        closing(make_progress()) as progress,
        StopSignal() as stop,
        Pool(1, rerun.threads, rerun.device, project.data_folders) as pool,
    ):
        Coordinator(Assignment(trial.study, places, data, expected), scheduler, pool, progress).work(stop)
    frame = store.runs(trial.study).frame(())
    attempts = frame[(frame["rerun_of"] == trial.rerun_of) & ~frame["run_id"].isin(before)]
    if attempts.empty:
        raise StoreError(f"{store.uri}: the new run of {trial.label} has been deleted; expected: to find it there")
    new = read_copy(store, latest_per_identity(attempts)["run_id"].item())
    verdict, lines = compare(rerun.old, new)
    store.tag_run(new.record.id, {Tag.RERUN: verdict})
    return Comparison(new.record.id, verdict, lines)


def compare(old: RunCopy, new: RunCopy) -> tuple[RerunVerdict, tuple[str, ...]]:
    """Hold a run to an earlier one: identical in every point of every history, or close at the end, or neither.

    Times are not compared, and neither are metrics that were not there yet when the old run was made.
    Close is: the same outcome, and of every metric of the test and the validation split a last
    value x' with |x' − x| ≤ max(`ABSOLUTE`, `RELATIVE` · |x|), both or neither of them finite.
    """
    younger = new.histories.keys() & LATER_METRICS - old.histories.keys()
    new = replace(new, histories={name: points for name, points in new.histories.items() if name not in younger})
    if old.same_numbers(new):
        return "identical", ()
    lines, close = [], True
    if old.record.outcome != new.record.outcome:
        close = False
        lines.append(f"outcome: {old.record.outcome} then, {new.record.outcome} now")
    for metric in sorted(old.histories.keys() | new.histories.keys()):
        then, now = old.compared(metric), new.compared(metric)
        pairs = (a or b for a, b in zip_longest(then, now) if repr(a) != repr(b))
        if metric.startswith("time/") or (first := next(pairs, None)) is None:
            continue
        before, after = (numbers[-1][1] if numbers else math.nan for numbers in (then, now))
        since = "" if is_of_the_end(metric) else f"; differs from update {first[0]:,} on"
        lines.append(f"{metric}: {before:.9g} then, {after:.9g} now{since}")
        if metric.startswith(("test/", "valid/")):
            close = close and _is_close(before, after)
    return "within tolerances" if close else "differs", tuple(lines)


def _is_close(before: float, after: float) -> bool:
    if not (math.isfinite(before) and math.isfinite(after)):
        return repr(before) == repr(after)
    return abs(after - before) <= max(ABSOLUTE, RELATIVE * abs(before))


def _recorded(store: Store, old: RunCopy) -> Conditions:
    runs = store.runs(old.record.tags[Tag.STUDY])
    files = (runs.artifact(old.record.id, name) for name in ("environment.json", "git.diff"))
    return recorded_conditions(old.record.tags, *files)


def _further_metrics(old: RunCopy) -> tuple[str, ...]:
    """Return the metrics from outside that a run logged and that are declared here."""
    return tuple(name for name, metric in known_metrics().items() if metric.compute and name in old.histories)


def recorded_plugins(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return what a run recorded of its plug-ins; raises UserError where that cannot be read."""
    text = tags.get(Tag.PLUGINS, "[]")
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise UserError(f"tag {Tag.PLUGINS}: got {text[:200]}; expected: a JSON list of objects")
    return found


def _plan(task: Task) -> Plan:
    yield [task]
