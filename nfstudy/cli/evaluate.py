"""`evaluate`: evaluate the kept weights of logged runs again, with other numbers of samples or another estimator."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from nfstudy.cli.options import check_device, count_workers, device_here, find_store, warn_of_unknown_code
from nfstudy.cli.studies import chosen_study
from nfstudy.core.errors import UserError, printable
from nfstudy.core.launcher import Launcher
from nfstudy.runs.evaluations import make_request


def evaluate(options: argparse.Namespace) -> int:
    """Evaluate one run, or the finished runs of a study; return 1 where some could not be evaluated."""
    from nfstudy.runner.evaluate import evaluate_runs, finished_runs
    from nfstudy.runner.local_engine import Pool
    from nfstudy.runner.signals import Interrupted
    from nfstudy.runs.tags import Tag
    from nfstudy.runs.tracking.claim import Claim, claimed
    from nfstudy.runs.tracking.mlflow_export import read_copy
    from nfstudy.runs.tracking.store import open_store

    request = make_request(
        options.estimator,
        options.seed,
        samples=options.samples,
        images=options.images,
        temperatures=options.temperatures,
        updates=options.updates,
    )
    check_device(options.device)
    project, uri = find_store(options.tracking_uri)
    if is_run := re.fullmatch("[0-9a-f]{32}", options.target) and not Path(options.target).exists():
        if options.budget:
            raise UserError(f"--budget: got {options.budget} with a run; expected: with a study")
        store = open_store(uri)
        study, run_ids = read_copy(store, options.target).record.tags[Tag.STUDY], [options.target]
    else:
        plan = chosen_study(options.target).under(options.budget)
        store = open_store(uri)
        study, run_ids = plan.name, finished_runs(store, plan)
        if not run_ids:
            raise UserError(f"{plan.shown}: no repetition has finished; hint: run the study first")
    warn_of_unknown_code()
    print(f"{study}: {request.label}; {len(run_ids)} finished runs", flush=True)

    def start(work: int) -> Pool:
        device = device_here(options.device)
        count = count_workers(options.workers, options.threads, device)
        return Pool(min(count, work), options.threads, device, project.data_folders)

    claim = Claim(store, study, Launcher.here(project.root))
    with project.study_lock(study), claimed(claim):
        store.claim = claim
        try:
            plugins = [*map(Path, options.plugin)]
            found = evaluate_runs(store, run_ids, request, project, start, lambda line: print(printable(line)), plugins)
        except Interrupted as signal:
            print(f"stopped by {signal}; what was evaluated is kept, and the same command does the others")
            return 130
    if is_run and found.refused:
        raise UserError(found.refused[0])
    known = f", {found.known} had been before" if found.known else ""
    print(f"{len(found.evaluated)} evaluated{known}")
    for line in found.refused:
        print(f"not evaluated: {printable(line)}", file=sys.stderr)
    if found.refused and not found.evaluated and not found.known:
        return 2
    return 1 if found.refused else 0
