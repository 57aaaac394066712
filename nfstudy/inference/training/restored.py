"""What a checkpoint says, checked against the training that is to go on from it.

Its SHA-256 says only that it is as somebody wrote it. Whatever no run of this training could have reached is refused:
else an update beyond the last would be an untrained result, and another learning rate another trial's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nfstudy.inference.models.objective import BoundTerms
from nfstudy.inference.training.checkpoints import CheckpointError
from nfstudy.runs.metrics import BOUND_TERMS, OF_TRAINING
from nfstudy.runs.result import EpochRecord

EPOCH_METRICS = frozenset(metric.name for metric in (*BOUND_TERMS, *OF_TRAINING))
"""What every epoch logs."""
MOST_STEPS = 2**24
"""What torch's optimisers count updates up to: in float32, one more is as many."""


@dataclass(frozen=True)
class Expected:
    """What a training is, as far as its checkpoints must agree with it."""

    updates: int
    """In all."""
    epoch_updates: int
    """Of a whole epoch."""
    parameters: Sequence[nn.Parameter]
    optimiser: Optimizer
    schedule: LRScheduler | None
    schedule_fields: Mapping[str, Any]
    """What the schedule was made with."""
    averages: bool
    """Whether it averages its weights."""
    best: bool
    """Whether it keeps its best weights."""
    estimator: Mapping[str, Tensor]
    """What its estimator learns along the way."""
    measured: frozenset[str]
    """Metrics that some of its epochs have beside those of every epoch."""
    measured_after: frozenset[int]
    """Which epochs these are."""


def check_state(content: Mapping[str, Any], expected: Expected) -> list[EpochRecord]:
    """Return the records of the epochs of a state (`loop.Loop.state`) that this training can have reached.

    Raises:
        CheckpointError: it cannot; says what of it.
    """
    _check_weights("parameters", content["parameters"], expected)
    records = _records(content["records"], expected)
    update, count = content["update"], content["count"]
    _require(type(update) is int and type(count) is int, "its numbers of updates are no whole numbers")
    _require(0 <= update <= expected.updates, f"it is at update {update:,} of {expected.updates:,}")
    begun = records[-1].update if records else 0
    longest = min(expected.epoch_updates, expected.updates - begun)
    _require(
        0 <= count <= longest and update == begun + count,
        f"it is at update {update:,}, {count:,} after its {len(records):,} epochs, which end at {begun:,}",
    )
    _require(_is_number(content["seconds"]) and content["seconds"] >= 0, "its seconds are no time")
    sums, norm = content["sums"], content["norm"]
    if count:
        shape, kind = (len(BoundTerms._fields) + 1,), torch.float64
        _require(_is_tensor(sums, shape) and sums.dtype == kind, "its sums over the epoch are none")
    else:
        _require(sums is None, "it has sums over an epoch that has not begun")
    _require(_is_tensor(norm, ()) if update else norm is None, "its gradient norm is none")
    _check_optimiser(content["optimiser"], expected, update)
    _check_schedule(content["schedule"], expected, update)
    _require((content["averages"] is not None) == expected.averages, "it averages weights otherwise")
    if expected.averages:
        _check_weights("averages", content["averages"], expected)
    _check_estimator(content.get("estimator", {}), expected.estimator)
    _require((content["best"] is not None) == (expected.best and bool(records)), "it keeps weights otherwise")
    if content["best"] is not None:
        bound, weights = content["best"]
        _require(bound == max(record.metrics["valid/elbo"] for record in records), "its best epoch is none of its own")
        _check_weights("best weights", weights, expected)
    return records


