"""`run`: run what is missing of a study, then rebuild its report."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pandas as pd

from nfstudy.cli.options import check_device, check_engine, nearby
from nfstudy.cli.status import NEEDED, print_cells
from nfstudy.core.errors import StoreError, UserError
from nfstudy.core.project import Project
from nfstudy.runner.eta import format_duration, logged_seconds
from nfstudy.runner.options import Launch, RetryPolicy, WorkerOptions
from nfstudy.runner.signals import Interrupted, StopSignal
from nfstudy.runs.frame import runs_left
from nfstudy.runs.provenance import usable_cores
from nfstudy.study.reader import read_study

if TYPE_CHECKING:
    from nfstudy.runner.coordinator import Summary
    from nfstudy.runner.engine import Engine


def run(options: argparse.Namespace) -> int:
    """Run what is missing of a study, then rebuild its report; or only say what would be run."""
    plan = read_study(options.study).under(options.budget)
    check_device(options.device)
    check_engine(options.engine, options.device, options.gpus)
    project = Project.find()
    launch = Launch(
        plan,
        project,
        project.tracking_uri(options.tracking_uri),
        WorkerOptions(options.engine, options.workers, options.threads, options.device, options.gpus),
        RetryPolicy(options.checkpoint_every, options.retries),
    )
    with nullcontext() if options.dry_run else project.study_lock(plan.name):
        return _run(launch, options.dry_run, _again(options))


def _run(launch: Launch, dry_run: bool, again: str) -> int:
    """Run what is missing; `again` is the command that resumes the study."""
    from nfstudy.runs.tracking.open import load_frame

    plan, frame = launch.plan, load_frame(launch.uri, launch.plan.name, NEEDED)
    left, impossible = runs_left(plan, frame), plan.impossible
    at_most = "at most " if plan.sampling else ""
    without = f", {len(impossible)} impossible grid points skipped" if impossible else ""
    print(f"{plan.study.title}\n{plan.name}, budget {plan.budget}: {at_most}{left} runs to do{without}", flush=True)
    try:
        summary = _run_missing(launch, frame, left, dry_run) if left else None
    except Interrupted as signal:
        print(f"stopped by {signal}; resume with: {again}")
        return 130
    except (StoreError, WorkerError) as error:
        raise type(error)(f"{error}; resume with: {again}") from None
    if dry_run:
        return 0
    if not left and (frame["outcome"] == "running").any():
        from nfstudy.runs.tracking.store import open_store

        open_store(launch.uri).kill_left_over(plan.name)
    if summary:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(summary.ran.items()))
        print(f"{counts or 'nothing was missing'} in {format_duration(summary.seconds)}")
    _rebuild(launch)
    failures = summary.failures if summary else ()
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    for point in impossible:
        print(f"impossible: {point.label}: {point.reason}", file=sys.stderr)
    return 1 if failures or impossible else 0


def _run_missing(launch: Launch, frame: pd.DataFrame, left: int, dry_run: bool) -> Summary | None:
    """Estimate the time and run what is missing; None where only the estimate was asked for.

    Arguments:
        launch: the study, and how it is run.
        frame: its logged runs.
        left: how many runs are missing.
        dry_run: whether the estimate is all that is wanted; then neither mlflow nor optuna is loaded.

    Raises:
        Interrupted: asked to stop.
        StoreError: the store cannot be used.
        DataError: data that the study needs cannot be had.
    """
    plan = launch.plan
    with StopSignal() as stop, _open_engine(launch, left) as engine:
        # The workers take seconds to start; in that time the rest is loaded, the data checked and the store made.
        with stop.held():
            from nfstudy.cli.check_plugin import check_outside
            from nfstudy.runner.prepare import measure_costs, prepare_data

            if not dry_run:
                from nfstudy.runner.launch import run_study
                from nfstudy.runs.tracking.store import open_store
        check_outside(plan.corners)
        data = prepare_data(plan, launch.project)
        stop.check()
        if not dry_run:
            open_store(launch.uri, create=True)
        print("timing a few updates of each cell ...", file=sys.stderr, flush=True)
        expected = measure_costs(engine, plan.corners, stop) | logged_seconds(frame)
        print_cells(plan, frame, expected, len(engine.workers))
        if dry_run:
            return None
        launch.project.write_costs(plan.name, expected)
        return run_study(launch, data, expected, engine, stop)


def _rebuild(launch: Launch) -> None:
    """Make the report of what there is, and say where it and the runs are."""
    from nfstudy.report.build import build_report
    from nfstudy.runs.tracking.open import open_runs

    name = launch.plan.name
    index = build_report(launch.plan, open_runs(launch.uri)(name), launch.project.report(name), partial=True)
    print(f"report: {nearby(index)}\nbrowse the runs: python -m nfstudy ui   (then open http://127.0.0.1:5000)")


def _open_engine(launch: Launch, left: int) -> Engine:
    """Start as many workers as were asked for, as there are cores for, or as there is work for."""
    asked, folders = launch.workers, launch.project.data_folders
    if asked.engine == "local":
        from nfstudy.runner.local_engine import Pool

        count = asked.count or max(usable_cores() // asked.threads, 1)
        return Pool(min(count, left), asked.threads, asked.device, folders)
    try:
        from nfstudy.runner.ray_engine import open_cluster
    except ImportError as error:
        raise UserError(f"--engine ray: {error}; hint: pip install 'nfstudy[cluster]'") from None
    from nfstudy.data import load_dataset

    datasets = {source: load_dataset(source, folders) for source in launch.plan.data_sources}
    return open_cluster(asked.count, left, asked.threads, asked.device, asked.gpus, datasets)


def _again(options: argparse.Namespace) -> str:
    words = ["python -m nfstudy run", options.study]
    words += [f"--budget {options.budget}"] if options.budget else []
    words += [f"--tracking-uri {options.tracking_uri}"] if options.tracking_uri else []
    words += [f"--engine {options.engine}"] if options.engine != "local" else []
    words += [f"--gpus {options.gpus:g}"] if options.gpus else []
    return " ".join(words)
