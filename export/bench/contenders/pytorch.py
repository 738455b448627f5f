"""PyTorch as a contender: the network that the file was exported from, eager and compiled, in inference mode.

The user names the network (``--module pkg.module:make_model``). Its weights are taken from the file unless they are given, and it is
timed only after it has reproduced the file's golden samples. A normalization that the export folded into a convolution stays folded:
PyTorch then has less to do than with the network as it was trained.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from onnxferry.export.bench.contenders.base import Call, Feeds, fastest
from onnxferry.export.bench.workloads import BenchModel
from onnxferry.export.graphs.reading import load_onnx
from onnxferry.export.sources.choose import choose
from onnxferry.runtime.artifact.metadata import contract_from_metadata
from onnxferry.runtime.engine.replay import replay_goldens
from onnxferry.runtime.errors import ExportError, InputError
from onnxferry.runtime.machine.cpu import available_cpus

Weights = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Network:
    """A module that does what the file does: arrays in the order of ``inputs``, a tensor or a tuple in the order of ``outputs``."""

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Arrays by input name to arrays by output name, eagerly."""
        with torch.inference_mode():
            made = self.module(*(torch.from_numpy(np.array(feeds[name])) for name in self.inputs))
        return dict(zip(self.outputs, (t.numpy() for t in (made if isinstance(made, tuple) else (made,))), strict=True))


class Eager:
    """The module called as it is; for convolutions in the memory layout that is faster."""

    precision = "float32"

    def __init__(self, model: BenchModel, threads: int | None) -> None:
        torch.set_num_threads(threads or available_cpus())
        self.model = model
        self.how = ""
        self.network = self.open_network()

    def open_network(self) -> Network:
        """Raises InputError for a model whose network is not named."""
        if not self.model.factory:
            raise InputError(f"PyTorch runs the network of {self.model.name}, not the file: name it with --module pkg.module:make_model")
        module = choose(self.model.factory, weights=self.model.weights or None).model
        if not isinstance(module, nn.Module):
            raise InputError(f"{self.model.factory} gives a {type(module).__name__}; a torch.nn.Module is needed, to be run and compiled")
        # A network that comes with its weights needs none from the file, where the export folded some of them away.
        return checked_network(self.model.path, module, weights_from_file=not (self.model.weights or self.model.seeded))

    def ready(self, feeds: Sequence[Feeds]) -> Call:
        inputs = self.tensors(feeds)
        ways = {"": call_of(self.network.module, inputs)}
        if any(isinstance(part, nn.Conv2d) for part in self.network.module.modules()):
            moved = self.open_network().module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            ways["channels last"] = call_of(moved, inputs)
        self.how = fastest(ways, len(feeds))
        return ways[self.how]

    def tensors(self, feeds: Sequence[Feeds]) -> list[tuple[Tensor, ...]]:
        """Feeds as tensors: a PyTorch program has them so, and making them is not timed."""
        return [tuple(torch.from_numpy(feed[name]) for name in self.network.inputs) for feed in feeds]

    def named(self, result: Any) -> dict[str, np.ndarray]:
        arrays = result if isinstance(result, tuple | list) else (result,)
        return {name: np.array(array) for name, array in zip(self.network.outputs, arrays, strict=True)}


class Compiled(Eager):
    """``torch.compile`` for the shape that runs, with the weights frozen into the code."""

    def ready(self, feeds: Sequence[Feeds]) -> Call:
        freeze_weights()
        self.how = "freezing, fixed shape"
        call = call_of(torch.compile(self.network.module, dynamic=False), self.tensors(feeds))
        call(0)  # compiles
        return call


def freeze_weights() -> None:
    """The next module that is compiled has its weights as constants."""
    torch._dynamo.reset()
    torch._inductor.config.freezing = True


def call_of(module: Any, inputs: list[tuple[Tensor, ...]]) -> Call:
    @torch.inference_mode()
    def call(i: int) -> Any:
        made = module(*inputs[i])
        return tuple(tensor.numpy() for tensor in made) if isinstance(made, tuple) else made.numpy()

    return call


def checked_network(path: str | os.PathLike[str], module: nn.Module, weights_from_file: bool = True) -> Network:
    """``module``, with the weights of the file or as it is, once it has reproduced the file's golden samples.

    Raises ExportError for a file without golden samples or without some weight, CheckFailedError for a network that answers otherwise.
    """
    model = load_onnx(Path(path))
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    contract = contract_from_metadata({entry.key: entry.value for entry in model.metadata_props})
    inputs = tuple(value.name for value in model.graph.input if value.name not in weights)
    outputs = tuple(value.name for value in model.graph.output)
    if contract is None or not contract.goldens:
        raise ExportError(f"{Path(path).name} has no golden samples, so no network can be verified as its source; export it with them")
    if weights_from_file:
        module = _with_weights(module, weights)
    network = Network(module.eval().requires_grad_(False), inputs, outputs)
    replay_goldens(network.run, contract).raise_if_failed(f"the PyTorch network of {Path(path).name}")
    return network


def _with_weights(module: nn.Module, weights: Weights) -> nn.Module:
    """The module with the file's weights. A normalisation that the file lacks was folded into the layer before, whose bias it became."""
    for name, part in list(module.named_modules()):
        if isinstance(part, nn.BatchNorm2d) and f"{name}.running_mean" not in weights:
            parent, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(parent), attribute, nn.Identity())
        elif isinstance(part, nn.Conv2d | nn.Linear) and part.bias is None and {f"{name}.weight_bias", f"{name}.bias"} & set(weights):
            part.bias = nn.Parameter(torch.zeros(part.weight.shape[0]))
    state: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        stored = next((weights[n] for n in (f"{name.removesuffix('bias')}weight_bias", name) if n in weights), None)
        if stored is None or stored.shape != tuple(value.shape):
            found = "is not in the file" if stored is None else f"has shape {stored.shape} in the file"
            raise ExportError(
                f"the weight {name!r}, {tuple(value.shape)}, {found}, so that its network cannot be rebuilt; "
                "take the file as it was exported, or name its network and state dict with --module and --weights"
            )
        state[name] = torch.from_numpy(np.array(stored, np.float32))
    module.load_state_dict(state, strict=False)
    return module
