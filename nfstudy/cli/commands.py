"""What each command does, and what it says on standard output."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from nfstudy.core.errors import StoreError, UserError, printable
from nfstudy.core.project import Project
from nfstudy.runner.eta import Forecast, in_words, logged_seconds
from nfstudy.runner.signals import Interrupted, StopSignal
from nfstudy.runs.frame import cell_states, runs_left
from nfstudy.runs.provenance import usable_cores
from nfstudy.study.plan import StudyPlan
from nfstudy.study.reader import read_studies, read_study

if TYPE_CHECKING:
    from nfstudy.runner.coordinator import Summary
    from nfstudy.runner.engine import Engine

NEEDED = ("time/wall_seconds",)
"""Metrics from which the time left is told."""


def run(options: argparse.Namespace) -> int:
    """Run what is missing of a study, then rebuild its report; or only say what would be run."""
    plan = read_study(options.study).under(options.budget)
    check_device(options.device)
    check_engine(options.engine, options.device, options.gpus)
    project = Project.find()
    uri = project.tracking_uri(options.tracking_uri)
    with nullcontext() if options.dry_run else project.study_lock(plan.name):
        return _run(plan, project, uri, options)


def check_device(device: str) -> None:
    """Raise UserError for what is no device's name."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise UserError(f"--device {device}: allowed: auto, cpu, cuda, cuda:N")


def check_engine(engine: str, device: str, gpus: float) -> None:
    """Raise UserError for a device or a share of one that the engine cannot give."""
    if engine == "local" and gpus:
        raise UserError(f"--gpus {gpus:g}: allowed: with --engine ray, which hands GPUs out")
    if engine == "ray" and device.startswith("cuda") and (not gpus or device != "cuda"):
        raise UserError(f"--device {device}: allowed with --engine ray: auto, cpu, or cuda with --gpus")


def report(options: argparse.Namespace) -> int:
    """Rebuild a study's report from its logged runs, or those of all studies and the front page over them."""
    if options.all == bool(options.study):
        raise UserError(f"report: got {'both STUDY and' if options.all else 'neither STUDY nor'} --all; allowed: one")
    if options.all:
        return _report_all(options)
    from nfstudy.report.build import build_report
    from nfstudy.runs.tracking.open import open_runs

    plan = read_study(options.study).under(options.budget)
    project = Project.find()
    runs = open_runs(project.tracking_uri(options.tracking_uri))(plan.name)
    folder = Path(options.output) if options.output else project.report(plan.name)
    active = project.is_running(plan.name)
    print(f"report: {_nearby(build_report(plan, runs, folder, options.partial, active))}")
    return 0


def status(options: argparse.Namespace) -> int:
    """Say of each cell whether it is done, running, failed, diverged or missing, and how long the rest takes."""
    from nfstudy.runs.tracking.open import load_frame

    plan = read_study(options.study).under(options.budget)
    project = Project.find()
    frame = load_frame(project.tracking_uri(options.tracking_uri), plan.name, NEEDED)
    active = project.is_running(plan.name)
    print(f"{plan.name}, budget {plan.budget}{', at work now' if active else ''}")
    expected = project.read_costs(plan.name) | logged_seconds(frame)
    _print_cells(plan, frame, expected, usable_cores(), active)
    return 0


def check(options: argparse.Namespace) -> int:
    """Judge the paper's claims on all studies' runs; return 1 if one that was supported is contradicted now."""
    from nfstudy.report.claims import baseline
    from nfstudy.report.claims.judge import judge_claims
    from nfstudy.report.claims.ledger import verdict_lines

    project = Project.find()
    path = Path(options.baseline) if options.baseline else project.reports / baseline.BASELINE
    # Without one, nothing has been said before; one that is asked for by name must be there.
    first = not path.exists() and (options.update_baseline or not options.baseline)
    before = {} if first else baseline.read_baseline(path)
    found = judge_claims(project, project.tracking_uri(options.tracking_uri), options.budget)
    now = baseline.verdicts_by_id(found)
    counts = Counter(claim.verdict for claim in found)
    print(*verdict_lines(found), sep="\n")
    print(f"{len(found)} claims: {', '.join(f'{number} {verdict}' for verdict, number in counts.items())}")
    changed = [f"  {key}: {old} -> {new}" for key, (old, new) in baseline.changes(before, now).items()]
    if first and not options.update_baseline:
        print(f"no baseline at {_nearby(path)} yet: check --update-baseline keeps these verdicts")
    else:
        print(f"{len(changed) or 'no'} changes against {_nearby(path)}", *changed, sep="\n")
    if options.update_baseline:
        baseline.write_baseline(path, baseline.updated(before, now))
        print(f"wrote {_nearby(path)}")
        return 0
    turned = baseline.reversals(before, now)
    for key in turned:
        print(f"contradicted, and was supported: {key}", file=sys.stderr)
    return 1 if turned else 0


