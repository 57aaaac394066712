"""`rerun`: train a logged run again, and compare every number."""

from __future__ import annotations

import argparse
from pathlib import Path

from nfstudy.cli.options import check_device, find_store, retyped, warn_of_unknown_code
from nfstudy.core.errors import printable
from nfstudy.core.launcher import Launcher


def rerun(options: argparse.Namespace) -> int:
    """Train a logged run again; return 0 for identical bits, 3 for numbers within the tolerances, 1 for others."""
    from nfstudy.runner.rerun import ABSOLUTE, RELATIVE, prepare_rerun, train_again
    from nfstudy.runner.signals import Interrupted
    from nfstudy.runs.tracking.claim import Claim, claimed
    from nfstudy.runs.tracking.store import open_store

    if options.device:
        check_device(options.device)
    project, uri = find_store(options.tracking_uri)
    warn_of_unknown_code()
    store = open_store(uri)
    again = prepare_rerun(store, options.run_id, project, options.device, options.threads, [*map(Path, options.plugin)])
    print(f"{again.trial.study}: {printable(again.old.record.name)}")
    print(printable("\n".join(again.changes) or "nothing has changed since that run"), flush=True)
    study = again.trial.study
    claim = Claim(store, study, Launcher.here(project.root))
    with project.study_lock(study), claimed(claim):
        store.claim = claim
        try:
            found = train_again(again, store, project)
        except Interrupted as signal:
            print(f"stopped by {signal}; restart with: {retyped(options)}")
            return 130
    for line in found.lines:
        print(printable(line))
    expected = " (same machine type: identical numbers were expected)" if again.same_machine else ""
    told = {
        "identical": "identical in every point of every history",
        "within tolerances": f"within {ABSOLUTE} nats or {RELATIVE:.1%} of the test and validation numbers{expected}",
        "differs": f"differs by more than {ABSOLUTE} nats and {RELATIVE:.1%}, or a different outcome{expected}",
    }
    print(f"run {found.run_id}: {told[found.verdict]}")
    return {"identical": 0, "within tolerances": 3, "differs": 1}[found.verdict]
