"""A table of measurements as a data source of its own, and Student's t in place of the Gaussian as its likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nfstudy import DataSource, Likelihood, Positive, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch

    from nfstudy.data.dataset import Dataset
    from nfstudy.study.sections import ModelSpec

ROWS = (369, 100, 100)
"""Of the training, validation and test splits."""
COLUMNS = 30


class StudentSettings(Record):
    """How heavy the tails of Student's t are."""

    degrees: Positive = 4.0
    """Degrees of freedom ν; the Gaussian's tails are those of ν → ∞."""


def loader() -> Callable[..., Dataset]:
    """Return what loads the table: 30 measurements of each of 569 tumours, which scikit-learn carries."""
    import numpy as np
    from sklearn.datasets import load_breast_cancer

    from nfstudy import Splits, data_generator, make_dataset

    def load(data: Any, folders: Sequence[Path], download: bool = True) -> Dataset:
        """Return the rows, dealt out by one permutation, in units of the training rows' quartiles."""
        rows = load_breast_cancer().data
        rows = rows[data_generator("tumours split").permutation(len(rows))]
        parts = np.split(rows, np.cumsum(ROWS)[:-1])
        # Numbers of the table itself: means would differ in their last bits from one machine to another.
        low, middle, high = np.quantile(parts[0], [0.25, 0.5, 0.75], axis=0, method="nearest")
        scaled = (((part - middle) / (high - low)).astype(np.float32) for part in parts)
        return make_dataset("tumours", (COLUMNS,), 0, Splits(*scaled), "scikit-learn, load_breast_cancer")

    return load


def student_t() -> type:
    """Return the likelihood's class."""
    import math

    import torch
    from torch.nn import functional

    from nfstudy.inference.likelihoods.base import Likelihood
    from nfstudy.inference.weights import draw_weights

    class StudentT(Likelihood):
        """p(x|z) = Π_i t_ν((x_i − μ_i) / s_i) / s_i, with μ linear in h(z) and one free s_i a column."""

        def __init__(self, pixels: int, features: int, model: ModelSpec) -> None:
            super().__init__(pixels, features, model)
            self.nu = model.degrees
            self.location = torch.nn.Linear(features, pixels)
            self.raw_scale = torch.nn.Parameter(torch.empty(pixels))

        def initialise(self, generator: Callable[[str], torch.Generator]) -> None:
            """Draw the weights of μ, and set s to 1."""
            draw_weights(self.location, self.location.out_features, self.rule, generator("location"))
            torch.nn.init.constant_(self.raw_scale, math.log(math.expm1(1)))

        def forward(self, x: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
            """Return Σ_i [c − ln s_i − ½ (ν + 1) ln(1 + ((x_i − μ_i) / s_i)² / ν)]."""
            scale = functional.softplus(self.raw_scale)
            constant = math.lgamma((self.nu + 1) / 2) - math.lgamma(self.nu / 2) - math.log(self.nu * math.pi) / 2
            square = ((x - self.location(features)) / scale).square()
            log_p: torch.Tensor = constant - scale.log() - (self.nu + 1) / 2 * torch.log1p(square / self.nu)
            return log_p.sum(-1)

        def picture(self, features: torch.Tensor) -> torch.Tensor:
            """Return the medians μ."""
            medians: torch.Tensor = self.location(features)
            return medians

    return StudentT


TUMOURS = DataSource(name="tumours", values="real", splits=lambda data: ROWS, loader=loader)
STUDENT_T = Likelihood(
    name="student-t",
    label="Student's t",
    values=("real",),
    per="row",
    implementation=student_t,
    settings=StudentSettings,
)
