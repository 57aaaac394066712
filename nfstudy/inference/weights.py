"""How a linear layer's initial weights are drawn."""

from __future__ import annotations

import math

import torch
from torch import nn

from nfstudy.study.sections import Initialisation


def draw_weights(linear: nn.Linear, fan_out: int, rule: Initialisation, generator: torch.Generator) -> None:
    """Draw a layer's weights from N(0, σ²); biases, where there are any, are 0.

    σ² = 2 / (fan_in + fan_out) after Glorot & Bengio (2010, `glorot`), or 2 / fan_in after He et al. (2015, `he`).
    """
    fans = linear.in_features + (fan_out if rule == "glorot" else 0)
    nn.init.normal_(linear.weight, std=math.sqrt(2 / fans), generator=generator)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
