"""What bits-back coding says of a model of images: lengths of a code that was decoded again, beside the bound."""

from __future__ import annotations

import json
import math

import numpy as np

from nfstudy.core import registry
from nfstudy.core.declarations import FlowFamily
from nfstudy.core.errors import UserError
from nfstudy.core.seeds import derive_seed
from nfstudy.inference.models.bits_back import round_trip
from nfstudy.inference.models.dlgm import DLGM
from nfstudy.inference.models.evaluation import evaluate_likelihood
from nfstudy.study.sections import FlowSpec


def bits_per_pixel(nats: float, pixels: int) -> float:
    """Return nats an image as bits for each of its N numbers, nats / (N ln 2); each colour of a pixel is one."""
    return nats / (pixels * math.log(2))


def code_lengths(model: DLGM, flow: FlowSpec, images: np.ndarray, samples: int, seed: int) -> dict[str, float]:
    """Return what a round trip of images took, and the bound on the same images.

    Beside `bits_back.RoundTrip.numbers` and `LikelihoodEstimates.numbers`: `bits_per_pixel_free_energy`, F by S samples
    an image over N ln 2, to which the other bits per pixel are to be held.

    Arguments:
        model: whose code it is.
        flow: what the settings say of its flow.
        images: (M, N), whole numbers.
        samples: S.
        seed: of the samples, and of the bits that the first latents are drawn from.

    Raises:
        UserError: there is no such code: of densities, of flows without an inverse.
        CodingError: the images did not come back as they were.
    """
    _require_code(model, flow)
    found = evaluate_likelihood(model, images, samples, seed).numbers()
    made = round_trip(model, images, derive_seed(seed, "bits-back"))
    bound = {"bits_per_pixel_free_energy": bits_per_pixel(-found["elbo"], images.shape[1]), "images": len(images)}
    return found | made.numbers() | bound


def _require_code(model: DLGM, flow: FlowSpec) -> None:
    if not model.likelihood.levels:
        whole = [
            name
            for name, each in registry.all_of("likelihoods").items()
            if {"bits", "levels", "categories"} & set(each.values)
        ]
        raise UserError(
            f"model.likelihood: got {type(model.likelihood).__name__}, a density; expected: probabilities of whole "
            f"numbers ({', '.join(whole)}), as bits-back codes nothing else"
        )
    family: FlowFamily = registry.find("flows", flow.family)
    if not flow.length:
        return
    if not family.inverse:
        having = ", ".join(name for name, each in registry.all_of("flows").items() if each.inverse)
        raise UserError(f"flow.family: got {family.name}; expected: {having}, as bits-back needs the flow's inverse")
    for field, value in family.inverse_needs.items():
        if (got := getattr(flow, field)) != value:
            wanted = f"{json.dumps(value)}, as bits-back needs the flow's inverse"
            raise UserError(f"flow.{field}: got {json.dumps(got)}; expected: {wanted}")
