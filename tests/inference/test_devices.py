"""Training away from the processor, by the plain formulas: every tensor must be where the problem's device says.

torch's `meta` device stands in for a GPU: its tensors hold no numbers, and torch will not mix them with a processor's.
"""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nfstudy.core import registry
from nfstudy.data.dataset import Dequantisation, Splits, make_dataset
from nfstudy.inference.models.objective import free_energy
from nfstudy.inference.objectives import make_estimator
from nfstudy.inference.problems import make_problem
from nfstudy.study.settings import Settings

TRAIN = {"updates": 3, "batch": 5}
IMAGES = {"model": {"latent": 4, "hidden": 8, "layers": 2, "maxout": 2}, "train": TRAIN}
KINDS = {
    "bits": IMAGES | {"data": {"name": "digits"}},
    "levels": IMAGES | {"data": {"name": "digits", "binarisation": "dynamic"}},
    "patches": IMAGES | {"data": {"name": "photos"}},
    "bfloat16": IMAGES | {"data": {"name": "digits"}, "train": TRAIN | {"precision": "bfloat16"}},
    "bfloat16-all": IMAGES | {"data": {"name": "digits"}, "train": TRAIN | {"precision": "bfloat16-all"}},
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


class NothingFromTheProcessor(TorchDispatchMode):
    """Fails on any operation that a CUDA graph could not hold: one that takes or makes a tensor of the processor."""

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        found = function(*arguments, **(keywords or {}))
        tensors = [each for each in tree_leaves((arguments, keywords, found)) if isinstance(each, torch.Tensor)]
        assert {tensor.device.type for tensor in tensors} <= {"meta"}, f"{function} is of the processor"
        assert function is not torch.ops.aten._local_scalar_dense.default, "somebody waits for a number"
        return found


ESTIMATORS = {
    f"{name} {number}": example | {"estimator": name, "annealing": annealing}
    for name, declared in registry.all_of("estimators").items()
    for number, example in enumerate(declared.examples or [{}])
    for annealing in declared.annealing
    if "sleep" not in name or example.get("q_update") == "wake"
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bfloat16"])
@pytest.mark.parametrize("family", registry.all_of("flows"))
def test_an_update_is_of_the_device_alone(kind, family):
    if _no_place(kind, registry.all_of("flows")[family]):
        pytest.skip(f"{family} follows a model of images, of which an energy has none")
    update_on_meta(kind, {"family": family, "length": 0 if family == "none" else 3}, {})


@pytest.mark.parametrize("objective", ESTIMATORS.values(), ids=ESTIMATORS)
def test_an_estimate_is_of_the_device_alone(objective):
    update_on_meta("bits", {"family": "nice-perm", "length": 2}, objective)


def update_on_meta(kind, flow, objective):
    settings = Settings.model_validate(KINDS[kind] | {"flow": flow, "objective": objective})
    problem = make_problem(settings, None if kind == "energy" else images_of(kind), 1, "meta")
    drawn = tuple(each.to("meta") for each in next(problem.draws(1, 1)))
    estimator = make_estimator(settings.objective, problem.inputs, "meta")
    with NothingFromTheProcessor():
        estimate = estimator(problem.minibatch(drawn), torch.zeros((), device="meta"))
        estimate.objective.mean().backward()
        assert estimate.means.device.type == "meta"


def test_the_device_that_stands_in_refuses_the_processors_tensors():
    with pytest.raises(RuntimeError, match="expected device meta"):
        torch.zeros(3, device="meta") + torch.zeros(3)
