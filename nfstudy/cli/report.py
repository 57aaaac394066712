"""`report`: rebuild the report of a study, or of all and the overview."""

from __future__ import annotations

import argparse
from pathlib import Path

from nfstudy.cli.options import nearby, tell
from nfstudy.cli.studies import chosen_file, chosen_studies
from nfstudy.core.errors import UserError
from nfstudy.core.project import Project
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
    from nfstudy.runs.tracking.open import open_runs

    path = chosen_file(options.study[0])
    plan = read_study(path).under(options.budget)
    project = Project.find()
    runs = open_runs(project.tracking_uri(options.tracking_uri))(plan.name)
    if not options.output:
        require_sole(path, plan.name, project.root)
    folder = Path(options.output) if options.output else project.report(plan.name)
    active = project.is_running(plan.name)
    print(f"report: {nearby(build_report(plan, runs, folder, options.partial, active, tell))}")
    return 0


def _report_all(options: argparse.Namespace) -> int:
    from nfstudy.report.pages.overview import build_front
    from nfstudy.runs.tracking.open import open_runs

    for name in ("budget", "output"):
        if getattr(options, name):
            raise UserError(f"report: --{name} {getattr(options, name)}: expected: with STUDY, not with --all")
    project = Project.find()
    studies = chosen_studies(options.study, project)
    named = {_as_typed(path, project.root): study for path, study in studies.items()}
    runs_of = open_runs(project.tracking_uri(options.tracking_uri))
    print(f"overview: {nearby(build_front(named, runs_of, project.reports, project.is_running, tell))}")
    return 0


def _as_typed(path: Path, root: Path) -> str:
    """Return a study file as one would type it in the project's folder: a shipped one by its name."""
    if path.resolve().is_relative_to(root):
        return path.resolve().relative_to(root).as_posix()
    return path.stem if path in shipped_studies().values() else str(path)
