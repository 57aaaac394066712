"""The sections of a study's settings, each a record whose fields say what may be chosen and what the default is.

Every number is in nats or counts unless the field says otherwise. Free of torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from nfstudy.core import registry
from nfstudy.core.fields import Count, Fraction, NonNegative, OpenRecord, Positive, Record
from nfstudy.study.lr_schedules import ConstantSchedule, Schedule

Initialisation = Literal["glorot", "he"]

BINARY, PATCHES = ("digits", "mnist"), ("cifar10", "photos")
"""Data sets whose pixels are bits, and those of colour patches, whose pixels are real numbers between 0 and 1."""

IMAGES = {
    "digits": (1197, 300, 300),
    "mnist": (50_000, 10_000, 10_000),
    "cifar10": (45_000, 5_000, 10_000),
    "photos": (400, 60, 60),
}
"""Data set -> how many images its training, validation and test splits hold; of patches, those they are cut from."""


class DataSpec(Record):
    """Which images, and how their levels become what a model sees; each way is a data set of its own."""

    name: Literal["digits", "mnist", "cifar10", "photos"]
    binarisation: Literal["static", "dynamic", "threshold"] = "static"
    """Bits only."""
    patch: Annotated[int, Field(ge=1, le=32)] = 8
    """Patches only: height and width in pixels."""
    train_patches: Annotated[int, Field(ge=1, le=1000)] = 4
    """Patches only: how many are cut from each training image, at random places drawn once."""
    heldout_patches: Annotated[int, Field(ge=1, le=1000)] = 1
    """Patches only: the same of each validation and test image; the paper does not say which patches it tests."""
    epsilon: Annotated[float, Field(gt=0, lt=0.5, allow_inf_nan=False)] = 1e-4
    """Patches only: levels are mapped onto [ε, 1 − ε]."""
    dequantisation: Literal["uniform", "none"] = "uniform"
    """Patches only: whether a level v of 0 ... 255 becomes (v + u) / 256 with u uniform on [0, 1), or v / 255."""
    training_split: Literal["train", "train+valid"] = "train"
    """`train+valid` trains on the validation images too, whose bound is then none of held-out images."""
    train_images: Count | None = None
    """Train on the first so many training images (or patches) only; null is all of them."""

    def examples(self) -> tuple[int, int, int]:
        """Return how many images (or patches) the training, validation and test splits hold."""
        train, valid, test = IMAGES[self.name]
        if self.name in PATCHES:
            train, valid, test = train * self.train_patches, valid * self.heldout_patches, test * self.heldout_patches
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


class ModelSpec(Record):
    """The deep latent Gaussian model: one stochastic layer, mirrored Maxout networks on both sides."""

    latent: Annotated[int, Field(ge=1, le=100_000)] = 40
    hidden: Annotated[int, Field(ge=1, le=100_000)] = 400
    layers: Annotated[int, Field(ge=1, le=100)] = 2
    maxout: Annotated[int, Field(ge=1, le=1000)] = 4
    """Window Δ: each unit is the largest of so many linear pieces (Goodfellow et al. 2013)."""
    hidden_counts: Literal["units", "pieces"] = "units"
    """Whether `hidden` counts units (after the maximum) or linear pieces (before it); the paper does not say."""
    initialisation: Initialisation = "glorot"
    """Variance of the networks' initial weights: 2/(fan_in + fan_out), or 2/fan_in; the paper gives none."""
    variance: Literal["network", "shared"] = "network"
    """Patches only: whether a pixel's variance α comes from the generative network, or is one free number a pixel."""
    variance_floor: Positive = 1e-3
    """Patches only: least α, in squared units of logit(x); without one, levels that repeat drive −ln p(x) to −∞."""


class FlowSpec(OpenRecord):
    """The normalizing flow between q0 and q_K; what a family leaves open stands in its folder of `nfstudy.flows`."""

    family: str = "none"
    length: Annotated[int, Field(ge=0, le=100_000)] = 0
    """K, the number of transformations; 0 is the diagonal Gaussian whatever the family."""

    @classmethod
    def further_records(cls) -> list[type[Record]]:
        """Return the settings of all families."""
        return registry.records_of("flows")

    @field_validator("family")
    @classmethod
    def _known(cls, family: str) -> str:
        if family not in registry.all_of("flows"):
            raise ValueError(f"got '{family}'; allowed: {registry.allowed('flows', family)}")
        return family


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
    weight_decay: NonNegative = 0.0
    """Adam only: λ of w ← w − η λ w beside each update, of matrices and not of biases (Loshchilov & Hutter 2019)."""
    schedule: Schedule = ConstantSchedule(name="constant")
    precision: Literal["float32", "bfloat16"] = "float32"
    """Images only: to what the operands of the Maxout layers' matrix products are rounded while training. Weights, the
    heads of q0 and the flow, the chain, the likelihood and all evaluation are in float32 either way."""
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
