"""What lies inside a model on calibration data: the values of tensors that are no outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxferry.runtime.engine.engine import Engine


def row_starts(feeds: Mapping[str, np.ndarray], at_once: int) -> range:
    """Where the parts of ``at_once`` rows of ``feeds`` (rows by input name) begin."""
    return range(0, min((len(array) for array in feeds.values() if array.ndim), default=0), at_once)


def inner_values(
    model: onnx.ModelProto, names: Sequence[str], feeds: Mapping[str, np.ndarray], at_once: int
) -> Iterator[Mapping[str, np.ndarray]]:
    """The float32 tensors of these names, ``at_once`` rows at a time: all of them are held in memory together."""
    if not names:
        return
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    there = {value.name for value in shown.graph.output}
    shown.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in there)
    with Engine(shown.SerializeToString(), device="cpu") as engine:
        for start in row_starts(feeds, at_once):
            yield engine.run({n: a[start : start + at_once] if a.ndim else a for n, a in feeds.items()}, names)
