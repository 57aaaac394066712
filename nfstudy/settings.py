"""All settings that can change a run's numbers, and none that cannot (workers, device, paths).

Every number is in nats or counts unless the field says otherwise. A setting is named by its dotted path, such as
`flow.length`. Free of torch, which is why the families and data sets are named here once more; a test holds them equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from nfstudy.records import Count, Fraction, Positive, Record
from nfstudy.schedules import ConstantSchedule, OneCycleLR, Schedule

Family = Literal["none", "planar", "radial", "nice-perm", "nice-orth"]
NICE_FAMILIES = ("nice-perm", "nice-orth")

IMAGES = {"digits": (1197, 300, 300), "mnist": (50_000, 10_000, 10_000)}
"""Data set -> how many images its training, validation and test splits hold."""


class DataSpec(Record):
    """Which images, and how grey levels become bits; each binarisation is a data set of its own."""

    name: Literal["digits", "mnist"]
    binarisation: Literal["static", "dynamic", "threshold"] = "static"
    train_images: Count | None = None
    """Train on the first so many training images only; null is all of them."""


class ModelSpec(Record):
    """The deep latent Gaussian model: one stochastic layer, mirrored Maxout networks on both sides."""

    latent: Annotated[int, Field(ge=1, le=100_000)] = 40
    hidden: Annotated[int, Field(ge=1, le=100_000)] = 400
    layers: Annotated[int, Field(ge=1, le=100)] = 2
    maxout: Annotated[int, Field(ge=1, le=1000)] = 4
    """Window Δ: each unit is the largest of so many linear pieces (Goodfellow et al. 2013)."""
    hidden_counts: Literal["units", "pieces"] = "units"
    """Whether `hidden` counts units (after the maximum) or linear pieces (before it); the paper does not say."""


class FlowSpec(Record):
    """The normalizing flow between q0 and q_K."""

    family: Family = "none"
    length: Annotated[int, Field(ge=0, le=100_000)] = 0
    """K, the number of transformations; 0 is the diagonal Gaussian whatever the family."""
    coupling_hidden: Annotated[int, Field(ge=1, le=100_000)] = 40
    """NICE only: tanh units in each coupling network."""


class ObjectiveSpec(Record):
    """What is minimised: the free energy with β_t = min(1, beta_start + t / anneal_updates), eq. (20)."""

    annealing: Literal["energy", "kl", "none"] = "energy"
    """`energy`: β multiplies the whole log joint, as in eq. (20); `kl`: β multiplies ln q − ln p(z); `none`: β = 1."""
    beta_start: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.01
    anneal_updates: Count = 10_000


class TrainSpec(Record):
    """One stochastic-gradient training; the defaults are the paper's (Section 6.2)."""

    updates: Count = 500_000
    batch: Count = 100
    optimiser: Literal["rmsprop", "adam"] = "rmsprop"
    learning_rate: Positive = 1e-5
    momentum: Fraction = 0.9
    """RMSprop only."""
    decay: Fraction = 0.99
    """RMSprop only: of the running mean of squared gradients (torch's alpha; the paper gives none)."""
    beta1: Fraction = 0.9
    """Adam only."""
    beta2: Fraction = 0.999
    """Adam only."""
    epsilon: Positive = 1e-8
    clip_norm: Positive | None = None
    """Scale gradients down to this norm where they exceed it; null is never."""
    schedule: Schedule = ConstantSchedule(name="constant")


class EvaluationSpec(Record):
    """How the held-out numbers are estimated."""

    samples: Annotated[int, Field(ge=2, le=10_000_000)] = 200
    """S, importance samples for each test image."""
    test_images: Count | None = None
    """Evaluate the first so many test images only; null is all of them."""


# Settings that one choice makes idle, and so no part of a cell's identity: setting -> (its switch, values that use it).
USED_WHEN: dict[str, tuple[str, tuple[str, ...]]] = {
    "flow.coupling_hidden": ("flow.family", NICE_FAMILIES),
    "objective.beta_start": ("objective.annealing", ("energy", "kl")),
    "objective.anneal_updates": ("objective.annealing", ("energy", "kl")),
    "train.momentum": ("train.optimiser", ("rmsprop",)),
    "train.decay": ("train.optimiser", ("rmsprop",)),
    "train.beta1": ("train.optimiser", ("adam",)),
    "train.beta2": ("train.optimiser", ("adam",)),
}


