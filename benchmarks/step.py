"""A whole training step of the MNIST model: against its bare matrix products, and with the chain against without it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.result import Result, Row, Verdict
from benchmarks.timing import Plan, ratio, spread, take_turns
from nfstudy.core.kernels.linear import product
from nfstudy.data.dataset import Dataset, Splits, make_dataset
from nfstudy.inference.problems.images import ImageProblem
from nfstudy.inference.training.fit import fit
from nfstudy.study.settings import Settings

PIXELS, BATCH = 784, 100
FULL = Plan(rounds=15, turn=0)
QUICK = Plan(rounds=2, turn=0)
UPDATES = {FULL: 60, QUICK: 3}
"""Of one turn; the first of them also makes the optimiser's state."""
MOST_OVERHEAD = 1.3
"""Of a step at K = 0, with its optimiser, over its bare products."""
MOST_CHAIN = 1.25
"""Of a step at K = 80 over the same without the chain."""


def make_images(updates: int) -> Dataset:
    """Return random bits in the shape of MNIST, as many as the updates go through."""
    rng = np.random.default_rng(0)
    splits = (rng.integers(2, size=(n, PIXELS), dtype=np.uint8) for n in (updates * BATCH, 10, 10))
    return make_dataset("bits", (28, 28), 1, Splits(*splits), "made here")


def make_problem(updates: int, family: str, length: int, **train: object) -> tuple[ImageProblem, Settings]:
    """Return the model of Section 6.2 on random bits, and its settings."""
    settings = Settings.model_validate(
        {
            "data": {"name": "mnist"},
            "flow": {"family": family, "length": length},
            "train": {"updates": updates, **train},
        }
    )
    return ImageProblem(settings, make_images(updates), 1, "cpu"), settings


def without_chain(problem: ImageProblem) -> ImageProblem:
    """Take the chain out of a problem, and leave in the output layer that makes its parameters, with its gradient."""
    flow = problem.model.flow
    flow.forward = lambda z, parameters: (z, parameters[0].mean((-2, -1)))  # type: ignore[method-assign]
    return problem


def trainer(problem: ImageProblem, settings: Settings) -> Callable[[], object]:
    """Return what trains a problem for all its updates."""
    return lambda: fit(problem, settings, lambda _: True)


def bare_products(problem: ImageProblem, multiply: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], object]:
    """Return what does the matrix products of one update, and nothing else.

    Each layer's forward product, its weights' gradient and its input's, but for the first layer's input.

    Arguments:
        problem: whose layers count.
        multiply: takes (M, F) and (N, F) and returns a bᵀ.
    """
    weights = [parameter.detach() for parameter in problem.parameters() if parameter.dim() == 2]
    inputs = [torch.randn(BATCH, weight.shape[1]) for weight in weights]
    grads = [torch.randn(BATCH, weight.shape[0]) for weight in weights]

    def work() -> None:
        for x, weight, grad in zip(inputs, weights, grads, strict=True):
            multiply(x, weight)
            multiply(grad.T, x.T)
            if weight.shape[1] != PIXELS:
                multiply(grad, weight.T)

    return work


def measure(quick: bool) -> Result:
    """Time the steps and the products by turns.

    Arguments:
        quick: few rounds of few updates.
    """
    plan = QUICK if quick else FULL
    updates = UPDATES[plan]
    plain, settings = make_problem(updates, "none", 0, optimiser="adam", learning_rate=1e-4)
    kinds = {
        "K = 0, Adam": (plain, settings),
        "K = 0, RMSprop": make_problem(updates, "none", 0),
        "K = 0, Adam, bfloat16": make_problem(
            updates, "none", 0, optimiser="adam", learning_rate=1e-4, precision="bfloat16"
        ),
    }
    for family in ("planar", "radial", "nice-perm"):
        problem, with_chain = make_problem(updates, family, 80, optimiser="adam", learning_rate=1e-4)
        kinds[f"K = 80, {family}, Adam"] = problem, with_chain
    problem, with_chain = make_problem(updates, "planar", 80, optimiser="adam", learning_rate=1e-4)
    kinds["K = 80, planar without its chain, Adam"] = without_chain(problem), with_chain
    steps = {name: trainer(*kind) for name, kind in kinds.items()}
    products = {
        "products of K = 0, ours": bare_products(plain, product),
        "products of K = 0, torch.matmul": bare_products(plain, lambda a, b: a @ b.T),
    }
    steps |= {name: _repeat(work, updates) for name, work in products.items()}
    seconds = {name: [s / updates for s in turns] for name, turns in take_turns(steps, plan).items()}
    rows: list[Row] = [
        {"what": name, "median_ms": 1e3 * spread(turns).median, "lower_ms": 1e3 * spread(turns).lower}
        | {"upper_ms": 1e3 * spread(turns).upper}
        for name, turns in seconds.items()
    ]
    asked = [
        (f"K = 0, {optimiser}", f"products of K = 0, {whose}", MOST_OVERHEAD)
        for optimiser in ("Adam", "RMSprop")
        for whose in ("ours", "torch.matmul")
    ]
    asked.append(("K = 80, planar, Adam", "K = 80, planar without its chain, Adam", MOST_CHAIN))
    verdicts = []
    for what, over, most in asked:
        found = ratio(seconds[what], seconds[over]).median
        verdicts.append(Verdict(f"{what} / {over}", f"{found:.2f}", f"at most {most}", found <= most))
    return Result(f"one update, batch {BATCH}, one thread", rows, verdicts)


def _repeat(work: Callable[[], object], times: int) -> Callable[[], object]:
    def repeated() -> None:
        for _ in range(times):
            work()

    return repeated
