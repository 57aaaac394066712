"""What is told of an exception that nobody expected: never a traceback, and whose mistake it is.

A full disk, a missing package or a plug-in's code may fail at any line; these are told as what they are. All else is a
mistake of nfstudy: it says so, keeps the traceback in a file, and says how to report it.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import NamedTuple

from nfstudy.core.errors import StoreError, UserError, printable, without_secrets
from nfstudy.core.project import Project

OURS = 70
"""Exit code of a mistake in nfstudy; the EX_SOFTWARE of Unix's sysexits.h."""
THEIRS = 2
PACKAGE = Path(__file__).resolve().parents[1]
LIMIT = 500
"""Characters of an exception's own words that are shown."""


class Told(NamedTuple):
    """What is told of an exception, and the exit code."""

    words: str
    code: int


def tell(error: Exception) -> Told:
    """Return what to tell of an exception; keeps the traceback of one that is a mistake of nfstudy."""
    if isinstance(error, UserError):
        return Told(str(error), THEIRS)
    if words := _outside(error):
        return Told(printable(words), THEIRS)
    what = f"this is a mistake in nfstudy, not in what was asked: {_named(error)}"
    text = _full(error)
    path = _keep(text)
    if path is None:  # Nothing can be written: better on the screen than nowhere.
        return Told(
            printable(f"{what}\n{text}hint: report it, with all of the above, to those you have nfstudy from"), OURS
        )
    return Told(
        printable(
            f"{what}\nthe full traceback is in {path}\n"
            "hint: report it, with that file, to those you have nfstudy from; finished runs are safe"
        ),
        OURS,
    )


def _outside(error: Exception) -> str:
    """Say what outside nfstudy an exception comes from; empty where it is a mistake of ours."""
    if place := _of_a_plugin(error):
        return f"plug-in {place}: {_named(error)}; expected: code that does not fail here"
    if isinstance(error, MemoryError):
        return "not enough memory; hint: use fewer --workers, or a smaller grid"
    if isinstance(error, OSError):
        names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        words = error.strerror or " ".join(str(error).split())[:LIMIT] or type(error).__name__
        return f"{names}: {words}" if names else words
    if isinstance(error, ImportError) and not str(error.name or "nfstudy").startswith("nfstudy"):
        return f"cannot be imported: {_named(error)}; hint: pip install -c constraints.txt -e . (in nfstudy's folder)"
    return ""


def _of_a_plugin(error: Exception) -> str:
    """Return the file and line of a plug-in that an exception comes out of; empty where it is none's."""
    plugins, registry = (sys.modules.get(f"nfstudy.core.{name}") for name in ("plugins", "registry"))
    if plugins is None or registry is None:
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    # What nfstudy calls last is to blame: a plug-in's own libraries are its own matter, as ours are ours.
    outside = [*_outside_frames(frames)]
    files = {plugin.path for plugin in plugins.installed() if plugin.path}
    modules = {plugin.name for plugin in plugins.installed() if not plugin.path}
    homes = {Path(file).resolve() for file in map(_file_of, modules) if file}
    owners = {distribution.split(" ")[0] for distribution in registry.distributions()}
    for frame in outside:
        path = Path(frame.filename)
        if frame.filename in files or path in homes or (owners and owners & _owners_of(path)):
            return f"{path.name}:{frame.lineno}"
    return ""


def _outside_frames(frames: traceback.StackSummary) -> list[traceback.FrameSummary]:
    """Return the frames after the last one of nfstudy, the innermost last."""
    ours = [place for place, frame in enumerate(frames) if PACKAGE in Path(frame.filename).parents]
    return list(frames[(ours[-1] + 1 if ours else 0) :])


def _file_of(module: str) -> str | None:
    return getattr(sys.modules.get(module), "__file__", None)


def _owners_of(path: Path) -> set[str]:
    """Return the distributions that a file may belong to, by the top of its package."""
    tops = [parent.name for parent in path.parents if (parent / "__init__.py").is_file()]
    return set(packages_distributions().get(tops[-1] if tops else path.stem, ()))


def _named(error: Exception) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:LIMIT]}" if words else type(error).__name__


def _full(error: Exception) -> str:
    try:
        number = version("nfstudy")
    except PackageNotFoundError:
        number = "not installed"
    head = f"nfstudy {number}, Python {platform.python_version()}, {platform.platform()}\n{' '.join(sys.argv)}\n\n"
    return without_secrets(head + "".join(traceback.format_exception(error)))


def _keep(text: str) -> Path | None:
    """Write a file that is not there yet: in the project's store, else among temporary files; None where neither."""
    for folder in (_in_store, tempfile.gettempdir):
        with suppress(OSError, StoreError):  # The latter of an `mlruns` that is no folder.
            descriptor, name = tempfile.mkstemp(prefix="nfstudy-error-", suffix=".txt", dir=folder())
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
            return Path(name)
    return None


def _in_store() -> str:
    folder = Project.find().store
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    (folder / "errors").mkdir(exist_ok=True)
    return str(folder / "errors")
