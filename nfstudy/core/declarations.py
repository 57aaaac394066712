"""What can be added to the suite, each declared in one place: plain records, free of torch until one is used.

A declaration says what a thing is called, what a study may set of it, and where its implementation is. Those of the
suite stand in the package of their kind; others come from plug-ins (`nfstudy.core.plugins`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar, Literal

from pydantic import ValidationError

from nfstudy.core.errors import SpecError
from nfstudy.core.fields import Record, first_mistake
from nfstudy.core.hints import described, fits, hints_of, misfit, result_of, shown

Kind = Literal["flows", "data", "likelihoods", "estimators", "exhibits", "metrics", "papers"]
"""What may be declared; each kind is an entry-point group `nfstudy.<kind>` too."""

Implementation = str | Callable[[], Any]
"""`package.module:NAME`, imported when it is needed; or a function without arguments that imports what it needs and
returns the implementation, as a plug-in of one file has it."""

Function = str | Callable[..., Any]
"""`package.module:NAME` of a function, imported when it is called; or the function, which imports what it needs."""

Needs = Mapping[str, tuple[Any, ...]]
"""Dotted path of a setting that must be in use -> the values it may have; none where any will do."""


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What every declaration says."""

    _names: ClassVar[str] = r"\w[\w +.-]*"
    """What names may be; an exhibit's is one of files, too."""
    _names_text: ClassVar[str] = "text of letters, digits, blanks, _, +, . and -, which begins with one of the first"

    kind: Kind = field(init=False)
    name: str
    """As study files have it."""
    label: str = ""
    """As reports have it; the name where it is empty."""
    settings: type[Record] | None = None
    """What a study may set of it: fields of the section, such as `flow.reflections`, strictly read."""
    shared_settings: tuple[type[Record], ...] = ()
    """More of them, in records that other declarations of the kind have too."""

    def __post_init__(self) -> None:
        """Raise ValueError where what it says is not of the types above, so that its file is named."""
        if not isinstance(self.name, str) or not re.fullmatch(self._names, self.name):
            raise ValueError(f"{self.kind}: name: got {self.name!r}; expected: {self._names_text}")
        if wrong := misfit(self):
            raise ValueError(f"{self.kind} {self.name}: {wrong}")
        for record in self.records:
            _require_defaults(f"{self.kind} {self.name}: settings", record)
        if not getattr(self, "examples", ({},)):
            allowed = "a tuple of mappings of settings to values, at least one"
            raise ValueError(f"{self.kind} {self.name}: examples: got (); expected: {allowed}")

    def asked(self, field: str, section: Any) -> Any:
        """Return what the function that a field holds says under a section of settings.

        Raises:
            SpecError: it is not of the type that the field's function returns.
        """
        found, hint = getattr(self, field)(section), result_of(hints_of(type(self))[field])
        if not fits(found, hint):
            raise SpecError(f"{self.kind} {self.name}: {field}: returned {shown(found)}; expected: {described(hint)}")
        return found

    def idle_of(self, section: Any) -> Collection[str]:
        """Return which of its settings the others in a section leave without effect, of a kind that has `idle`."""
        found: Collection[str] = self.asked("idle", section)
        if unknown := [name for name in found if name not in self.fields]:
            allowed = ", ".join(self.fields) or "none, as it has no settings"
            raise SpecError(
                f"{self.kind} {self.name}: idle: returned '{unknown[0]}'; expected: of its settings, {allowed}"
            )
        return found

    @property
    def records(self) -> tuple[type[Record], ...]:
        """All records of settings."""
        return (*((self.settings,) if self.settings else ()), *self.shared_settings)

    def _require_own(self, field_name: str, setting: str) -> None:
        """Raise ValueError where what a field of the declaration names is none of its settings."""
        if setting not in self.fields:
            allowed = ", ".join(self.fields) or "nothing, as it has no settings"
            raise ValueError(
                f"{self.kind} {self.name}: {field_name}: got '{setting}'; expected: of its settings, {allowed}"
            )

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of all its settings."""
        return tuple(name for record in self.records for name in record.model_fields)

    @property
    def title(self) -> str:
        """The name for people."""
        return self.label or self.name


def _require_defaults(where: str, record: type[Record]) -> None:
    """Raise ValueError where a record's settings cannot be left out of a study, or cannot be kept as text."""
    if required := [name for name, found in record.model_fields.items() if found.is_required()]:
        raise ValueError(f"{where}: {required[0]}: has no default; expected: one, for studies that do not set it")
    try:
        made = record()
        record.model_validate(dict(made))
    except ValidationError as error:
        raise ValueError(f"{where}: default of {first_mistake(error)}") from None
    for name, value in made.model_dump().items():
        try:
            json.dumps(value)
        except TypeError:
            allowed = "text, a number, true, false, null, or lists and mappings of them"
            raise ValueError(f"{where}: {name}: got {value!r} as its default; expected: {allowed}") from None


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
    guided: bool = False
    """Whether its steps follow the gradient of ln p(x, z), as a `flows.guided.GuidedFlow`: only models of images have
    one, and no such chain has an inverse: `inverse` is False then."""
    drawn: bool = False
    """Whether Figure 1 can show it: steps about the identity with drawn parameters, the biases of its `StepHead`."""
    one_step: bool = False
    """Whether K > 1 steps are no more than one: then any K > 0 is the one cell of K = 1."""
    matrix_biases: bool = True
    """Whether it may have biases of two axes or more, such as a row a step: then `train.decay_biases` changes its
    numbers. A bias is a parameter whose name, or whose list's, begins with `b_` or `bias`, or ends with `bias`."""
    colour: int | None = None
    """Its colour's place in the palette; None is the next one that is free."""
    examples: tuple[Mapping[str, Any], ...] = ({},)
    """Settings, field -> value, at which its contract is checked."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least_latent < 1:
            raise ValueError(f"flows {self.name}: least_latent: got {self.least_latent!r}; expected: 1 or more")
        for setting in self.inverse_needs:
            self._require_own("inverse_needs", setting)
        if self.guided and self.inverse:
            raise ValueError(
                f"flows {self.name}: inverse: got True with guided; expected: False, as no such chain has one"
            )


Values = str
"""What the numbers of an example are: `bits`; `levels` of grey, of which bits are drawn anew at every use; `patches`,
numbers within (0, 1), of levels that are dequantised or as they are; `real`, any numbers; `categories`, whole levels
0 ... n − 1 as they are. A plug-in may name others of its own, with a likelihood that is declared for them."""

MOST_CATEGORIES = 4096
"""Of levels that a number may have: each has weights of its own for each pixel."""


@dataclass(frozen=True, kw_only=True)
class DataSource(Declaration):
    """Where examples come from.

    What depends on settings is a function of the section `data`, an object with every setting as an attribute.
    """

    kind: Kind = field(init=False, default="data")
    values: Values | Callable[[Any], Values]
    """What a model meets in training; it picks the likelihood, and with it the unit of all bounds."""
    categories: int | Callable[[Any], int] | None = None
    """Of `categories`: n, how many levels a number may have, 0 ... n − 1, from 2 to 4096."""
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

    def __post_init__(self) -> None:
        super().__post_init__()
        for field_name in ("not_identity", "fixed"):
            for setting in getattr(self, field_name):
                self._require_own(field_name, setting)

    def values_of(self, data: Any) -> Values:
        """Return what the numbers are under the section `data`."""
        return self.values if isinstance(self.values, str) else str(self.asked("values", data))

    def splits_of(self, data: Any) -> tuple[int, int, int] | None:
        """Return how many examples the splits hold under the section `data`; None where that is not known."""
        found: tuple[int, int, int] | None = self.asked("splits", data)
        return found

    def categories_of(self, data: Any) -> int | None:
        """Return n of `categories` under the section `data`; None for values of another kind.

        Raises:
            SpecError: there are such values, and nothing that says how many levels they have.
        """
        if self.values_of(data) != "categories":
            return None
        count = self.asked("categories", data) if callable(self.categories) else self.categories
        if count is None or not 2 <= count <= MOST_CATEGORIES:
            allowed = f"how many levels there are, from 2 to {MOST_CATEGORIES}"
            raise SpecError(f"data {self.name}: values are categories, categories: got {count}; expected: {allowed}")
        return count


@dataclass(frozen=True, kw_only=True)
class Likelihood(Declaration):
    """A density or probability of an example given z, as `nfstudy.inference.likelihoods.base.Likelihood` says."""

    kind: Kind = field(init=False, default="likelihoods")
    values: tuple[Values, ...]
    """What it is the likelihood of."""
    per: str = "image"
    """What bounds are nats per."""
    implementation: Implementation
    """A class, called with the numbers of an example, the features and the section `model`; of categories, with
    how many `levels` there are too."""
    draws: bool | None = None
    """Whether it has `draw`, by which the sleep phase of wake-sleep dreams; None where its class is to be asked."""

    @property
    def draws_images(self) -> bool:
        """Whether it has `draw`; loads its class where the declaration does not say."""
        return _draws(self.implementation) if self.draws is None else self.draws


@cache
def _draws(implementation: Implementation) -> bool:
    """Say whether a likelihood's class has a `draw` beside that of the class it is made from, which only raises."""
    try:
        family = load(implementation).__mro__
    except (Exception, SystemExit):  # Somebody else's code; that it cannot be loaded is told before any training.
        return True
    return any("draw" in vars(each) for each in family if each.__module__ != "nfstudy.inference.likelihoods.base")


