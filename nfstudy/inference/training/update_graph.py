"""Updates on a CUDA device as a graph that is replayed: between two looks at it, it is neither fed nor waited for.

An update of a small model is a hundred kernels of some microseconds, each of which takes Python longer to start than
the device to run. A CUDA graph holds them all, with the places that they read from and write to; so what changes from
update to update (draws, β, the learning rate) is put on the device for some hundred updates at once, and the graph
counts through it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from nfstudy.core import cuda
from nfstudy.core.cuda.capture import captured, capturing

WARM_UP = 3
"""Updates before a capture: what libraries set up when they are first called must not be captured."""
MOST_UPDATES = 500
"""Between two looks at the device."""
TOGETHER = 10
"""Updates of the larger graph: the driver starts graphs of several threads one after another, 20 to 70 µs each."""
SHORT = 0.1
"""Seconds that the capture of an update takes at most whose graph may be as large: others keep the device busy."""
MOST_BYTES = 2**26
"""Of their draws."""


class Steering(NamedTuple):
    """What an update goes by beside its draws: numbers that lie on the device."""

    beta: Tensor
    """β of the annealing."""
    learning_rate: Tensor
    new: Tensor
    """1 − d, the new weights' share of running means; see `ema.Averages`."""


class UpdateGraph:
    """Updates as a CUDA graph, and the draws and numbers of the next ones on the device.

    Arguments:
        update: does an update, and returns a number that is finite where the update is, as a tensor; it may put
            nothing where it did not lie before, nor wait for the device.
        device: such as `cuda:0`.
    """

    def __init__(self, update: Callable[[tuple[Tensor, ...], Steering], Tensor], device: str) -> None:
        self.update = update
        self.device = device
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        """How many updates each graph does, the larger first."""
        self._position = torch.zeros(1, dtype=torch.int64, device=device)
        self._failed = torch.full((1,), -1, dtype=torch.int64, device=device)
        self._numbers = torch.zeros(MOST_UPDATES, len(Steering._fields), device=device)
        self._draws: list[Tensor] = []
        self._turn = 0
        self._staged: list[list[Tensor]] = []
        """Page-locked copies of `_draws`, taken in turn: the device may still read from one while another is filled."""

    def stage(self, blocks: Iterable[tuple[Tensor, ...]]) -> Iterator[int]:
        """Yield, until there are no more of these draws, how many updates they have been staged for: as many as fit.

        They are for the `run` after the next `load`: what is asked for while the device works costs no time.

        Arguments:
            blocks: of `Problem.blocks`.
        """
        count = 0
        for block in blocks:
            if not self._draws:
                self._make_room(block)
            most = len(self._draws[0])
            taken = 0
            while taken < len(block[0]):
                room = self._staged[1 - self._turn]
                own = min(most - count, len(block[0]) - taken)
                for each, staged in zip(block, room, strict=True):
                    staged[count : count + own].copy_(each[taken : taken + own])
                taken, count = taken + own, count + own
                if count == most:
                    self._turn, count = 1 - self._turn, 0
                    yield most
        if count:
            self._turn = 1 - self._turn
            yield count

    def load(self, count: int, steering: Sequence[tuple[float, float, float]]) -> None:
        """Put what was staged last on the device, with what else these updates go by."""
        for target, source in zip(self._draws, self._staged[self._turn], strict=True):
            target[:count].copy_(source[:count], non_blocking=True)
        self._numbers[:count].copy_(torch.tensor(steering, dtype=torch.float32), non_blocking=True)
        self._position.zero_()

    def capture(self) -> None:
        """Make the graphs if there are none yet; raises RuntimeError where the update does what none can hold."""
        if self.graphs:
            return
        with capturing:
            self._go_on(torch.zeros(1, device=self.device))  # A kernel is best loaded before it is captured.
            self._position.zero_()
            then = time.perf_counter()
            one = self._capture(1)
            larger = {TOGETHER: self._capture(TOGETHER)} if time.perf_counter() - then < SHORT else {}
        self.graphs = larger | {1: one}

    def run(self, count: int) -> None:
        """Have the device do so many updates, without waiting for it."""
        assert self.graphs
        for updates, graph in self.graphs.items():
            times, count = divmod(count, updates)
            for _ in range(times):
                graph.replay()

    def failed(self) -> bool:
        """Wait for the device, and return whether an update of the last `run` was not finite."""
        place = int(self._failed.item())
        self._failed.fill_(-1)
        return place >= 0

    def _make_room(self, block: tuple[Tensor, ...]) -> None:
        drawn = [each[0] for each in block]
        size = sum(each.numel() * each.element_size() for each in drawn)
        most = max(1, min(MOST_UPDATES, MOST_BYTES // max(size, 1)))
        self._draws = [each.new_empty(most, *each.shape, device=self.device) for each in drawn]
        pinned = self.device.startswith("cuda")
        self._staged = [[each.new_empty(most, *each.shape, pin_memory=pinned) for each in drawn] for _ in range(2)]

    def _capture(self, updates: int) -> torch.cuda.CUDAGraph:
        """Return a graph of so many updates."""
        with captured(self.device) as graph:
            self.steps(updates)
        return graph

    def steps(self, updates: int) -> None:
        """Do so many updates from the one that `_position` says: what is captured."""
        for _ in range(updates):
            self._step()

    def _step(self) -> None:
        drawn = tuple(draws.index_select(0, self._position).squeeze(0) for draws in self._draws)
        numbers = self._numbers.index_select(0, self._position).squeeze(0)
        self._go_on(self.update(drawn, Steering(*numbers.unbind())))

    def _go_on(self, watched: Tensor) -> None:
        if cuda.runs_here(watched):
            from nfstudy.core.cuda.bookkeeping import advance  # It imports Triton.

            advance(self._position, self._failed, watched)
            return
        bad = ~torch.isfinite(watched)
        self._failed.copy_(torch.where((self._failed < 0) & bad, self._position, self._failed))
        self._position.add_(1)


@contextmanager
def steered(optimiser: Optimizer, learning_rate: Tensor) -> Iterator[None]:
    """Have an optimiser take its learning rate from the device, as a graph must, for a while."""
    before = [(group["lr"], group.get("capturable", False)) for group in optimiser.param_groups]
    for group in optimiser.param_groups:
        group["lr"], group["capturable"] = learning_rate, True
    try:
        yield
    finally:
        for group, (rate, capturable) in zip(optimiser.param_groups, before, strict=True):
            group["lr"], group["capturable"] = rate, capturable
