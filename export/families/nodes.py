"""Graphs that are made node by node, because exporters unroll or clone a loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxferry.export.graphs.weight_storage import stored


class Nodes:
    """The nodes of one (sub)graph, with names that no other graph of the file has."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, to: str | Sequence[str] = "", **attributes: Any) -> str:
        """Append a node; returns its first output's name."""
        index = len(self.nodes)
        name = f"{self.prefix}{operator.lower()}_{index}"
        outputs = [to] if isinstance(to, str) else list(to)
        outputs = [name if output == "" and position == 0 else output for position, output in enumerate(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), outputs, name=name, **attributes))
        return outputs[0]

    def split(self, value: str, names: Sequence[str], sizes: str, axis: int) -> list[str]:
        names = [f"{self.prefix}{name}_{len(self.nodes)}" for name in names]
        self.add("Split", value, sizes, to=names, axis=axis)
        return names

    def constant(self, name: str, value: Any, dtype: Any = np.int64) -> str:
        """A constant of the outer graph, which every subgraph sees."""
        self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def cast(self, value: str, kind: int, to: str = "") -> str:
        """Cast, whose attribute is called ``to``, as the argument of :meth:`add` is."""
        name = f"{self.prefix}cast_{len(self.nodes)}"
        self.nodes.append(helper.make_node("Cast", [value], [to or name], name=name, to=kind))
        return to or name

    def stored(self, name: str, array: np.ndarray) -> str:
        """A weight as float32 ``name``; kept in half precision or in 8 bits where that loses nothing."""
        tensors, nodes = stored(name, array)
        self.initializers.extend(tensors)
        self.nodes.extend(nodes)
        return name