Annealing = Literal["energy", "kl", "none"]
"""What β multiplies; see `nfstudy.study.sections.ObjectiveSpec`."""


@dataclass(frozen=True, kw_only=True)
class GradientEstimator(Declaration):
    """An objective and how its gradient is estimated, as `nfstudy.inference.objectives.base.Estimator` says.

    What depends on settings is a function of the section `objective`, an object with every setting as an attribute.
    """

    kind: Kind = field(init=False, default="estimators")
    implementation: Implementation
    """A class, called with the section `objective`, the numbers of an example, and the device."""
    meaning: str = ""
    """What it minimises and how, in one line."""
    annealing: tuple[Annealing, ...] = ("energy", "kl", "none")
    """The values of `objective.annealing` under which it is defined."""
    density: bool = False
    """Whether it needs ln q_K(z|x) itself, of which a guided family has an integral only."""
    sleeps: Callable[[Any], bool] = lambda objective: False
    """Whether it draws z from the prior and x from p(x|z), and asks for ln q_K(z|x) there, by the flow's inverse."""
    examples_only: Callable[[Any], bool] = lambda objective: False
    """Whether it needs examples x, of which there are none on the plane."""
    free_bits: bool = False
    """Whether it takes `objective.free_bits`."""
    least_samples: Callable[[Any], int] = lambda objective: 1
    """The least `objective.samples`."""
    idle: Callable[[Any], Collection[str]] = lambda objective: ()
    """Which of its settings the others leave without effect."""
    examples: tuple[Mapping[str, Any], ...] = ({},)
    """Settings, field -> value, at which it is checked, and at which runs measure the variance of its gradient where a
    study shows that."""

    _names: ClassVar[str] = r"[a-z0-9][a-z0-9-]*"
    _names_text: ClassVar[str] = "small letters, digits and -"

    def does_sleep(self, objective: Any) -> bool:
        """Say under the section `objective` whether it draws from p(x|z) and the prior; see `sleeps`."""
        return bool(self.asked("sleeps", objective))

    def takes_examples_only(self, objective: Any) -> bool:
        """Say under the section `objective` whether it needs examples."""
        return bool(self.asked("examples_only", objective))

    def least_samples_of(self, objective: Any) -> int:
        """Return the least `objective.samples` under the section `objective`."""
        return int(self.asked("least_samples", objective))

    @property
    def variants(self) -> dict[str, Mapping[str, Any]]:
        """Return a word -> settings of each example, such as `score-function-running`."""
        found = {}
        for example in self.examples:
            words = (str(value) if isinstance(value, str) else f"{key}-{value}" for key, value in example.items())
            found["-".join((self.name, *words))] = example
        return found

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What runs log of it where a study shows the variance of gradients: one metric an example."""
        return tuple(
            Metric(
                name=variance_metric(variant),
                label=variant.replace("-", " "),
                meaning=f"tr Cov of the gradient over q's weights by {variant}, β = 1, always of one minibatch",
                unit="nats²",
                better="lower",
            )
            for variant in self.variants
        )


def variance_metric(variant: str) -> str:
    """Return the name of the metric that a variant of an estimator is measured by."""
    return f"train/gradient_variance_{re.sub('[^a-z0-9]', '_', variant)}"


def load(implementation: Implementation) -> Any:
    """Import or make what a declaration refers to.

    Raises:
        ImportError: the module cannot be imported, or the text is not `package.module:name`.
        AttributeError: it has no such name.
    """
    if not isinstance(implementation, str):
        return implementation()
    module, _, name = implementation.partition(":")
    if not (name and module and not module.startswith(".")):
        raise ImportError(f"got '{implementation}'; expected: package.module:name")
    return getattr(import_module(module), name)


def declarations_of(module: ModuleType) -> list[Declaration]:
    """Return the declarations among a module's names, alone or in tuples, in their order, each once."""
    values = [value if isinstance(value, tuple) else (value,) for value in vars(module).values()]
    found = [value for group in values for value in group if isinstance(value, Declaration)]
    return list({id(value): value for value in found}.values())


