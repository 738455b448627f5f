"""Single operators in another operator set: attributes that became inputs, inputs that became attributes, and defaults that changed.

Each step goes from one operator set to the next, up or down. A node that has no step here, and whose schema changed, is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxferry.export.graphs.nodes import subgraphs
from onnxferry.runtime.errors import ExportError

Alike = Callable[[str, int, int], bool]


@dataclass
class Surroundings:
    """What a step may look at and add to."""

    constants: Mapping[str, np.ndarray]
    prefix: str
    before: list[onnx.NodeProto] = field(default_factory=list)  # nodes to put in front
    number: int = 0

    def constant(self, values: object, dtype: str) -> str:
        self.number += 1
        name = f"{self.prefix}_{self.number}"
        self.before.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(values, dtype))))
        return name


Step = Callable[[onnx.NodeProto, Surroundings], None]


def adapted(model: onnx.ModelProto, now: int, opset: int, alike: Alike, prefix: str = "onnxferry_converted") -> onnx.ModelProto:
    """A copy whose nodes are those of ``opset``; its operator set is not changed. New values begin with ``prefix``.

    Raises ExportError with the name of an operator that has no step.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    around = Surroundings(_constants(made.graph), prefix)
    direction = 1 if opset > now else -1
    for version in range(now, opset, direction):
        _adapt(made.graph, version, version + direction, alike, around)
    return made


