"""What `training.fit` and `trial.run_trial` ask of a problem."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import nn

from nfstudy.inference.models.objective import BoundTerms
from nfstudy.study.settings import Settings


class Problem(Protocol):
    """A bound to be trained and evaluated; its draws depend on its settings, the repetition and the epoch alone."""

    settings: Settings
    """All of them; `seed` among them."""
    epoch_updates: int
    """Parameter updates in a whole epoch."""
    device: str
    """Where its tensors live, such as `cpu` or `cuda:0`."""

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained."""

    def training_terms(self, epoch: int, updates: int, start: int = 0) -> Iterator[BoundTerms]:
        """Yield the terms of the bound, with gradients, on the first so many minibatches of an epoch (1, 2, ...).

        Those before `start` are left out; what they would draw is drawn and dropped, so that the others draw the same.
        """

    def validate(self) -> dict[str, float]:
        """Return `BoundTerms.numbers` at β = 1 on held-out images or noise, the same every time; in nats."""

    def test(self) -> dict[str, float]:
        """Return the test/* metrics, by their names without `test/`."""

    def files(self) -> dict[str, bytes]:
        """Return what is kept of the trained problem: file name -> content."""