@dataclass(frozen=True, kw_only=True)
class Metric(Declaration):
    """A number that is logged, and how reports show it.

    Those of the suite are logged by its problems. One from outside is of the test split and has a function `compute`,
    which is called once at the end of each repetition of a study that shows an exhibit with this metric.
    """

    kind: Kind = field(init=False, default="metrics")
    name: str
    """As it is logged: the split (train, valid, test or time) and a word, such as `test/nll`."""
    label: str = ""
    """As in the head of a table, such as `−ln p(x)`."""
    heading: str = ""
    """As over a figure, without its unit; the label where it is empty."""
    meaning: str
    """In one line, a formula where there is one."""
    unit: str
    better: Literal["higher", "lower", "none"] = "none"
    """Which way the logged number is better."""
    sign: Literal[1, -1] = 1
    """−1 where reports show the negative of what is logged: F = −ELBO, as the paper does."""
    decimals: int = 2
    """In tables."""
    mark: Literal["", "≤", "≥"] = ""
    """Where the truth is, beside what is shown: `≤` before an upper bound on it, as the paper's Table 2 has it."""
    settled: bool = False
    """Whether it is a count that the settings alone decide: shown without an error, where all runs have the same."""
    needs: Needs = field(default_factory=dict, hash=False)
    """Settings without which a run does not have it."""
    compute: Function | None = None
    """(problem, generator) -> float: of a trained `inference.problems.Problem`, by draws from a `torch.Generator` that
    is seeded by the study's seed and the metric's name."""

    _names: ClassVar[str] = r"(train|valid|test|time)/[a-z0-9_]+"
    _names_text: ClassVar[str] = "such as test/active_units"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decimals < 0:
            raise ValueError(f"metrics {self.name}: decimals: got {self.decimals}; expected: 0 or more")
        if self.compute and self.split != "test":
            raise ValueError(f"metric {self.name}: compute: expected: with a name that begins with test/")

    @property
    def split(self) -> str:
        """`train`, `valid`, `test` or `time`."""
        return self.name.partition("/")[0]

    @property
    def title(self) -> str:
        """The name in tables."""
        return self.label or self.name.partition("/")[2].replace("_", " ")

    @property
    def long_title(self) -> str:
        """The name over a figure, without its unit."""
        return self.heading or self.title


