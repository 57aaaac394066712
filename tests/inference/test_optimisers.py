"""The optimisers: torch's to the bit, and without what torch's load."""

import subprocess
import sys

import pytest
import torch

from nfstudy.inference.training.optimisers import make_optimiser
from nfstudy.study.sections import TrainSpec

TRAIN = {
    "adam": {"optimiser": "adam", "learning_rate": 0.03, "weight_decay": 0.1, "beta1": 0.8, "beta2": 0.95},
    "rmsprop": {"optimiser": "rmsprop", "learning_rate": 0.03, "momentum": 0.8},
}
WORKER = """
import sys
import torch
from nfstudy.inference.training.optimisers import make_optimiser
from nfstudy.runner.worker import load_sources
from nfstudy.study.sections import TrainSpec

load_sources()
for name in ("adam", "rmsprop"):
    weight = torch.nn.Parameter(torch.ones(3, 4))
    optimiser = make_optimiser({"weight": weight}, TrainSpec(optimiser=name))
    optimiser.load_state_dict(optimiser.state_dict())
    for _ in range(2):
        optimiser.zero_grad()
        weight.square().sum().backward()
        optimiser.step()
loaded = {"torch._dynamo", "sympy", "scipy.special", "pandas", "mlflow", "optuna"} & set(sys.modules)
print(*sorted(loaded))
"""


def weights():
    generator = torch.Generator().manual_seed(0)
    return {
        "layer.weight": torch.nn.Parameter(torch.randn(5, 3, generator=generator)),
        "layer.bias": torch.nn.Parameter(torch.randn(5, generator=generator)),
    }


def descend(optimiser, named, updates):
    for update in range(updates):
        optimiser.zero_grad()
        sum((weight - update).pow(4).sum() for weight in named.values()).backward()
        optimiser.step()


def test_adam_is_torchs_to_the_bit_and_goes_on_from_its_state():
    named, theirs = weights(), weights()
    ours = make_optimiser(named, TrainSpec(**TRAIN["adam"]))
    weight, bias = theirs.values()
    groups = [{"params": [weight], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.03, betas=(0.8, 0.95), fused=True)
    descend(ours, named, 20)
    state = ours.state_dict()
    ours = make_optimiser(named, TrainSpec(**TRAIN["adam"]))
    ours.load_state_dict(state)
    descend(ours, named, 20)
    descend(reference, theirs, 20)
    reference.load_state_dict(reference.state_dict())
    descend(reference, theirs, 20)
    for name, weight in named.items():
        assert torch.equal(weight, theirs[name]), name
        assert not torch.equal(weight, weights()[name])


@pytest.mark.parametrize("name", TRAIN)
def test_schedules_and_hooks_go_with_them(name):
    named = weights()
    optimiser = make_optimiser(named, TrainSpec(**TRAIN[name]))
    seen = []
    optimiser.register_step_post_hook(lambda *_: seen.append(optimiser.param_groups[0]["lr"]))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 4)
    for _ in range(4):
        descend(optimiser, named, 1)
        schedule.step()
    assert seen == pytest.approx([0.03, 0.0256066, 0.015, 0.0043934], rel=1e-5)


def test_a_worker_loads_neither_torchs_compiler_nor_what_reports_need():
    done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
