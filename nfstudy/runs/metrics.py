"""The metrics that the suite's own problems log: what each means, its split and unit, and how reports show it.

Others come from plug-ins, with the exhibits that show them. Logging what is not declared is an error.
"""

from __future__ import annotations

from typing import Any, Literal

from nfstudy.core import registry
from nfstudy.core.declarations import Metric, Values, variance_metric

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
        meaning="what is minimised: by default the annealed free energy, eq. (20); see objective.estimator",
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

EPOCH_METRICS = tuple(metric.name for metric in (*BOUND_TERMS, *OF_TRAINING))
"""Metrics that are logged after every epoch, at the step of its last update."""

FREE_ENERGY = Metric(
    name="test/elbo",
    label="F",
    heading="Free energy F = −ELBO",
    meaning="−F on the test set, mean over the importance samples",
    unit=PER_IMAGE,
    better="higher",
    sign=-1,
)
POSITIVE_FREE_ENERGY = Metric(
    name="test/free_energy",
    label="F",
    heading="Free energy F",
    meaning="F = −test/elbo on the test set, for MLflow's pages; everything here reads test/elbo",
    unit=PER_IMAGE,
    better="lower",
)
NLL = Metric(
    name="test/nll",
    label="−ln p(x)",
    heading="−ln p(x), upper bound",
    mark="≤",
    meaning="−ln p(x), importance-sampled: in expectation an upper bound on it, which comes down with more samples",
    unit=PER_IMAGE,
    better="lower",
    needs={"data.name": ()},
)
VALID_NLL = Metric(
    name="valid/nll",
    label="validation −ln p(x)",
    mark="≤",
    meaning="−ln p(x) of the validation images by evaluation.valid_samples importance samples, when training ends",
    unit=PER_IMAGE,
    better="lower",
    needs={"data.name": ()},
)
NLL_ERROR = Metric(
    name="test/nll_mc_se",
    meaning="test/nll_seed_se by the delta method, which is too small where the weights have a heavy tail",
    unit=PER_IMAGE,
    better="lower",
    needs={"data.name": ()},
)
KL = Metric(
    name="test/kl",
    label="KL",
    heading="KL(q‖p(z|x)) = F + ln p(x)",
    mark="≥",
    meaning="KL(q_K‖p(z|x)) = F − (−ln p(x)), as much too low as −ln p(x) is too high; of an energy F + ln Z",
    unit=PER_IMAGE,
    better="lower",
)

_IMAGES = {"data.name": ()}


def _of_images(name: str, meaning: str, unit: str = PER_IMAGE, **more: Any) -> Metric:
    return Metric(name=f"test/{name}", meaning=meaning, unit=unit, needs=_IMAGES, **more)


def _of_estimate(end: str, of: str) -> tuple[Metric, ...]:
    """Return what says how far an estimate of −ln p(x) can be trusted."""
    return (
        _of_images(
            f"nll{end}_seed_se",
            f"standard deviation of {of} over seeds of the evaluation: its error if the samples were drawn anew",
            label="± seeds",
            better="lower",
            decimals=3,
        ),
        _of_images(
            f"nll{end}_image_se",
            f"standard error of {of} if other test images were drawn, sd over images / √N",
            label="± images",
            better="lower",
        ),
        _of_images(
            f"nll{end}_drop",
            f"by how much the last doubling of the samples lowered {of}; about as much bias is left, or more",
            label="last doubling",
            better="lower",
            decimals=3,
        ),
        _of_images(
            f"ess{end}",
            f"median effective sample size of {of}, (Σ w)² / Σ w²",
            "samples",
            label="ESS",
            better="higher",
            decimals=1,
        ),
        _of_images(f"pareto_k{end}", f"median Pareto k̂ of the weights of {of}", "1", label="Pareto k̂", better="lower"),
        _of_images(
            f"pareto_k_high{end}",
            f"share of images with Pareto k̂ > 0.7, whose weights {of} cannot be relied on",
            "1",
            label="k̂ > 0.7",
            better="lower",
        ),
    )


