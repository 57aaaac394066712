"""Plug-ins of a study: files or modules from outside that declare flows, data, likelihoods, estimators, exhibits, ...

A study names them (`plugins: [my_flow.py, package.module]`); reading the study runs their code. A file travels as its
text, so that workers on other machines run what the study's reader read. Archives never name code that is run.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions, version
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from nfstudy.core import registry
from nfstudy.core.declarations import Declaration, declarations_of
from nfstudy.core.errors import SpecError
from nfstudy.core.reading import read_regular
from nfstudy.core.registry import Origin
from nfstudy.core.sources import brought_along, code_digest, module_digest

MAX_BYTES = 1_000_000
"""Of a plug-in's file."""


@dataclass(frozen=True)
class Plugin:
    """A plug-in as it was read."""

    name: str
    """As the study names it: a path relative to the study file, or a module's dotted name."""
    path: str = ""
    """Of a file: where it was."""
    source: str = ""
    """Of a file: its text."""
    digest: str = ""
    """SHA-256, in hexadecimal, of a file; of a module that is not installed, or to be edited, of its package. With
    modules that it imports from beside it, of these too."""
    distribution: str = ""
    """Name and version of the distribution that a module belongs to."""

    @property
    def code(self) -> tuple[bytes, Path | None]:
        """Its source, or one that imports it, and the folder that the modules beside it are in."""
        if self.path:
            return self.source.encode(), Path(self.path).parent
        return f"import {self.name}".encode(), None

    @property
    def origin(self) -> Origin:
        """Where its declarations come from."""
        return Origin(self.distribution, "" if self.distribution else self.name, self.digest)

    def record(self, root: Path) -> dict[str, str]:
        """Return what a run records of it: paths relative to the project's root, never absolute ones."""
        path = Path(self.path) if self.path else None
        inside = path.relative_to(root).as_posix() if path and path.is_relative_to(root) else ""
        name = path.name if path and Path(self.name).is_absolute() else self.name
        found = {"name": name, "path": inside, "sha256": self.digest, "distribution": self.distribution}
        return {key: value for key, value in found.items() if value}


_installed: dict[Plugin, tuple[Declaration, ...]] = {}


def installed() -> dict[Plugin, tuple[Declaration, ...]]:
    """Return the plug-ins of this process, with what each declares."""
    return dict(_installed)


def read_plugin(name: str, folder: Path, recorded_name: str = "") -> Plugin:
    """Read a plug-in without running it.

    Arguments:
        name: a path that ends in `.py`, relative to `folder`; or a module's dotted name.
        folder: the study file's.
        recorded_name: how a run names the file, where that is another name: its digest is of the name too.

    Raises:
        SpecError: there is none, or it is no plain text file of a sane size.
    """
    if not name.endswith(".py"):
        return _read_module(name)
    if "\0" in name:
        raise SpecError(f"got {name!r}; expected: a path, which holds no null characters")
    path = (folder / name).resolve()
    if not os.path.lexists(path):
        near = sorted(other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else []
        there = f" (in {path.parent}: {', '.join(near)})" if near else ""
        raise SpecError(f"got '{name}'; no such file{there}; expected: a file next to the study file")
    try:
        raw = read_regular(path, MAX_BYTES)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise SpecError(f"got '{name}', which is larger; expected: a file of at most {MAX_BYTES:,} bytes") from None
        raise SpecError(f"got '{name}', which cannot be read: {error.strerror or error}") from None
    try:
        source = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"got '{name}', but byte {error.start} is not UTF-8; expected: Python source") from None
    try:
        digest = code_digest({recorded_name or name: raw}, brought_along(raw, path.parent))
    except OSError as error:
        told = f"{error.filename}: {error.strerror or error}"
        raise SpecError(f"got '{name}', which imports what cannot be read: {told}") from None
    return Plugin(name, str(path), source, digest)


def _read_module(name: str) -> Plugin:
    plugin = _module_as_it_is(name)
    if not plugin.distribution:
        _import(name)
    return plugin


