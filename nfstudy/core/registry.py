"""What flows, data, likelihoods, estimators, exhibits and metrics there are: the suite's own, and those of plug-ins.

Each kind is looked through when it is first asked for: the packages of the suite that declare some, then the entry
points `nfstudy.<kind>` of installed distributions. What a study's `plugins` name is added by `nfstudy.core.plugins`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from threading import RLock
from typing import Any, Literal

from nfstudy.core.declarations import Declaration, Kind, Likelihood, Values, declarations_of
from nfstudy.core.errors import SpecError
from nfstudy.core.fields import Record
from nfstudy.core.sources import module_digest
from nfstudy.core.suggest import did_you_mean

HOMES: dict[Kind, tuple[str, Literal["folders", "modules"]]] = {
    "flows": ("nfstudy.flows", "folders"),
    "data": ("nfstudy.data", "modules"),
    "likelihoods": ("nfstudy.inference.likelihoods", "folders"),
    "estimators": ("nfstudy.inference.objectives", "folders"),
    "metrics": ("nfstudy.runs.metrics", "folders"),
    "exhibits": ("nfstudy.report.exhibits", "folders"),
    "papers": ("nfstudy.papers", "folders"),
}
"""Kind -> the package that declares the suite's own, in itself and in its folders, or in its folders and modules. The
folder of a paper may declare any kind: its exhibits stand there."""


RESERVED: dict[Kind, tuple[str, ...]] = {
    "flows": ("family", "length"),
    "data": (
        *("name", "training_split", "train_images"),
        *("declaration", "values", "categories", "examples", "source", "fields", "further_records"),
    ),
    "likelihoods": (
        *("latent", "stochastic_layers", "latent_ratio", "hidden", "layers", "maxout", "hidden_counts"),
        *("initialisation", "likelihood", "latent_sizes"),
    ),
    "estimators": ("estimator", "samples", "free_bits", "annealing", "beta_start", "anneal_updates"),
}
"""Kind -> settings of its section that are no declaration's, and what else a section of `data` has by that name."""


@dataclass(frozen=True)
class Origin:
    """Where a declaration comes from; part of a run's provenance, and of the key of what uses it."""

    distribution: str = ""
    """Name and version of what is installed, such as `my-flows 1.2`; empty for a file."""
    file: str = ""
    """As the study names it; empty for what is installed."""
    digest: str = ""
    """SHA-256 of its code, in hexadecimal; empty of what is installed, and not to be edited."""

    @property
    def identity(self) -> str:
        """What tells it from other versions of itself."""
        return f"sha256:{self.digest}" if self.digest else self.distribution

    def __str__(self) -> str:
        return self.file or self.distribution or "nfstudy"


BUILT_IN = Origin()

_declared: dict[Kind, dict[str, tuple[Declaration, Origin]]] = {}
_broken: dict[tuple[Kind, str], str] = {}
_version = 0
_looking = RLock()
"""Held while a kind is looked through, which another thread would else find half empty: no module asks for declarations
while it is imported, so that nobody waits for both."""


def version() -> int:
    """Return a number that changes whenever something is declared."""
    return _version


def declare(declaration: Declaration, origin: Origin = BUILT_IN) -> None:
    """Add a declaration; adding the same one again, from the same origin, changes nothing.

    Raises:
        SpecError: its name, or a field of its settings, is taken.
    """
    global _version
    # The suite's own are declared while a kind is being looked through.
    found = _declared.setdefault(declaration.kind, {}) if origin == BUILT_IN else _all(declaration.kind)
    if declaration.name in found:
        _, other = found[declaration.name]
        if other == origin and origin != BUILT_IN:
            return
        again = origin.file and other.file == origin.file
        hint = "; hint: a file of that name was read as it was before: start Python anew" if again else ""
        raise SpecError(
            f"{origin}: {declaration.kind}: got '{declaration.name}'; expected: a name not taken by {other}{hint}"
        )
    for own in declaration.records:
        others = {name for record in _records(found) if record is not own for name in record.model_fields}
        for taken in sorted(own.model_fields.keys() & {*others, *RESERVED.get(declaration.kind, ())}):
            raise SpecError(
                f"{origin}: {declaration.kind} {declaration.name}: settings: got '{taken}'; expected: a name not taken"
            )
    found[declaration.name] = (declaration, origin)
    _version += 1
    for metric in getattr(declaration, "metrics", ()):
        if _all("metrics").get(metric.name) != (metric, origin):
            declare(metric, origin)


