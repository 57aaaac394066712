"""Stochastic gradient descent on an objective by an estimator of its gradient, the only loop that descends."""

from __future__ import annotations

import io
import math
import statistics
import time
from array import array
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from nfstudy.inference.models.objective import BoundTerms, beta_at
from nfstudy.inference.objectives import make_estimator
from nfstudy.inference.problems.base import Problem
from nfstudy.inference.training.checkpoints import CheckpointError, Checkpoints
from nfstudy.inference.training.ema import Averages, copy_into
from nfstudy.inference.training.gradient_norm import GradientNorm
from nfstudy.inference.training.optimisers import make_optimiser
from nfstudy.inference.training.restored import Expected, check_state
from nfstudy.inference.training.variances import gradient_variances, measured_epochs, variants
from nfstudy.runs.result import EpochRecord
from nfstudy.study.sections import TrainSpec
from nfstudy.study.settings import Settings

WHOLE_TRAINING = ("T_max", "total_iters", "total_steps")
"""Schedule lengths of which null stands for `train.updates`."""

PLAIN_STATE = ("update", "seconds", "count", "sums", "norm")
"""Attributes of the loop that a checkpoint holds as they are."""


class DivergenceError(Exception):
    """A loss, gradient or bound that is not finite."""


class Updates(Protocol):
    """What does a loop's updates in its place, hundreds at a time."""

    def run_epoch(self, updates: int) -> None:
        """Do an epoch's updates until so many of it are done; raises DivergenceError."""

    def release(self) -> None:
        """Give back what lies on the device for these updates, of which none will be done any more."""


