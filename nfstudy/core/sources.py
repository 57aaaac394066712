"""The source files behind a module's name, and which of them a plug-in brings along: those that nobody installed.

What an installed distribution holds is told by its version. A module that is imported from a folder of somebody's, such
as one beside a plug-in, or one that is installed to be edited, is told by its text.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

INSTALLED = ("site-packages", "dist-packages")
"""Names of folders that hold installed distributions, whatever lies beside these."""


def place_of(module: str) -> Path | None:
    """Return the folder of the package that a module belongs to, or its file; None where it is found nowhere."""
    top = module.partition(".")[0]
    try:
        found = find_spec(top)
    except (ImportError, ValueError):  # A module that is being run, or was made by hand, has no spec.
        return None
    if found is None or found.origin in ("built-in", "frozen"):
        return None
    place = next(iter(found.submodule_search_locations or ()), found.origin)
    return Path(place) if place and Path(place).exists() else None


def files_of(name: str, place: Path) -> dict[str, Path]:
    """Return name -> path of each source at a place.

    Arguments:
        name: of the module, with which all names begin.
        place: the folder of a package, or the one file that a module is.
    """
    if not place.is_dir():
        return {name: place}
    paths = (path for path in sorted(place.rglob("*.py")) if path.is_file())
    return {f"{name}/{path.relative_to(place).as_posix()}": path for path in paths}


@cache
def _holds_distributions(folder: Path) -> bool:
    """Say whether distributions are installed in a folder."""
    return folder.name in INSTALLED or next(folder.glob("*.dist-info"), None) is not None


def place_beside(folder: Path, module: str) -> Path | None:
    """Return the file or the folder that a module of a name is in a folder; None where there is none."""
    file, package = folder / f"{module}.py", folder / module
    return file if file.is_file() else package if (package / "__init__.py").is_file() else None


def brought_along(source: bytes, folder: Path | None = None) -> dict[str, Path]:
    """Return name -> place of the modules behind a source that neither Python, nfstudy nor a distribution brings.

    Arguments:
        source: Python; what it imports is looked for here, also within its functions, and what that imports.
        folder: the source's own, in which all of that is looked for first, whatever folder Python was started in.
    """
    found: dict[str, Path] = {}
    todo, seen = [source], {"nfstudy"}
    while todo:
        for top in _imported(todo.pop()):
            if top in seen or top in sys.stdlib_module_names:
                continue
            seen.add(top)
            place = place_of(top)
            if place and _holds_distributions(place.parent):
                continue
            place = (folder and place_beside(folder, top)) or place
            if place:
                found[top] = place
                todo += [path.read_bytes() for path in files_of(top, place).values() if path.suffix == ".py"]
    return dict(sorted(found.items()))


def module_digest(name: str) -> str:
    """Return the digest of the code of a module's whole package; empty of what is installed, or has no files."""
    places = brought_along(f"import {name}".encode())
    return code_digest({}, places) if places else ""


def code_digest(own: Mapping[str, bytes], places: Mapping[str, Path]) -> str:
    """Return the SHA-256, in hexadecimal, of the code of a plug-in; of one file alone, that of the file.

    Arguments:
        own: name -> what a file of its own holds.
        places: from `brought_along`.
    """
    brought = {name: path.read_bytes() for top, place in places.items() for name, path in files_of(top, place).items()}
    held = {**brought, **own}
    if len(held) == 1:
        return hashlib.sha256(*held.values()).hexdigest()
    return sources_digest({name: hashlib.sha256(content).hexdigest() for name, content in held.items()})


def sources_digest(sources: Mapping[str, str]) -> str:
    """Return one SHA-256 of all sources, from name -> SHA-256 of each."""
    return hashlib.sha256("".join(f"{name} {sources[name]}\n" for name in sorted(sources)).encode()).hexdigest()


def _imported(source: bytes) -> Iterable[str]:
    """Return the top-level names that a source imports; none of what is no Python, which is told when it is run."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    return dict.fromkeys(_names_in(tree))


def _names_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
