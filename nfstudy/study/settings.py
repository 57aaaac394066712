"""All settings that can change a run's numbers, and none that cannot (workers, device, paths).

A setting is named by its dotted path, such as `flow.length`; what each means stands in `nfstudy.study.sections`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from nfstudy.core import registry
from nfstudy.core.declarations import FlowFamily, Kind
from nfstudy.core.fields import Record
from nfstudy.study.lr_schedules import OneCycleLR
from nfstudy.study.sections import (
    MOST_LATENT,
    DataSpec,
    DrawnSpec,
    EnergySpec,
    EvaluationSpec,
    FlowSpec,
    ModelSpec,
    ObjectiveSpec,
    Q0Spec,
    TrainSpec,
)

Problem = Literal["images", "energy", "drawn"]
"""What is approximated: the posteriors of a model of images, a density on the plane, or nothing (Figure 1)."""

SECTIONS: dict[Problem, tuple[str, ...]] = {
    "images": ("data", "model", "flow", "objective", "train", "evaluation", "seed"),
    "energy": ("energy", "q0", "flow", "objective", "train", "evaluation", "seed"),
    "drawn": ("drawn", "flow", "seed"),
}
"""Problem -> the sections of settings that it uses; each problem is known by its first one."""

# Settings that one choice makes idle, and so no part of a cell's identity: setting -> (its switch, values that use it).
_ACTIVE_WHEN: dict[str, tuple[str, tuple[Any, ...]]] = {
    "energy.half_width": ("energy.name", ("u2", "u3", "u4")),
    "energy.edge": ("energy.name", ("u2", "u3", "u4")),
    "objective.beta_start": ("objective.annealing", ("energy", "kl")),
    "objective.anneal_updates": ("objective.annealing", ("energy", "kl")),
    "train.momentum": ("train.optimiser", ("rmsprop",)),
    "train.decay": ("train.optimiser", ("rmsprop",)),
    "train.beta1": ("train.optimiser", ("adam",)),
    "train.beta2": ("train.optimiser", ("adam",)),
    "train.weight_decay": ("train.optimiser", ("adam",)),
    "flow.initial_scale": ("problem", ("images",)),
    "train.precision": ("problem", ("images",)),
    "evaluation.test_images": ("problem", ("images",)),
    "evaluation.tight_samples": ("problem", ("images",)),
    "evaluation.tight_images": ("problem", ("images",)),
    "evaluation.valid_images": ("problem", ("images",)),
    "evaluation.valid_samples": ("problem", ("images",)),
}

ADDED_SINCE_KEY_VERSION: dict[str, Any] = {
    "train.weight_decay": 0.0,
    "train.precision": "float32",
    "train.averaging": None,
    "train.keep": "last",
    "train.decay_biases": True,
    "evaluation.tight_samples": 5000,
    "evaluation.tight_images": 1000,
    "evaluation.valid_images": None,
    "evaluation.valid_samples": 0,
    "model.likelihood": None,
    "flow.initial_scale": 1.0,
    "model.stochastic_layers": 1,
    "model.latent_ratio": 1.0,
    "objective.estimator": "pathwise",
    "objective.samples": 1,
    "objective.free_bits": None,
}
"""Settings younger than `cells.KEY_VERSION`, and the value of each that means what was done before there was a choice.
At that value they are no part of a cell's identity, so that runs made before keep their place. It is the default too,
but for `train.decay_biases`, where what was done before is not what should be done; and runs made before there was a
tight estimate are those without one, as it changes no other number."""


def active_when() -> dict[str, tuple[str, tuple[Any, ...]]]:
    """Return setting -> (its switch, the values that use it) of every setting that one choice can make idle."""
    return _tables(registry.version())[0]


def is_switch(path: str) -> bool:
    """Say whether a choice of this setting can put others to use, or out of it."""
    switches = {switch for switch, _ in active_when().values()}
    further = ("flow.length", "model.likelihood", "model.stochastic_layers", "train.weight_decay")
    return path in switches or path in further or path.startswith(("data.", "objective."))


def setting_defaults() -> dict[str, Any]:
    """Return dotted path -> default of every setting that has one."""
    return _tables(registry.version())[1]


@lru_cache(maxsize=1)
def _tables(version: int) -> tuple[dict[str, tuple[str, tuple[Any, ...]]], dict[str, Any]]:
    """Return both, for what is declared at present."""
    active: dict[str, tuple[str, tuple[Any, ...]]] = {}
    switches: tuple[tuple[Kind, str, str], ...] = (
        ("data", "data", "data.name"),
        ("flows", "flow", "flow.family"),
        ("estimators", "objective", "objective.estimator"),
    )
    for kind, section, switch in switches:
        for name, declaration in registry.all_of(kind).items():
            for field in declaration.fields:
                _, names = active.get(f"{section}.{field}", ("", ()))
                active[f"{section}.{field}"] = (switch, (*names, name))
    active |= _ACTIVE_WHEN
    defaults = {
        path: value
        for settings in example_settings()
        for path, value in flatten(settings.model_dump(include=set(SECTIONS[settings.problem])))
        if path not in CHOICES
    }
    return active, defaults


def example_settings() -> tuple[Settings, ...]:
    """Return settings of each problem, at their defaults where they have one."""
    return (
        Settings(data=DataSpec(name="digits")),
        Settings(energy=EnergySpec(name="u1")),
        Settings(drawn=DrawnSpec(density="normal")),
    )


class Settings(Record):
    """All that can change a run's numbers, but for the repetition. Exactly one of data, energy and drawn is given."""

    data: DataSpec | None = None
    energy: EnergySpec | None = None
    drawn: DrawnSpec | None = None
    q0: Q0Spec = Q0Spec()
    model: ModelSpec = Field(default_factory=ModelSpec)
    flow: FlowSpec = Field(default_factory=FlowSpec)
    objective: ObjectiveSpec = Field(default_factory=ObjectiveSpec)
    train: TrainSpec = TrainSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1

    @property
    def problem(self) -> Problem:
        """What is approximated."""
        return "images" if self.data else "energy" if self.energy else "drawn"

    @property
    def latent(self) -> int:
        """D, the number of variables that the flow transforms; of all stochastic layers together."""
        return sum(self.model.latent_sizes) if self.data else 2

    @model_validator(mode="after")
    def _possible(self) -> Settings:
        for path, value, allowed in _impossible(self):
            raise ValueError(f"{path}: got {value}; expected: {allowed}")
        return self

    def replace(self, values: Mapping[str, Any]) -> Settings:
        """Return these settings with others at some dotted paths; raises pydantic's ValidationError if impossible."""
        try:
            changed = self.model_copy(update=_changed_sections(self, values))
            if next(_impossible(changed), None) is None:
                return changed
        except ValidationError:
            pass
        # The whole record is validated only where that is needed: for its error, which names the setting's whole path.
        return Settings.model_validate(_tree_with(self, values))

    def normalized(self) -> Settings:
        """Return the one form of all settings that mean the same training.

        No flow and a flow of length 0 become family `none` with length 0, a family whose steps are no more than one has
        length 1, and idle settings go back to their defaults.
        """
        values: dict[str, Any] = {}
        if self.flow.length == 0 or self.flow.family == "none":
            values |= {"flow.family": "none", "flow.length": 0}
        elif registry.find("flows", self.flow.family).one_step:
            values["flow.length"] = 1
        settings = self.replace(values)
        defaults = setting_defaults()
        unused = {
            name: field.get_default(call_default_factory=True)
            for name, field in Settings.model_fields.items()
            if name not in self._sections
        }
        settings = settings.model_copy(update=unused)
        return settings.replace({path: defaults[path] for path in settings._inactive()})

    def flat(self) -> dict[str, Any]:
        """Return dotted path -> value for every setting in use, in the order of the records."""
        idle = set(self._inactive())
        used = flatten(self.model_dump(include=set(self._sections)))
        return {path: value for path, value in used if path not in idle}

    def recorded(self) -> Settings:
        """Return them as runs keep them: a data file outside the project by its name, as folders are of one machine."""
        fields = self.data.declaration.not_identity if self.data else ()
        values = {field: getattr(self.data, field) for field in fields}
        outside = {f: Path(v).name for f, v in values.items() if isinstance(v, str) and Path(v).is_absolute()}
        return self.model_copy(update={"data": self.data.model_copy(update=outside)}) if outside and self.data else self

    def identity(self) -> dict[str, Any]:
        """Return what of `flat` tells these settings from others, and the plug-ins' versions.

        See `ADDED_SINCE_KEY_VERSION` and `DataSource.not_identity`.
        """
        others = {f"data.{field}" for field in self.data.declaration.not_identity} if self.data else set()
        flat = {path: value for path, value in self.flat().items() if path not in others}
        flat = {path: value for path, value in flat.items() if (path, value) not in ADDED_SINCE_KEY_VERSION.items()}
        return flat | {f"origin.{kind}.{name}": origin.identity for (kind, name), origin in self.origins().items()}

    def origins(self) -> dict[tuple[Kind, str], registry.Origin]:
        """Return (kind, name) -> origin of what of these settings comes from outside."""
        used: list[tuple[Kind, str]] = [("flows", self.flow.family)] if self.flow.length else []
        if "objective" in self._sections:
            used.append(("estimators", self.objective.estimator))
        if self.data:
            likelihood = registry.likelihood_of(self.data.values, self.model.likelihood)
            used += [("data", self.data.name), ("likelihoods", likelihood.name)]
        found = {(kind, name): registry.origin_of(kind, name) for kind, name in used}
        return {key: origin for key, origin in found.items() if origin != registry.BUILT_IN}

    @property
    def _biases_may_decay(self) -> bool:
        """Whether `train.decay_biases` changes a number: there is a decay, and a flow with biases to decay."""
        family: FlowFamily = registry.find("flows", self.flow.family)
        decay = self.train.optimiser == "adam" and self.train.weight_decay > 0
        return decay and self.flow.length > 0 and family.matrix_biases

    @property
    def _sections(self) -> tuple[str, ...]:
        return SECTIONS[self.problem]

    def _inactive(self) -> list[str]:
        rules = active_when()
        present = {switch: _value_at(self, switch) for switch in {switch for switch, _ in rules.values()}}
        idle = [
            path
            for path, (switch, values) in rules.items()
            if present[switch] not in values and getattr(self, path.partition(".")[0])
        ]
        if not self._biases_may_decay:
            idle.append("train.decay_biases")
        if self.flow.length == 0:
            idle.append("flow.initial_scale")
        if self.data and self.model.stochastic_layers == 1:
            idle.append("model.latent_ratio")
        if "objective" in self._sections:
            idle += [f"objective.{field}" for field in self.objective.declaration.idle_of(self.objective)]
        if self.data:
            used = registry.likelihood_of(self.data.values, self.model.likelihood).fields
            further = (field for record in registry.records_of("likelihoods") for field in record.model_fields)
            idle += [f"data.{field}" for field in self.data.declaration.idle_of(self.data)]
            idle += [f"model.{field}" for field in further if field not in used]
            if len(registry.likelihoods_of(self.data.values)) == 1:
                idle.append("model.likelihood")
        return idle