NLL_SEED_ERROR, NLL_IMAGE_ERROR, NLL_DROP, ESS, PARETO_K, PARETO_K_HIGH = _of_estimate("", "test/nll")
TIGHT_SEED_ERROR, TIGHT_IMAGE_ERROR, TIGHT_DROP, TIGHT_ESS, TIGHT_PARETO_K, TIGHT_PARETO_K_HIGH = _of_estimate(
    "_tight", "test/nll_tight"
)
TIGHT_NLL = _of_images(
    "nll_tight",
    "−ln p(x) of evaluation.tight_images test images by evaluation.tight_samples importance samples; an upper bound",
    label="−ln p(x), tight",
    mark="≤",
    better="lower",
)
TIGHT_FREE_ENERGY = _of_images(
    "elbo_tight",
    "−F of the same images and samples as test/nll_tight",
    label="F, same images",
    better="higher",
    sign=-1,
)
TIGHT_KL = _of_images(
    "kl_tight", "KL(q_K‖p(z|x)) = F − (−ln p(x)) by the tight estimate", label="KL, tight", mark="≥", better="lower"
)
TIGHT_ERROR = _of_images(
    "nll_tight_mc_se", "test/nll_tight_seed_se by the delta method, which is too small", better="lower"
)
TIGHT_SAMPLES = _of_images("tight_samples", "importance samples of test/nll_tight", "samples", decimals=0)
TIGHT_IMAGES = _of_images("tight_images", "test images of test/nll_tight, evenly spread", "images", decimals=0)
NLL_CURVE = _of_images(
    "nll_curve", "−ln p(x) of the images of test/nll_tight over the number of samples, which stands as the step"
)
ACTIVE_LATENTS = _of_images(
    "active_latents",
    "latent variables whose posterior mean varies over images by more than 0.01 (Burda et al. 2016)",
    "variables",
    label="active units",
    decimals=1,
)
LATENT_KL = _of_images(
    "kl_latent",
    "KL(q‖N(0, 1)) of a latent variable, of the Gaussian with its moments, mean over images; the step is its rank",
)
ACTIVE_BY_LAYER = _of_images(
    "active_layer",
    "test/active_latents of each stochastic layer's own noise ξ_l; the step is the layer, 1 beside the image",
    "variables",
    label="active units of each layer",
    decimals=1,
)
KL_BY_LAYER = _of_images(
    "kl_layer",
    "KL(q(ξ_l|x)‖N(0, I)) of each stochastic layer, mean over images, whose sum is the KL term of F; the step is the "
    "layer, 1 beside the image",
    label="KL of each layer",
)
BITS_PER_PIXEL = _of_images(
    "bits_per_pixel",
    "F / (N ln 2), N numbers an image: what a code by bits-back takes; of bits and whole levels alone, as densities "
    "have no such code",
    "bits per pixel",
    label="bits per pixel",
    heading="Bits per pixel",
    better="lower",
    decimals=4,
)
LOG_DET = _of_images("log_det", "E_q[Σ_k ln|det ∂f_k/∂z_{k−1}|], mean over images", label="Σ ln|det|")
DISPLACEMENT = _of_images("displacement", "E_q‖z_K − z_0‖, mean over images", "1", label="‖z_K − z_0‖")
LOG_DET_QUANTILE = _of_images("log_det_quantile", "test/log_det of single images; the step is the percentile")
DISPLACEMENT_QUANTILE = _of_images(
    "displacement_quantile", "test/displacement of single images; the step is the percentile", "1"
)
GRADIENT_SNR = Metric(
    name="train/gradient_snr",
    label="gradient SNR",
    meaning="‖E[g]‖ / √tr Cov[g] of the gradient g that it was trained by, over q's weights at the end, one minibatch",
    unit="1",
    decimals=2,
)
PARAMETERS = Metric(
    name="train/parameters",
    label="parameters",
    meaning="numbers that are trained",
    unit="parameters",
    decimals=0,
    settled=True,
)
PEAK_MEMORY = Metric(
    name="time/peak_memory",
    label="memory (MB)",
    heading="Peak memory",
    meaning="most memory that the worker held while it trained and evaluated; on CUDA, that all workers held of the "
    "device",
    unit="MB",
    better="lower",
    decimals=0,
)
UPDATE_CPU = Metric(
    name="time/update_cpu_ms",
    label="CPU ms/update",
    heading="Processor time of an update",
    meaning="median over updates of the processor time that the worker took for one: hardly more on a busy machine, "
    "where wall-clock seconds are several times what they are on a free one",
    unit="ms",
    better="lower",
)
LATER = (
    *(NLL_SEED_ERROR, NLL_IMAGE_ERROR, NLL_DROP, ESS, PARETO_K, PARETO_K_HIGH),
    *(TIGHT_NLL, TIGHT_FREE_ENERGY, TIGHT_KL, TIGHT_ERROR, TIGHT_SAMPLES, TIGHT_IMAGES, NLL_CURVE),
    *(TIGHT_SEED_ERROR, TIGHT_IMAGE_ERROR, TIGHT_DROP, TIGHT_ESS, TIGHT_PARETO_K, TIGHT_PARETO_K_HIGH),
    *(ACTIVE_BY_LAYER, KL_BY_LAYER),
    *(ACTIVE_LATENTS, LATENT_KL, LOG_DET, DISPLACEMENT, LOG_DET_QUANTILE, DISPLACEMENT_QUANTILE),
    *(VALID_NLL, GRADIENT_SNR, PARAMETERS, PEAK_MEMORY, POSITIVE_FREE_ENERGY, UPDATE_CPU, BITS_PER_PIXEL),
)
CURVES = frozenset(
    metric.name
    for metric in (
        *(NLL_CURVE, LATENT_KL, LOG_DET_QUANTILE, DISPLACEMENT_QUANTILE),
        *(ACTIVE_BY_LAYER, KL_BY_LAYER),
    )
)
"""Metrics whose steps are no updates: each says what is counted along it."""
LATER_METRICS = frozenset(metric.name for metric in LATER)
"""What runs of before these were logged do not have, and are held to nothing for."""

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
        *LATER,
    )
}
"""Name -> metric of the suite's own."""


VARIANCES = variance_metric("")
"""How the names of metrics begin that are the variance of an estimator's gradient (`GradientEstimator.metrics`)."""
END_STEP = 0
"""The step of what is logged once, at the end of a run: MLflow draws bars of it, and of other steps a lone point. Runs
of before have the run's last update there."""


def is_of_the_end(name: str) -> bool:
    """Say whether a metric is one number at the end of a run, so that its step says nothing."""
    return name not in EPOCH_METRICS and name not in CURVES and not is_variance(name)


def is_variance(name: str) -> bool:
    """Say whether a metric is the variance of an estimator's gradient, measured after some of the epochs."""
    return name.startswith(VARIANCES)


def unit_of(values: Values | None, likelihood: str | None = None) -> str:
    """Return what F, KL and −ln p(x) are in: nats per image, patch or example; on the plane, without data, nats."""
    return f"nats per {registry.likelihood_of(values, likelihood).per}" if values else "nats"


def known_metrics() -> dict[str, Metric]:
    """Return name -> metric of all that may be logged: the suite's own, and those of plug-ins."""
    return registry.all_of("metrics")
