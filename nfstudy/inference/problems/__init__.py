"""What is approximated: the posteriors of a model of images, an energy on the plane, or, in Figure 1, nothing."""

from __future__ import annotations

from nfstudy.data import Dataset
from nfstudy.inference.problems.base import Problem
from nfstudy.inference.problems.images import ImageProblem
from nfstudy.inference.problems.plane import EnergyProblem
from nfstudy.inference.problems.random_flow import DrawnProblem
from nfstudy.study.settings import Settings

__all__ = ["Problem", "make_problem"]


def make_problem(settings: Settings, dataset: Dataset | None, repetition: int, device: str) -> Problem:
    """Return a problem with its parameters initialised.

    Arguments:
        settings: all of them; their `problem` says which.
        dataset: the images that they name, whole; None for a problem without images.
        repetition: the axis over which initialisations, data orders and noise differ.
        device: where tensors live, such as `cpu` or `cuda:0`.
    """
    if settings.problem == "images":
        assert dataset is not None
        return ImageProblem(settings, dataset, repetition, device)
    problem = EnergyProblem if settings.problem == "energy" else DrawnProblem
    return problem(settings, repetition, device)
