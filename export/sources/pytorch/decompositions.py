"""Known faults of torch's converter, fixed in the graph that it made. The fixed graph is compared with the source like any other."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx


def fix(model: onnx.ModelProto, numbers: Collection[float] = ()) -> list[str]:
    """Fix the graph in place; returns what was done, a sentence each. ``numbers``: the Python floats of the captured program."""
    exact = {float(np.float32(number)): number for number in numbers if abs(number) < np.finfo(np.float32).max}
    return [*_masked_rows(model.graph), *_exact_numbers(model.graph, exact), *_exact_layer_norms(model.graph, exact)]


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
    fixed = False
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
                fixed = True
    if fixed:
        return ["attention over rows that are masked whole gives 0, as in torch: the converter gives an average"]
    return _masked_rows_of_numbers(graph, made_by, constants)


def _masked_rows_of_numbers(
    graph: onnx.GraphProto, made_by: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> list[str]:
    """The same where the mask is added, as a transformer's layers make one of a padding mask: there, the converter lets NaN stand.

    Seen in onnxscript 0.7.2, ``_aten_scaled_dot_product_attention_float_mask_onnx``. A constant mask that leaves something in every
    row (a causal one) needs nothing.
    """
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        softmax = made_by.get(node.input[0]) if node.op_type == "MatMul" and "scaled_dot_product_attention" in node.name else None
        added = made_by.get(softmax.input[0]) if softmax is not None and softmax.op_type == "Softmax" else None
        masks = [onnx.numpy_helper.to_array(constants[name]) for name in added.input if name in constants] if added is not None else []
        if softmax is not None and added is not None and added.op_type == "Add" and all(np.isneginf(m).all(-1).any() for m in masks):
            weights = softmax.output[0]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(types.get(weights, onnx.TensorProto.FLOAT))
            zero = _added(graph, f"no_attention_{dtype.name}", np.zeros((), dtype))
            nodes.append(onnx.helper.make_node("IsNaN", [weights], [f"{weights}_masked"], name=f"{softmax.name}_masked"))
            nodes.append(
                onnx.helper.make_node("Where", [f"{weights}_masked", zero, weights], [f"{weights}_or_0"], name=f"{softmax.name}_or_0")
            )
            node.input[0] = f"{weights}_or_0"
        nodes.append(node)
    if len(nodes) == len(graph.node):
        return []
    del graph.node[:]
    graph.node.extend(nodes)
    return ["attention over rows that are masked whole gives 0, as in torch: the converter gives not-a-number"]


def _exact_numbers(graph: onnx.GraphProto, exact: Mapping[float, float]) -> list[str]:
    """Python's numbers in a float64 model: the factor of ``x * 0.2``, the bounds of a clamp. The converter takes them through
    float32, so that 0.2 arrives 3e-9 off. A constant of the converter's that is what float32 makes of such a number gets it whole.

    Seen in onnxscript 0.7.2, ``aten_scalar_tensor`` and ``aten_clamp``.
    """
    bounds = {name for node in graph.node if node.op_type == "Clip" for name in node.input[1:]}
    fixed = False
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.DOUBLE or not (tensor.name in bounds or tensor.name.startswith("scalar_tensor_default")):
            continue
        array = onnx.numpy_helper.to_array(tensor)
        number = exact.get(array.item()) if array.size == 1 else None
        if number is not None and number != array.item():
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(array.shape, number), tensor.name))
            fixed = True
    return ["gave numbers in float64 their whole precision: the converter takes them through float32"] if fixed else []


def _exact_layer_norms(graph: onnx.GraphProto, exact: Mapping[float, float]) -> list[str]:
    """LayerNormalization in float64, as the operators it stands for. Its epsilon is an attribute, and ONNX keeps those in float32:
    1e-5 is 2.5e-8 of itself off, which shows where a row hardly varies, and grows through a second norm to more than 1e-7.

    The square is a product: of a Pow, ONNX Runtime would make the operator again.
    """
    scales = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    fixed = False
    for node in graph.node:
        scale = scales.get(node.input[1]) if node.op_type == "LayerNormalization" and node.domain == "" else None
        if scale is None or scale.data_type != onnx.TensorProto.DOUBLE or any(node.output[1:]):
            nodes.append(node)
            continue
        epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        whole = _added(graph, f"{node.output[0]}_epsilon", np.array(exact.get(epsilon, epsilon)))
        axes = _added(graph, f"last_{len(scale.dims)}_axes", np.arange(-len(scale.dims), 0))
        nodes += _layer_norm(node, whole, axes)
        fixed = True
    if not fixed:
        return []
    del graph.node[:]
    graph.node.extend(nodes)
    return ["wrote out layer norms in float64: the operator keeps its epsilon in float32"]


def _layer_norm(node: onnx.NodeProto, epsilon: str, axes: str) -> list[onnx.NodeProto]:
    x, scale = node.input[0], node.input[1]
    bias = node.input[2] if len(node.input) > 2 else ""
    to = node.output[0]

    def step(operator: str, inputs: list[str], output: str) -> onnx.NodeProto:
        last = output == to
        return onnx.helper.make_node(operator, inputs, [output], name=node.name if last else f"{node.name}_{output.removeprefix(to)[1:]}")

    steps = [
        step("ReduceMean", [x, axes], f"{to}_mean"),
        step("Sub", [x, f"{to}_mean"], f"{to}_centred"),
        step("Mul", [f"{to}_centred", f"{to}_centred"], f"{to}_squares"),
        step("ReduceMean", [f"{to}_squares", axes], f"{to}_variance"),
        step("Add", [f"{to}_variance", epsilon], f"{to}_variance_and_epsilon"),
        step("Sqrt", [f"{to}_variance_and_epsilon"], f"{to}_deviation"),
        step("Div", [f"{to}_centred", f"{to}_deviation"], f"{to}_normal"),
        step("Mul", [f"{to}_normal", scale], f"{to}_scaled" if bias else to),
    ]
    return [*steps, step("Add", [f"{to}_scaled", bias], to)] if bias else steps


def _added(graph: onnx.GraphProto, name: str, array: np.ndarray) -> str:
    """The name of an initializer that holds this array, made where there is none."""
    if all(tensor.name != name for tensor in graph.initializer):
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return name
