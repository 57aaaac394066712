"""What is approximated: the posteriors of a model of images, an energy on the plane, or, in Figure 1, nothing."""

from __future__ import annotations

from nfstudy.data import Dataset
from nfstudy.problems.base import Problem
from nfstudy.problems.drawn import DrawnProblem
from nfstudy.problems.energy import EnergyProblem
from nfstudy.problems.images import ImageProblem
from nfstudy.settings import Settings

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
        return ImageProblem(settings, dataset, repetition, device)
    problem = EnergyProblem if settings.problem == "energy" else DrawnProblem
    return problem(settings, repetition, device)
