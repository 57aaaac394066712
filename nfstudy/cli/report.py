"""`report`: rebuild the report of a study, or of all and the overview."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from nfstudy.cli.options import find_store, nearby, tell
from nfstudy.cli.studies import chosen_file, chosen_studies
from nfstudy.core.errors import UserError
from nfstudy.study.find import shipped_studies
from nfstudy.study.reader import read_study, require_sole


def report(options: argparse.Namespace) -> int:
    """Rebuild a study's report from its logged runs, or those of several and the front page over them."""
    if options.all:
        return _report_all(options)
    if len(options.study) != 1:
        got = f"{len(options.study)} studies" if options.study else "neither STUDY nor --all"
        raise UserError(f"report: got {got}; expected: one STUDY, or --all")
    from nfstudy.report.build import build_report
    from nfstudy.runs.tracking.open import is_live, open_study

    path = chosen_file(options.study[0])
    plan = read_study(path).under(options.budget)
    project, uri = find_store(options.tracking_uri)
    runs, name = open_study(uri, plan.study), plan.study.study
    if not options.output:
        require_sole(path, name, project.root)
    folder = Path(options.output) if options.output else project.report(name)
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
    studies = chosen_studies(options.study, project)
    named = {_as_typed(path, project.root): study for path, study in studies.items()}
    active = partial(is_live, project, uri)
    print(f"overview: {nearby(build_front(named, open_runs(uri), project.reports, active, tell))}")
    return 0


def _as_typed(path: Path, root: Path) -> str:
    """Return a study file as one would type it in the project's folder: a shipped one by its name."""
    if path.resolve().is_relative_to(root):
        return path.resolve().relative_to(root).as_posix()
    return path.stem if path in shipped_studies().values() else str(path)
