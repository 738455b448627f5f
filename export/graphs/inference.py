"""Shapes and element types as ONNX infers them, without its inference for operators that end the process."""

from __future__ import annotations

import onnx

from onnxferry.export.graphs.nodes import all_nodes

# onnx 1.23's inference for StringSplit can end the process with a segmentation fault on the graph of a text vectorizer.
_OPAQUE = frozenset({"StringSplit"})
_DOMAIN = "onnxferry.not_inferred"


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model with ``value_info`` for what is known; ``model`` itself is left as it is.

    What stands behind an operator that is left out has no type and no shape there.
    """
    if not any(node.op_type in _OPAQUE for node in all_nodes(model)):
        return onnx.shape_inference.infer_shapes(model)
    masked = onnx.ModelProto()
    masked.CopyFrom(model)
    hidden = [node for node in all_nodes(masked) if node.op_type in _OPAQUE and not node.domain]
    for node in hidden:
        node.domain = _DOMAIN
    masked.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
    made = onnx.shape_inference.infer_shapes(masked)
    for node in all_nodes(made):
        if node.domain == _DOMAIN:
            node.domain = ""
    del made.opset_import[-1]
    return made