def _records(told: Sequence[Any], expected: Expected) -> list[EpochRecord]:
    records = [EpochRecord(*each) for each in told]
    for number, record in enumerate(records, 1):
        end = min(number * expected.epoch_updates, expected.updates)
        begun = (number - 1) * expected.epoch_updates
        _require(
            (record.epoch, record.update, record.updates) == (number, end, expected.updates) and begun < end,
            f"its epoch number {number:,} is epoch {record.epoch:,}, to update {record.update:,} of "
            f"{record.updates:,}; expected: to update {end:,} of {expected.updates:,}",
        )
        own = EPOCH_METRICS | (expected.measured if number in expected.measured_after else frozenset())
        if unlike := sorted(own ^ record.metrics.keys()):
            raise CheckpointError(_words(f"its epoch {number:,} has not the metrics of an epoch: {', '.join(unlike)}"))
        _require(
            all(isinstance(value, float) for value in record.metrics.values())
            and math.isfinite(record.metrics["valid/elbo"]),
            f"its epoch {number:,} has metrics that are no numbers",
        )
    return records


def _check_weights(name: str, weights: Sequence[Any], expected: Expected) -> None:
    shapes = [weight.shape for weight in expected.parameters]
    _require([weight.shape for weight in weights] == shapes, f"its {name} have other shapes than the model's")
    same = all(mine.dtype == own.dtype for mine, own in zip(weights, expected.parameters, strict=True))
    _require(same and all(bool(weight.isfinite().all()) for weight in weights), f"its {name} are no finite numbers")


def _check_estimator(state: Mapping[str, Any], expected: Mapping[str, Tensor]) -> None:
    """Hold what an estimator has learned to what it can have; checkpoints of before there was a choice have none."""
    _require(state.keys() == expected.keys(), "its estimator of the gradient is another one")
    for name, own in expected.items():
        fits = _is_tensor(state[name], tuple(own.shape)) and state[name].dtype == own.dtype
        _require(fits and bool(state[name].isfinite().all()), f"its estimator's {name} does not fit")


def _check_optimiser(state: Mapping[str, Any], expected: Expected, update: int) -> None:
    """Hold the optimiser's settings to those of the trial, and its state to the weights and the updates."""
    own = expected.optimiser.state_dict()
    free = ("lr",) if expected.schedule else ()
    for mine, told in zip(own["param_groups"], state["param_groups"], strict=True):
        unlike = sorted(key for key in mine.keys() | told.keys() if key not in free and mine.get(key) != told.get(key))
        _require(not unlike, f"its optimiser has other settings: {', '.join(unlike)}")
        _require(_is_number(told["lr"]), "its learning rate is no number")
    weights = [weight for group in expected.optimiser.param_groups for weight in group["params"]]
    steps = []
    for place, moments in state["state"].items():
        shape = weights[place].shape
        for name, value in moments.items():
            fits = isinstance(value, Tensor) and value.shape in (torch.Size(), shape) and bool(value.isfinite().all())
            _require(fits or value is None, f"its optimiser's {name} does not fit the weights")
        steps.append(int(moments["step"]))
    counted = min(update, MOST_STEPS)
    _require(min(max(steps, default=0), MOST_STEPS) == counted, "its optimiser has taken another number of steps")


def _check_schedule(state: Mapping[str, Any] | None, expected: Expected, update: int) -> None:
    _require((state is None) == (expected.schedule is None), "its learning rate follows another schedule")
    if state is None or expected.schedule is None:
        return
    own = expected.schedule.state_dict()
    fixed = own.keys() & expected.schedule_fields.keys()
    _require(own.keys() == state.keys(), "its learning rate follows another schedule")
    unlike = sorted(key for key in fixed if own[key] != state[key])
    _require(not unlike, f"its learning rate follows another schedule: {', '.join(unlike)}")
    _require(state["last_epoch"] == max(update - 1, 0), "its schedule is at another update")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_tensor(value: object, shape: tuple[int, ...]) -> bool:
    return isinstance(value, Tensor) and value.shape == shape


def _require(truth: bool, words: str) -> None:
    if not truth:
        raise CheckpointError(_words(words))


def _words(words: str) -> str:
    return f"the checkpoint is none of this training: {words}"
