"""`export` and `import`: a study's logged runs as one file."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from nfstudy.cli.options import find_store, tell
from nfstudy.cli.studies import chosen_study
from nfstudy.core.errors import printable
from nfstudy.core.launcher import Launcher
from nfstudy.core.project import Project
from nfstudy.runs.original import CHECKED, OF_A_SEARCH
from nfstudy.study.find import study_now

if TYPE_CHECKING:
    from nfstudy.runs.archive.reader import Archive


def export(options: argparse.Namespace) -> int:
    """Write a study's logged runs into an archive."""
    from nfstudy.runs.archive.transfer import export_runs

    study = chosen_study(options.study)
    name = study.under(options.budget).name if options.budget else study.study
    path = Path(options.file)
    _, uri = find_store(options.tracking_uri)
    left_out, of_first = options.without or (), options.first_only or ()
    runs = export_runs(
        uri, name, path, options.budget, options.with_checkpoints, tell, study.budget_of, left_out, of_first
    )
    print(f"{path}: {runs} runs of {name}, {path.stat().st_size / 1e6:.2f} MB")
    apart = {budget: own for budget in study.budgets if (own := study.under(budget).name) != name}
    if not options.budget and apart:
        others = ", ".join(f"budget {budget}, which are logged as {own}" for budget, own in apart.items())
        tell(f"{path}: without the runs of {others}; hint: export them too, each with --budget")
    return 0


def import_(options: argparse.Namespace) -> int:
    """Take the runs of an archive into the store; return 1 if it has some of them with other numbers."""
    from nfstudy.runs.archive.reader import read_archive, read_manifest

    project, uri = find_store(options.tracking_uri)
    path = Path(options.file)
    said = read_manifest(path)
    size = sum(member.size for member in said.members)
    # First, for a large one takes its time.
    print(f"{path}: {said.runs:,} runs with {said.points:,} points, {size / 1e6:,.2f} MB unpacked", flush=True)
    archive = read_archive(path)
    return 0 if take_in(archive, project, uri, project.report(study_now(archive.manifest.study))) else 1


def take_in(archive: Archive, project: Project, uri: str, report: Path) -> bool:
    """Take the runs of an archive into a store and say what was done; return whether none is there otherwise.

    Arguments:
        archive: what was read.
        project: whose store it is.
        uri: the store's address.
        report: the folder of the study's report, which the runs' descriptions name.
    """
    from nfstudy.runs.archive.transfer import import_runs
    from nfstudy.runs.tracking.claim import Claim, claimed
    from nfstudy.runs.tracking.presented import show_study
    from nfstudy.runs.tracking.store import open_store

    study = archive.manifest.study
    with project.study_lock(study):
        store = open_store(uri, create=True)
        store.experiment(study, archive.manifest.description)
        claim = Claim(store, study, Launcher.here(project.root))
        with claimed(claim):
            done = import_runs(archive, uri)
            show_study(store, study, project.page(report))
    completed = f", of which {done.completed} got evaluations or files that they lacked" if done.completed else ""
    print(f"{study}: {done.new} runs imported, {done.known} already present{completed}")
    for mark, count in sorted(Counter(copy.imported for copy in archive.runs if copy.imported != CHECKED).items()):
        unless = ", unless their study file tells it" if mark == OF_A_SEARCH else ""
        print(f"{count} of {len(archive.runs)} are {mark}; reports will say so{unless}", file=sys.stderr)
    for run in done.conflicts:
        print(f"not imported: {printable(run)}", file=sys.stderr)
    return not done.conflicts
