"""The metrics that the suite's own problems log: what each means, its split and unit, and how reports show it.

Others come from plug-ins, with the exhibits that show them. Logging what is not declared is an error.
"""

from __future__ import annotations

from typing import Literal

from nfstudy.core import registry
from nfstudy.core.declarations import Metric

PER_IMAGE = "nats per image"
"""The unit of means over images; of patches an image is a patch, and on the plane, where there are none, it is nats."""

_TERMS: dict[str, tuple[str, Literal["higher", "lower", "none"]]] = {
    "elbo": ("E_q[ln p(x, z_K) − ln q_K(z_K|x)] = −F, with β = 1", "higher"),
    "log_likelihood": ("E_q[ln p(x|z_K)]; of an energy E_q[−U(z_K)]", "higher"),
    "log_prior": ("E_q[ln p(z_K)]", "none"),
    "log_q0": ("E_q[ln q0(z_0|x)]", "none"),
    "log_det": ("E_q[Σ_k ln|det ∂f_k/∂z_{k−1}|]", "none"),
}

BOUND_TERMS = tuple(
    Metric(name=f"{split}/{term}", meaning=meaning, unit=PER_IMAGE, better=better)
    for split in ("train", "valid")
    for term, (meaning, better) in _TERMS.items()
)
OF_TRAINING = (
    Metric(
        name="train/objective",
        meaning="the annealed free energy that is minimised, eq. (20)",
        unit=PER_IMAGE,
        better="lower",
    ),
    Metric(name="train/beta", meaning="β_t at the end of the epoch", unit="1"),
    Metric(name="train/learning_rate", meaning="learning rate at the end of the epoch", unit="1"),
    Metric(
        name="train/gradient_norm",
        meaning="Euclidean norm of the gradient at the epoch's last update, before clipping",
        unit=PER_IMAGE,
    ),
)

FREE_ENERGY = Metric(
    name="test/elbo",
    label="F",
    heading="Free energy F = −ELBO",
    meaning="−F on the test set, mean over the importance samples",
    unit=PER_IMAGE,
    better="higher",
    sign=-1,
)
NLL = Metric(
    name="test/nll",
    label="−ln p(x)",
    meaning="−ln p(x), importance-sampled",
    unit=PER_IMAGE,
    better="lower",
    needs={"data.name": ()},
)
NLL_ERROR = Metric(
    name="test/nll_mc_se",
    meaning="Monte-Carlo standard error of test/nll",
    unit=PER_IMAGE,
    better="lower",
    needs={"data.name": ()},
)
KL = Metric(
    name="test/kl",
    label="KL",
    heading="KL(q‖p(z|x)) = F + ln p(x)",
    meaning="KL(q_K‖p(z|x)) = F − (−ln p(x)), a gap of two estimates; of an energy F + ln Z",
    unit=PER_IMAGE,
    better="lower",
)

ENERGY_ERROR = Metric(
    name="test/elbo_mc_se",
    meaning="Monte-Carlo standard error of test/elbo and test/kl of an energy",
    unit="nats",
    better="lower",
    needs={"energy.name": ()},
)
UNCONFINED = Metric(
    name="test/elbo_table_1",
    label="F, unconfined",
    heading="F with U as in Table 1",
    meaning="−E_q[ln q_K + U] of an energy as Table 1 has it, unconfined",
    unit="nats",
    sign=-1,
    decimals=3,
    needs={"energy.name": ()},
)
LOG_Z = Metric(
    name="test/log_z",
    label="−ln Z",
    heading="least F possible",
    meaning="ln Z of the confined energy, by quadrature",
    unit="nats",
    sign=-1,
    decimals=4,
    needs={"energy.name": ()},
)
MASS_LEFT = Metric(
    name="test/mass_left",
    label="z1 < 0",
    heading="share of q with z1 < 0",
    meaning="share of the samples of q_K with z1 < 0",
    unit="1",
    decimals=3,
    needs={"energy.name": ()},
)
WINDOW_MASS = Metric(
    name="test/window_mass",
    label="mass",
    heading="integral of q over the window",
    meaning="integral of q_K over (−4, 4)², by the midpoint rule",
    unit="1",
    decimals=4,
)

SECONDS = Metric(
    name="time/wall_seconds",
    label="seconds",
    heading="Training and evaluation",
    meaning="training and evaluation, wall clock",
    unit="seconds",
    better="lower",
    decimals=1,
)
EVALUATION_SECONDS = Metric(
    name="time/evaluation_seconds",
    meaning="the test evaluation alone, wall clock",
    unit="seconds",
    better="lower",
)
SPEED = Metric(
    name="time/updates_per_second",
    label="updates/s",
    heading="Training speed",
    meaning="parameter updates a second of training",
    unit="1/second",
    better="higher",
    decimals=1,
)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *BOUND_TERMS,
        *OF_TRAINING,
        *(FREE_ENERGY, NLL, NLL_ERROR, KL),
        *(ENERGY_ERROR, UNCONFINED, LOG_Z, MASS_LEFT, WINDOW_MASS),
        *(SECONDS, EVALUATION_SECONDS, SPEED),
    )
}
"""Name -> metric of the suite's own."""


def known_metrics() -> dict[str, Metric]:
    """Return name -> metric of all that may be logged: the suite's own, and those of plug-ins."""
    return registry.all_of("metrics")
