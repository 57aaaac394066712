"""What is random about updates, for many at once: the very numbers that are drawn update by update."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

TOGETHER = 16
"""torch makes normal numbers so many at a time: of a multiple of these, two draws in turn are one of both."""
MOST_NUMBERS = 2**22
"""Drawn at once, 16 MiB in float32."""


def normal(updates: int, shape: Sequence[int], stream: torch.Generator) -> Tensor:
    """Return normal numbers (updates, ...), those of `torch.randn(shape)` one after another, from a CPU generator."""
    if math.prod(shape) % TOGETHER == 0:
        return torch.randn(updates, *shape, generator=stream)
    return torch.stack([torch.randn(*shape, generator=stream) for _ in range(updates)])


def in_blocks(updates: int, at_once: int, numbers: int) -> Iterator[int]:
    """Yield how many of these updates are drawn at once, the first ones first.

    Arguments:
        updates: in all.
        at_once: at most, whatever there is room for.
        numbers: of an update.
    """
    most = max(1, min(at_once, MOST_NUMBERS // max(numbers, 1)))
    while updates > 0:
        yield min(most, updates)
        updates -= most
