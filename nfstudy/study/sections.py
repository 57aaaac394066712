"""The sections of a study's settings, each a record whose fields say what may be chosen and what the default is.

Every number is in nats or counts unless the field says otherwise. Free of torch.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from nfstudy.core import registry
from nfstudy.core.declarations import DataSource, GradientEstimator, Kind, Values
from nfstudy.core.fields import Count, Fraction, NonNegative, OpenRecord, Positive, Record
from nfstudy.study.lr_schedules import ConstantSchedule, Schedule

Initialisation = Literal["glorot", "he"]

MOST_LATENT = 100_000
"""Latent variables of a stochastic layer."""


def _declared(kind: Kind, name: str) -> str:
    """Return a name of something that is declared; raises ValueError for another one."""
    if name not in registry.all_of(kind):
        raise ValueError(f"got '{name}'; expected: {registry.allowed(kind, name)}")
    return name


class DataSpec(OpenRecord):
    """Which examples, and what becomes of them; each way is a data set of its own.

    What a source leaves open stands with its declaration in `nfstudy.data`.
    """

    name: str
    """A source of `nfstudy.data`."""
    training_split: Literal["train", "train+valid"] = "train"
    """`train+valid` trains on the validation images too, whose bound is then not held out."""
    train_images: Count | None = None
    """Train on the first so many training examples only; null is all of them."""

    @classmethod
    def further_records(cls) -> list[type[Record]]:
        """Return the settings of all sources."""
        return registry.records_of("data")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return _declared("data", name)

    @model_serializer(mode="wrap")
    def _in_order(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Put how much of the data is used last, after what the source leaves open."""
        tree = handler(self)
        last = {name: tree.pop(name) for name in ("training_split", "train_images") if name in tree}
        return {**tree, **last}

    @property
    def declaration(self) -> DataSource:
        """What the source declares."""
        source: DataSource = registry.find("data", self.name)
        return source

    @property
    def values(self) -> Values:
        """What the numbers of an example are."""
        return self.declaration.values_of(self)

    @property
    def categories(self) -> int | None:
        """How many levels a number may have, 0 ... n − 1, of `categories`; None for values of another kind."""
        return self.declaration.categories_of(self)

    def examples(self) -> tuple[int, int, int] | None:
        """Return how many examples the training, validation and test splits hold; None where that is not known."""
        if (sizes := self.declaration.splits_of(self)) is None:
            return None
        train, valid, test = sizes
        return (train + valid if self.training_split == "train+valid" else train), valid, test

    def source(self) -> DataSpec:
        """Return what says which arrays are loaded: all but how many of them a training uses."""
        return self.model_copy(update={"training_split": "train", "train_images": None})


ENERGY_EPOCH = 250
"""On the plane there are no data to go through: so many updates are called an epoch."""


class EnergySpec(Record):
    """A density p(z) ∝ exp(−U(z)) on the plane in place of images: an energy of Table 1, confined where it must be."""

    name: Literal["u1", "u2", "u3", "u4"]
    half_width: Annotated[float, Field(ge=0.5, le=100)] = 4.0
    """U2 to U4 only, which nothing confines along z1: L of the factor σ((L + z1)/s) σ((L − z1)/s)."""
    edge: Annotated[float, Field(ge=0.01, le=10)] = 0.25
    """U2 to U4 only: s of that factor, over which it falls off at ±L."""


class Q0Spec(Record):
    """The diagonal Gaussian q0(z) that a flow on the plane starts from; its mean and deviations are learned."""

    deviation: Positive = 1.0
    """Initial standard deviation; the initial mean is 0."""


class DrawnSpec(Record):
    """A flow whose parameters are drawn, not learned, applied to a density on the plane: Figure 1."""

    density: Literal["normal", "uniform"]
    """q0: N(0, I), or uniform on [−2, 2]²."""
    strength: Positive = 1.0
    """Scales the spread of the drawn parameters about those of the identity."""


class ModelSpec(OpenRecord):
    """The deep latent Gaussian model: stochastic layers z_1, ..., z_L, with mirrored Maxout networks between them.

    What a likelihood leaves open stands with its declaration in `nfstudy.inference.likelihoods`.
    """

    latent: Annotated[int, Field(ge=1, le=MOST_LATENT)] = 40
    """D_1, the number of latent variables; of several stochastic layers, of the one next to the image."""
    hidden: Annotated[int, Field(ge=1, le=100_000)] = 400
    layers: Annotated[int, Field(ge=1, le=100)] = 2
    maxout: Annotated[int, Field(ge=1, le=1000)] = 4
    """Window Δ: each unit is the largest of so many linear pieces (Goodfellow et al. 2013)."""
    hidden_counts: Literal["units", "pieces"] = "units"
    """Whether `hidden` counts units (after the maximum) or linear pieces (before it); the paper does not say."""
    initialisation: Initialisation = "glorot"
    """Variance of the networks' initial weights: 2/(fan_in + fan_out), or 2/fan_in; the paper gives none."""
    likelihood: str | None = None
    """Where several are declared for the kind of numbers that the data are: which. Null is the suite's own."""
    stochastic_layers: Annotated[int, Field(ge=1, le=100)] = 1
    """L. Each layer beyond the first has its own networks, of `layers` Maxout layers on both sides, and its own flow of
    the study's family and length; a flow that follows the gradient of ln p(x, z) moves all layers at once."""
    latent_ratio: Annotated[float, Field(gt=0, le=100)] = 1.0
    """With several stochastic layers: how many times as many variables each has as the one below it, so that layer l
    has D_l = D_1 · ratio^(l − 1), rounded, and at least one."""

    @classmethod
    def further_records(cls) -> list[type[Record]]:
        """Return the settings of all likelihoods."""
        return registry.records_of("likelihoods")

    @property
    def latent_sizes(self) -> tuple[int, ...]:
        """D_1, ..., D_L: the numbers of latent variables of the stochastic layers, from the image up; halves go up."""
        sizes = (self.latent * self.latent_ratio**above for above in range(self.stochastic_layers))
        return tuple(max(1, math.floor(min(size, 2.0 * MOST_LATENT) + 0.5)) for size in sizes)


