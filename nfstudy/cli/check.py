"""`check`: judge the paper's claims on the logged runs, and compare with the verdicts before."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nfstudy.cli.options import find_store, nearby, tell
from nfstudy.cli.studies import chosen_studies


def check(options: argparse.Namespace) -> int:
    """Judge the paper's claims on all studies' runs; return 1 if one that was supported is contradicted now."""
    from nfstudy.report.claims import baseline
    from nfstudy.report.claims.judge import all_claims, judge_claims, verdicts_of
    from nfstudy.report.claims.ledger import body_names, counts_text, verdict_lines

    project, uri = find_store(options.tracking_uri)
    path = Path(options.baseline) if options.baseline else project.kept_reports / baseline.BASELINE
    # Without one, nothing has been said before; one that is asked for by name must be there.
    first = not path.exists() and (options.update_baseline or not options.baseline)
    saved = {} if first else baseline.read_baseline(path)
    studies = chosen_studies(options.study, project).values()
    found = judge_claims(project, uri, studies, options.budget, tell)
    now = verdicts_of(found)
    judged = {f"{study.study} {options.budget or budget}" for study in studies for budget in study.budgets}
    # What was asked for alone is compared: others were not judged, and have not changed.
    asked = options.study or options.budget
    before = {body: verdicts for body, verdicts in saved.items() if body in judged or not asked}
    known = {key for claim in all_claims() for key in (claim.id, *(part.id for part in claim.parts()))}
    print(*verdict_lines(found), sep="\n")
    print(f"{len(found)} claims, {sum(not claim.bodies for claim in found)} of them not run")
    for body in body_names(found):
        on_body = [claim.bodies[body] for claim in found if body in claim.bodies]
        print(f"  {body}: of {len(on_body)} claims {counts_text(on_body)}")
    changed = [
        f"  {body}: {key}: {old} -> {new}" for (body, key), (old, new) in baseline.changes(before, now, known).items()
    ]
    if first and not options.update_baseline:
        print(f"no baseline at {nearby(path)} yet: check --update-baseline saves these verdicts")
    else:
        print(f"{len(changed) or 'no'} changes against {nearby(path)}", *changed, sep="\n")
    if options.update_baseline:
        baseline.write_baseline(path, baseline.updated(saved, now, known))
        print(f"wrote {nearby(path)}")
        return 0
    turned = baseline.reversals(before, now)
    for body, key in turned:
        print(f"was supported, is now contradicted: {key}, on {body}", file=sys.stderr)
    return 1 if turned else 0
