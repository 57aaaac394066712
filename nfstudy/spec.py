"""The records a study file is read into: typed, frozen, and free of torch, mlflow and optuna.

Every number is in nats or counts unless the field says otherwise. A setting is named by its dotted path, such as
`flow.length`; `Settings` holds all that can change a number, and nothing that cannot (workers, device, paths).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]

Family = Literal["none", "planar", "radial", "nice-perm", "nice-orth"]
NICE_FAMILIES = ("nice-perm", "nice-orth")

IMAGES = {"digits": (1197, 300, 300), "mnist": (50_000, 10_000, 10_000)}
"""Data set -> how many images its training, validation and test splits hold."""


class Record(BaseModel):
    """A frozen record that refuses unknown keys and converts no types (but whole numbers to floats)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


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


class ConstantSchedule(Record):
    """The learning rate stays what it is."""

    name: Literal["constant"]


class StepLR(Record):
    """torch's StepLR, counted in updates."""

    name: Literal["StepLR"]
    step_size: Count
    gamma: Positive = 0.1


class MultiStepLR(Record):
    """torch's MultiStepLR, counted in updates."""

    name: Literal["MultiStepLR"]
    milestones: Annotated[tuple[Count, ...], Field(min_length=1)]
    gamma: Positive = 0.1


class ExponentialLR(Record):
    """torch's ExponentialLR, one decay an update."""

    name: Literal["ExponentialLR"]
    gamma: Positive


class LinearLR(Record):
    """torch's LinearLR, counted in updates."""

    name: Literal["LinearLR"]
    start_factor: Annotated[float, Field(gt=0, le=1)] = 1 / 3
    end_factor: Annotated[float, Field(ge=0, le=1)] = 1.0
    total_iters: Count = 5


class PolynomialLR(Record):
    """torch's PolynomialLR; `total_iters` null is the whole training."""

    name: Literal["PolynomialLR"]
    total_iters: Count | None = None
    power: Positive = 1.0


class CosineAnnealingLR(Record):
    """torch's CosineAnnealingLR; `T_max` null is the whole training."""

    name: Literal["CosineAnnealingLR"]
    T_max: Count | None = None
    eta_min: NonNegative = 0.0


class CosineAnnealingWarmRestarts(Record):
    """torch's CosineAnnealingWarmRestarts, counted in updates."""

    name: Literal["CosineAnnealingWarmRestarts"]
    T_0: Count
    T_mult: Count = 1
    eta_min: NonNegative = 0.0


class OneCycleLR(Record):
    """torch's OneCycleLR; `total_steps` null is the whole training."""

    name: Literal["OneCycleLR"]
    max_lr: Positive
    total_steps: Count | None = None
    pct_start: Annotated[float, Field(ge=0, le=1)] = 0.3
    div_factor: Positive = 25.0
    final_div_factor: Positive = 1e4


Schedule = Annotated[
    ConstantSchedule
    | StepLR
    | MultiStepLR
    | ExponentialLR
    | LinearLR
    | PolynomialLR
    | CosineAnnealingLR
    | CosineAnnealingWarmRestarts
    | OneCycleLR,
    Field(discriminator="name"),
]


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
        schedule_steps = getattr(self.train.schedule, "total_steps", None)
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
                schedule_steps,
                schedule_steps is not None and schedule_steps < self.train.updates,
                f"at least train.updates, {self.train.updates}",
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


class MedianPruner(Record):
    """Optuna's MedianPruner; steps are epochs."""

    name: Literal["median"]
    n_startup_trials: Annotated[int, Field(ge=0)] = 5
    n_warmup_steps: Annotated[int, Field(ge=0)] = 0


class PercentilePruner(Record):
    """Optuna's PercentilePruner; steps are epochs."""

    name: Literal["percentile"]
    percentile: Annotated[float, Field(ge=0, le=100)]
    n_startup_trials: Annotated[int, Field(ge=0)] = 5
    n_warmup_steps: Annotated[int, Field(ge=0)] = 0


class SuccessiveHalvingPruner(Record):
    """Optuna's SuccessiveHalvingPruner; resources are epochs."""

    name: Literal["successive-halving"]
    min_resource: Count = 1
    reduction_factor: Annotated[int, Field(ge=2)] = 4


class HyperbandPruner(Record):
    """Optuna's HyperbandPruner; resources are epochs."""

    name: Literal["hyperband"]
    min_resource: Count = 1
    max_resource: Count
    reduction_factor: Annotated[int, Field(ge=2)] = 3


class ThresholdPruner(Record):
    """Optuna's ThresholdPruner on the validation free energy F, in nats an image."""

    name: Literal["threshold"]
    upper: Annotated[float, Field(allow_inf_nan=False)]
    n_warmup_steps: Annotated[int, Field(ge=0)] = 0


Pruner = Annotated[
    MedianPruner | PercentilePruner | SuccessiveHalvingPruner | HyperbandPruner | ThresholdPruner,
    Field(discriminator="name"),
]

SamplerName = Literal["tpe", "random", "gp", "cmaes", "qmc", "nsgaii", "nsgaiii"]
"""Optuna's samplers that draw; its grid and brute-force samplers are what `exhaustive` is for."""


class Sampling(Record):
    """An Optuna sampler with its number of trials.

    Trials are proposed in generations of `batch` and their values told in order, so that what is proposed depends on
    the study's seed alone, not on how many workers there are or which one is first.
    """

    name: SamplerName
    trials: Count
    batch: Annotated[int, Field(ge=1, le=10_000)] = 2
    pruner: Pruner | None = None


class Exhaustive(Record):
    """Every point of the grid."""

    name: Literal["exhaustive"]


Sampler = Annotated[Exhaustive | Sampling, Field(discriminator="name")]


class Range(Record):
    """An interval to draw a setting from, both ends included."""

    low: float | int
    high: float | int
    log: bool = False
    step: float | int | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low <= self.high:
            raise ValueError(f"low {self.low} with high {self.high}: allowed: low at most high")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low} with log true: allowed: greater than 0")
        if self.step is not None and (self.log or self.step <= 0):
            raise ValueError(f"step {self.step}: allowed: greater than 0, and not together with log")
        return self


Scalar = bool | int | float | str
Choices = Annotated[tuple[Scalar | None, ...], Field(min_length=1, max_length=10_000)]
Axis = Choices | Range


class Search(Record):
    """A nuisance search inside each cell: so many trials, chosen by the validation bound, never by the test set."""

    sampler: Sampling
    space: Annotated[dict[str, Axis], Field(min_length=1)]


class Budget(Record):
    """What a named budget changes; its name is part of a run's identity, so two budgets never mix."""

    settings: dict[str, Any] = {}
    repetitions: Count | None = None
    trials: Count | None = None
    """In place of `sampler.trials` and `search.sampler.trials`."""


Exhibit = Literal["summary", "flow-length", "table-2", "figure-4", "learning-curves", "samples"]


class StudySpec(Record):
    """One study file, checked."""

    study: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    title: Annotated[str, Field(min_length=1, max_length=200)]
    description: Annotated[str, Field(max_length=10_000)] = ""
    settings: Settings
    grid: dict[str, Axis] = {}
    sampler: Sampler = Exhaustive(name="exhaustive")
    search: Search | None = None
    repetitions: Annotated[int, Field(ge=1, le=100_000)] = 1
    budgets: Annotated[dict[str, Budget], Field(min_length=1)]
    budget: str
    """The budget that runs when none is named."""
    exhibits: Annotated[tuple[Exhibit, ...], Field(min_length=1)]
