"""What lies inside a model on calibration data: the values of tensors that are no outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxferry.runtime.engine.engine import Engine

ROOM = 256 * 2**20
"""Bytes of inner values that are held at a time, where one row does not take more: 120 MB for an image of 224 pixels in a ResNet-50."""


class InnerValues:
    """The float32 tensors of these names, some rows at a time: all of them are held in memory together.

    ``feeds``: rows by input name. ``at_once``: rows at most; fewer where they would not fit into :data:`ROOM`.
    """

    def __init__(self, model: onnx.ModelProto, names: Sequence[str], feeds: Mapping[str, np.ndarray], at_once: int) -> None:
        self._names, self._feeds, self._at_once = list(names), feeds, at_once
        self._rows = min((len(array) for array in feeds.values() if array.ndim), default=0) if names else 0
        if not self._rows:
            return
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        there = {value.name for value in shown.graph.output}
        shown.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in there)
        self._model = shown.SerializeToString()
        if self._rows > 1 and at_once > 1:
            with Engine(self._model, device="cpu") as engine:
                one = sum(array.nbytes for array in self._run(engine, 0, 1).values())
            self._at_once = max(1, min(at_once, ROOM // max(one, 1)))

    def __len__(self) -> int:
        """How many parts they come in."""
        return -(-self._rows // self._at_once)

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        if self._rows:
            with Engine(self._model, device="cpu") as engine:
                for start in range(0, self._rows, self._at_once):
                    yield self._run(engine, start, start + self._at_once)

    def _run(self, engine: Engine, start: int, end: int) -> Mapping[str, np.ndarray]:
        return engine.run({n: a[start:end] if a.ndim else a for n, a in self._feeds.items()}, self._names)