class Settings(Record):
    """All that can change a run's numbers, but for the repetition."""

    data: DataSpec
    model: ModelSpec = ModelSpec()
    flow: FlowSpec = FlowSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    train: TrainSpec = TrainSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1

    @model_validator(mode="after")
    def _possible(self) -> Settings:
        nice = self.flow.family in NICE_FAMILIES and self.flow.length > 0
        train_images, _, test_images = IMAGES[self.data.name]
        cycle = self.train.schedule if isinstance(self.train.schedule, OneCycleLR) else None
        cycle_steps = cycle and (cycle.total_steps or self.train.updates)
        pieces = self.model.hidden if self.model.hidden_counts == "pieces" else 0
        # Of each: the setting to blame, whether it is impossible, and what would do.
        checks: tuple[tuple[str, Any, bool, str], ...] = (
            (
                "model.latent",
                self.model.latent,
                nice and self.model.latent < 2,
                f"at least 2 with flow.family {self.flow.family}, which splits the latent variables in two",
            ),
            (
                "data.train_images",
                self.data.train_images,
                (self.data.train_images or 0) > train_images,
                f"at most {train_images}, the training images of {self.data.name}",
            ),
            (
                "evaluation.test_images",
                self.evaluation.test_images,
                (self.evaluation.test_images or 0) > test_images,
                f"at most {test_images}, the test images of {self.data.name}",
            ),
            (
                "train.batch",
                self.train.batch,
                self.train.batch > (self.data.train_images or train_images),
                f"at most {self.data.train_images or train_images}, the training images",
            ),
            (
                "train.schedule.total_steps",
                cycle_steps,
                cycle_steps is not None and cycle_steps < self.train.updates,
                f"at least train.updates, {self.train.updates}",
            ),
            (
                "train.schedule.pct_start",
                cycle and cycle.pct_start,
                cycle is not None and cycle.pct_start * (cycle_steps or 0) == 1,
                "a rise of other than one update, by which torch would divide by zero",
            ),
            (
                "model.hidden",
                self.model.hidden,
                pieces % self.model.maxout != 0,
                f"pieces that divide into windows of model.maxout, {self.model.maxout}",
            ),
        )
        for path, value, impossible, allowed in checks:
            if impossible:
                raise ValueError(f"{path}: got {value}; allowed: {allowed}")
        return self

    def replace(self, values: Mapping[str, Any]) -> Settings:
        """Return these settings with others at some dotted paths; raises pydantic's ValidationError if impossible."""
        tree = self.model_dump()
        for path, value in values.items():
            *parents, leaf = path.split(".")
            branch = tree
            for parent in parents:
                branch = branch[parent]
            branch[leaf] = value
        return Settings.model_validate(tree)

    def canonical(self) -> Settings:
        """Return the one form of all settings that mean the same training.

        No flow and a flow of length 0 become family `none` with length 0, and idle settings go back to their defaults.
        """
        values: dict[str, Any] = {}
        if self.flow.length == 0 or self.flow.family == "none":
            values |= {"flow.family": "none", "flow.length": 0}
        settings = self.replace(values)
        return settings.replace({path: SETTING_DEFAULTS[path] for path in settings._idle()})

    def flat(self) -> dict[str, Any]:
        """Return dotted path -> value for every setting in use, in the order of the records."""
        idle = set(self._idle())
        return {path: value for path, value in flatten(self.model_dump()) if path not in idle}

    def _idle(self) -> list[str]:
        flat = dict(flatten(self.model_dump()))
        return [path for path, (switch, values) in USED_WHEN.items() if flat[switch] not in values]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, leaf value) of a nested mapping, depth first."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


SETTING_DEFAULTS: dict[str, Any] = {
    path: value for path, value in flatten(Settings(data=DataSpec(name="digits")).model_dump()) if path != "data.name"
}
