"""`run`: run what is still to do of a study, then rebuild its report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from nfstudy.cli.options import (
    check_device,
    check_engine,
    count_workers,
    device_here,
    find_store,
    nearby,
    program,
    retyped,
    tell,
    warn_of_unknown_code,
)
from nfstudy.cli.status import NEEDED, print_cells
from nfstudy.cli.studies import chosen_file
from nfstudy.core import registry
from nfstudy.core.errors import SpecError, StoreError, UserError, printable, without_secrets
from nfstudy.core.launcher import Launcher
from nfstudy.core.project import Project
from nfstudy.report.folder import require_report_folder
from nfstudy.runner.engine import WorkerError
from nfstudy.runner.eta import expected_seconds, format_duration
from nfstudy.runner.options import Launch, RetryPolicy, WorkerOptions
from nfstudy.runner.signals import Interrupted, StopSignal
from nfstudy.runs.frame import notes, repetitions_of_pruned, runs_left, trusted
from nfstudy.runs.tracking.uris import is_served
from nfstudy.runs.views import runs_page
from nfstudy.study.reader import read_study, require_sole

if TYPE_CHECKING:
    from nfstudy.runner.coordinator import Summary
    from nfstudy.runner.engine import Engine
    from nfstudy.study.plan import StudyPlan
    from nfstudy.study.spec import StudySpec

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM."""
UI_ADDRESS = "http://127.0.0.1:5000"
"""Where `ui` serves a store, if not told otherwise."""
STOPS_WITHIN = 60.0
"""Seconds in which a launcher of this project whose study is taken over notices, saves what is under way and leaves."""


def run(options: argparse.Namespace) -> int:
    """Run what is still to do of a study, then rebuild its report; then the studies that it names with `also`.

    Or only say what would be run. A later study has the budget that was asked for if it has one of that name.
    """
    path = chosen_file(options.study)
    study = read_study(path)
    later = {file: read_study(file) for file in _also(path, study)}
    code = _run_study(options, path, study.under(options.budget))
    for file, other in later.items():
        if code == INTERRUPTED:
            break
        budget = options.budget if options.budget in other.budgets else None
        own = argparse.Namespace(**{**vars(options), "study": str(file), "budget": budget})
        print(flush=True)
        code = max(code, _run_study(own, file, other.under(budget)))
    return code


def _also(path: Path, study: StudySpec) -> list[Path]:
    files = [path.with_name(f"{name}.yaml") for name in study.also]
    for name, file in zip(study.also, files, strict=True):
        if not file.is_file():
            raise SpecError(f"{path}: also: got '{name}', and there is no {file}; expected: study files beside it")
    return files


def _run_study(options: argparse.Namespace, path: Path, plan: StudyPlan) -> int:
    check_device(options.device, options.engine)
    check_engine(options.engine, options.device, options.gpus)
    project, uri = find_store(options.tracking_uri, always=True)
    launch = Launch(
        plan,
        project,
        uri,
        WorkerOptions(options.engine, options.workers, options.threads, options.device, options.gpus),
        RetryPolicy(options.checkpoint_every, options.retries, options.worker_timeout),
    )
    require_sole(path, plan.study.study, project.root)
    require_report_folder(project.report(plan.study.study), plan.study.study)
    with nullcontext() if options.dry_run else _lock(launch, options.take_over):
        return _run(launch, options.dry_run, options.take_over, retyped(options))


@contextmanager
def _lock(launch: Launch, take_over: bool) -> Iterator[None]:
    """Hold the study's lock; raises StoreError where another process holds it, and goes on holding it."""
    project, name = launch.project, launch.plan.name
    wait = 1.0
    if take_over and (holder := project.holder(name)):
        from nfstudy.runs.tracking.claim import Claim
        from nfstudy.runs.tracking.store import open_store

        print(printable(f"taking over from {holder}: it stops as soon as it notices"), file=sys.stderr, flush=True)
        Claim(open_store(launch.uri, create=True), name, Launcher.here(project.root)).take(insist=True)
        wait = STOPS_WITHIN
    with project.study_lock(name, wait):
        yield


def _run(launch: Launch, dry_run: bool, take_over: bool, resume: str) -> int:
    """Run what is still to do.

    Arguments:
        launch: the study, and how it is run.
        dry_run: only say what would be run.
        take_over: whether to take the study from another launcher.
        resume: the command that resumes the study.
    """
    from nfstudy.runs.tracking.open import load_frame

    plan = launch.plan
    frame = trusted(plan, load_frame(launch.uri, plan.study, NEEDED))
    for note in notes(frame):
        tell(note)
    left, impossible = runs_left(plan, frame), plan.impossible
    print(_heading(plan, left), flush=True)
    if not left and any(registry.origin_of("data", spec.name) != registry.BUILT_IN for spec in plan.data_sources):
        from nfstudy.runner.prepare import data_from_outside, require_same_data

        require_same_data(plan, frame, data_from_outside(plan, launch.project))
    try:
        summary = _run_rest(launch, frame, left, dry_run, take_over) if left else None
    except Interrupted as signal:
        print(f"stopped by {signal}; resume with: {resume}")
        return INTERRUPTED
    except (StoreError, WorkerError) as error:
        raise type(error)(f"{error}; resume with: {resume}") from None
    if dry_run:
        return 0
    if not left and (frame["outcome"] == "running").any():
        from nfstudy.runs.tracking.claim import Claim, claimed
        from nfstudy.runs.tracking.store import open_store

        store = open_store(launch.uri)
        with claimed(Claim(store, plan.name, Launcher.here(launch.project.root)), take_over):
            store.kill_left_over(plan.name)
    if summary:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(summary.ran.items()))
        words = f"{counts or 'nothing was to do'} in {format_duration(summary.seconds)}"
        after = trusted(plan, load_frame(launch.uri, plan.study, NEEDED))
        print(f"{words}{_not_run(plan, after, len(summary.failures))}")
    failures = summary.failures if summary else ()
    try:
        rebuild(launch)
    finally:  # A mistake in an exhibit hides no run that failed.
        for failure in failures:
            print(printable(f"failed: {failure}"), file=sys.stderr)
        for point in impossible:
            print(printable(f"impossible: {point.text}"), file=sys.stderr)
    return 1 if failures or impossible else 0