def ui(options: argparse.Namespace) -> int:
    """Start the MLflow UI on the project's store."""
    from nfstudy.cli.ui import serve

    return serve(Project.find().tracking_uri(options.tracking_uri), options.host, options.port)


def _report_all(options: argparse.Namespace) -> int:
    from nfstudy.report.pages.overview import build_front
    from nfstudy.runs.tracking.open import open_runs

    for name in ("budget", "output"):
        if getattr(options, name):
            raise UserError(f"report: --{name} {getattr(options, name)}: allowed: with STUDY, not with --all")
    project = Project.find()
    studies = read_studies(project.root / "studies")
    named = {path.relative_to(project.root).as_posix(): study for path, study in studies.items()}
    runs_of = open_runs(project.tracking_uri(options.tracking_uri))
    print(f"front page: {_nearby(build_front(named, runs_of, project.reports, project.is_running))}")
    return 0


def _run(plan: StudyPlan, project: Project, uri: str, options: argparse.Namespace) -> int:
    from nfstudy.runs.tracking.open import load_frame

    study, frame = plan.study, load_frame(uri, plan.name, NEEDED)
    left, impossible = runs_left(plan, frame), plan.impossible
    at_most = "at most " if plan.sampling else ""
    without = f", and {len(impossible)} impossible cells that are left out" if impossible else ""
    print(f"{study.title}\n{plan.name}, budget {plan.budget}: {at_most}{left} runs to do{without}", flush=True)
    try:
        summary = _run_missing(plan, project, uri, frame, left, options) if left else None
    except Interrupted as signal:
        print(f"stopped by {signal}; go on with: {_again(options)}")
        return 130
    except StoreError as error:
        raise StoreError(f"{error}; go on with: {_again(options)}") from None
    if options.dry_run:
        return 0
    if not left and (frame["outcome"] == "running").any():
        from nfstudy.runs.tracking.store import open_store

        open_store(uri).kill_left_over(plan.name)
    if summary:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(summary.ran.items()))
        print(f"{counts or 'nothing was missing'} in {in_words(summary.seconds)}")
    _rebuild(plan, project, uri)
    failures = summary.failures if summary else ()
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    for point in impossible:
        print(f"impossible: {point.label}: {point.reason}", file=sys.stderr)
    return 1 if failures or impossible else 0


def _run_missing(
    plan: StudyPlan,
    project: Project,
    uri: str,
    frame: pd.DataFrame,
    left: int,
    options: argparse.Namespace,
) -> Summary | None:
    """Estimate the time and run what is missing; None where only the estimate was asked for.

    Raises:
        Interrupted: asked to stop.
        StoreError: the store cannot be used.
        DataError: data that the study needs cannot be had.
    """
    with StopSignal() as stop, _open_engine(plan, project, left, options) as engine:
        # The workers take seconds to start; in that time the rest is loaded, the data checked and the store made.
        with stop.held():
            from nfstudy.cli.check_plugin import check_installed
            from nfstudy.runner.coordinator import Care
            from nfstudy.runner.launch import measure_costs, prepare_data, run_study
            from nfstudy.runs.tracking.store import open_store

        check_installed()
        data = prepare_data(plan, project)
        stop.check()
        if not options.dry_run:
            open_store(uri, create=True)
        print("measuring what a few updates of each cell take ...", file=sys.stderr, flush=True)
        expected = measure_costs(engine, plan.corners, stop) | logged_seconds(frame)
        _print_cells(plan, frame, expected, len(engine.workers))
        if options.dry_run:
            return None
        project.write_costs(plan.name, expected)
        care = Care(options.checkpoint_every, options.retries)
        return run_study(plan, project, uri, data, expected, engine, stop, care)


