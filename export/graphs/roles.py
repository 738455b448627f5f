"""What a graph does with the values of its inputs: an index into a table, a size, or a number."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnxferry.export.graphs.nodes import all_nodes

# Operator -> places of the inputs that set the size of a result, or how often something runs.
_SIZES = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Loop": (0, 1),  # how often, and whether at all
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Tile": (1,),
    "TopK": (1,),
}


@dataclass(frozen=True)
class Role:
    """Of one input."""

    rows: int | None = None  # it picks among this many rows of a table
    sizes: bool = False  # its values set the size of something: large ones would fill the memory


def roles(model: onnx.ModelProto) -> dict[str, Role]:
    """By input name. Follows values through the whole graph, but not through their shapes."""
    tables = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    nodes = [node for node in all_nodes(model) if node.op_type not in ("Shape", "Size")]
    return {value.name: _role(value.name, nodes, tables) for value in model.graph.input if value.name not in tables}


def _role(name: str, nodes: list[onnx.NodeProto], tables: dict[str, tuple[int, ...]]) -> Role:
    reached = {name}
    rows: int | None = None
    sizes = False
    for node in nodes:  # in the order of computation
        places = [place for place, value in enumerate(node.input) if value in reached]
        if not places:
            continue
        sizes = sizes or any(place in _SIZES.get(node.op_type, ()) for place in places)
        if node.op_type == "Gather" and 0 not in places:
            table = tables.get(node.input[0])
            if table:
                axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
                rows = min(table[axis], rows or table[axis])
            continue  # rows of a table are no indices any more
        reached.update(value for value in node.output if value)
    return Role(rows, sizes)
