"""What `training.fit` and `trial.run_trial` ask of a problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from nfstudy.films.arrays import Film
from nfstudy.films.fits import PlaneFits
from nfstudy.inference.models.minibatch import Minibatch
from nfstudy.study.settings import Settings


@dataclass(frozen=True)
class Diagnosis:
    """What more is logged of a trained problem, beside its test/* metrics."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """Name -> value."""
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """Name -> what is counted -> value; what that is stands in the metric's meaning."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """File name -> content."""


class Problem(Protocol):
    """A bound to be trained and evaluated; its draws depend on its settings, the repetition and the epoch alone."""

    settings: Settings
    """All of them; `seed` among them."""
    epoch_updates: int
    """Parameter updates in a whole epoch."""
    device: str
    """Where its tensors live, such as `cpu` or `cuda:0`."""

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return what is trained, by name; `optimisers.is_bias` and `variational` go by names."""

    def parameters(self) -> list[nn.Parameter]:
        """Return the values of `named_parameters`."""

    def minibatches(self, epoch: int, updates: int, start: int = 0) -> Iterator[Minibatch]:
        """Yield the first so many minibatches of an epoch (1, 2, ...), with `objective.samples` samples of q each.

        Those before `start` are left out; what they would draw is drawn and dropped, so that the others draw the same.
        """

    def draws(self, epoch: int, updates: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield what is random about each of these updates, dreams aside: CPU tensors, of the same shapes each time."""

    def blocks(self, epoch: int, updates: int, at_once: int) -> Iterator[tuple[Tensor, ...]]:
        """Yield the same, bit for bit, of up to so many updates at once, which are a first axis of each tensor."""

    def minibatch(self, drawn: tuple[Tensor, ...]) -> Minibatch:
        """Return the minibatch, without dreams, of what `draws` yielded and somebody put on `device`.

        Nothing in it, nor in what an estimator makes of it, waits for the device or comes from the processor: a CUDA
        graph of it can be replayed with other draws in the same place.
        """

    def repeated_minibatch(self, count: int, samples: int) -> Iterator[Minibatch]:
        """Yield one minibatch, that of an epoch which no training has, so many times, with other noise each time."""

    @property
    def inputs(self) -> int:
        """How many numbers `Minibatch.inputs` has for an example; 0 without examples."""

    def validate(self) -> dict[str, float]:
        """Return `objective.BoundTerms.numbers` at β = 1 on held-out images or noise, the same every time; in nats."""

    def held_out(self) -> dict[str, float]:
        """Return what `validate` does not say of the validation images, once at the end of a training; in nats."""

    def test(self) -> dict[str, float]:
        """Return the test/* metrics, by their names without `test/`."""

    def diagnose(self) -> Diagnosis:
        """Return what `test` does not: what says how far its numbers can be trusted, and what the fit looks like."""

    def files(self) -> dict[str, bytes]:
        """Return what is kept of the trained problem: file name -> content."""

    def film(self) -> Film:
        """Return what the trained flow does step by step."""

    def fits(self) -> PlaneFits | None:
        """Return what is approximated beside draws by MCMC and the best Gaussians; None where it is not on a plane."""


def variational(named: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters of q: those that are not of the generative network."""
    generative = ("decoder.", "upper_decoders.", "likelihood.")
    return [weight for name, weight in named.items() if not name.startswith(generative)]