def _adapt(graph: onnx.GraphProto, now: int, then: int, alike: Alike, around: Surroundings) -> None:
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            for inner in subgraphs(attribute):
                _adapt(inner, now, then, alike, around)
        if node.domain in ("", "ai.onnx") and not alike(node.op_type, now, then):
            step = STEPS.get((node.op_type, now, then))
            if step is None:
                raise ExportError(
                    f"the operator {node.op_type} changed between operator sets {now} and {then}, and no step is known for it"
                )
            step(node, around)
        nodes += [*around.before, node]
        around.before.clear()
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Small values that are known, by name, of subgraphs too."""
    found = {t.name: numpy_helper.to_array(t) for t in graph.initializer if np.prod(t.dims, dtype=int) <= 64}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                found[node.output[0]] = numpy_helper.to_array(attribute.t)
            elif node.op_type == "Constant" and attribute.name == "value_ints":
                found[node.output[0]] = np.array(list(attribute.ints), np.int64)
            elif node.op_type == "Constant" and attribute.name == "value_int":
                found[node.output[0]] = np.array(attribute.i, np.int64)
            for inner in subgraphs(attribute):
                found.update(_constants(inner))
    return found


def _taken(node: onnx.NodeProto, name: str) -> onnx.AttributeProto | None:
    """The attribute, taken off the node."""
    for place, attribute in enumerate(node.attribute):
        if attribute.name == name:
            copy = onnx.AttributeProto()
            copy.CopyFrom(attribute)
            del node.attribute[place]
            return copy
    return None


def _value(node: onnx.NodeProto, place: int, around: Surroundings) -> np.ndarray | None:
    """A constant input, taken off the node; None where it is not given. Raises ExportError for one that is computed."""
    if place >= len(node.input) or not node.input[place]:
        return None
    if node.input[place] not in around.constants:
        raise ExportError(f"the operator {node.op_type} computes {node.input[place]!r}, which is an attribute in older operator sets")
    return around.constants[node.input[place]]


def _cut(node: onnx.NodeProto, count: int) -> None:
    del node.input[count:]


def _axes_to_attribute(node: onnx.NodeProto, around: Surroundings) -> None:
    empty = _taken(node, "noop_with_empty_axes")
    axes = _value(node, 1, around)
    _cut(node, 1)
    if axes is not None and axes.size:
        node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in axes.ravel()]))
    elif empty is not None and empty.i:
        raise ExportError(
            f"the operator {node.op_type} does nothing without axes (noop_with_empty_axes), which older operator sets cannot say"
        )


def _optional_attribute(name: str, default: object) -> Step:
    """Going down: an attribute that older sets do not have is dropped where it has the value that they assume, if any."""

    def step(node: onnx.NodeProto, around: Surroundings) -> None:
        found = _taken(node, name)
        if found is None:
            return
        value = helper.get_attribute_value(found)
        if value != default and not (isinstance(value, list) and set(value) == {default}):
            raise ExportError(f"the operator {node.op_type} has {name}={value!r}, which older operator sets cannot say")

    return step


def _new_attribute(name: str, value: object) -> Step:
    """Going up: what older sets do is no longer the default."""

    def step(node: onnx.NodeProto, around: Surroundings) -> None:
        node.attribute.append(helper.make_attribute(name, value))

    return step


def _required_attribute(name: str, value: object) -> Step:
    """Going down: older sets can do this alone, and it is not the default."""

    def step(node: onnx.NodeProto, around: Surroundings) -> None:
        found = _taken(node, name)
        if found is None or helper.get_attribute_value(found) != value:
            raise ExportError(f"the operator {node.op_type} has a {name} that older operator sets do not have")

    return step


def _attribute_to_input(name: str) -> Step:
    def step(node: onnx.NodeProto, around: Surroundings) -> None:
        found = _taken(node, name)
        if found is not None:
            node.input.append(around.constant(list(found.ints), "int64"))

    return step


def _input_to_attribute(name: str) -> Step:
    def step(node: onnx.NodeProto, around: Surroundings) -> None:
        value = _value(node, 1, around)
        _cut(node, 1)
        if value is not None:
            node.attribute.append(helper.make_attribute(name, [int(each) for each in value.ravel()]))

    return step


def _nothing(node: onnx.NodeProto, around: Surroundings) -> None:
    """The default of a new attribute or input is what older sets do."""


def _then(*steps: Step) -> Step:
    def step(node: onnx.NodeProto, around: Surroundings) -> None:
        for each in steps:
            each(node, around)

    return step


def _fewer_inputs(count: int) -> Step:
    def step(node: onnx.NodeProto, around: Surroundings) -> None:
        if any(node.input[count:]):
            raise ExportError(f"the operator {node.op_type} has {len(node.input)} inputs, and older operator sets have {count}")
        _cut(node, count)

    return step


def _split_down(node: onnx.NodeProto, around: Surroundings) -> None:
    """Without sizes, older sets divide into equal parts, as many as there are outputs: the last cannot be smaller."""
    _taken(node, "num_outputs")


def _split_up(node: onnx.NodeProto, around: Surroundings) -> None:
    if len(node.input) < 2 or not node.input[1]:
        node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))


def _grid_mode(names: Mapping[bytes, str]) -> Step:
    def step(node: onnx.NodeProto, around: Surroundings) -> None:
        mode = _taken(node, "mode")
        if mode is not None:
            node.attribute.append(helper.make_attribute("mode", names.get(mode.s, mode.s.decode())))

    return step


_REDUCE = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)

STEPS: dict[tuple[str, int, int], Step] = {
    **{(name, 17, 18): _attribute_to_input("axes") for name in _REDUCE},
    **{(name, 18, 17): _axes_to_attribute for name in _REDUCE},
    **{(name, 12, 13): _attribute_to_input("axes") for name in ("ReduceSum", "Squeeze", "Unsqueeze")},
    **{(name, 13, 12): _axes_to_attribute for name in ("ReduceSum", "Squeeze", "Unsqueeze")},
    ("Reshape", 13, 14): _nothing,
    ("Reshape", 14, 13): _optional_attribute("allowzero", 0),
    **{(name, 13, 14): _nothing for name in ("GRU", "LSTM", "RNN")},
    **{(name, 14, 13): _optional_attribute("layout", 0) for name in ("GRU", "LSTM", "RNN")},
    ("BatchNormalization", 13, 14): _nothing,
    ("BatchNormalization", 14, 13): _optional_attribute("training_mode", 0),
    ("Shape", 14, 15): _nothing,
    ("Shape", 15, 14): _then(_optional_attribute("start", 0), _optional_attribute("end", None)),
    **{(name, 15, 16): _nothing for name in ("ScatterElements", "ScatterND")},
    **{(name, 16, 15): _optional_attribute("reduction", b"none") for name in ("ScatterElements", "ScatterND")},
    ("Pad", 17, 18): _nothing,
    ("Pad", 18, 17): _fewer_inputs(3),
    ("Split", 17, 18): _split_up,
    ("Split", 18, 17): _split_down,
    ("Resize", 17, 18): _nothing,
    ("Resize", 18, 17): _then(
        _optional_attribute("antialias", 0), _optional_attribute("keep_aspect_ratio_policy", b"stretch"), _optional_attribute("axes", None)
    ),
    ("AveragePool", 18, 19): _nothing,
    ("AveragePool", 19, 18): _optional_attribute("dilations", 1),
    ("LpPool", 17, 18): _nothing,
    ("LpPool", 18, 17): _then(_optional_attribute("dilations", 1), _optional_attribute("ceil_mode", 0)),
    ("RoiAlign", 15, 16): _new_attribute("coordinate_transformation_mode", "output_half_pixel"),
    ("RoiAlign", 16, 15): _required_attribute("coordinate_transformation_mode", b"output_half_pixel"),
    ("Split", 12, 13): _attribute_to_input("split"),
    ("Split", 13, 12): _input_to_attribute("split"),
    ("Cast", 18, 19): _nothing,
    ("Cast", 19, 18): _optional_attribute("saturate", 1),
    ("CastLike", 18, 19): _nothing,
    ("CastLike", 19, 18): _optional_attribute("saturate", 1),
    ("QuantizeLinear", 18, 19): _nothing,
    ("QuantizeLinear", 19, 18): _optional_attribute("saturate", 1),
    ("GridSample", 19, 20): _grid_mode({b"bilinear": "linear", b"bicubic": "cubic"}),
    ("GridSample", 20, 19): _grid_mode({b"linear": "bilinear", b"cubic": "bicubic"}),
    **{(name, 20, 21): _nothing for name in ("DequantizeLinear", "QuantizeLinear")},
    ("DequantizeLinear", 21, 20): _optional_attribute("block_size", 0),
    ("QuantizeLinear", 21, 20): _then(_optional_attribute("block_size", 0), _optional_attribute("output_dtype", 0)),
    **{(name, 22, 23): _nothing for name in ("DequantizeLinear", "QuantizeLinear")},
    ("DequantizeLinear", 23, 22): _optional_attribute("output_dtype", 0),
    ("QuantizeLinear", 23, 22): _optional_attribute("precision", 0),
    ("Cast", 23, 24): _nothing,
    ("Cast", 24, 23): _optional_attribute("round_mode", b"up"),
    ("CastLike", 23, 24): _nothing,
    ("CastLike", 24, 23): _optional_attribute("round_mode", b"up"),
}
"""(operator, from, to). Source: the operators' change log, https://onnx.ai/onnx/operators/"""
