"""Small .onnx files as other tools write them: axes without names, or numbered ones; Ultralytics' metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node

ULTRALYTICS = {
    "description": "Ultralytics YOLO11n-cls model trained on animals",
    "author": "Ultralytics",
    "license": "AGPL-3.0 License (https://ultralytics.com/license)",
    "version": "8.4.190",
    "stride": "1",
    "task": "classify",
    "batch": "1",
    "imgsz": "[32, 32]",
    "names": "{0: 'tench', 1: \"gold'fish\", 2: 'shark'}",
    "args": "{'batch': 1}",
}


def weights(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    drawn = np.random.default_rng(seed).standard_normal(shape) * 0.2
    return numpy_helper.from_array(drawn.astype(np.float32), name)


def whole(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def value(name: str, shape: Sequence[int | str | None], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 18,
    ir_version: int = 9,
    metadata: Mapping[str, str] | None = None,
    **others: Any,
) -> Path:
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(initializers))
    domains = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, version) for name, version in others.items())]
    model = helper.make_model(graph, opset_imports=domains, ir_version=ir_version)
    if metadata:
        helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def photo_classifier(path: Path, shape: Sequence[int | str | None], **options: Any) -> Path:
    """Three classes, with probabilities."""
    nodes = [
        node("Conv", ["images", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("GlobalAveragePool", ["r"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "g"], ["l"]),
        node("Softmax", ["l"], ["output0"]),
    ]
    return save(
        path, nodes, [value("images", shape)], [value("output0", [None, 3])], [weights("w", 8, 3, 3, 3), weights("g", 8, 3)], **options
    )


def detector(path: Path) -> Path:
    """One box a cell of 32 pixels."""
    nodes = [node("Conv", ["images", "w"], ["c"], strides=[32, 32], kernel_shape=[32, 32]), node("Reshape", ["c", "s"], ["output0"])]
    said = ULTRALYTICS | {"task": "detect", "imgsz": "[64, 96]", "stride": "32", "names": "{0: 'person', 1: 'dog'}"}
    inputs = [value("images", ["batch", 3, "height", "width"])]
    return save(
        path, nodes, inputs, [value("output0", ["batch", 6, None])], [weights("w", 6, 3, 32, 32), whole("s", 0, 6, -1)], metadata=said
    )


def sentence_model(path: Path) -> Path:
    """Two inputs whose axes must be equal, under four names of a tool's own."""
    nodes = [
        node("Gather", ["table", "ids"], ["x"]),
        node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["m", "last"], ["u"]),
        node("Mul", ["x", "u"], ["y"]),
        node("ReduceSum", ["y", "time"], ["z"], keepdims=0),
    ]
    inputs = [value("ids", ["unk__1", "unk__2"], TensorProto.INT64), value("mask", ["unk__3", "unk__4"], TensorProto.INT64)]
    return save(path, nodes, inputs, [value("z", [None, 8])], [weights("table", 50, 8), whole("last", -1), whole("time", 1)])


def block(path: Path, opset: int = 20, axis: int = -1) -> Path:
    """LayerNormalization (from operator set 17), Gelu (20), and a mean whose axes are an input (18)."""
    nodes = [
        node("LayerNormalization", ["x", "scale", "bias"], ["n"], axis=axis),
        node("Gelu", ["n"], ["g"]),
        node("ReduceMean", ["g", "axes"], ["m"]),
        node("Sub", ["g", "m"], ["y"]),
    ]
    shape = ["batch", "time", 8]
    constants = [weights("scale", 8), weights("bias", 8, seed=1), whole("axes", -1)]
    return save(path, nodes, [value("x", shape)], [value("y", shape)], constants, opset=opset)
