"""`check`: judge the paper's claims on the logged runs, and compare with the verdicts before."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from nfstudy.cli.options import find_store, nearby


def check(options: argparse.Namespace) -> int:
    """Judge the paper's claims on all studies' runs; return 1 if one that was supported is contradicted now."""
    from nfstudy.report.claims import baseline
    from nfstudy.report.claims.judge import judge_claims
    from nfstudy.report.claims.ledger import verdict_lines

    project, uri = find_store(options.tracking_uri)
    path = Path(options.baseline) if options.baseline else project.reports / baseline.BASELINE
    # Without one, nothing has been said before; one that is asked for by name must be there.
    first = not path.exists() and (options.update_baseline or not options.baseline)
    before = {} if first else baseline.read_baseline(path)
    found = judge_claims(project, uri, options.budget)
    now = baseline.verdicts_by_id(found)
    counts = Counter(claim.verdict for claim in found)
    print(*verdict_lines(found), sep="\n")
    print(f"{len(found)} claims: {', '.join(f'{number} {verdict}' for verdict, number in counts.items())}")
    changed = [f"  {key}: {old} -> {new}" for key, (old, new) in baseline.changes(before, now).items()]
    if first and not options.update_baseline:
        print(f"no baseline at {nearby(path)} yet: check --update-baseline saves these verdicts")
    else:
        print(f"{len(changed) or 'no'} changes against {nearby(path)}", *changed, sep="\n")
    if options.update_baseline:
        baseline.write_baseline(path, baseline.updated(before, now))
        print(f"wrote {nearby(path)}")
        return 0
    turned = baseline.reversals(before, now)
    for key in turned:
        print(f"was supported, is now contradicted: {key}", file=sys.stderr)
    return 1 if turned else 0