def _module_as_it_is(name: str) -> Plugin:
    """Read a module without importing it; one that there is not has neither digest nor distribution."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise SpecError(f"got '{name}'; expected: a path that ends in .py, or a module's dotted name")
    owners = packages_distributions().get(name.partition(".")[0], ())
    try:
        digest = module_digest(name)
    except OSError as error:
        raise SpecError(f"got '{name}', of which {error.filename} cannot be read: {error.strerror or error}") from None
    return Plugin(name, digest=digest, distribution=f"{owners[0]} {version(owners[0])}" if owners else "")


def install(plugin: Plugin) -> tuple[Declaration, ...]:
    """Run a plug-in's code and declare what it declares, once a process.

    Raises:
        SpecError: it cannot be imported, declares nothing, or declares a name that is taken.
    """
    if plugin in _installed:
        return _installed[plugin]
    module = _run(plugin) if plugin.path else _import(plugin.name)
    found = tuple(declarations_of(module))
    if not found:
        raise SpecError(
            f"got '{plugin.name}', which declares nothing; expected: a FlowFamily, DataSource, Likelihood, "
            "GradientEstimator, ExhibitDeclaration or Metric among the names of the module"
        )
    names = [(declaration.kind, declaration.name) for declaration in found]
    for kind, name in names:
        if names.count((kind, name)) > 1:
            raise SpecError(f"{plugin.name}: {kind}: got '{name}' twice; expected: each name once")
    registry.declare_all(found, plugin.origin)
    _installed[plugin] = found
    return found


def install_all(plugins: Iterable[Plugin]) -> None:
    """Install plug-ins as another process has them."""
    for plugin in plugins:
        install(plugin)


class _Beside(MetaPathFinder):
    """Finds what plug-ins import from beside them, whatever folder Python was started in, and nothing else."""

    def __init__(self) -> None:
        self.places: dict[str, tuple[Path, str]] = {}
        """Name of a module -> its file or folder, and the digest of its code."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module as Python's import does."""
        if fullname not in self.places:
            return None
        place, _ = self.places[fullname]
        within = [str(place)] if place.is_dir() else None
        file = place / "__init__.py" if within else place
        return spec_from_file_location(fullname, file, submodule_search_locations=within)

    def add(self, plugin: Plugin) -> None:
        """Have a plug-in's modules found, and imported anew if they were others before.

        Raises:
            SpecError: another module of a name is loaded.
        """
        source, folder = plugin.code
        for name, place in brought_along(source, folder).items():
            if place.parent != folder:
                continue
            loaded = _file_of(name)
            if loaded not in (None, place.resolve(), (place / "__init__.py").resolve()):
                raise SpecError(
                    f"{plugin.name}: imports {name} from beside it, and {loaded} is loaded by that name; "
                    "expected: names of their own of the modules beside plug-ins"
                )
            digest = code_digest({}, {name: place})
            if self.places.get(name) != (place, digest):
                for each in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
                    del sys.modules[each]
                self.places[name] = (place, digest)


_beside = _Beside()


def _file_of(module: str) -> Path | None:
    """Return the file that a loaded module is of; None where none of that name is loaded."""
    found = sys.modules.get(module)
    return Path(getattr(found, "__file__", None) or "nowhere").resolve() if found else None


def _run(plugin: Plugin) -> ModuleType:
    if _beside not in sys.meta_path:
        sys.meta_path.insert(0, _beside)
    _beside.add(plugin)
    name = f"nfstudy_plugin_{plugin.digest[:16]}"
    module = ModuleType(name)
    module.__file__ = plugin.path
    sys.modules[name] = module  # Where dataclasses and pydantic look up the names of annotations.
    try:
        # A mark of the order of bytes, as editors of Windows write, is no part of the program.
        exec(compile(plugin.source.removeprefix("\ufeff"), plugin.path, "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        told = f"{_place(plugin, error)}: {type(error).__name__}: {error}"
        raise SpecError(told if "expected: " in told else f"{told}; expected: a file that can be imported") from None
    return module


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:  # Somebody else's code: it may raise anything.
        raise SpecError(f"got '{name}', which cannot be imported: {type(error).__name__}: {error}") from None


def _place(plugin: Plugin, error: BaseException) -> str:
    """Return the file and the line of it that an error comes from."""
    if isinstance(error, SyntaxError):
        return f"{plugin.name}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == plugin.path]
    return f"{plugin.name}:{lines[-1]}" if lines else plugin.name


def require_recorded(records: Sequence[Mapping[str, Any]], root: Path, given: Sequence[Path] = ()) -> None:
    """Install the plug-ins that a run was made with, from this project's own files and from modules that are here.

    No code is taken from the run, and a module that it names is imported only where it is the one that it used.

    Arguments:
        records: what the run recorded of each, as `Plugin.record` made it.
        root: the project's.
        given: files that the user names.

    Raises:
        SpecError: one is not here as it was; says which, and what to do.
    """
    for record in records:
        name, digest = str(record.get("name", "")), str(record.get("sha256", ""))
        if not name.endswith(".py"):
            _require_module(name, digest, str(record.get("distribution", "")))
            continue
        places = [*given, *([root / str(record["path"])] if record.get("path") else [])]
        files = [place for place in places if place.is_file()]
        # A study that named it by an absolute path recorded the last part alone.
        found = [read_plugin(place.name, place.parent, known) for place in files for known in (name, str(place))]
        same = next((plugin for plugin in found if plugin.digest == digest), None)
        if same is None:
            where = ", ".join(str(place) for place in places) or "nowhere in this project"
            raise SpecError(
                f"plug-in {name}: the run used the file with SHA-256 {digest[:16]}…, which is not available "
                f"({where}); expected: that file, and any module that it imports from beside it, as they were; "
                "hint: name it with --plugin (the run keeps a copy; read it first)"
            )
        install(same)


def _require_module(name: str, digest: str, distribution: str) -> None:
    """Install a module that a run used; raises SpecError where it is not here as it was, and imports nothing then."""
    here = _module_as_it_is(name)
    if (here.digest, here.distribution) != (digest, distribution) or not (digest or distribution):
        now, then = (
            ", ".join(filter(None, (of, code and f"SHA-256 {code[:16]}…"))) or "no module of a distribution"
            for of, code in ((here.distribution, here.digest), (distribution, digest))
        )
        raise SpecError(f"plug-in {name}: the run used {then}, and here is {now}; expected: the module as it was")
    install(here)
