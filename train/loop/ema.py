"""An exponential moving average of a network's weights (Polyak and Juditsky 1992): smoother than the weights, and usually better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

_Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]


class WeightAverage(AveragedModel):
    """average ← d · average + (1 - d) · weights at update n = 1, 2, …, with d = min(decay, (1 + n) / (10 + n)).

    The ramp lets the average leave the random start quickly. Floating-point buffers (batch normalization's running
    statistics) are averaged too, counters are copied. ``module`` is the averaged network; ``update_parameters`` updates it.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, multi_avg_fn=_ramped(decay), use_buffers=True)
        self.requires_grad_(False)
        self.n_averaged += 1  # the network at the start is the first average: AveragedModel would discard it
        self.register_load_state_dict_pre_hook(_from_earlier_file)  # type: ignore[no-untyped-call]


def _ramped(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    @torch.no_grad()
    def update(averages: _Tensors, weights: _Tensors, count: Tensor | int) -> None:
        n = int(count)
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + n) / (10 + n)))
        else:
            torch._foreach_copy_(averages, weights)

    return update


def _from_earlier_file(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Before it was an AveragedModel, a last.pt counted the updates as ``steps``."""
    if f"{prefix}steps" in state:
        state[f"{prefix}n_averaged"] = state.pop(f"{prefix}steps") + 1