def declare_all(declarations: Sequence[Declaration], origin: Origin) -> None:
    """Add declarations, all or none of them; raises as `declare`."""
    global _version
    for kind in ("metrics", *(declaration.kind for declaration in declarations)):
        _all(kind)
    before = {kind: dict(found) for kind, found in _declared.items()}
    try:
        for declaration in declarations:
            declare(declaration, origin)
    except SpecError:
        for kind, found in _declared.items():
            for name in found.keys() - before[kind].keys():
                del found[name]
        _version += 1
        raise


def all_of(kind: Kind) -> dict[str, Any]:
    """Return name -> declaration, the suite's own first, in order of registration."""
    return {name: declaration for name, (declaration, _) in _all(kind).items()}


def find(kind: Kind, name: str) -> Any:
    """Return a declaration by its name; raises SpecError that says what there is."""
    found = _all(kind)
    if name in found:
        return found[name][0]
    if reason := _broken.get((kind, name)):
        raise SpecError(f"{kind}: '{name}' is installed and cannot be imported: {reason}")
    raise SpecError(f"{kind}: got '{name}'; expected: {allowed(kind, name)}")


def allowed(kind: Kind, name: str = "") -> str:
    """Return the names there are, and the one that may have been meant."""
    names = list(_all(kind))
    return ", ".join(names) + did_you_mean(name, names)


def origin_of(kind: Kind, name: str) -> Origin:
    """Return where a declaration comes from; raises KeyError where there is no such declaration."""
    return _all(kind)[name][1]


def distributions() -> set[str]:
    """Return name and version of the installed distributions that something of what is declared comes from."""
    return {origin.distribution for found in _declared.values() for _, origin in found.values() if origin.distribution}


def likelihoods_of(values: Values) -> dict[str, Likelihood]:
    """Return name -> likelihood of those that are of a kind of numbers, the suite's own first.

    Raises:
        SpecError: there is none.
    """
    found = {name: each for name, each in all_of("likelihoods").items() if values in each.values}
    if not found:
        raise SpecError(f"likelihoods: got data of {values}; expected: numbers that a likelihood is declared for")
    return found


def likelihood_of(values: Values, name: str | None = None) -> Likelihood:
    """Return the likelihood of a kind of numbers that a study names, or else the first; raises SpecError."""
    found = likelihoods_of(values)
    if name is not None and name not in found:
        raise SpecError(f"model.likelihood: got '{name}'; expected: {', '.join(found)} for data of {values}")
    return found[name] if name else next(iter(found.values()))


def records_of(kind: Kind) -> list[type[Record]]:
    """Return the settings records of all declarations of a kind, each once."""
    return _records(_all(kind))


def _records(found: dict[str, tuple[Declaration, Origin]]) -> list[type[Record]]:
    records: Iterable[type[Record]] = (record for d, _ in found.values() for record in d.records)
    return list(dict.fromkeys(records))


def _all(kind: Kind) -> dict[str, tuple[Declaration, Origin]]:
    with _looking:
        if kind not in _declared:
            _declared[kind] = {}
            homes = (HOMES[kind], HOMES["papers"]) if kind in HOMES else (HOMES["papers"],)
            for home in dict.fromkeys(homes):
                _look_through(kind, *home)
            for point in entry_points(group=f"nfstudy.{kind}"):
                _enter(kind, point)
            if kind == "metrics":
                _all("exhibits")  # Which bring metrics along, as estimators do.
                _all("estimators")
        return _declared[kind]


def _look_through(kind: Kind, home: str, places: Literal["folders", "modules"]) -> None:
    """Declare what a package declares."""
    package = import_module(home)
    infos = pkgutil.iter_modules(getattr(package, "__path__", ()), f"{home}.")
    inside = [info.name for info in infos if info.ispkg or places == "modules"]
    for module in (package, *map(import_module, inside)):
        for declaration in declarations_of(module):
            if declaration.kind == kind and declaration.name not in _declared[kind]:
                declare(declaration)


def _enter(kind: Kind, point: EntryPoint) -> None:
    """Declare what an entry point names: a declaration, or a module with some. One that is broken is set aside."""
    dist = point.dist
    origin = Origin(distribution=f"{dist.name} {dist.version}" if dist else point.value)
    try:
        origin = replace(origin, digest=module_digest(point.module))
        found = point.load()
        declarations = [found] if isinstance(found, Declaration) else declarations_of(found)
        for declaration in declarations:
            if declaration.kind == kind:
                declare(declaration, origin)
    except (Exception, SystemExit) as error:  # Somebody else's code: it may raise anything.
        _broken[kind, point.name] = f"{origin}: {type(error).__name__}: {error}"