def _heading(plan: StudyPlan, left: int) -> str:
    """Say which study it is, and how many runs are to do."""
    at_most = "at most " if plan.sampling else ""
    without = f", {len(plan.impossible)} impossible grid points skipped" if plan.impossible else ""
    return printable(f"{plan.study.title}\n{plan.shown}: {at_most}{left} runs to do{without}")


def _not_run(plan: StudyPlan, frame: pd.DataFrame, failed: int) -> str:
    """Say how many runs will not run, or not before others have; empty where there are none."""
    pruned, left = repetitions_of_pruned(plan, frame), runs_left(plan, frame)
    parts = [f"{pruned} repetitions of pruned cells"] if pruned else []
    if left > failed:
        if failed:
            why = "that wait for those that failed"
        elif plan.sampling:
            why = "of cells that were proposed more than once, or are impossible"
        else:
            why = "whose settings, as their search proposed them, are impossible together"
        parts.append(f"{left - failed} {why}")
    return f"; not run: {', '.join(parts)}" if parts else ""


def _run_rest(launch: Launch, frame: pd.DataFrame, left: int, dry_run: bool, take_over: bool) -> Summary | None:
    """Estimate the time and run what is still to do; None where only the estimate was asked for.

    Arguments:
        launch: the study, and how it is run.
        frame: its logged runs.
        left: how many runs are to do.
        dry_run: whether the estimate is all that is wanted; then neither mlflow nor optuna is loaded.
        take_over: whether to take the study from another launcher.

    Raises:
        Interrupted: asked to stop.
        StoreError: the store cannot be used.
        DataError: data that the study needs cannot be had.
    """
    plan = launch.plan
    with StopSignal() as stop, open_engine(launch, left) as engine, ExitStack() as held:
        # The workers take seconds to start; in that time the data are checked, and the rest is loaded while they time.
        with stop.held():
            from nfstudy.cli.check_plugin import check_outside
            from nfstudy.runner.prepare import CostMeasurement, prepare_data
        warn_of_unknown_code()
        check_outside(plan.corners)
        data = prepare_data(plan, launch.project, tell)
        stop.check()
        print("timing a few updates of each cell ...", file=sys.stderr, flush=True)
        measurement = CostMeasurement(engine, plan.corners)
        claim = None
        if not dry_run:
            with stop.held():
                from nfstudy.runner.launch import run_study
                from nfstudy.runs.tracking.claim import Claim, claimed
                from nfstudy.runs.tracking.store import open_store
            stop.check()
            store = open_store(launch.uri, create=True)
            store.experiment(plan.name, plan.study.description or plan.study.title)
            claim = held.enter_context(claimed(Claim(store, plan.name, Launcher.here(launch.project.root)), take_over))
        costs = measurement.seconds(stop, tell, launch.retry.worker_timeout, claim.keep if claim else None)
        expected = expected_seconds(frame, costs)
        print_cells(plan, frame, expected, len(engine.workers))
        if dry_run:
            return None
        launch.project.write_costs(plan.name, expected)
        return run_study(launch, data, expected, engine, stop, claim)


def rebuild(launch: Launch) -> None:
    """Make the report of what there is, and say where it and the runs are."""
    from nfstudy.report.build import build_report
    from nfstudy.runs.tracking.open import open_study

    plan, folder = launch.plan, launch.project.report(launch.plan.study.study)
    index = build_report(plan, open_study(launch.uri, plan.study), folder, partial=True)
    logged = plan.logged_as
    where = where_to_browse(launch.uri, logged.study, logged.budget)
    print(f"report: {nearby(index)}\nbrowse the runs: {where}")


def where_to_browse(uri: str, study: str, budget: str) -> str:
    """Return how MLflow's page of a study's runs is opened: its address, and what to start first if nobody serves it.

    Raises:
        StoreError: the store cannot be read.
    """
    from nfstudy.runs.tracking.open import experiment_of

    if not (experiment := experiment_of(uri, study)):
        return f"{program()} ui"
    if is_served(uri):
        return runs_page(without_secrets(uri), experiment, budget)
    asked = "" if uri == Project.find().tracking_uri() else f" --tracking-uri {without_secrets(uri)}"
    return f"{program()} ui{asked}   then open {runs_page(UI_ADDRESS, experiment, budget)}"


def open_engine(launch: Launch, left: int) -> Engine:
    """Start as many workers as were asked for, as there are cores for, or as there is work for."""
    asked, folders = launch.workers, launch.project.data_folders
    if asked.engine == "local":
        from nfstudy.runner.local_engine import Pool

        device = device_here(asked.device)
        return Pool(min(count_workers(asked.count, asked.threads, device), left), asked.threads, device, folders)
    try:
        from nfstudy.runner.ray_engine import open_cluster
    except ImportError as error:
        raise UserError(f"--engine ray: {error}; hint: pip install 'nfstudy[cluster]'") from None
    from nfstudy.data import load_dataset

    datasets = {source: load_dataset(source, folders) for source in launch.plan.data_sources}
    return open_cluster(asked.count, left, asked.threads, asked.device, asked.gpus, datasets)
