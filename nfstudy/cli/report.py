"""`report`: rebuild the report of a study, or of all and the overview."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from nfstudy.cli.options import find_store, nearby, tell
from nfstudy.core.errors import UserError
from nfstudy.study.reader import read_studies, read_study, require_sole


def report(options: argparse.Namespace) -> int:
    """Rebuild a study's report from its logged runs, or those of all studies and the front page over them."""
    if options.all == bool(options.study):
        raise UserError(f"report: got {'both STUDY and' if options.all else 'neither STUDY nor'} --all; expected: one")
    if options.all:
        return _report_all(options)
    from nfstudy.report.build import build_report
    from nfstudy.runs.tracking.open import is_live, open_runs

    plan = read_study(options.study).under(options.budget)
    project, uri = find_store(options.tracking_uri)
    runs = open_runs(uri)(plan.name)
    if not options.output:
        require_sole(Path(options.study), plan.name, project.root)
    folder = Path(options.output) if options.output else project.report(plan.name)
    active = is_live(project, uri, plan.name)
    print(f"report: {nearby(build_report(plan, runs, folder, options.partial, active, tell))}")
    return 0


def _report_all(options: argparse.Namespace) -> int:
    from nfstudy.report.pages.overview import build_front
    from nfstudy.runs.tracking.open import is_live, open_runs

    for name in ("budget", "output"):
        if getattr(options, name):
            raise UserError(f"report: --{name} {getattr(options, name)}: expected: with STUDY, not with --all")
    project, uri = find_store(options.tracking_uri)
    studies = read_studies(project.root / "studies")
    named = {path.relative_to(project.root).as_posix(): study for path, study in studies.items()}
    active = partial(is_live, project, uri)
    print(f"overview: {nearby(build_front(named, open_runs(uri), project.reports, active, tell))}")
    return 0
