"""Fused loops for the CPU, compiled by Numba: each does in one pass what a plain formula elsewhere does in many.

The plain formulas stay the reference, and what runs on other devices; tests hold each loop to its formula, forward and
backward. Arrays are *batch-last*: the images of a minibatch lie side by side in memory, so that every loop over them is
one of vector instructions, without a sum across lanes. Loops run on one thread, in one order, whatever the number of
torch's threads: their bits depend on their inputs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import function

COMPILED: dict[str, Any] = {"cache": True, "fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy"}
"""Numba's options of a loop: sums may be reordered and products fused, but infinities and NaN stay what they are."""
PART = COMPILED | {"forceinline": True}
"""Those of a loop's parts, which become one with it. Were one called, the process that compiles the loop would run it
as compiled alone, and a later one, from Numba's cache, as compiled with the loop; the two round differently."""
ORDERED = PART | {"fastmath": {"contract", "nsz"}}
"""Those of parts whose sums are taken in the order in which they are written: another
would undo the two-part reduction of exp's argument, and round what landed runs were trained with otherwise."""


def runs_here(*tensors: Tensor) -> bool:
    """Return whether the loops can take these tensors: float32 or float64, all alike, on the CPU."""
    kinds = {(x.dtype, x.is_cpu) for x in tensors}
    return kinds == {(torch.float32, True)} or kinds == {(torch.float64, True)}


def differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the backward pass of an `autograd.Function`, as torch's `once_differentiable` does.

    What that costs, a fiftieth of a chain of 10 steps, is paid only where second derivatives are asked for.
    """
    guarded = function.once_differentiable(backward)

    def chosen(ctx: Any, *gradients: Tensor) -> Any:
        return (guarded if torch.is_grad_enabled() else backward)(ctx, *gradients)

    return chosen