class FlowSpec(OpenRecord):
    """The normalizing flow between q0 and q_K; what a family leaves open stands in its folder of `nfstudy.flows`."""

    family: str = "none"
    length: Annotated[int, Field(ge=0, le=100_000)] = 0
    """K, the number of transformations; 0 is the diagonal Gaussian whatever the family."""
    initial_scale: Positive = 1.0
    """Images only: factor on the initial weights by which an image changes the parameters of a chain; what the chain
    starts from for any image is the family's own."""

    @classmethod
    def further_records(cls) -> list[type[Record]]:
        """Return the settings of all families."""
        return registry.records_of("flows")

    @field_validator("family")
    @classmethod
    def _known(cls, family: str) -> str:
        return _declared("flows", family)


class ObjectiveSpec(OpenRecord):
    """What is minimised: F with β_t = min(1, beta_start + t / anneal_updates), eq. (20), or another bound.

    What an estimator leaves open stands with its declaration in `nfstudy.inference.objectives`.
    """

    estimator: str = "pathwise"
    """Which objective, and how its gradient is estimated: a name of `nfstudy.inference.objectives`."""
    samples: Annotated[int, Field(ge=1, le=1000)] = 1
    """S, samples of q_K for each image and update."""
    free_bits: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    """λ in nats: Σ_d max(λ, E_batch KL_d) stands for the KL, of K = 0 by latent variable; with a flow, all D are one
    group, floored at D λ (Kingma et al. 2016, eq. 15). Null is the KL itself."""

    annealing: Literal["energy", "kl", "none"] = "energy"
    """`energy`: β multiplies the whole log joint, as in eq. (20); `kl`: β multiplies ln q − ln p(z); `none`: β = 1."""
    beta_start: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.01
    anneal_updates: Count = 10_000

    @classmethod
    def further_records(cls) -> list[type[Record]]:
        """Return the settings of all estimators."""
        return registry.records_of("estimators")

    @field_validator("estimator")
    @classmethod
    def _known(cls, estimator: str) -> str:
        return _declared("estimators", estimator)

    @property
    def declaration(self) -> GradientEstimator:
        """What the estimator declares."""
        found: GradientEstimator = registry.find("estimators", self.estimator)
        return found


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
    weight_decay: NonNegative = 0.0
    """Adam only: λ of w ← w − η λ w beside each update, of weights and not of biases (Loshchilov & Hutter 2019)."""
    decay_biases: bool = False
    """With `weight_decay`: whether biases that a flow keeps as a matrix, a row a step, decay as well. So it was before
    there was this choice, in NICE and IAF and in no other family, whose comparison under a decay was not like for
    like; true is for runs of that time."""
    schedule: Schedule = ConstantSchedule(name="constant")
    precision: Literal["float32", "bfloat16", "bfloat16-all"] = "float32"
    """Images only: to what the operands of the Maxout layers' matrix products are rounded while training; with
    bfloat16-all, those of the heads of q0, the flow and the likelihood as well. Weights, the chain, the densities and
    all evaluation are in float32 whatever it is."""
    averaging: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None
    """Decay d of w̄ ← d w̄ + (1 − d) w after each update, d no more than (1 + t)/(10 + t) at first; what is validated,
    tested and kept is then w̄. Null is the weights themselves."""
    keep: Literal["last", "best"] = "last"
    """What is tested: the weights after the last update, or those of the epoch with the best validation bound."""


class EvaluationSpec(Record):
    """How the held-out numbers are estimated."""

    samples: Annotated[int, Field(ge=2, le=10_000_000)] = 200
    """S, importance samples for each test image."""
    test_images: Count | None = None
    """Evaluate the first so many test images only; null is all of them."""
    tight_samples: Annotated[int, Field(ge=2, le=10_000_000)] = 5000
    """Images only: importance samples of the tight estimate, which stands beside that of `samples`."""
    tight_images: Annotated[int, Field(ge=0, le=10_000_000)] = 1000
    """Images only: how many test images it is made of, spread evenly over those evaluated; 0 is no tight estimate."""
    valid_images: Count | None = None
    """Images only: validate on so many of the validation images, spread evenly over them; null is all of them. After a
    short epoch, all may take as long as the epoch did."""
    valid_samples: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    """Images only: importance samples for each validation image of −ln p(x), once when a training has ended, trials of
    a search among them; 0 is no such estimate."""
