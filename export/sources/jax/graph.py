"""A graph under construction, with JAX's shapes: sizes may be expressions of the open axes, such as ``batch*(time - 1)``."""

from __future__ import annotations

import ast
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxferry.runtime.errors import ExportError

Size = Any
"""An int, or one of JAX's symbolic dimension expressions."""
Shape = tuple[Size, ...]


def known(size: Size) -> int | None:
    """The size as a number; None if it depends on an open axis."""
    return int(size) if isinstance(size, int | np.integer) else None


def all_known(shape: Sequence[Size]) -> bool:
    return all(known(size) is not None for size in shape)


def product(sizes: Sequence[Size]) -> Size:
    return reduce(lambda a, b: a * b, sizes, 1)


def same(a: Size, b: Size) -> bool:
    """Whether two sizes are certainly equal. ``==`` of JAX raises where it cannot know."""
    return str(a) == str(b)


@dataclass(frozen=True, eq=False)
class Value:
    """A value of the traced program. It is a constant (``array``) or has a name in the graph.

    ``stored`` is the shape that it has in the graph: it may have an axis of size 1 where ``shape`` is larger. Operators that broadcast
    take it as it is; for the others, :meth:`Graph.full` repeats it.
    """

    dtype: np.dtype[Any]
    shape: Shape
    stored: Shape
    name: str = ""
    array: np.ndarray | None = None

    @property
    def is_full(self) -> bool:
        return len(self.shape) == len(self.stored) and all(map(same, self.shape, self.stored))


