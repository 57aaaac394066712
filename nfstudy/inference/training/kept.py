"""The kept weights of a run that has ended, put back into its problem and evaluated again."""

from __future__ import annotations

import io
import math

import torch

from nfstudy.core.errors import UserError
from nfstudy.data import Dataset
from nfstudy.inference.problems import make_problem
from nfstudy.inference.problems.images import ImageProblem
from nfstudy.runs.evaluations import EvaluationRequest
from nfstudy.study.settings import Settings


def evaluate_kept(
    settings: Settings,
    dataset: Dataset | None,
    repetition: int,
    device: str,
    weights: bytes,
    request: EvaluationRequest,
) -> dict[str, float]:
    """Return what `ImageProblem.evaluate` says of a run's weights, without what is not finite.

    Arguments:
        settings: the run's.
        dataset: the images that they name, whole.
        repetition: the run's.
        device: where tensors live.
        weights: the run's file `checkpoint.pt`.
        request: what is asked.

    Raises:
        UserError: the weights cannot be read into the model, or what is asked cannot be had of it.
    """
    problem = make_problem(settings, dataset, repetition, device)
    if not isinstance(problem, ImageProblem):
        raise UserError("got a run on the plane, without images; expected: one with a data set")
    try:
        problem.model.load_state_dict(torch.load(io.BytesIO(weights), map_location=device, weights_only=True))
    except Exception as error:  # Whatever torch makes of bytes that are no weights, or of another model's.
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"checkpoint.pt cannot be read into the model: {reason}") from None
    found = problem.evaluate(request)
    if not math.isfinite(found.get("nll", found.get("nll_above", math.nan))):
        raise UserError(f"the estimate is not finite ({found}); expected: weights of a run that has finished")
    return {name: value for name, value in found.items() if math.isfinite(value)}
