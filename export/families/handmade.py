"""A network as a source whose graph is made node by node: one class for the families whose loops exporters unroll or clone."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import onnx
import torch
from torch import nn

from onnxferry.export.source import NUDGE, Candidate, Feeds, InputSpec, Strategy

N = TypeVar("N", bound=nn.Module)


class HandmadeSource(ABC, Generic[N]):
    """``network``: on the CPU, in eval mode. See :class:`onnxferry.export.source.Source`. A family says what is computed and the graph."""

    output_names: Sequence[str]
    axes: Mapping[str, tuple[int | str, ...]]
    """By input: its sizes and the names of its open axes. Its dtype is the example's."""

    def __init__(self, network: N, examples: Feeds) -> None:
        self.network = network
        self.examples = dict(examples)
        self.notes: Sequence[str] = ()
        self.inputs = tuple(InputSpec(name, str(examples[name].dtype), axes, examples[name].shape) for name, axes in self.axes.items())

    @abstractmethod
    def answer(self, network: N, feeds: Feeds) -> dict[str, np.ndarray]:
        """The outputs by ``network``, which may be a copy in float64 or with other weights."""

    @abstractmethod
    def graph(self) -> onnx.ModelProto:
        """The whole task."""

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return self.answer(self.network, feeds)

    def run_float64(self, feeds: Feeds) -> dict[str, np.ndarray]:
        outputs = self.answer(copy.deepcopy(self.network).double(), feeds)
        return {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in outputs.items()}

    def run_nudged(self, feeds: Feeds, seed: int) -> dict[str, np.ndarray]:
        network = copy.deepcopy(self.network)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1 + NUDGE * torch.randn(parameter.shape, generator=generator))
        return self.answer(network, feeds)

    def strategies(self, opset: int) -> Sequence[Strategy]:
        return (Strategy("made by hand", lambda: Candidate(self.graph())),)

    def provenance(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for name, weight in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
        model = type(self.network).__name__
        return {"framework": "torch", "torch": torch.__version__, "model": model, "weights_sha256": digest.hexdigest()}


def texts_of(feeds: Feeds) -> list[bytes]:
    """The rows of ``text`` uint8 (batch, length), each up to its ``text_length``: -1, or none given, for all of it."""
    text = feeds["text"]
    lengths = np.broadcast_to(feeds.get("text_length", np.array([-1])), (len(text),))
    return [row.tobytes() if length < 0 else row[:length].tobytes() for row, length in zip(text, lengths, strict=True)]
