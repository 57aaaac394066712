"""The updates of a training on a CUDA device, hundreds at a time: those of `loop`, but for rounding."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from nfstudy.core import cuda
from nfstudy.core.cuda.capture import capturing
from nfstudy.inference.models.objective import BoundTerms, beta_at
from nfstudy.inference.objectives.base import Estimate
from nfstudy.inference.training.loop import Loop
from nfstudy.inference.training.update_graph import MOST_UPDATES, WARM_UP, Steering, UpdateGraph, steered


class Replayed:
    """A training's updates by an `UpdateGraph`.

    The first ones are done one by one, for a capture must find all libraries warm. Whether an update was finite is
    looked at after some hundred of them: where one was not, these are done again one by one, by which the training
    comes upon it as it would on the processor.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        device = loop.problem.device
        self._graph = UpdateGraph(self._update, device)
        self._warm = False
        self._chunks: Iterator[int] = iter(())
        self._staged: int | None = None
        """How many updates are staged; None: nobody has looked."""
        self._sums = torch.zeros(len(BoundTerms._fields) + 1, dtype=torch.float64, device=device)
        self._norm = torch.zeros((), device=device)
        self._learned = loop.estimator.state
        """Where the graph has what an estimator learns along the way."""

    def run_epoch(self, updates: int) -> None:
        """Do an epoch's updates until so many of it are done; raises DivergenceError."""
        loop = self.loop
        if not self._warm:
            with capturing:
                loop.step_by_step(min(updates, loop.count + WARM_UP))
            self._warm = True
            nothing = self._norm.new_zeros(1)
            self._account(Estimate(BoundTerms(*[nothing] * 4), nothing), self._norm)  # That it is warm, too.
            self._begin()
        while loop.count < updates:
            if self._staged is None:
                self._staged = next(self._chunks)
            if self._run(self._staged):
                continue
            loop.step_by_step(updates)
            if loop.replayed:
                self._begin()

    def release(self) -> None:
        """Give back what lies on the device for these updates, of which none will be done any more.

        Loop, updates and graph hold one another: Python's collector alone would find them dead, at a time of its own.
        """
        self.loop.replayed = None
        self._chunks = iter(())
        del self._graph

    def _begin(self) -> None:
        """Take the training from where it stands."""
        for name, own in self._learned.items():
            own.copy_(self.loop.estimator.state[name])
        self.loop.estimator.state = self._learned
        self._chunks, self._staged = self._stage(), None

    def _stage(self) -> Iterator[int]:
        """Yield `UpdateGraph.stage` of all epochs from here on."""
        loop = self.loop
        begun, done, epoch = loop.update - loop.count, loop.count, len(loop.records) + 1
        total = loop.settings.train.updates
        while begun < total:
            updates = min(loop.problem.epoch_updates, total - begun)
            yield from self._graph.stage(_past(done, loop.problem.blocks(epoch, updates, MOST_UPDATES)))
            begun, done, epoch = begun + updates, 0, epoch + 1

    def _run(self, count: int) -> bool:
        """Do the updates that are staged, and stage the next meanwhile; return False, and undo them, if one failed."""
        loop = self.loop
        then, processor_then = time.perf_counter(), time.thread_time()
        restore = self._remember()
        steering = [self._steering(loop.update + ahead) for ahead in range(count)]
        self._graph.load(count, steering)
        self._sums.zero_()
        try:
            self._graph.capture()
        # What somebody's plug-in does in an update cannot be captured; of what torch's optimisers do, it asserts so.
        except (RuntimeError, AssertionError) as error:
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"the updates are done one by one, which is slower: {reason}", stacklevel=2)
            restore()
            self.release()
            return False
        self._graph.run(count)
        self._staged = next(self._chunks, None)
        if self._graph.failed():
            restore()
            return False
        loop.sums = self._sums.clone() if loop.sums is None else loop.sums + self._sums
        loop.norm = self._norm.clone()
        loop.update += count
        loop.count += count
        for step in self._steps_of_processor():
            step += count
        loop.seconds += time.perf_counter() - then
        loop.processor_seconds.extend([(time.thread_time() - processor_then) / count] * count)
        loop.save_if_due()
        return True

    def _steering(self, update: int) -> tuple[float, float, float]:
        """Return what the update after so many goes by; `Steering`, as numbers."""
        loop = self.loop
        rate = loop.set_learning_rate(update)
        new = 1 - loop.averages.decay_at(update + 1) if loop.averages else 0.0
        return beta_at(update, loop.settings.objective), rate, new

    def _update(self, drawn: tuple[Tensor, ...], steering: Steering) -> Tensor:
        """Do an update, and return a number that is finite where loss and gradient are; what the graph is made of."""
        loop = self.loop
        steps = [(step, step.clone()) for step in self._steps_of_processor()]
        estimate: Estimate = loop.estimator(loop.problem.minibatch(drawn), steering.beta)
        loss = estimate.objective.mean()
        norm = loop.gradient(loss)
        for name, own in self._learned.items():
            own.copy_(loop.estimator.state[name])
        loop.estimator.state = self._learned
        with steered(loop.optimiser, steering.learning_rate):
            loop.descend(norm)
        for step, before in steps:
            step.copy_(before)  # Nothing has been done yet: this is captured.
        if loop.averages:
            loop.averages.take(steering.new)
        return self._account(estimate, norm)

    def _account(self, estimate: Estimate, norm: Tensor) -> Tensor:
        """Take in the means of an update and its gradient's norm, and return their sum, as far as both are watched."""
        each = [*estimate.terms, estimate.objective]
        alike = {x.shape for x in each} == {estimate.objective.shape} and estimate.objective.dim() == 1
        if alike and cuda.runs_here(*each, norm):
            from nfstudy.core.cuda.bookkeeping import account  # It imports Triton.

            return account(self._sums, self._norm, [x.detach() for x in each], norm)
        self._sums += estimate.means
        self._norm.copy_(norm)
        return norm + estimate.objective.detach().mean()

    def _steps_of_processor(self) -> list[Tensor]:
        """Return the numbers of steps that the optimiser keeps, where it keeps them on the processor."""
        steps = (state["step"] for state in self.loop.optimiser.state.values() if "step" in state)
        return [step for step in steps if step.device != self._norm.device]

    def _remember(self) -> _Restore:
        loop = self.loop
        of_optimiser = [
            value for state in loop.optimiser.state.values() for value in state.values() if isinstance(value, Tensor)
        ]
        means = loop.averages.means if loop.averages else []
        weights = [weight.detach() for weight in loop.parameters]
        return _Restore(loop, [*weights, *of_optimiser, *means, *self._learned.values()])


def _past(updates: int, blocks: Iterable[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """Yield what blocks hold after so many updates."""
    for block in blocks:
        left = len(block[0]) - updates
        if left > 0:
            yield tuple(each[-left:] for each in block)
        updates = max(0, -left)


class _Restore:
    """What takes a training back to where it was."""

    def __init__(self, loop: Loop, tensors: list[Tensor]) -> None:
        self.loop, self.tensors = loop, tensors
        self.before = [each.clone() for each in tensors]
        self.schedule = copy.deepcopy(loop.schedule.state_dict()) if loop.schedule else None
        self.rates = [group["lr"] for group in loop.optimiser.param_groups]
        self.learned = loop.estimator.state

    def __call__(self) -> None:
        self.loop.estimator.state = self.learned  # A capture that was given up has left what was never computed.
        for each, before in zip(self.tensors, self.before, strict=True):
            each.copy_(before)
        if self.loop.schedule and self.schedule is not None:
            self.loop.schedule.load_state_dict(self.schedule)
        for group, rate in zip(self.loop.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate
