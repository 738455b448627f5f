"""PyTorch on our own models, whose network is rebuilt from the file: nobody has to name it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onnxferry.export.bench.contenders.base import Call, Contender, Feeds
from onnxferry.export.bench.contenders.pytorch import Compiled, Eager, Network, freeze_weights
from onnxferry.export.bench.workloads import BenchModel
from onnxferry.runtime.machine.cpu import available_cpus
from onnxferry.train.families.rnn import HIGHEST_UNIFORM
from scoreboard.rebuilt import Cells, rebuild, rebuild_text

Step = Callable[..., tuple[Tensor, ...]]


class _Rebuilt(Eager):
    def open_network(self) -> Network:
        return super().open_network() if self.model.factory else rebuild(self.model.path)


class _RebuiltCompiled(_Rebuilt, Compiled): ...


class _Text:
    """A text generator's cells in a loop, a byte at a time."""

    precision = "float32"
    how = "cells, a byte at a time"

    def __init__(self, model: BenchModel, threads: int | None, compiled: bool = False) -> None:
        torch.set_num_threads(threads or available_cpus())
        network, self.start = rebuild_text(model.path)
        self.cells: Any = Cells(network)
        self.compiled = compiled

    def ready(self, feeds: Sequence[Feeds]) -> Call:
        if not self.compiled:
            return _writer(self.cells, self.start, feeds)
        freeze_weights()
        self.how = "freezing, fixed shape"
        call = _writer(torch.compile(self.cells, dynamic=False), self.start, feeds)
        call(0)  # compiles
        return call

    def named(self, result: Any) -> dict[str, np.ndarray]:
        return {"bytes": np.array(result)}


def eager(model: BenchModel, threads: int | None) -> Contender:
    return _Text(model, threads) if model.writes else _Rebuilt(model, threads)


def compiled(model: BenchModel, threads: int | None) -> Contender:
    return _Text(model, threads, compiled=True) if model.writes else _RebuiltCompiled(model, threads)


def _writer(step: Step, start: Tensor, feeds: Sequence[Feeds]) -> Call:
    """Writes as many bytes as there are uniform numbers: uint8 (batch, steps)."""
    draws = [torch.from_numpy(feed["uniforms"]).clamp(0, HIGHEST_UNIFORM) for feed in feeds]
    sharpness = [torch.tensor(1 / float(feed["temperature"])) for feed in feeds]

    @torch.inference_mode()
    def call(i: int) -> np.ndarray:
        state: Sequence[Tensor] = [part.contiguous() for part in start.expand(len(draws[i]), -1, -1).unbind(dim=1)]
        written = []
        for uniform in draws[i].unbind(dim=1):
            byte, *state = step(uniform, sharpness[i], *state)
            written.append(byte.to(torch.uint8))
        return torch.stack(written, dim=1).numpy()

    return call
