"""Axes counted from the end, written as they are counted from the start.

ONNX Runtime (1.24 to 1.31) leaves a tensor without elements as it is in Reduce*, ArgMax and ArgMin if an axis is negative: the sum of
(0, 3) over -1 has the shape (0, 3) there. With the axis 1 it is right.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import numpy_helper

from onnxferry.export.graphs.inference import inferred
from onnxferry.export.graphs.nodes import all_nodes

_BY_ATTRIBUTE = ("ArgMax", "ArgMin")


def count_axes_from_the_start(model: onnx.ModelProto) -> None:
    """Rewrite the graph in place, wherever the number of axes is known."""
    constants = _whole_constants(model)
    negative = [node for node in all_nodes(model) if any(axis < 0 for axis in _axes(node, constants))]
    if not negative:
        return
    ranks = _ranks(model)
    if any(node.input[0] not in ranks for node in negative):
        ranks = {**_ranks(inferred(model)), **ranks}
    taken = set(constants) | {tensor.name for tensor in model.graph.initializer}
    for node in negative:
        rank = ranks.get(node.input[0])
        if rank is None:
            continue
        axes = [axis + rank if axis < 0 else axis for axis in _axes(node, constants)]
        attribute = next((a for a in node.attribute if a.name in ("axis", "axes")), None)
        if attribute is not None and node.op_type in _BY_ATTRIBUTE:
            attribute.i = axes[0]
        elif attribute is not None:
            attribute.ints[:] = axes
        else:
            name = f"axes_{'_'.join(map(str, axes))}"
            if name not in taken:
                taken.add(name)
                model.graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [len(axes)], axes))
            node.input[1] = name


def _axes(node: onnx.NodeProto, constants: Mapping[str, list[int]]) -> list[int]:
    """Those that are known; none for other operators."""
    if node.op_type in _BY_ATTRIBUTE:
        return [a.i for a in node.attribute if a.name == "axis"]
    if not node.op_type.startswith("Reduce"):
        return []
    found = [list(a.ints) for a in node.attribute if a.name == "axes"]
    return found[0] if found else constants.get(node.input[1], []) if len(node.input) > 1 else []


def _whole_constants(model: onnx.ModelProto) -> dict[str, list[int]]:
    tensors = {t.name: t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT64 and len(t.dims) == 1 and t.dims[0] < 9}
    for node in all_nodes(model):
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value" and attribute.t.data_type == onnx.TensorProto.INT64 and len(attribute.t.dims) == 1:
                tensors[node.output[0]] = attribute.t
    return {name: numpy_helper.to_array(tensor).tolist() for name, tensor in tensors.items()}


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    found = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        if value.type.tensor_type.HasField("shape"):
            found[value.name] = len(value.type.tensor_type.shape.dim)
    return found
