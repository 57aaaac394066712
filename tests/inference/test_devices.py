"""Training away from the processor, by the plain formulas: every tensor must be where the problem's device says.

torch's `meta` device stands in for a GPU: its tensors hold no numbers, and torch will not mix them with a processor's.
"""

import numpy as np
import pytest
import torch

from nfstudy.core import registry
from nfstudy.data.dataset import Dequantisation, Splits, make_dataset
from nfstudy.inference.models.objective import free_energy
from nfstudy.inference.problems import make_problem
from nfstudy.study.settings import Settings

TRAIN = {"updates": 3, "batch": 5}
IMAGES = {"model": {"latent": 4, "hidden": 8, "layers": 2, "maxout": 2}, "train": TRAIN}
KINDS = {
    "bits": IMAGES | {"data": {"name": "digits"}},
    "levels": IMAGES | {"data": {"name": "digits", "binarisation": "dynamic"}},
    "patches": IMAGES | {"data": {"name": "photos"}},
    "bfloat16": IMAGES | {"data": {"name": "digits"}, "train": TRAIN | {"precision": "bfloat16"}},
    "energy": {"energy": {"name": "u2"}, "train": TRAIN},
}


def _no_place(kind, family):
    """Say whether a family follows ln p(x, z), which an energy has none of."""
    return kind == "energy" and family.guided


def images_of(kind):
    levels, dequantisation = {"levels": (16, None), "patches": (255, Dequantisation(1e-4, True))}.get(kind, (1, None))
    rng = np.random.default_rng(0)
    splits = Splits(*(rng.integers(levels + 1, size=(20, 12), dtype=np.uint8) for _ in range(3)))
    return make_dataset("tiny", (3, 4), levels, splits, "made here", dequantisation)


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        (kind, name)
        for kind in KINDS
        for name, family in registry.all_of("flows").items()
        if not _no_place(kind, family)
    ],
)
def test_a_step_of_training_stays_on_its_device(kind, family):
    flow = {"family": family, "length": 0 if family == "none" else 3}
    settings = Settings.model_validate(KINDS[kind] | {"flow": flow})
    problem = make_problem(settings, None if kind == "energy" else images_of(kind), 1, "meta")
    for terms in (batch.terms() for batch in problem.minibatches(1, 2)):
        assert all(term.device.type == "meta" for term in terms)
        free_energy(terms, 0.5, "energy").mean().backward()
    gradients = {name: parameter.grad for name, parameter in problem.model.named_parameters()}
    assert {gradient.device.type for gradient in gradients.values()} == {"meta"}


def test_the_device_that_stands_in_refuses_the_processors_tensors():
    with pytest.raises(RuntimeError, match="expected device meta"):
        torch.zeros(3, device="meta") + torch.zeros(3)
