"""Evaluations of kept weights after their run has ended: what was asked, what came of it, and the tag that keeps it.

A run's record stays as it was logged: each evaluation is one more tag, `nfstudy.evaluation.<key>`, whose key is a hash
of what was asked, so that the same is asked once. Tags are written whole, and travel with exports and imports.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from nfstudy.core.errors import UserError
from nfstudy.core.fields import Record, expected

EVALUATION_PREFIX = "nfstudy.evaluation."

Estimator = Literal["importance", "ais", "bdmc", "local", "bits-back"]
"""Importance sampling; annealed importance sampling; the same, forward and back on images drawn from the model; both of
the first, and the bound, with a posterior that is optimised for each image, which gives the inference gaps; a round
trip of images through a code by bits-back."""
ANNEALED: tuple[Estimator, ...] = ("ais", "bdmc", "local")
DEFAULTS: dict[Estimator, dict[str, int]] = {
    "importance": {"samples": 5000, "images": 1000},
    "ais": {"samples": 8, "images": 100, "temperatures": 200},
    "bdmc": {"samples": 8, "images": 100, "temperatures": 200},
    "local": {"samples": 5000, "images": 100, "temperatures": 200, "updates": 2000},
    "bits-back": {"samples": 200, "images": 100},
}
NUMBERS: dict[Estimator, tuple[str, ...]] = {
    "importance": ("nll",),
    "ais": ("nll",),
    "bdmc": ("nll_below", "nll_above"),
    "local": ("elbo", "elbo_local", "nll", "approximation_gap", "amortisation_gap", "inference_gap"),
    "bits-back": (
        "elbo",
        "bits_per_pixel",
        "bits_per_pixel_net",
        "bits_per_pixel_drawn",
        "bits_per_pixel_free_energy",
        "initial_bits",
        "images",
    ),
}
"""What every evaluation has a number of; others are left out where so few images or samples say nothing of them."""


class EvaluationRequest(Record):
    """What is asked of a run's weights."""

    estimator: Estimator = "importance"
    samples: Annotated[int, Field(ge=2, le=10_000_000)]
    """Of `importance` and `local` the samples an image, of `bits-back` those of F beside it; of `ais` and `bdmc` the
    chains."""
    images: Annotated[int, Field(ge=1, le=10_000_000)]
    """So many test images, spread evenly, or all where there are fewer; of `bdmc`, images that the model draws."""
    temperatures: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Of `ais`, `bdmc` and `local`: how often β is raised; null for others."""
    updates: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Of `local`: at most so many of an image's posterior, in rounds of 50; null for the others."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Of the evaluation's noise, beside the study's seed and the repetition."""

    @model_validator(mode="after")
    def _fits(self) -> EvaluationRequest:
        if (self.temperatures is None) != (self.estimator not in ANNEALED):
            allowed = f"a number with {', '.join(ANNEALED)}, and none with {self.estimator}"
            raise ValueError(f"temperatures: got {self.temperatures}; expected: {allowed}")
        if (self.updates is None) != (self.estimator != "local"):
            raise ValueError(f"updates: got {self.updates}; expected: a number with local alone")
        return self

    @property
    def key(self) -> str:
        """The first 16 hex digits of the SHA-256 of all of it; what came later counts where it is given."""
        later = {"updates"} if self.updates is None else set()
        return hashlib.sha256(self.model_dump_json(exclude=later).encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """A short form for people, such as `importance, 5,000 samples, 1,000 images, seed 1`."""
        kind = "chains" if self.estimator in ("ais", "bdmc") else "samples"
        steps = f", {self.temperatures:,} temperatures" if self.temperatures else ""
        steps += f", {self.updates:,} updates" if self.updates else ""
        return f"{self.estimator}, {self.samples:,} {kind}{steps}, {self.images:,} images, seed {self.seed}"


def make_request(estimator: Estimator, seed: int, **given: int | None) -> EvaluationRequest:
    """Return a request with the estimator's defaults where nothing is given; raises UserError for what cannot be.

    Arguments:
        estimator: which.
        seed: of the evaluation's noise.
        given: `samples`, `images`, `temperatures` and `updates`, or None.
    """
    values: dict[str, Any] = {
        **DEFAULTS[estimator],
        **{name: value for name, value in given.items() if value is not None},
    }
    try:
        return EvaluationRequest(estimator=estimator, seed=seed, **values)
    except ValidationError as error:
        details = error.errors()[0]
        where = (
            f"--{details['loc'][0]}: got {details['input']}; expected: {expected(details)}" if details["loc"] else ""
        )
        raise UserError(where or str(details["ctx"]["error"])) from None


class Evaluation(Record):
    """What came of a request."""

    request: EvaluationRequest
    numbers: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    """In nats per image where they are in nats: `nll`, `nll_seed_se`, ...; `bdmc` has `nll_above` and `nll_below`, and
    `bits-back` `bits_per_pixel`, ...."""
    version: str
    """Of nfstudy."""
    commit: str
    dirty: bool | None
    """Whether there were uncommitted changes; null where git could not say."""
    device: str
    ended: str
    """When, in ISO 8601, UTC."""

    @model_validator(mode="after")
    def _complete(self) -> Evaluation:
        if missing := [name for name in NUMBERS[self.request.estimator] if name not in self.numbers]:
            raise ValueError(f"{self.request.estimator}: has no {', '.join(missing)}")
        return self

    def tag(self) -> tuple[str, str]:
        """Return the tag's name and text."""
        return f"{EVALUATION_PREFIX}{self.request.key}", self.model_dump_json()


def evaluation_texts(tags: Mapping[str, str]) -> list[str]:
    """Return the texts of a run's evaluations, in the order of their keys."""
    return [text for name, text in sorted(tags.items()) if name.startswith(EVALUATION_PREFIX)]


def read_evaluations(text: str, run_id: str) -> Iterator[Evaluation]:
    """Yield the evaluations of a run from its column in the runs frame, a JSON list of texts.

    Raises:
        UserError: a text is none of an evaluation.
    """
    for each in json.loads(text) if text else ():
        try:
            yield Evaluation.model_validate_json(each)
        except ValidationError as error:
            raise UserError(
                f"run {run_id}: tag {EVALUATION_PREFIX}*: {reason_of(error)}; expected: as `evaluate` writes it"
            ) from None


def reason_of(error: ValidationError) -> str:
    """Return what is wrong with an evaluation, for people: the first mistake, with its place."""
    first = error.errors()[0]
    return ": ".join([".".join(map(str, first["loc"])), first["msg"]] if first["loc"] else [first["msg"]])
