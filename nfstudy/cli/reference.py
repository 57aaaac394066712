"""`reference`: reports and README's results from the runs that the repository ships."""

from __future__ import annotations

import argparse
import sys
from os.path import relpath

from nfstudy.cli.archive import take_in
from nfstudy.cli.options import find_store, program
from nfstudy.core.errors import UserError, printable
from nfstudy.core.project import Project
from nfstudy.study.find import study_now


def reference(options: argparse.Namespace) -> int:
    """Make the reports and README's results from the repository's runs alone, and take these in; or check what is kept.

    Return 1 if the store has some of them with other numbers, or if something kept is not as it would be made.
    """
    from nfstudy.report.reference import read_reference, stale_parts, write_reference

    project = Project.find()
    if options.check:
        if options.tracking_uri:
            raise UserError(f"--tracking-uri {options.tracking_uri}: expected: without --check, which reads no store")
        archives = read_reference(project)
        stale = stale_parts(project, archives)
        for part in stale:
            print(f"stale: {printable(part)}", file=sys.stderr)
        again = f"; rebuild with: {program()} reference" if stale else ""
        print(f"runs of {', '.join(archives)}: {len(stale) or 'no'} stale parts{again}")
        return 1 if stale else 0
    _, uri = find_store(options.tracking_uri)
    archives = read_reference(project)
    front, readme = write_reference(project, archives)
    print(f"overview: {relpath(front)}\nresults: {relpath(readme)}", flush=True)
    alike = [
        take_in(archive, project, uri, project.kept_reports / study_now(study))
        for study, some in archives.items()
        for archive in some
    ]
    print(f"browse the runs: {program()} ui")
    return 0 if all(alike) else 1
