"""What holds for all compiled loops: they are the same whether compiled here or found in Numba's cache."""

import importlib
import os
import pkgutil
import subprocess
import sys

import pytest
import torch

import nfstudy
from nfstudy.flows.base import fits_lanes
from nfstudy.flows.planar.kernel import PlanarChain

pytestmark = pytest.mark.slow

LOOPS = [
    info.name
    for info in pkgutil.walk_packages(nfstudy.__path__, "nfstudy.")
    if ".kernel" in info.name and not info.ispkg
]
ONE_STEP = """
import hashlib, torch
from nfstudy.flows.planar.kernel import PlanarChain
generator = torch.Generator().manual_seed(0)
z, steps = (torch.randn(*shape, generator=generator).requires_grad_() for shape in ((2, 50, 40), (50, 3, 81)))
z_K, log_det = PlanarChain.apply(z, steps, True)
found = [z_K, log_det, *torch.autograd.grad(z_K.sin().sum() - log_det.sum(), [z, steps])]
print(hashlib.sha256(b"".join(x.detach().contiguous().numpy().tobytes() for x in found)).hexdigest())
"""


def dispatchers(name):
    """Return the compiled functions that a module knows by some name."""
    return {key: value for key, value in vars(importlib.import_module(name)).items() if hasattr(value, "py_func")}


@pytest.mark.parametrize("name", LOOPS)
def test_what_a_loop_calls_becomes_one_with_it(name):
    """Two compiled copies of a part that stays a function would round differently, and chance would choose between."""
    known = dispatchers(name)
    called = {word for function in known.values() for word in function.py_func.__code__.co_names} & known.keys()
    apart = [word for word in called if not known[word].targetoptions.get("forceinline")]
    assert not apart, f"{name}: {', '.join(sorted(apart))}: called, but not of `kernels.PART`"


def test_there_are_loops_with_parts():
    assert "nfstudy.flows.planar.kernel" in LOOPS
    assert {"chain", "two_dots", "tanh"} <= dispatchers("nfstudy.flows.planar.kernel").keys()


def test_a_process_that_compiles_and_one_that_finds_the_cache_say_the_same(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", ONE_STEP]
    compiled, found = (
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout for _ in range(2)
    )
    assert [*tmp_path.rglob("*.nbc")], "nothing was cached"
    assert compiled == found


def test_a_second_derivative_is_refused_not_wrong():
    """The backward passes are derived by hand, and have no derivative of their own."""
    z = torch.randn(5, 4, requires_grad=True)
    z_K, log_det = PlanarChain.apply(z, torch.randn(5, 3, 9, requires_grad=True), True)
    (first,) = torch.autograd.grad(z_K.square().sum() + log_det.sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("steps", "fits"),
    [((3, 9), True), ((5, 3, 9), True), ((6, 3, 9), False), ((5, 2, 3, 9), False), ((2, 5, 3, 9), False)],
)
def test_only_numbers_of_each_image_or_of_all_go_to_the_loops(steps, fits):
    assert fits_lanes(torch.zeros(2, 5, 4), torch.zeros(steps)) == fits