class Loop:
    """What changes from update to update."""

    def __init__(
        self, problem: Problem, settings: Settings, checkpoints: Checkpoints | None, gradients: bool = False
    ) -> None:
        self.problem = problem
        self.settings = settings
        self.checkpoints = checkpoints
        self.parameters = problem.parameters()
        self.estimator = make_estimator(settings.objective, problem.inputs, problem.device)
        self.optimiser = make_optimiser(problem.named_parameters(), settings.train)
        self.schedule = make_schedule(self.optimiser, settings.train)
        self.gradient_norm = GradientNorm(self.parameters)
        decay = settings.train.averaging
        self.averages = Averages(self.parameters, decay) if decay and self.parameters else None
        self.measured = variants(settings) if gradients else {}
        """Metric -> objective whose gradient's variance is measured along the way."""
        self.measured_after = measured_epochs(-(-settings.train.updates // problem.epoch_updates))
        self.best: tuple[float, list[Tensor]] | None = None
        """The best validation bound and its weights, where those are to be kept."""
        self.update = 0
        """Updates done, or begun while one is under way."""
        self.seconds = 0.0
        """Wall-clock seconds of the updates."""
        self.processor_seconds = array("d")
        """Of each update of this process; no checkpoint holds them."""
        self.records: list[EpochRecord] = []
        """Of the epochs that are over."""
        self.count = 0
        """Updates done of the epoch under way; 0 between epochs."""
        self.sums: Tensor | None = None
        """Of the terms and the objective over these updates, float64."""
        self.norm: Tensor | None = None
        """The last gradient's."""
        self.replayed: Updates | None = None
        """What does the updates in place of this, where they are captured."""

    def epochs(self) -> Iterator[EpochRecord]:
        """Yield the records of the epochs that are over, then do the others; raises DivergenceError."""
        yield from tuple(self.records)
        total = self.settings.train.updates
        while self.update < total or self.count:
            metrics = self._run_epoch() | self._validate()
            number = len(self.records) + 1
            if number in self.measured_after:
                metrics |= gradient_variances(self.problem, self.measured)
            self.records.append(EpochRecord(number, self.update, total, metrics))
            self.count, self.sums = 0, None
            yield self.records[-1]

    def state(self) -> bytes:
        """Return all of this between two updates, as a file.

        What is drawn depends on the seeds, the epoch and the update's place in it alone, so there are no generators'
        states to keep.
        """
        content = {
            "parameters": [weight.detach() for weight in self.parameters],
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict() if self.schedule else None,
            "averages": self.averages.means if self.averages else None,
            "best": self.best,
            "estimator": self.estimator.state,
            **{name: getattr(self, name) for name in PLAIN_STATE},
            "records": [(record.epoch, record.update, record.updates, dict(record.metrics)) for record in self.records],
        }
        file = io.BytesIO()
        torch.save(content, file)
        return file.getvalue()

    def restore(self, state: bytes) -> int:
        """Take over what `state` returned and return how many updates it had done.

        Raises:
            CheckpointError: this training cannot have written it; then nothing has been taken over.
        """
        before = self.state()
        try:
            content = torch.load(io.BytesIO(state), map_location=self.problem.device, weights_only=True)
            records = check_state(content, self._expected())
            self._take(content, records)
        except CheckpointError:
            raise
        except Exception as error:  # Whatever torch makes of bytes that are no state.
            self._take(torch.load(io.BytesIO(before), map_location=self.problem.device, weights_only=True), [])
            raise CheckpointError(f"the checkpoint cannot be read into the model: {error}") from None
        return self.update

    def _take(self, content: Mapping[str, Any], records: list[EpochRecord]) -> None:
        self.optimiser.load_state_dict(content["optimiser"])
        if self.schedule:
            self.schedule.load_state_dict(content["schedule"])
            self.optimiser._opt_called = True  # type: ignore[attr-defined]  # It was, in an earlier process; torch would warn.
        if self.averages:
            self.averages.means = content["averages"]
        copy_into(content["parameters"], self.parameters)
        self.estimator.load(content.get("estimator", {}))
        self.best = content["best"]
        for name in PLAIN_STATE:
            setattr(self, name, content[name])
        self.records = records

    def _expected(self) -> Expected:
        train = self.settings.train
        return Expected(
            updates=train.updates,
            epoch_updates=self.problem.epoch_updates,
            parameters=self.parameters,
            optimiser=self.optimiser,
            schedule=self.schedule,
            schedule_fields=train.schedule.model_dump(),
            averages=self.averages is not None,
            best=train.keep == "best",
            estimator=self.estimator.state,
            measured=frozenset(self.measured),
            measured_after=self.measured_after,
        )

    def _run_epoch(self) -> dict[str, float]:
        """Do what is left of an epoch's updates and return its train/* metrics; raises DivergenceError."""
        spec = self.settings.objective
        updates = min(self.problem.epoch_updates, self.settings.train.updates - (self.update - self.count))
        if self.replayed:
            self.replayed.run_epoch(updates)
        else:
            self.step_by_step(updates)
        assert self.sums is not None
        assert self.norm is not None
        *of_epoch, objective = (self.sums / self.count).unbind()
        return {
            **{f"train/{name}": value for name, value in BoundTerms(*of_epoch).numbers().items()},
            "train/objective": objective.item(),
            "train/beta": beta_at(self.update, spec),
            "train/learning_rate": self.optimiser.param_groups[0]["lr"],
            "train/gradient_norm": self.norm.item(),
        }

    def step_by_step(self, updates: int) -> None:
        """Do an epoch's updates until so many of it are done, each from Python; raises DivergenceError."""
        # On a GPU the workers are threads of one process; elsewhere one may have several for its products.
        processor_time = time.thread_time if self.problem.device.startswith("cuda") else time.process_time
        then, processor_then = time.perf_counter(), processor_time()
        for batch in self.problem.minibatches(len(self.records) + 1, updates, self.count):
            self.set_learning_rate(self.update)
            estimate = self.estimator(batch, beta_at(self.update, self.settings.objective))
            self.update += 1
            loss = estimate.objective.mean()
            self.norm = self.gradient(loss)
            # One transfer an update: a loss that is not finite shows in the sum as well.
            if not math.isfinite((self.norm + loss.detach()).item()):
                of_loss = not math.isfinite(loss.item())
                name, value = ("loss", loss.item()) if of_loss else ("gradient norm", self.norm.item())
                raise DivergenceError(f"{name} is {value} at update {self.update}")
            self.descend(self.norm)
            if self.averages:
                self.averages.follow(self.update)
            self.sums = estimate.means if self.sums is None else self.sums + estimate.means
            self.count += 1
            now, processor_now = time.perf_counter(), processor_time()
            self.seconds, then = self.seconds + now - then, now
            self.processor_seconds.append(processor_now - processor_then)
            processor_then = processor_now
            if self.save_if_due():
                then, processor_then = time.perf_counter(), processor_time()

    def set_learning_rate(self, update: int) -> float:
        """Move the schedule on to the update after so many, and return the rate."""
        if self.schedule and update:
            self.schedule.step()
        rate: float = self.optimiser.param_groups[0]["lr"]
        return rate

    def gradient(self, loss: Tensor) -> Tensor:
        """Find the loss's gradient and return its norm before clipping."""
        self.optimiser.zero_grad()
        loss.backward()
        return self.gradient_norm.total()

    def descend(self, norm: Tensor) -> None:
        """Take one step along the gradient whose norm this is."""
        if self.settings.train.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.settings.train.clip_norm, norm)
        self.optimiser.step()

    def save_if_due(self) -> bool:
        """Write a checkpoint if it is time to, and return whether it was."""
        if not (self.checkpoints and self.checkpoints.due):
            return False
        self.checkpoints.save(self.state())
        return True

    def _validate(self) -> dict[str, float]:
        """Return the valid/* metrics, and remember the weights if they are the best; raises DivergenceError."""
        with self.averages.in_place() if self.averages else nullcontext():
            bound = self.problem.validate()
            if not math.isfinite(bound["elbo"]):
                raise DivergenceError(f"valid/elbo is {bound['elbo']} after update {self.update}")
            if self.settings.train.keep == "best" and (self.best is None or bound["elbo"] > self.best[0]):
                self.best = bound["elbo"], [weight.detach().clone() for weight in self.parameters]
        return {f"valid/{name}": value for name, value in bound.items()}

    def load_final_weights(self) -> None:
        """Put in place the weights that the training is to end with."""
        if self.best:
            copy_into(self.best[1], self.parameters)
        elif self.averages:
            copy_into(self.averages.means, self.parameters)

    def costs(self) -> dict[str, float]:
        """Return `time/update_cpu_ms`; nothing where the checkpoint that this process went on from left no updates."""
        if not self.processor_seconds:
            return {}
        return {"time/update_cpu_ms": 1000 * statistics.median(self.processor_seconds)}


def make_schedule(optimiser: Optimizer, train: TrainSpec) -> LRScheduler | None:
    """Return torch's schedule of the settings' name, to be stepped between updates; None if it is constant."""
    fields = train.schedule.model_dump()
    name = fields.pop("name")
    if name == "constant":
        return None
    fields = {key: train.updates if key in WHOLE_TRAINING and value is None else value for key, value in fields.items()}
    if name == "OneCycleLR":
        # torch would cycle the momentum too, against the settings' own.
        fields["cycle_momentum"] = False
        fields["max_lr"] = fields["max_lr"] or train.learning_rate
    return getattr(lr_scheduler, name)(optimiser, **fields)
