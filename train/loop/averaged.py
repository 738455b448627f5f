"""What the families have in common that train one network with AdamW and one cycle of the learning rate, and deploy its moving average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onnxferry.train.loop.ema import WeightAverage
from onnxferry.train.loop.learner import Learner
from onnxferry.train.loop.schedule import one_cycle_schedule

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class AveragedLearner(Learner):
    """``setup`` makes the network and its optimizer, and hands both to :meth:`prepare`; ``step`` updates ``average`` last."""

    def prepare(
        self, fabric: Fabric, network: nn.Module, optimizer: torch.optim.Optimizer, *, average: float, total_steps: int, warm_up: float
    ) -> None:
        """Sets ``fabric``, ``network``, ``optimizer``, ``average`` and ``schedule``.

        ``optimizer``: of the network's weights, its learning rate the highest. ``average``: as :class:`WeightAverage` takes it.
        ``warm_up``: as :func:`one_cycle_schedule`.
        """
        self.fabric = fabric
        self.average = WeightAverage(network, average)
        self.network, self.optimizer = fabric.setup(network, optimizer)
        self.average.to(fabric.device)
        self.schedule = one_cycle_schedule(optimizer, total_steps, warm_up=warm_up)

    def deploy(self, weights: Mapping[str, Tensor]) -> None:
        self.average.module.load_state_dict(dict(weights))

    def modules(self) -> dict[str, nn.Module]:
        return {"network": self.network, "average": self.average}

    def optimizers(self) -> dict[str, Any]:
        return {"adamw": self.optimizer}

    def schedulers(self) -> dict[str, Any]:
        return {"one_cycle": self.schedule}


def matrices_decayed(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: weight decay for matrices and convolutions, none for biases and normalizations."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
