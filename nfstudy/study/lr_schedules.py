"""Learning-rate schedules: torch's, by their own names and arguments, counted in updates. Free of torch."""

from typing import Annotated, Literal

from pydantic import Field

from nfstudy.core.fields import Count, NonNegative, Positive, Record


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
    """torch's OneCycleLR; `max_lr` null is `train.learning_rate`, `total_steps` null the whole training."""

    name: Literal["OneCycleLR"]
    max_lr: Positive | None = None
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
