"""The studies that a command is about, as its arguments name them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from nfstudy.cli.options import nearby
from nfstudy.core.project import Project
from nfstudy.study.find import find_studies, find_study, shipped_studies
from nfstudy.study.reader import read_study
from nfstudy.study.spec import StudySpec


def chosen_study(named: str) -> StudySpec:
    """Read the study that is named; see `chosen_file`."""
    return read_study(chosen_file(named))


def chosen_file(named: str) -> Path:
    """Return the file of the study that is named; where that was by its name alone, say which file it is."""
    path = find_study(named, Project.find().root)
    if path != Path(named):
        shipped = " (comes with nfstudy)" if path in shipped_studies().values() else ""
        print(f"study file: {nearby(path)}{shipped}", file=sys.stderr, flush=True)
    return path


def chosen_studies(named: Sequence[str], project: Project) -> dict[Path, StudySpec]:
    """Read the studies that are named, else the project's; say so where it has none and the shipped are taken."""
    if not named and not (project.root / "studies").is_dir():
        print(
            f"no folder {nearby(project.root / 'studies')}: taking the studies that come with nfstudy", file=sys.stderr
        )
    return find_studies(named, project.root)
