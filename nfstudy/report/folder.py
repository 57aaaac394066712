"""Whether a folder may be written as a report: only where nothing else is, but for an earlier report of the study.

Loads nothing heavy, so that a study is refused before anything is trained.
"""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

from nfstudy.core.errors import ReportError
from nfstudy.core.reading import TEXT_BYTES, read_regular

MANIFEST = "manifest.json"
FRONT = "index.html"


def require_report_folder(folder: Path, study: str | None) -> set[str]:
    """Make sure that a folder is free, or holds an earlier report; return the files of that one, relative to it.

    Arguments:
        folder: where a report is to be written.
        study: whose report; None for the front page over all of them, which others write beside.

    Raises:
        ReportError: something else is there, which would be overwritten or mixed with.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise ReportError(f"{folder}: is a file; expected: a folder for a report, or a new name")
        if folder.is_symlink() and not folder.exists():
            raise ReportError(
                f"{folder}: is a link to {os.readlink(folder)}, which is not there; expected: a folder, or a new name"
            )
        there = sorted(path.name for path in folder.iterdir() if path.name[:1] != ".") if folder.exists() else []
    except OSError as error:
        raise ReportError(f"{folder}: cannot be read: {error.strerror or error}") from None
    whose = f"of study '{study}'" if study else "of all studies"
    hint = "hint: rename the study, or name another folder with --output" if study else "hint: move it away"
    if MANIFEST not in there:
        in_the_way = there if study else [name for name in there if name == FRONT]
        if in_the_way:
            shown = ", ".join(in_the_way[:5]) + (", ..." if len(in_the_way) > 5 else "")
            raise ReportError(
                f"{folder}: holds {shown}, and no report {whose}; expected: an empty folder, or such a report; {hint}"
            )
        return set()
    path = folder / MANIFEST
    content = _read(path)
    if study and content.get("study") != study:
        owner = f"the report of study '{content['study']}'" if content.get("study") else "a page over several studies"
        raise ReportError(f"{folder}: holds {owner}; expected: an empty folder, or a report {whose}; {hint}")
    if not study and not isinstance(content.get("studies"), list):
        raise ReportError(f"{folder}: holds another report; expected: a page over all studies, or none; {hint}")
    names = {*map(PurePosixPath, content["files"])}
    for name in names:
        if name.is_absolute() or ".." in name.parts:
            raise ReportError(f"{path}: lists '{name}'; expected: files inside {folder}")
    return {*map(str, names)}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(path, TEXT_BYTES))
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        content = None
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(files, dict):
        raise ReportError(f"{path}: not the manifest of a report; expected: one written here, or none")
    return content
