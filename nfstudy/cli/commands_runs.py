"""The commands on logged runs: export and import a study's, take in those of the repository, train one again."""

from __future__ import annotations

import argparse
import sys
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING

from nfstudy.cli.commands import check_device
from nfstudy.core.errors import UserError, printable
from nfstudy.core.project import Project
from nfstudy.study.reader import read_study

if TYPE_CHECKING:
    from nfstudy.runs.archive.reader import Archive


def export(options: argparse.Namespace) -> int:
    """Write a study's logged runs into an archive."""
    from nfstudy.runs.archive.transfer import export_runs

    study = read_study(options.study)
    if options.budget:
        study.under(options.budget)  # Whether there is such a budget.
    path = Path(options.file)
    uri = Project.find().tracking_uri(options.tracking_uri)
    runs = export_runs(uri, study.study, path, options.budget, options.with_checkpoints)
    print(f"{path}: {runs} runs of {study.study}, {path.stat().st_size / 1e6:.2f} MB")
    return 0


def import_(options: argparse.Namespace) -> int:
    """Take the runs of an archive into the store; return 1 if it has some of them with other numbers."""
    from nfstudy.runs.archive.reader import read_archive

    project = Project.find()
    return 0 if _take_in(read_archive(Path(options.file)), project, project.tracking_uri(options.tracking_uri)) else 1


def reference(options: argparse.Namespace) -> int:
    """Make the reports and README's results from the repository's runs alone, and take these in; or check what is kept.

    Return 1 if the store has some of them with other numbers, or if something kept is not as it would be made.
    """
    from nfstudy.report.reference import read_reference, stale_parts, write_reference

    project = Project.find()
    if options.check:
        if options.tracking_uri:
            raise UserError(f"--tracking-uri {options.tracking_uri}: allowed: without --check, which reads no store")
        archives = read_reference(project)
        stale = stale_parts(project, archives)
        for part in stale:
            print(f"stale: {printable(part)}", file=sys.stderr)
        again = "; make them again with: python -m nfstudy reference" if stale else ""
        print(f"runs of {', '.join(archives)}: {len(stale) or 'no'} stale parts{again}")
        return 1 if stale else 0
    archives = read_reference(project)
    front, readme = write_reference(project, archives)
    print(f"front page: {relpath(front)}\nresults: {relpath(readme)}", flush=True)
    uri = project.tracking_uri(options.tracking_uri)
    alike = [_take_in(archive, project, uri) for archive in archives.values()]
    print("browse the runs: python -m nfstudy ui   (then open http://127.0.0.1:5000)")
    return 0 if all(alike) else 1


def _take_in(archive: Archive, project: Project, uri: str) -> bool:
    """Take the runs of an archive into a store and say what was done; return whether none is there otherwise."""
    from nfstudy.runs.archive.transfer import import_runs

    study = archive.manifest.study
    with project.study_lock(study):
        done = import_runs(archive, uri)
    print(f"{study}: {done.new} runs taken in, {done.known} were there already")
    for run in done.conflicts:
        print(f"left out: {printable(run)}", file=sys.stderr)
    return not done.conflicts


def rerun(options: argparse.Namespace) -> int:
    """Train a logged run again; return 0 for identical bits, 3 for numbers within the tolerances, 1 for others."""
    from nfstudy.runner.rerun import ABSOLUTE, RELATIVE, prepare_rerun, train_again
    from nfstudy.runner.signals import Interrupted
    from nfstudy.runs.tracking.store import open_store

    if options.device:
        check_device(options.device)
    project = Project.find()
    store = open_store(project.tracking_uri(options.tracking_uri))
    again = prepare_rerun(store, options.run_id, project, options.device, options.threads, [*map(Path, options.plugin)])
    print(f"{again.trial.study}: {printable(again.old.record.name)}")
    print(printable("\n".join(again.changes) or "nothing has changed since"), flush=True)
    with project.study_lock(again.trial.study):
        try:
            found = train_again(again, store, project)
        except Interrupted as signal:
            print(f"stopped by {signal}; begin again with: python -m nfstudy rerun {options.run_id}")
            return 130
    for line in found.lines:
        print(printable(line))
    expected = " (the same kind of machine: identical numbers were to be expected)" if again.same_machine else ""
    told = {
        "identical": "identical in every point of every history",
        "within tolerances": f"within {ABSOLUTE} nats or {RELATIVE:.1%} of the test and validation numbers{expected}",
        "differs": f"differs by more than {ABSOLUTE} nats and {RELATIVE:.1%}, or ended otherwise{expected}",
    }
    print(f"run {found.run_id}: {told[found.verdict]}")
    return {"identical": 0, "within tolerances": 3, "differs": 1}[found.verdict]
