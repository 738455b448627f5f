"""A moving average of a network's weights (Polyak and Juditsky 1992): smoother than the weights, and usually better."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """average ← d · average + (1 - d) · weights after each step, with d = min(decay, (1 + n) / (10 + n)) at step n.

    The ramp lets the average leave the random start quickly. Floating-point buffers (batch normalisation's running
    statistics) are averaged too, counters are copied.
    """

    steps: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        self.steps += 1
        n = int(self.steps)
        keep = min(self.decay, (1 + n) / (10 + n))
        theirs = network.state_dict()
        floating, sources = [], []
        for name, mine in self.module.state_dict().items():
            if mine.is_floating_point():
                floating.append(mine)
                sources.append(theirs[name])
            else:
                mine.copy_(theirs[name])
        torch._foreach_lerp_(floating, sources, 1 - keep)
