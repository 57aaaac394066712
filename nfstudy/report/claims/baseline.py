"""What the claims ledger said before, kept in the repository, so that a claim that turns round is noticed.

The baseline is a JSON object, id -> verdict, of every claim and of each of its parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from nfstudy.core.atomic import write_whole
from nfstudy.core.errors import ReportError
from nfstudy.core.reading import TEXT_BYTES, read_regular
from nfstudy.report.claims.ledger import VERDICTS, ClaimVerdict, Verdict

BASELINE = "claims-baseline.json"
"""Its name in the folder of reports."""

Baseline = Mapping[str, Verdict]


def verdicts_by_id(found: Iterable[ClaimVerdict]) -> Baseline:
    """Return id -> verdict of every claim and part."""
    verdicts: dict[str, Verdict] = {}
    for claim in found:
        verdicts[claim.claim.id] = claim.verdict
        verdicts |= {part.part.id: part.verdict for part in claim.parts}
    return verdicts


def read_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        ReportError: the file is missing, or holds anything but verdicts.
    """
    try:
        content = json.loads(read_regular(path, TEXT_BYTES))
    except FileNotFoundError:
        raise ReportError(f"{path}: no such baseline; expected: a file written by `check --update-baseline`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ReportError(f"{path}: cannot be read: {_reason(error)}; expected: a JSON object, id -> verdict") from None
    if not isinstance(content, dict):
        raise ReportError(f"{path}: is not a JSON object; expected: a JSON object, id -> verdict")
    for key, verdict in content.items():
        if verdict not in VERDICTS:
            raise ReportError(f"{path}: {key}: got {verdict!r}; expected: {', '.join(VERDICTS)}")
    return content


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def write_baseline(path: Path, verdicts: Baseline) -> None:
    """Write a baseline, sorted by id; it appears whole or not at all.

    Raises:
        ReportError: the folder cannot be written.
    """
    text = json.dumps(dict(sorted(verdicts.items())), indent=1, ensure_ascii=False) + "\n"
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise ReportError(f"{path}: cannot be written: {error.strerror or error}") from None


def changes(before: Baseline, now: Baseline) -> dict[str, tuple[str, str]]:
    """Return id -> (verdict before, verdict now) where they differ.

    An id that is new was `not run` before; one that the ledger no longer has is `removed`.
    """
    ids = dict.fromkeys((*now, *before))
    both = {key: (before.get(key, "not run"), now.get(key, "removed")) for key in ids}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1]}


def reversals(before: Baseline, now: Baseline) -> list[str]:
    """List the ids that were supported and are contradicted now."""
    return [key for key, pair in changes(before, now).items() if pair == ("supported", "contradicted")]


def updated(before: Baseline, now: Baseline) -> Baseline:
    """Return the new baseline: as it is now, but what has not been run here keeps its earlier verdict."""
    return {key: before.get(key, verdict) if verdict == "not run" else verdict for key, verdict in now.items()}
