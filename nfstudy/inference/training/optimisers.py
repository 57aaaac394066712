"""The optimisers of `train.optimiser`: torch's own, and its RMSprop without passing over all weights seven times.

torch's load its compiler, which takes each worker a second; they need it where they are compiled, and are not here. So
they are used without what guards them from that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nfstudy.core import cuda, kernels
from nfstudy.core.kernels.rmsprop import update
from nfstudy.study.sections import TrainSpec


class _Uncompiled(Optimizer):
    """What every optimiser of torch does, without its guard."""

    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)


class FusedAdamW(_Uncompiled, torch.optim.AdamW):
    """torch's AdamW, of which each update is one loop a weight, or one kernel on a GPU."""

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


class FusedRMSprop(_Uncompiled, torch.optim.RMSprop):
    """torch's RMSprop with momentum, whose state this is too; each update is one loop a weight, or one kernel on a GPU.

    v ← α v + (1 − α) g²,  m ← μ m + g / (√v + ε),  w ← w − η m

    torch fuses Adam so, and not RMSprop.
    """

    @torch.no_grad()
    def step(  # type: ignore[override]  # torch has an overload for each kind of closure.
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Update all weights that have a gradient."""
        pairs = [
            (group, weight) for group in self.param_groups for weight in group["params"] if weight.grad is not None
        ]
        if closure or not all(_fits(group, weight) for group, weight in pairs):
            # The count of updates is to lie with the weights, where a graph of updates can reach it.
            before = [group["capturable"] for group in self.param_groups]
            for group in self.param_groups:
                group["capturable"] = all(weight.is_cuda for weight in group["params"])
            try:
                return super().step(closure)
            finally:
                for group, own in zip(self.param_groups, before, strict=True):
                    group["capturable"] = own
        on_gpu: dict[tuple[int, torch.device], list[tuple[Tensor, ...]]] = {}
        for group, weight in pairs:
            state = self.state[weight]
            if not state:
                state["step"] = torch.zeros(())
                state["square_avg"] = torch.zeros_like(weight)
                state["momentum_buffer"] = torch.zeros_like(weight)
            state["step"] += 1
            tensors = (weight.detach(), weight.grad.contiguous(), state["square_avg"], state["momentum_buffer"])
            if weight.is_cuda:
                number = next(i for i, each in enumerate(self.param_groups) if each is group)
                on_gpu.setdefault((number, weight.device), []).append(tensors)
            else:
                arrays = (tensor.view(-1).numpy() for tensor in tensors)
                update(*arrays, float(group["lr"]), *_constants(group))
        for (number, device), updates in on_gpu.items():
            from nfstudy.core.cuda.rmsprop import update as update_on_gpu  # It imports Triton.

            group = self.param_groups[number]
            weights, gradients, squares, velocities = zip(*updates, strict=True)
            rate = _on_device(group["lr"], device)
            update_on_gpu(weights, gradients, squares, velocities, rate, *_constants(group))
        return None


def _constants(group: dict[str, Any]) -> tuple[float, float, float]:
    return group["alpha"], group["eps"], group["momentum"]


def _on_device(learning_rate: float | Tensor, device: torch.device) -> Tensor:
    """Return the learning rate as a tensor of a device: one that is there as it is, which a graph reads anew."""
    if isinstance(learning_rate, Tensor) and learning_rate.device == device:
        return learning_rate
    return torch.full((), float(learning_rate), device=device)


def _fits(group: dict[str, Any], weight: nn.Parameter) -> bool:
    plain = group["momentum"] and not (group["centered"] or group["weight_decay"] or group["maximize"])
    if not plain or weight.grad is None or not weight.is_contiguous():
        return False
    return kernels.runs_here(weight, weight.grad) or cuda.runs_here(weight, weight.grad)


def is_bias(name: str) -> bool:
    """Say whether a parameter is a bias, by its name: `head.bias`, `b_out`, `b_hidden.0`, `excess_bias`."""
    return any(part.startswith(("b_", "bias")) or part.endswith("bias") for part in name.split("."))


def make_optimiser(named: Mapping[str, nn.Parameter], train: TrainSpec) -> Optimizer:
    """Return RMSprop, or Adam with decoupled weight decay, with the settings' learning rate and constants.

    Biases do not decay, whatever their shape: those of a flow hold the chain that it starts from. With
    `train.decay_biases` they do where they have two axes or more.

    Arguments:
        named: name -> parameter, of those that are trained.
        train: the settings.
    """
    parameters = list(named.values())
    if train.optimiser == "rmsprop":
        return FusedRMSprop(
            parameters, lr=train.learning_rate, alpha=train.decay, eps=train.epsilon, momentum=train.momentum
        )
    # Without a decay the groups are those of before there was the choice: a checkpoint of that time still fits them.
    by_shape = train.decay_biases or not train.weight_decay
    decays = [weight.dim() > 1 and (by_shape or not is_bias(name)) for name, weight in named.items()]
    groups = [
        {
            "params": [weight for weight, own in zip(parameters, decays, strict=True) if own is wanted],
            "weight_decay": train.weight_decay if wanted else 0.0,
        }
        for wanted in (True, False)
    ]
    return FusedAdamW(
        [group for group in groups if group["params"]],
        lr=train.learning_rate,
        betas=(train.beta1, train.beta2),
        eps=train.epsilon,
        fused=True,
    )