def _rebuild(plan: StudyPlan, project: Project, uri: str) -> None:
    """Make the report of what there is, and say where it and the runs are."""
    from nfstudy.report.build import build_report
    from nfstudy.runs.tracking.open import open_runs

    index = build_report(plan, open_runs(uri)(plan.name), project.report(plan.name), partial=True)
    print(f"report: {_nearby(index)}\nbrowse the runs: python -m nfstudy ui   (then open http://127.0.0.1:5000)")


def _open_engine(plan: StudyPlan, project: Project, left: int, options: argparse.Namespace) -> Engine:
    """Start as many workers as were asked for, as there are cores for, or as there is work for."""
    if options.engine == "local":
        from nfstudy.runner.local_engine import Pool

        workers = options.workers or max(usable_cores() // options.threads, 1)
        return Pool(min(workers, left), options.threads, options.device, project.data_folders)
    try:
        from nfstudy.runner.ray_engine import open_cluster
    except ImportError as error:
        raise UserError(f"--engine ray: {error}; allowed: after pip install 'nfstudy[cluster]'") from None
    from nfstudy.data import load_dataset

    datasets = {source: load_dataset(source, project.data_folders) for source in plan.data_sources}
    return open_cluster(options.workers, left, options.threads, options.device, options.gpus, datasets)


def _print_cells(
    plan: StudyPlan,
    frame: pd.DataFrame,
    expected: Mapping[str, float],
    workers: int,
    active: bool = False,
) -> None:
    """Print a line a cell and the time that is left.

    Arguments:
        plan: the study under one of its budgets.
        frame: its logged runs.
        expected: cell key -> expected seconds of one run.
        workers: how many share the work.
        active: whether a coordinator is at work now.
    """
    states, impossible = cell_states(plan, frame, active), plan.impossible
    wanted = plan.repetitions
    forecast = Forecast(expected, workers)
    names = [state.cell.label for state in states]
    width = max((len(name) for name in (*names, *(point.label for point in impossible))), default=0) + 2
    print(f"  {'cell':<16}  {'':<{width}} {'state':<10} {'runs':>7}  each takes")
    for state, name in zip(states, names, strict=True):
        runs = f"{len(state.finished) + len(state.diverged)}/{wanted}"
        each = in_words(forecast.expected(state.cell.key))
        note = f"  {printable(state.note)}" if state.note not in ("", "not run") else ""
        print(f"  {state.cell.key:<16}  {name:<{width}} {state.state:<10} {runs:>7}  {each}{note}")
    for point in impossible:
        print(f"  {'–':<16}  {point.label:<{width}} {'impossible':<10} {'–':>7}  {point.reason}")
    if plan.sampling:
        print(f"  (further cells are proposed by {plan.sampling.name} as it goes)")
    counts = Counter([*(state.state for state in states), *["impossible"] * len(impossible)])
    print("  " + ", ".join(f"{number} {state}" for state, number in counts.items()))
    left = runs_left(plan, frame)
    per_cell = {state.cell.key: wanted - len(state.finished) - len(state.diverged) for state in states}
    waiting = [key for key, number in per_cell.items() for _ in range(number)]
    # The trials of a search, and cells that a sampler has yet to propose, are of no cell that is known.
    waiting += [""] * (left - len(waiting))
    words = in_words(forecast.left(waiting, ())) if left else "none"
    print(f"  time left: {words}{f' on {workers} workers' if left else ''}", flush=True)


def _again(options: argparse.Namespace) -> str:
    words = ["python -m nfstudy run", options.study]
    words += [f"--budget {options.budget}"] if options.budget else []
    words += [f"--tracking-uri {options.tracking_uri}"] if options.tracking_uri else []
    words += [f"--engine {options.engine}"] if options.engine != "local" else []
    words += [f"--gpus {options.gpus:g}"] if options.gpus else []
    return " ".join(words)


def _nearby(path: Path) -> str:
    """Return a path as seen from the current folder, where it is below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else str(path)
