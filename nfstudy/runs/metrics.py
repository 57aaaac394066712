"""The one table of metric names: what each means, on which split, in which unit, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One logged number. Bounds and log-probabilities are means over images, so their unit is nats per image."""

    name: str
    meaning: str
    unit: str
    better: Literal["higher", "lower", "none"]

    @property
    def split(self) -> str:
        """`train`, `valid`, `test` or `time`."""
        return self.name.split("/")[0]


PER_IMAGE = "nats per image"
"""The unit of means over images; of patches an image is a patch, and on the plane, where there are none, it is nats."""
_TERMS = {
    "elbo": ("E_q[ln p(x, z_K) − ln q_K(z_K|x)] = −F, with β = 1", "higher"),
    "log_likelihood": ("E_q[ln p(x|z_K)]; of an energy E_q[−U(z_K)]", "higher"),
    "log_prior": ("E_q[ln p(z_K)]", "none"),
    "log_q0": ("E_q[ln q0(z_0|x)]", "none"),
    "log_det": ("E_q[Σ_k ln|det ∂f_k/∂z_{k−1}|]", "none"),
}

_ALL = (
    *(
        Metric(f"{split}/{term}", meaning, PER_IMAGE, better)  # type: ignore[arg-type]
        for split in ("train", "valid")
        for term, (meaning, better) in _TERMS.items()
    ),
    Metric("train/objective", "the annealed free energy that is minimised, eq. (20)", PER_IMAGE, "lower"),
    Metric("train/beta", "β_t at the end of the epoch", "1", "none"),
    Metric("train/learning_rate", "learning rate at the end of the epoch", "1", "none"),
    Metric(
        "train/gradient_norm",
        "Euclidean norm of the gradient at the epoch's last update, before clipping",
        PER_IMAGE,
        "none",
    ),
    Metric("test/elbo", "−F on the test set, mean over the importance samples", PER_IMAGE, "higher"),
    Metric("test/nll", "−ln p(x), importance-sampled", PER_IMAGE, "lower"),
    Metric("test/nll_mc_se", "Monte-Carlo standard error of test/nll", PER_IMAGE, "lower"),
    Metric(
        "test/kl",
        "KL(q_K‖p(z|x)) = F − (−ln p(x)), a gap of two estimates; of an energy F + ln Z",
        PER_IMAGE,
        "lower",
    ),
    Metric("test/elbo_mc_se", "Monte-Carlo standard error of test/elbo and test/kl of an energy", "nats", "lower"),
    Metric("test/elbo_table_1", "−E_q[ln q_K + U] of an energy as Table 1 has it, unconfined", "nats", "none"),
    Metric("test/log_z", "ln Z of the confined energy, by quadrature", "nats", "none"),
    Metric("test/mass_left", "share of the samples of q_K with z1 < 0", "1", "none"),
    Metric("test/window_mass", "integral of q_K over (−4, 4)², by the midpoint rule", "1", "none"),
    Metric("time/wall_seconds", "training and evaluation, wall clock", "seconds", "lower"),
    Metric("time/evaluation_seconds", "the test evaluation alone, wall clock", "seconds", "lower"),
    Metric("time/updates_per_second", "parameter updates a second of training", "1/second", "higher"),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
"""Metric name -> what it is. Logging any other name is an error."""
