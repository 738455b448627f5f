"""Known faults of torch's converter, put right in the graph that it made. What is mended is judged like everything else."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx


def mend(model: onnx.ModelProto) -> list[str]:
    """Mend the graph in place; returns what was done, in words."""
    return _masked_rows(model.graph)


def _masked_rows(graph: onnx.GraphProto) -> list[str]:
    """Attention over a row that is masked whole (a padded sentence) is 0 in torch. The converter means it to be: it masks, takes
    the softmax, and puts 0 for NaN. But it masks with the smallest finite number, and the row becomes an average instead.

    Seen in onnxscript 0.7.2, ``_aten_scaled_dot_product_attention_bool_mask_onnx``; such a Where gets minus infinity.
    """
    made_by: Mapping[str, onnx.NodeProto] = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {
        node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    mended = False
    for node in graph.node:
        softmax = made_by.get(node.input[0]) if node.op_type == "IsNaN" else None
        added = made_by.get(softmax.input[0]) if softmax is not None and softmax.op_type == "Softmax" else None
        for name in added.input if added is not None and added.op_type == "Add" else ():
            mask = made_by.get(name)
            if mask is None or mask.op_type != "Where" or mask.input[2] not in constants:
                continue
            lowest = onnx.numpy_helper.to_array(constants[mask.input[2]])
            if lowest.dtype.kind == "f" and lowest.size == 1 and lowest.item() == np.finfo(lowest.dtype).min:
                infinity = np.full(lowest.shape, -np.inf, lowest.dtype)
                mask.input[2] = _added(graph, f"minus_infinity_{lowest.dtype.name}_{lowest.ndim}", infinity)
                mended = True
    return ["attention over rows that are masked whole gives 0, as in torch: the converter gives an average"] if mended else []


def _added(graph: onnx.GraphProto, name: str, array: np.ndarray) -> str:
    """The name of an initializer that holds this array, made where there is none."""
    if all(tensor.name != name for tensor in graph.initializer):
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return name
