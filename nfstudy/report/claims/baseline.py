"""What the claims ledger said before, kept in the repository, so that a claim that turns round is noticed.

The baseline is a JSON object, body of evidence -> id -> verdict, of every claim and of each of its parts.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nfstudy.core.atomic import write_whole
from nfstudy.core.errors import ReportError
from nfstudy.core.reading import TEXT_BYTES, read_regular
from nfstudy.report.claims.verdicts import VERDICTS

BASELINE = "claims-baseline.json"
"""Its name in the folder of reports."""

EXPECTED = "expected: a JSON object, body of evidence -> id -> verdict"

Baseline = Mapping[str, Mapping[str, str]]
"""Body of evidence, such as `mnist laptop`, -> id of a claim or part -> verdict."""


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
        raise ReportError(f"{path}: cannot be read: {_reason(error)}; {EXPECTED}") from None
    if not isinstance(content, dict):
        raise ReportError(f"{path}: is not a JSON object; {EXPECTED}")
    for body, verdicts in content.items():
        _check(path, body, verdicts)
    return content


def _check(path: Path, body: str, verdicts: Any) -> None:
    if isinstance(verdicts, str) and verdicts in VERDICTS:
        raise ReportError(
            f"{path}: {body}: got '{verdicts}', as an earlier version wrote it, for no body of evidence; {EXPECTED}; "
            "hint: remove the file, and save the verdicts with check --update-baseline"
        )
    if not isinstance(verdicts, dict):
        raise ReportError(f"{path}: {body}: got {verdicts!r}; {EXPECTED}")
    for key, verdict in verdicts.items():
        if verdict not in VERDICTS:
            raise ReportError(f"{path}: {body}: {key}: got {verdict!r}; expected: {', '.join(VERDICTS)}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def write_baseline(path: Path, verdicts: Baseline) -> None:
    """Write a baseline, sorted by body and id; it appears whole or not at all.

    Raises:
        ReportError: the folder cannot be written.
    """
    text = json.dumps(verdicts, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise ReportError(f"{path}: cannot be written: {error.strerror or error}") from None


def changes(before: Baseline, now: Baseline, known: Collection[str]) -> dict[tuple[str, str], tuple[str, str]]:
    """Return (body, id) -> (verdict before, verdict now) where they differ.

    What stands in one of both alone is `not run` in the other, but what the ledger no longer has is `removed`.

    Arguments:
        before: the baseline.
        now: the verdicts.
        known: the ids of all claims and parts of the ledger.
    """
    found = {}
    for body in dict.fromkeys((*now, *before)):
        old, new = before.get(body, {}), now.get(body, {})
        for key in dict.fromkeys((*new, *old)):
            pair = old.get(key, "not run"), new.get(key, "not run" if key in known else "removed")
            if pair[0] != pair[1]:
                found[body, key] = pair
    return found


def reversals(before: Baseline, now: Baseline) -> list[tuple[str, str]]:
    """List (body, id) of what was supported and is contradicted now, by the same body of evidence."""
    return [
        (body, key)
        for body, verdicts in now.items()
        for key, verdict in verdicts.items()
        if verdict == "contradicted" and before.get(body, {}).get(key) == "supported"
    ]


def updated(before: Baseline, now: Baseline, known: Collection[str]) -> Baseline:
    """Return the new baseline: as it is now, but what has not been run here keeps its earlier verdict.

    Arguments are those of `changes`.
    """
    both: dict[str, dict[str, str]] = {}
    for body in dict.fromkeys((*now, *before)):
        kept = {key: verdict for key, verdict in before.get(body, {}).items() if key in known}
        new = {
            key: kept.get(key, verdict) if verdict == "not run" else verdict
            for key, verdict in now.get(body, {}).items()
        }
        if both_here := {**kept, **new}:
            both[body] = both_here
    return both