def _value_at(settings: Settings, path: str) -> Any:
    """Return the value at a dotted path, None where the settings have no such section."""
    value: Any = settings
    for part in path.split("."):
        value = getattr(value, part, None)
    return value


def _changed_sections(settings: Settings, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return section -> its new record: only what changes is validated, and all else stays the same object.

    Raises:
        ValidationError: a section is impossible in itself; settings may be so together.
    """
    changes: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        section, *within = path.split(".")
        present = getattr(settings, section)
        if len(within) != 1 or present is None:  # A section itself, or one that was not there, or a schedule's part.
            return dict(Settings.model_validate(_tree_with(settings, values)))
        changes.setdefault(section, {})[within[0]] = value
    return {section: _changed(getattr(settings, section), fields) for section, fields in changes.items()}


MAX_SECTIONS = 10_000
_CHANGED: dict[tuple[Any, ...], tuple[Record, Record]] = {}
"""(Version of the registry, id of a section, what changes in it) -> that section, kept for its id, and the changed one.

In a grid the same few changes of the same few sections come again and again. Texts of values tell apart what is equal
and not the same, such as 0.0 and −0.0."""


def _changed(section: Record, fields: Mapping[str, Any]) -> Record:
    """Return a section with other values of some fields, the same object each time; raises ValidationError."""
    key = (registry.version(), id(section), *((field, repr(value)) for field, value in fields.items()))
    if key not in _CHANGED:
        changed = type(section).model_validate({**section.model_dump(), **fields})
        if len(_CHANGED) >= MAX_SECTIONS:
            _CHANGED.clear()
        _CHANGED[key] = section, changed
    return _CHANGED[key][1]


def _tree_with(settings: Settings, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as nested mappings, with other values at some dotted paths."""
    tree = settings.model_dump()
    for path, value in values.items():
        *parents, leaf = path.split(".")
        branch = tree
        for parent in parents:
            branch[parent] = branch = branch[parent] or {}
        branch[leaf] = value
    return tree


def _impossible(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    """Yield the settings that others make impossible: the one to blame, its value, and what would do."""
    given = [name for name in ("data", "energy", "drawn") if getattr(settings, name)]
    if len(given) != 1:
        yield "data", " and ".join(given) or "nothing", "exactly one of data, energy and drawn"
    elif settings.data:
        yield from _impossible_images(settings, settings.data)
    elif unmet := [*_impossible_on_the_plane(settings)]:
        yield from unmet
    elif settings.objective.annealing == "kl":
        yield "objective.annealing", "kl", "energy or none on the plane, where there is no likelihood"
    if len(given) == 1 and not settings.drawn:
        yield from impossible_objective(settings)
    if isinstance(cycle := settings.train.schedule, OneCycleLR):
        steps = cycle.total_steps or settings.train.updates
        if steps < settings.train.updates:
            yield "train.schedule.total_steps", steps, f"at least train.updates, {settings.train.updates}"
        if cycle.pct_start * steps == 1:
            allowed = "a warm-up other than one update, by which torch would divide by zero"
            yield "train.schedule.pct_start", cycle.pct_start, allowed


def impossible_objective(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    """Yield what the estimator's declaration does not allow of the other settings, as `_impossible` does."""
    objective, declared = settings.objective, settings.objective.declaration
    own = (field for field in declared.fields if field not in declared.idle_of(objective))
    words = ", ".join(f"{field} {getattr(objective, field)}" for field in own)
    name = f"objective.estimator {declared.name}{f' ({words})' if words else ''}"
    if objective.annealing not in declared.annealing:
        yield "objective.annealing", objective.annealing, f"{' or '.join(declared.annealing)} with {name}"
    if objective.samples < (least := declared.least_samples_of(objective)):
        yield "objective.samples", objective.samples, f"at least {least} with {name}"
    if objective.free_bits is not None:
        if not declared.free_bits:
            takers = [other.name for other in registry.all_of("estimators").values() if other.free_bits]
            yield "objective.free_bits", objective.free_bits, f"null with {name}; free bits are of {', '.join(takers)}"
        elif objective.annealing == "energy":
            allowed = "null with objective.annealing energy, whose β is no factor of the KL; or kl or none there"
            yield "objective.free_bits", objective.free_bits, allowed
        elif settings.energy:
            yield "objective.free_bits", objective.free_bits, "null on the plane, where there is no prior"
    flow = settings.flow
    family: FlowFamily = registry.find("flows", flow.family)
    others = "one that needs no ln q_K(z|x)"
    if declared.density and family.guided and flow.length:
        allowed = f"{others} with flow.family {family.name}, whose q_K is an integral"
        yield "objective.estimator", declared.name, allowed
    if settings.energy and declared.takes_examples_only(objective):
        allowed = f"on the plane, where there are no examples x, one that needs none; {name} needs them"
        yield "objective.estimator", declared.name, allowed
    if settings.data and declared.does_sleep(objective):
        likelihood = registry.likelihood_of(settings.data.values, settings.model.likelihood)
        if not likelihood.draws_images:
            allowed = f"one without a sleep phase with the likelihood {likelihood.name}, which draws no images"
            yield "objective.estimator", declared.name, allowed
        if flow.length and not family.inverse:
            allowed = f"one without a sleep phase with flow.family {family.name}, which has no inverse"
            yield "objective.estimator", declared.name, allowed
        for field, value in family.inverse_needs.items() if flow.length else ():
            if (got := getattr(flow, field)) != value:
                yield f"flow.{field}", got, f"{json.dumps(value)} with {name}, whose sleep phase inverts the flow"


def _impossible_on_the_plane(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    families: dict[str, FlowFamily] = registry.all_of("flows")
    family = families[settings.flow.family]
    why = "on the plane, where densities need the inverse of the flow"
    if not family.inverse:
        has_one = ", ".join(name for name, other in families.items() if other.inverse)
        yield "flow.family", family.name, f"{has_one} {why}"
    if settings.flow.length and family.least_latent > 2:
        allowed = f"one of two variables; on the plane there are no more, and it takes {family.least_latent}"
        yield "flow.family", family.name, allowed
    for field, value in family.inverse_needs.items():
        if (got := getattr(settings.flow, field)) != value:
            yield f"flow.{field}", got, f"{json.dumps(value)} {why}"
    drawn = ["none", *(name for name, other in families.items() if other.drawn)]
    if settings.drawn and family.name not in drawn:
        yield "flow.family", family.name, f"{', '.join(drawn[:-1])} or {drawn[-1]} with drawn"


def _impossible_images(settings: Settings, data: DataSpec) -> Iterator[tuple[str, Any, str]]:
    model = settings.model
    likelihoods = registry.likelihoods_of(data.values)
    if model.likelihood is not None and model.likelihood not in likelihoods:
        yield "model.likelihood", model.likelihood, f"{', '.join(likelihoods)} for data of {data.values}"
        return
    train, valid, test = data.examples() or (None, None, None)
    yield from _impossible_layers(settings)
    if data.training_split != "train" and settings.train.keep == "best":
        yield "train.keep", "best", f"last with data.training_split {data.training_split}, {TRAINED_ON}"
    if data.training_split != "train" and settings.evaluation.valid_samples:
        allowed = f"0 with data.training_split {data.training_split}, {TRAINED_ON}"
        yield "evaluation.valid_samples", settings.evaluation.valid_samples, allowed
    if settings.evaluation.valid_samples == 1:
        yield "evaluation.valid_samples", 1, "0, or at least 2"
    if data.training_split != "train" and data.values in ("levels", "patches"):
        allowed = "train, where training images are drawn anew and validation images are not"
        yield "data.training_split", data.training_split, allowed
    if train and (data.train_images or 0) > train:
        yield "data.train_images", data.train_images, f"at most {train}, the training images of {data.name}"
    if test and (settings.evaluation.test_images or 0) > test:
        test_images = settings.evaluation.test_images
        yield "evaluation.test_images", test_images, f"at most {test}, the test images of {data.name}"
    if valid and (settings.evaluation.valid_images or 0) > valid:
        valid_images = settings.evaluation.valid_images
        yield "evaluation.valid_images", valid_images, f"at most {valid}, the validation images of {data.name}"
    if settings.train.batch > (data.train_images or train or math.inf):
        yield "train.batch", settings.train.batch, f"at most {data.train_images or train}, the training images"
    if model.hidden_counts == "pieces" and model.hidden % model.maxout:
        allowed = f"pieces that divide into windows of model.maxout, {model.maxout}"
        yield "model.hidden", model.hidden, allowed


def _impossible_layers(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    """Yield what is wrong with the numbers of latent variables: each layer has its chain, a guided one spans all."""
    model, flow = settings.model, settings.flow
    family: FlowFamily = registry.all_of("flows")[flow.family]
    least = family.least_latent if flow.length > 0 else 1
    why = f" with flow.family {flow.family}" + (f", which {family.why_least}" if family.why_least else "")
    smallest = settings.latent if family.guided else min(model.latent_sizes)
    if max(model.latent_sizes) > MOST_LATENT:
        allowed = f"one at which none of model.stochastic_layers, {model.stochastic_layers}, has over {MOST_LATENT:,}"
        yield "model.latent_ratio", model.latent_ratio, f"{allowed} variables, model.latent being {model.latent:,}"
    elif smallest < least and (model.stochastic_layers == 1 or model.latent < least):
        yield "model.latent", model.latent, f"at least {least}{why}"
    elif smallest < least:
        sizes = " + ".join(map(str, model.latent_sizes))
        allowed = f"one at which each stochastic layer has at least {least} variables, not {sizes},{why}"
        yield "model.latent_ratio", model.latent_ratio, allowed


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, leaf value) of a nested mapping, depth first."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


TRAINED_ON = "which trains on the images of the validation bound"
CHOICES = ("data.name", "energy.name", "drawn.density")
"""The settings that have no default."""
