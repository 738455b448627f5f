"""What goes on inside a shipped recogniser: the image that the network saw, and the maps of its stages, from the pass that answers.

The same file is opened once more with some of its inner values as further outputs: they are added to the list of the graph's outputs
(ONNX, "GraphProto", field 12), and nothing else is changed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st

from onnxferry.demo.shipped import models
from onnxferry.runtime import Classifier, Prediction
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.errors import OnnxFerryError
from onnxferry.runtime.onnx_file.protobuf import LENGTH, ProtobufReader

SAW = "matmul_1"
"""The graph's name for what the preprocessing gives to the network, float32 (batch, 1, 28, 28), 0 to 1."""


STAGES = ("relu_2", "relu_6", "relu_10")
"""The graph's names for the last value of each stage, float32 (batch, maps, side, side)."""


SHOWN = 8
"""Maps of each stage that are shown."""


_GRAPH, _OUTPUT, _NAME = 7, 12, 1  # fields of ModelProto, GraphProto, ValueInfoProto


@dataclass(frozen=True, eq=False)
class Inside:
    """One pass."""

    prediction: Prediction
    saw: np.ndarray  # float32 (side, side), 0 to 1
    stages: tuple[np.ndarray, ...]  # float32 (maps, side, side) of each stage

    @property
    def probabilities(self) -> np.ndarray:
        """float32 (classes,)."""
        return self.prediction.probabilities


def inside(name: str, image: np.ndarray) -> Inside | None:
    """What a shipped recogniser makes of one image, uint8 (height, width, 1 | 3). None for a file that has no such values."""
    model = _opened(str(models.path_of(name)))
    if model is None:
        return None
    if image.shape[2] != model.channels:
        image = image.mean(axis=2, keepdims=True).round().astype(np.uint8) if model.channels == 1 else image.repeat(3, axis=2)
    outputs = model.engine.run({"image": image[None]}, [*model.needed_outputs, SAW, *STAGES])
    (prediction,) = model.predictions(outputs, 1)
    return Inside(prediction, outputs[SAW][0].mean(axis=0), tuple(outputs[stage][0] for stage in STAGES))


def chosen_maps(maps: np.ndarray, count: int = SHOWN) -> list[int]:
    """The ``count`` maps of float32 (maps, side, side) that react most to this image, in the order of the network."""
    strength = maps.max(axis=(1, 2))
    return sorted(np.argsort(-strength, kind="stable")[:count].tolist())


@st.cache_resource(show_spinner=False)
def _opened(path: str) -> Classifier | None:
    file = Path(path)
    with tempfile.TemporaryDirectory(prefix="onnxferry-", ignore_cleanup_errors=True) as folder:
        with_maps = Path(folder) / file.name
        with_maps.write_bytes(with_outputs(file.read_bytes(), (SAW, *STAGES)))
        try:
            return Classifier(Engine(with_maps, device="cpu", threads=1))
        except (OnnxFerryError, ValueError):
            return None


def with_outputs(model: bytes, names: Sequence[str]) -> bytes:
    """An ONNX file's bytes with further values of its graph as outputs."""
    added = b"".join(_field(_OUTPUT, _field(_NAME, name.encode())) for name in names)
    reader = ProtobufReader(model, 10**6)
    for number, _, start, stop in reader.fields(0, len(model), {_GRAPH: LENGTH}):
        if number == _GRAPH:
            key = start - 1 - len(_length(stop - start))
            return model[:key] + _field(_GRAPH, model[start:stop] + added) + model[stop:]
    raise ValueError("the file has no graph")


def _field(number: int, body: bytes) -> bytes:
    """A field of bytes as protobuf writes it: key, length, body."""
    return bytes([number << 3 | 2]) + _length(len(body)) + body


def _length(length: int) -> bytes:
    """A varint."""
    made = bytearray()
    while length > 0x7F:
        made.append(length & 0x7F | 0x80)
        length >>= 7
    made.append(length)
    return bytes(made)
