"""What can be added to the suite, each declared in one place: plain records, free of torch until one is used.

A declaration says what a thing is called, what a study may set of it, and where its implementation is. Those of the
suite stand in the package of their kind; others come from plug-ins (`nfstudy.core.plugins`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

from nfstudy.core.fields import Record

Kind = Literal["flows", "data", "likelihoods", "exhibits", "metrics", "papers"]
"""What may be declared; each kind is an entry-point group `nfstudy.<kind>` too."""

Implementation = str | Callable[[], Any]
"""`package.module:NAME`, imported when it is needed; or a function without arguments that imports what it needs and
returns the implementation, as a plug-in of one file has it."""


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What every declaration says."""

    kind: Kind = field(init=False)
    name: str
    """As study files have it."""
    label: str = ""
    """As reports have it; the name where it is empty."""
    settings: type[Record] | None = None
    """What a study may set of it: fields of the section, such as `flow.reflections`, strictly read."""
    shared_settings: tuple[type[Record], ...] = ()
    """More of them, in records that other declarations of the kind have too."""

    @property
    def records(self) -> tuple[type[Record], ...]:
        """All records of settings."""
        return (*((self.settings,) if self.settings else ()), *self.shared_settings)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of all its settings."""
        return tuple(name for record in self.records for name in record.model_fields)

    @property
    def title(self) -> str:
        """The name for people."""
        return self.label or self.name


@dataclass(frozen=True, kw_only=True)
class FlowFamily(Declaration):
    """A family of normalizing flows; its implementation is a class as `nfstudy.flows.base.Flow` describes it.

    The class is called with latent D, length K, features F, and each field of `settings` by its name.
    """

    kind: Kind = field(init=False, default="flows")
    implementation: Implementation
    least_latent: int = 1
    """The least D that it can transform."""
    why_least: str = ""
    """What it does with them, after its name: `splits the latent variables in two`."""
    inverse: bool = True
    """Whether it has an inverse, which the density on the plane needs."""
    inverse_needs: Mapping[str, Any] = field(default_factory=dict)
    """Settings, field -> value, without which it has none."""
    drawn: bool = False
    """Whether Figure 1 can show it: steps about the identity with drawn parameters."""
    colour: int | None = None
    """Its colour's place in the palette; None is the next one that is free."""
    examples: tuple[Mapping[str, Any], ...] = ({},)
    """Settings, field -> value, at which its contract is checked."""


Values = Literal["bits", "levels", "patches", "real"]
"""What the numbers of an example are: bits; grey levels, of which bits are drawn anew at every use; numbers within
(0, 1), of levels that are dequantised or as they are; any real numbers. A plug-in may name others of its own, with a
likelihood that is declared for them."""


@dataclass(frozen=True, kw_only=True)
class DataSource(Declaration):
    """Where examples come from.

    What depends on settings is a function of the section `data`, an object with every setting as an attribute.
    """

    kind: Kind = field(init=False, default="data")
    values: Values | Callable[[Any], Values]
    """What a model meets in training; it picks the likelihood, and with it the unit of all bounds."""
    splits: Callable[[Any], tuple[int, int, int] | None]
    """How many examples the training, validation and test splits hold; None where that is not known."""
    loader: Implementation
    """A function (section `data`, folders, download) -> `nfstudy.data.dataset.Dataset`. The same call gives the same
    bytes on every machine; it raises DataError where it cannot."""
    resolve: Implementation | None = None
    """A function (section `data`, folder of the study file) -> field -> value of settings that only a look at the data
    can tell, such as a file's digest; called once, when a study is read. It raises DataError."""
    idle: Callable[[Any], Collection[str]] = lambda data: ()
    """Which of its settings the others leave without effect."""
    not_identity: tuple[str, ...] = ()
    """Its settings that are recorded, and change no number: they are no part of a key."""
    fixed: tuple[str, ...] = ()
    """Its settings that a grid, a search or a budget cannot change."""

    def values_of(self, data: Any) -> Values:
        """Return what the numbers are under the section `data`."""
        return self.values if isinstance(self.values, str) else self.values(data)


@dataclass(frozen=True, kw_only=True)
class Likelihood(Declaration):
    """A density or probability of an example given z, as `nfstudy.inference.likelihoods.base.Likelihood` says."""

    kind: Kind = field(init=False, default="likelihoods")
    values: tuple[Values, ...]
    """What it is the likelihood of."""
    per: str = "image"
    """What bounds are nats per."""
    implementation: Implementation
    """A class, called with the numbers of an example, the features and the section `model`."""


def load(implementation: Implementation) -> Any:
    """Import or make what a declaration refers to.

    Raises:
        ImportError: the module cannot be imported.
        AttributeError: it has no such name.
    """
    if not isinstance(implementation, str):
        return implementation()
    module, _, name = implementation.partition(":")
    return getattr(import_module(module), name)


def declarations_of(module: ModuleType) -> list[Declaration]:
    """Return the declarations among a module's names, in their order, each once."""
    found = [value for value in vars(module).values() if isinstance(value, Declaration)]
    return list({id(value): value for value in found}.values())
