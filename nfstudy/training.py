"""`fit`: stochastic gradient descent on the annealed free energy, the only loop that takes gradients."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from nfstudy.averages import Averages, put
from nfstudy.objective import BoundTerms, beta_at, free_energy
from nfstudy.optimisers import make_optimiser
from nfstudy.outcomes import EpochRecord, OnEpoch, Outcome
from nfstudy.problems.base import Problem
from nfstudy.sections import TrainSpec
from nfstudy.settings import Settings

WHOLE_TRAINING = ("T_max", "total_iters", "total_steps")
"""Schedule lengths of which null stands for `train.updates`."""


@dataclass(frozen=True)
class TrainingEnd:
    """How a training ended."""

    outcome: Outcome
    """finished, diverged or pruned."""
    update: int
    """Updates done; of a diverged training, the number of the update (1, 2, ...) that went wrong."""
    reason: str
    """Why it did not finish; empty when it did."""
    seconds: float
    """Wall-clock seconds of the updates, without the validations."""


class DivergenceError(Exception):
    """A loss, gradient or bound that is not finite."""


def fit(problem: Problem, settings: Settings, on_epoch: OnEpoch) -> TrainingEnd:
    """Train a problem's parameters in place by Alg. 1: one sample of q_K a data point and update, eq. (20).

    Epochs are as long as the problem says; the last may be cut so that there are `train.updates` in all.

    Arguments:
        problem: what is trained, which draws its own minibatches and noise.
        settings: objective and train.
        on_epoch: told of every epoch; False ends the training there.

    Returns:
        How it ended. A finished problem holds the parameters that `train.averaging` and `train.keep` ask for; after a
        divergence, the last finite ones or those that failed validation.
    """
    loop = _Loop(problem, settings)
    total = settings.train.updates
    epoch, seconds = 0, 0.0
    try:
        while loop.update < total:
            epoch += 1
            started = time.perf_counter()
            metrics = loop.run_epoch(epoch)
            seconds += time.perf_counter() - started
            metrics |= loop.validate()
            if not on_epoch(EpochRecord(epoch, loop.update, total, metrics)):
                return TrainingEnd("pruned", loop.update, f"pruned after epoch {epoch}", seconds)
    except DivergenceError as error:
        return TrainingEnd("diverged", loop.update, str(error), seconds)
    loop.settle()
    return TrainingEnd("finished", loop.update, "", seconds)


class _Loop:
    """What changes from update to update."""

    def __init__(self, problem: Problem, settings: Settings) -> None:
        self.problem = problem
        self.settings = settings
        self.parameters = problem.parameters()
        self.optimiser = make_optimiser(self.parameters, settings.train)
        self.schedule = make_schedule(self.optimiser, settings.train)
        decay = settings.train.averaging
        self.averages = Averages(self.parameters, decay) if decay and self.parameters else None
        self.best: tuple[float, list[Tensor]] | None = None
        """The best validation bound and its weights, where those are to be kept."""
        self.update = 0
        """Updates done, or begun while one is under way."""

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Do an epoch's updates and return its train/* metrics; raises DivergenceError."""
        spec = self.settings.objective
        sums, count = None, 0
        updates = min(self.problem.epoch_updates, self.settings.train.updates - self.update)
        for terms in self.problem.training_terms(epoch, updates):
            if self.schedule and self.update:
                self.schedule.step()
            energies = free_energy(terms, beta_at(self.update, spec), spec.annealing)
            self.update += 1
            norm = self._descend(energies.mean())
            if self.averages:
                self.averages.follow(self.update)
            means = torch.stack([*terms, energies]).detach().mean(-1).double()
            sums = means if sums is None else sums + means
            count += 1
        *means, objective = sums / count
        return {
            **{f"train/{name}": value for name, value in BoundTerms(*means).numbers().items()},
            "train/objective": objective.item(),
            "train/beta": beta_at(self.update, spec),
            "train/learning_rate": self.optimiser.param_groups[0]["lr"],
            "train/gradient_norm": norm.item(),
        }

    def validate(self) -> dict[str, float]:
        """Return the valid/* metrics, and remember the weights if they are the best; raises DivergenceError."""
        with self.averages.in_place() if self.averages else nullcontext():
            bound = self.problem.validate()
            if not math.isfinite(bound["elbo"]):
                raise DivergenceError(f"valid/elbo is {bound['elbo']} after update {self.update}")
            if self.settings.train.keep == "best" and (self.best is None or bound["elbo"] > self.best[0]):
                self.best = bound["elbo"], [weight.detach().clone() for weight in self.parameters]
        return {f"valid/{name}": value for name, value in bound.items()}

    def settle(self) -> None:
        """Put in place the weights that the training is to end with."""
        if self.best:
            put(self.best[1], self.parameters)
        elif self.averages:
            put(self.averages.means, self.parameters)

    def _descend(self, loss: Tensor) -> Tensor:
        """Take one step and return the gradient's norm before clipping; a step that is not finite is not taken."""
        self.optimiser.zero_grad()
        loss.backward()
        gradients = [parameter.grad for parameter in self.parameters]
        norm = nn.utils.get_total_norm(gradients)
        # One transfer an update: a loss that is not finite shows in the sum as well.
        if not math.isfinite((norm + loss.detach()).item()):
            name, value = ("loss", loss.item()) if not math.isfinite(loss.item()) else ("gradient norm", norm.item())
            raise DivergenceError(f"{name} is {value} at update {self.update}")
        if self.settings.train.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.settings.train.clip_norm, norm)
        self.optimiser.step()
        return norm


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
    return getattr(lr_scheduler, name)(optimiser, **fields)
