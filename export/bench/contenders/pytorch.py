"""PyTorch as a contender: the training network itself, eager and compiled, in inference mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onnxferry.export.bench.contenders.base import Call, Feeds, fastest
from onnxferry.export.bench.contenders.rebuilt import Cells, Rebuilt, rebuild, rebuild_text
from onnxferry.export.bench.workloads import BenchModel
from onnxferry.runtime.errors import InputError
from onnxferry.runtime.machine.cpu import available_cpus
from onnxferry.train.families.rnn import HIGHEST_UNIFORM

Step = Callable[..., tuple[Tensor, ...]]


class Eager:
    """The module called as it is; for convolutions in the memory layout that is faster."""

    precision = "float32"

    def __init__(self, model: BenchModel, threads: int | None) -> None:
        torch.set_num_threads(threads or available_cpus())
        self.model = model
        self.how = ""
        if model.writes:
            network, self.start = rebuild_text(model.path)
            self.cells = Cells(network)
            self.outputs: tuple[str, ...] = ("bytes",)
        else:
            self.rebuilt = self._rebuilt()
            self.outputs = self.rebuilt.outputs

    def ready(self, feeds: Sequence[Feeds]) -> Call:
        if self.model.writes:
            self.how = "cells, a byte at a time"
            return _writer(self.cells, self.start, feeds)
        inputs = self._tensors(feeds)
        module = self.rebuilt.module
        ways = {"": _caller(module, inputs)}
        if any(isinstance(part, nn.Conv2d) for part in module.modules()):
            moved = self._rebuilt().module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            ways["channels last"] = _caller(moved, inputs)
        self.how = fastest(ways, len(feeds))
        return ways[self.how]

    def _rebuilt(self) -> Rebuilt:
        # A network that is made again needs no weights from the file, where the export folded some of them away.
        return rebuild(self.model.path, _network(self.model), weights_from_file=not (self.model.weights or self.model.seeded))

    def _tensors(self, feeds: Sequence[Feeds]) -> list[tuple[Tensor, ...]]:
        """Feeds as tensors: somebody who works in PyTorch has them so, and the making is not timed."""
        return [tuple(torch.from_numpy(feed[name]) for name in self.rebuilt.inputs) for feed in feeds]

    def named(self, result: Any) -> dict[str, np.ndarray]:
        arrays = result if isinstance(result, tuple | list) else (result,)
        return {name: np.array(array) for name, array in zip(self.outputs, arrays, strict=True)}


class Compiled(Eager):
    """``torch.compile`` for the shape that runs, with the weights frozen into the code."""

    def ready(self, feeds: Sequence[Feeds]) -> Call:
        torch._dynamo.reset()
        torch._inductor.config.freezing = True
        self.how = "freezing, fixed shape"
        if self.model.writes:
            call = _writer(torch.compile(self.cells, dynamic=False), self.start, feeds)
        else:
            call = _caller(torch.compile(self.rebuilt.module, dynamic=False), self._tensors(feeds))
        call(0)  # compiles
        return call


def _network(model: BenchModel) -> nn.Module | None:
    """The module that the user, or the suite, named; None where the file itself tells."""
    if not model.factory:
        return None
    from onnxferry.export.sources.factory import model_from_factory

    made = model_from_factory(model.factory, model.weights or None)
    if not isinstance(made, nn.Module):
        raise InputError(f"{model.factory} gives a {type(made).__name__}; a torch.nn.Module is needed, to be run and compiled")
    return made


def _caller(module: Any, inputs: list[tuple[Tensor, ...]]) -> Call:
    @torch.inference_mode()
    def call(i: int) -> Any:
        made = module(*inputs[i])
        return tuple(tensor.numpy() for tensor in made) if isinstance(made, tuple) else made.numpy()

    return call


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
