"""The norm of a gradient, for which the processor need not fetch large weights' gradients from memory once more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

LARGE = 2**17
"""Numbers of a weight, half a MiB, from which its gradient's norm is found by itself: of fewer, a call costs more than
it saves."""


class GradientNorm:
    """‖g‖ over all weights, before clipping; to the bit what `torch.nn.utils.get_total_norm` returns."""

    def __init__(self, weights: Sequence[nn.Parameter]) -> None:
        self._weights = weights
        self._found: dict[int, Tensor] = {}
        """Number of a large weight -> the norm of its gradient of this backward pass."""

    @contextmanager
    def found_early(self) -> Iterator[None]:
        """Within this, find a large weight's norm as soon as its gradient is there, which the cache still holds then.

        After a whole backward pass it comes from memory: that was a twentieth of an update of the MNIST models, and is
        half of it so. On a GPU, one kernel for all weights is faster.
        """
        handles = [
            weight.register_post_accumulate_grad_hook(partial(self._find, i))
            for i, weight in enumerate(self._weights)
            if weight.is_cpu and weight.numel() >= LARGE
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _find(self, number: int, weight: Tensor) -> None:
        assert weight.grad is not None
        self._found[number] = torch.linalg.vector_norm(weight.grad)

    def total(self) -> Tensor:
        """Return the norm of the gradient that the last backward pass left, a scalar."""
        # The norm of a norm is itself, so that those that are known stand for their gradients.
        gradients = (self._found.get(i, each.grad) for i, each in enumerate(self._weights) if each.grad is not None)
        norm = nn.utils.get_total_norm(list(gradients))
        self._found.clear()
        return norm
