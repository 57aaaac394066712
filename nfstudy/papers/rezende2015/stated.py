"""What Rezende & Mohamed (2015) state of their settings, and where a cell's numbers are not of their kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from nfstudy.study.settings import Settings

Experiment = Literal["mnist", "cifar10", "energies"]
"""Which of the paper's experiments a number is of; the images' names are those of `data.name`."""

STATED_SETTINGS = {
    "model.latent": 40,
    "model.hidden": 400,
    "model.maxout": 4,
    "objective.annealing": "energy",
    "objective.beta_start": 0.01,
    "objective.anneal_updates": 10_000,
    "train.updates": 500_000,
    "train.batch": 100,
    "train.optimiser": "rmsprop",
    "train.learning_rate": 1e-5,
    "train.momentum": 0.9,
    "evaluation.samples": 200,
}
"""Dotted path -> what Section 6 of the paper states; of all other settings it says nothing."""

UNMENTIONED = {
    "model.stochastic_layers": 1,
    "train.schedule.name": "constant",
    "train.weight_decay": 0.0,
    "train.clip_norm": None,
    "train.averaging": None,
    "train.keep": "last",
    "train.precision": "float32",
}
"""Dotted path -> what a training without any refinement has, where the paper mentions none."""

STATED_OF_PATCHES = {"model.latent": 30, "data.patch": 8, "data.epsilon": 1e-4}
"""The same, where it is said of the patches of CIFAR-10 alone."""

STATED_REPETITIONS = 100


def stated_settings(flat: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the paper states of the experiment on images that settings, by dotted path, are most like."""
    return {**STATED_SETTINGS, **STATED_OF_PATCHES} if "data.patch" in flat else STATED_SETTINGS


def why_not_comparable(settings: Settings, experiment: Experiment = "mnist") -> str:
    """Say why a cell's numbers are of another quantity than the paper's; empty where their levels can be compared.

    Arguments:
        settings: the cell's.
        experiment: which of the paper's experiments the number beside it is of.
    """
    if experiment == "energies":
        return "not comparable: the level of Figure 3(d) holds an unexplained constant; differences compare"
    flat = settings.flat()
    data, latent, test_images = (flat.get(path) for path in ("data.name", "model.latent", "evaluation.test_images"))
    stated = stated_settings(flat)
    if data != experiment:
        return f"not comparable: data {data}, the paper's is {experiment}"
    if settings.data and settings.data.values == "categories":
        theirs = "densities of dequantised ones" if experiment == "cifar10" else "probabilities of bits"
        return f"not comparable: probabilities of whole levels, the paper's are {theirs}"
    if experiment == "mnist" and flat["data.binarisation"] != "static":
        return f"not comparable: {flat['data.binarisation']} binarisation, the paper's is static"
    if experiment == "cifar10" and flat["data.patch"] != stated["data.patch"]:
        return f"not comparable: patches of {flat['data.patch']} pixels a side, the paper's of {stated['data.patch']}"
    if latent != stated["model.latent"]:
        return f"not comparable: D = {latent}, the paper's is {stated['model.latent']}"
    if test_images is not None:
        return f"not comparable: {test_images:,} test images, the paper's are all"
    return ""