class Graph:
    """Nodes in order of computation. A subgraph (``outer``) shares names, constants and sizes with the main graph."""

    def __init__(self, opset: int, outer: Graph | None = None) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.outer = outer
        self.main: Graph = outer.main if outer else self
        self.line: str = outer.line if outer else ""  # of the user's program, for errors
        if outer is None:
            self.initializers: list[onnx.TensorProto] = []
            self.axes: dict[str, tuple[str, int]] = {}  # name of an open axis -> the input and the axis of it
            self._count = 0
            self._constants: dict[Any, str] = {}
            self._sizes: dict[str, str] = {}
            self.taken: set[str] = set()

    def fresh(self, what: str) -> str:
        main = self.main
        while True:
            main._count += 1
            name = f"{what.lower()}_{main._count}"
            if name not in main.taken:
                return name

    def constant(self, array: Any, dtype: Any = None) -> Value:
        made = np.asarray(array, dtype)
        return Value(made.dtype, made.shape, made.shape, array=made)

    def ints(self, *numbers: int) -> Value:
        """An int64 vector, as operators take axes and shapes."""
        return self.constant(np.array(numbers, np.int64))

    def ref(self, value: Value) -> str:
        """The name of a value; a constant becomes an initializer."""
        if value.array is None:
            return value.name
        array = np.ascontiguousarray(value.array).reshape(value.array.shape)
        key = (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        main = self.main
        if key not in main._constants:
            main._constants[key] = self.fresh("constant")
            main.initializers.append(numpy_helper.from_array(array, main._constants[key]))
        return main._constants[key]

    def op(self, kind: str, inputs: Sequence[Value | None], dtype: Any, shape: Shape, **attributes: Any) -> Value:
        return self.ops(kind, inputs, [(dtype, shape)], **attributes)[0]

    def ops(self, kind: str, inputs: Sequence[Value | None], outputs: Sequence[tuple[Any, Shape]], **attributes: Any) -> list[Value]:
        """Adds a node. An input of None is left out. The inputs are taken as they are stored."""
        names = [self.fresh(kind) for _ in outputs]
        refs = ["" if each is None else self.ref(each) for each in inputs]
        self.nodes.append(helper.make_node(kind, refs, names, name=names[0], doc_string=self.line, **attributes))
        return [Value(np.dtype(d), s, s, name) for name, (d, s) in zip(names, outputs, strict=True)]

    # ---- sizes

    def size(self, size: Size) -> Value:
        """A size as an int64 vector of one element."""
        number = known(size)
        if number is not None:
            return self.ints(number)
        main = self.main
        text = str(size)
        if text not in main._sizes:
            # In the main graph, where every subgraph can read it.
            main._sizes[text] = main.ref(main._expression(ast.parse(text.replace("^", "**"), mode="eval").body))
        return Value(np.dtype(np.int64), (1,), (1,), main._sizes[text])

    def _expression(self, node: ast.expr) -> Value:
        if isinstance(node, ast.Constant):
            return self.ints(int(str(node.value)))
        if isinstance(node, ast.Name):
            source, place = self.axes[node.id]
            value = Value(np.dtype(np.float32), (), (), source)
            return self.op("Shape", [value], np.int64, (1,), start=place, end=place + 1)
        if isinstance(node, ast.UnaryOp):
            return self.op("Neg", [self._expression(node.operand)], np.int64, (1,))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant):
            base = self._expression(node.left)
            return reduce(lambda a, b: self.op("Mul", [a, b], np.int64, (1,)), [base] * int(str(node.right.value)))
        if isinstance(node, ast.BinOp):
            kind = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}[type(node.op)]
            return self.op(kind, [self._expression(node.left), self._expression(node.right)], np.int64, (1,))
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise ExportError(f"the size {ast.unparse(node)} has no counterpart in the graph")
        a, b = (self._expression(each) for each in node.args)
        if node.func.id == "floordiv":  # Div rounds towards zero, and sizes below zero are met on the way to max(0, …)
            rest = self.op("Mod", [a, b], np.int64, (1,))
            return self.op("Div", [self.op("Sub", [a, rest], np.int64, (1,)), b], np.int64, (1,))
        kind = {"mod": "Mod", "max": "Max", "min": "Min"}[node.func.id]
        return self.op(kind, [a, b], np.int64, (1,))

    def sizes(self, shape: Sequence[Size]) -> Value:
        """A shape as an int64 vector."""
        if all_known(shape):
            return self.ints(*(int(size) for size in shape))
        parts: list[Value] = []
        for size in shape:  # neighbouring numbers in one constant
            last = parts[-1] if parts else None
            if known(size) is not None and last is not None and last.array is not None:
                parts[-1] = self.ints(*last.array.tolist(), int(size))
            else:
                parts.append(self.size(size))
        if len(parts) == 1:
            return parts[0]
        return self.op("Concat", parts, np.int64, (len(shape),), axis=0)

    def scalar(self, size: Size) -> Value:
        """A size as an int64 scalar."""
        number = known(size)
        if number is not None:
            return self.constant(np.int64(number))
        return self.op("Squeeze", [self.size(size), self.ints(0)], np.int64, ())

    # ---- layout

    def full(self, value: Value) -> Value:
        """The value with all its axes at their sizes in the graph."""
        if value.is_full:
            return value
        if value.array is not None and all_known(value.shape):
            return self.constant(np.broadcast_to(value.array, [int(size) for size in value.shape]))
        if any(known(size) == 0 for size in value.shape):  # Expand repeats, and does not leave out
            nothing = numpy_helper.from_array(np.zeros(1, value.dtype))
            return self.op("ConstantOfShape", [self.sizes(value.shape)], value.dtype, value.shape, value=nothing)
        return self.op("Expand", [value, self.sizes(value.shape)], value.dtype, value.shape)

    def stored_as(self, value: Value, shape: Shape, stored: Shape) -> Value:
        """The same data with other axes: a Reshape unless nothing changes."""
        if len(value.stored) == len(stored) and all(map(same, value.stored, stored)):
            return Value(value.dtype, shape, stored, value.name, value.array)
        if value.array is not None and all_known(stored):
            array = value.array.reshape([int(size) for size in stored])
            return Value(value.dtype, shape, stored, array=array)
        made = self.op("Reshape", [value, self._reshape_target(value.stored, stored)], value.dtype, stored)
        return Value(value.dtype, shape, stored, made.name)

    def _reshape_target(self, old: Shape, new: Shape) -> Value:
        """A target as constant as can be: 0 keeps a size, one -1 is worked out. An axis of size 0 would make either ambiguous."""
        if all_known(new):
            return self.ints(*(int(size) for size in new))
        target: list[int] = []
        for place, size in enumerate(new):
            number = known(size)
            if number is not None:
                target.append(number)
            elif place < len(old) and same(old[place], size):
                target.append(0)
            else:
                target.append(-1)
        if target.count(-1) <= 1 and 0 not in [known(size) for size in (*old, *new)]:
            return self.ints(*target)
        return self.sizes(new)

    def reshape(self, value: Value, shape: Shape) -> Value:
        return self.stored_as(self.full(value), shape, shape)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        shape, stored = tuple(value.shape[i] for i in order), tuple(value.stored[i] for i in order)
        if list(order) == list(range(len(order))):
            return value
        if value.array is not None:
            return Value(value.dtype, shape, stored, array=np.transpose(value.array, order))
        moved = [i for i in order if known(value.stored[i]) != 1]
        if moved == sorted(moved):  # only axes of size 1 move
            return self.stored_as(value, shape, stored)
        made = self.op("Transpose", [value], value.dtype, stored, perm=list(order))
        return Value(value.dtype, shape, stored, made.name)

    def cast(self, value: Value, dtype: Any) -> Value:
        wanted = np.dtype(dtype)
        if value.dtype == wanted:
            return value
        if value.array is not None:
            with np.errstate(all="ignore"):
                return Value(wanted, value.shape, value.stored, array=value.array.astype(wanted))
        made = self.op("Cast", [value], wanted, value.stored, to=onnx_type(wanted))
        return Value(wanted, value.shape, value.stored, made.name)

    def take(self, value: Value, places: Value, axis: int) -> Value:
        """Entries along an axis of a full value."""
        shape = (*value.shape[:axis], *places.shape, *value.shape[axis + 1 :])
        return self.op("Gather", [value, places], value.dtype, shape, axis=axis)

    def slice(self, value: Value, axis: int, start: Value, end: Value, size: Size, step: int = 1) -> Value:
        """A part of a full value along one axis; start and end are int64 vectors of one element."""
        shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
        return self.op("Slice", [value, start, end, self.ints(axis), self.ints(step)], value.dtype, shape)

    # ---- subgraphs

    def inner(self) -> Graph:
        return Graph(self.opset, self)

    def parameter(self, dtype: Any, shape: Shape) -> Value:
        """An input of this subgraph."""
        return Value(np.dtype(dtype), shape, shape, self.fresh("item"))

    def closed(self, name: str, parameters: Sequence[Value], results: Sequence[Value]) -> onnx.GraphProto:
        """The subgraph: results are full, named here, and each named once."""
        outputs = [self.op("Identity", [self.full(each)], each.dtype, each.shape) for each in results]
        return helper.make_graph(self.nodes, name, [_declared(each) for each in parameters], [_declared(each) for each in outputs])


def _declared(value: Value) -> onnx.ValueInfoProto:
    shape = [known(size) if known(size) is not None else None for size in value.shape]
    return helper.make_tensor_value_info(value.name, onnx_type(value.dtype), shape)


def onnx_type(dtype: Any) -> int:
    kind = np.dtype(dtype)
    if kind.kind not in "fiub" or kind.name == "float128":
        raise ExportError(f"{kind.name} has no counterpart in ONNX Runtime's operators: compute in float32")
    return int(helper.np_dtype_to_tensor_dtype(kind))


def element_count(shape: Sequence[Size]) -> int:
    """Of a shape whose sizes are all known."""
    return math.prod(int(size) for size in shape)