class ExhibitOptions(Record):
    """The options of an exhibit, strictly read; a subclass declares them."""

    def axes(self) -> dict[str, str]:
        """Return option -> dotted path of those that name what the study varies."""
        return {}


@dataclass(frozen=True, kw_only=True)
class ExhibitDeclaration(Declaration):
    """A table or figure that a study may ask for by name; what is made of it is a `report.exhibits.base.Exhibit`."""

    kind: Kind = field(init=False, default="exhibits")
    make: Function
    """(results: `report.statistics.estimates.Results`) -> Exhibit; called when a report is made, with the `options` as
    a second argument where there are such."""
    options: type[ExhibitOptions] | None = None
    """What a study file may say of it beside its name: `{name: curve, x: model.latent}`."""
    needs: Needs = field(default_factory=dict, hash=False)
    """Settings that a study must have for it."""
    not_of: tuple[Values, ...] = ()
    """Values of data that it cannot be of, such as those that have densities."""
    of_search: bool = False
    """Whether it is about a search, and shown under budgets that have one or a sampler."""
    readme: Function | None = None
    """(results) -> `report.tables.Table`: a short table of it for docs/results.md; None for nothing."""
    bodies: Function | None = None
    """(sequence of results) -> Exhibit: its tables with a column for each body of evidence, a study with it under a
    budget, at the head of the front page and, the first of them, of README; None for nothing. A column is headed by the
    body's name, with ` *` behind it where the exhibit's text tells what is not as in the paper."""
    leads: bool = False
    """Whether the front page and README begin with its first figure, of the first study with it that has runs."""
    paper: str = ""
    """Name of the paper whose table or figure it rebuilds."""
    gradients: bool = False
    """Whether it shows the variance of gradients along trainings: the first repetition of each cell of a study with it
    logs that of every estimator. No key depends on it."""
    films: bool = False
    """Whether it shows films (`nfstudy.films`): the repetitions of a study with it log them. No key depends on it."""
    fits: bool = False
    """Whether it shows densities on the plane beside MCMC (`nfstudy.films.fits`): the repetitions of a study with it
    log them. No key depends on it."""
    metrics: tuple[Metric, ...] = ()
    """Further metrics that the runs of a study with this exhibit must log: those that it brings along."""


@dataclass(frozen=True, kw_only=True)
class Paper(Declaration):
    """A published paper that studies rebuild: its citation, its claims, and what it says of settings and numbers."""

    kind: Kind = field(init=False, default="papers")
    heading: str = ""
    """Its title; the label is a short form."""
    citation: str
    url: str = ""
    """Where it can be read; pages link to it."""
    claims: str | Callable[[], str] = ""
    """`package:file` of the claims ledger, or a function that returns its text; empty without one."""
    facts: Implementation | None = None
    """A `report.paper.PaperFacts`; None where the paper's numbers and settings are set beside nothing."""

    @property
    def long_title(self) -> str:
        """Its title, the short form where only that is given."""
        return self.heading or self.title


def unmet_need(needs: Needs, flat: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]] | None:
    """Return the first need that settings do not meet, as (dotted path, values allowed); None where all are met.

    Arguments:
        needs: what must be there.
        flat: dotted path -> value of the settings in use.
    """
    for path, values in needs.items():
        if path not in flat or (values and flat[path] not in values):
            return path, values
    return None


def load_function(function: Function) -> Callable[..., Any]:
    """Import what is named by its place; raises ImportError or AttributeError as `load` does."""
    return load(function) if isinstance(function, str) else function
