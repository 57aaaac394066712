"""Fused loops for the CPU, compiled by Numba: each does in one pass what a plain formula elsewhere does in many.

The plain formulas stay the reference, and what runs on other devices; tests hold each loop to its formula, forward and
backward. Arrays are *batch-last*: the images of a minibatch lie side by side in memory, so that every loop over them is
one of vector instructions, without a sum across lanes. Loops run on one thread, in one order, whatever the number of
torch's threads: their bits depend on their inputs alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

COMPILED: dict[str, Any] = {"cache": True, "fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy"}
"""Numba's options: sums may be reordered and products fused, but infinities and NaN stay what they are."""


def runs_here(*tensors: Tensor) -> bool:
    """Return whether the loops can take these tensors: float32 or float64, all alike, on the CPU."""
    kind = tensors[0].dtype
    return kind in (torch.float32, torch.float64) and all(x.dtype == kind and x.is_cpu for x in tensors)
