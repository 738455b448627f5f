"""Building a graph as numpy code is written: arithmetic on :class:`Tensor` adds nodes to its :class:`GraphBuilder`.

    x = graph.input_tensor("X", "float64", 4)
    y = (x - mean) @ weights            # two constants, a Sub and a MatMul
    labels = y.argmax(1)

All real numbers are float64, in which scikit-learn computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ML_DOMAIN, ML_OPSET = "ai.onnx.ml", 3
"""Tree ensembles compare float64 from version 3 on; ONNX Runtime 1.20 runs it."""

ONNX_TYPES = {
    "float64": TensorProto.DOUBLE,
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
    "str": TensorProto.STRING,
}

Operand = Any  # a Tensor, or a number or array that becomes a constant


@dataclass(eq=False)
class GraphBuilder:
    """Nodes and constants, in order of computation."""

    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    memo: dict[Any, Any] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)  # class names of the parts that skl2onnx converted
    names: int = 0
    known: dict[Any, str] = field(default_factory=dict)  # constants by their content
    prefix: str = "sklearn"  # of the values' names

    def fresh(self, what: str) -> str:
        self.names += 1
        return f"{self.prefix}_{what}_{self.names}"

    def subgraph(self) -> GraphBuilder:
        """For nodes that run inside of one node of this graph; its ``names`` go on in this one's afterwards."""
        return GraphBuilder(self.opset, names=self.names, constants=self.constants, known=self.known, prefix=self.prefix)

    def needs_opset(self, version: int) -> None:
        self.opset = max(self.opset, version)

    def constant(self, value: Any, dtype: str | None = None) -> Tensor:
        array = np.asarray(value)
        if dtype is None:
            dtype = {"f": "float64", "i": "int64", "u": "int64", "b": "bool"}.get(array.dtype.kind, "str")
        array = array.astype(object if dtype == "str" else dtype)
        if dtype == "str":
            array = np.array([str(each).encode() for each in array.ravel()], dtype=object).reshape(array.shape)
        key = (dtype, array.shape, tuple(array.ravel()) if dtype == "str" else np.ascontiguousarray(array).tobytes())
        if key not in self.known:
            self.known[key] = self.fresh("constant")
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), self.known[key]))
        return Tensor(self, self.known[key], dtype)

    def tensor(self, value: Operand, dtype: str | None = None) -> Tensor:
        return value if isinstance(value, Tensor) else self.constant(value, dtype)

    def op(self, kind: str, inputs: Sequence[Operand], dtype: str, count: int = 1, **attributes: Any) -> Tensor:
        return self.ops(kind, inputs, [dtype] * count, **attributes)[0]

    def ops(self, kind: str, inputs: Sequence[Operand], dtypes: Sequence[str], **attributes: Any) -> list[Tensor]:
        """A node of several outputs. A constant operand takes the dtype of the first Tensor among the inputs where both are numbers."""
        like = next((each.dtype for each in inputs if isinstance(each, Tensor)), None)
        made = [self._operand(each, like) for each in inputs]
        names = [self.fresh(kind.lower()) for _ in dtypes]
        self.nodes.append(helper.make_node(kind, [each.name for each in made], names, name=names[0], **attributes))
        return [Tensor(self, name, dtype) for name, dtype in zip(names, dtypes, strict=True)]

    def _operand(self, value: Operand, like: str | None) -> Tensor:
        if isinstance(value, Tensor):
            return value
        array = np.asarray(value)
        wanted = like if like in ("float64", "float32") and array.dtype.kind in "fiu" and not isinstance(value, Whole) else None
        return self.constant(array, wanted)

    def concat(self, parts: Sequence[Tensor], axis: int = 1) -> Tensor:
        return parts[0] if len(parts) == 1 else self.op("Concat", parts, parts[0].dtype, axis=axis)

    def where(self, condition: Tensor, yes: Operand, no: Operand) -> Tensor:
        dtype = next((each.dtype for each in (yes, no) if isinstance(each, Tensor)), "float64")
        return self.op("Where", [condition, self.tensor(yes, dtype), self.tensor(no, dtype)], dtype)

    def branch(self, condition: Tensor, yes: Callable[[GraphBuilder], Sequence[Tensor]], no: Sequence[Tensor]) -> list[Tensor]:
        """``yes`` builds its nodes in a subgraph, run only where the condition (one flag) holds; else the values are ``no``."""
        inner = self.subgraph()
        made = [inner.op("Identity", [each], each.dtype) for each in yes(inner)]
        self.names = inner.names
        self.needs_opset(inner.opset)
        outputs = [helper.make_tensor_value_info(each.name, ONNX_TYPES[each.dtype], None) for each in made]
        then = helper.make_graph(inner.nodes, "then", [], outputs)
        copies = [self.fresh("unchanged") for _ in no]
        kept = [helper.make_node("Identity", [each.name], [copy]) for each, copy in zip(no, copies, strict=True)]
        otherwise = helper.make_graph(
            kept, "else", [], [helper.make_tensor_value_info(c, ONNX_TYPES[e.dtype], None) for c, e in zip(copies, no, strict=True)]
        )
        return self.ops("If", [condition], [each.dtype for each in no], then_branch=then, else_branch=otherwise)

    def rows(self, x: Tensor) -> Tensor:
        """The number of rows, shape (1,)."""
        return self.op("Slice", [x.shape(), Whole([0]), Whole([1])], "int64")

    def full(self, x: Tensor, row: Operand, dtype: str = "float64") -> Tensor:
        """``row``, a vector of n, once for every row of x: (rows, n)."""
        constant = self.tensor(np.atleast_1d(row), dtype) if not isinstance(row, Tensor) else row
        width = Whole([np.atleast_1d(row).shape[0]])
        return self.op("Expand", [constant, self.op("Concat", [self.rows(x), width], "int64", axis=0)], dtype)


class Whole(np.ndarray):
    """A constant of whole numbers that stays so beside float operands: axes, shapes, places."""

    def __new__(cls, value: Any) -> Whole:
        return np.asarray(value, np.int64).view(cls)


@dataclass(frozen=True)
class Tensor:
    """A value of the graph. Operators as of numpy; a comparison gives flags."""

    graph: GraphBuilder
    name: str
    dtype: str

    __array_ufunc__ = None  # so that array + Tensor comes here

    def _binary(self, kind: str, other: Operand, dtype: str | None = None, *, swapped: bool = False) -> Tensor:
        return self.graph.op(kind, [other, self] if swapped else [self, other], dtype or self.dtype)

    def __add__(self, other: Operand) -> Tensor:
        return self._binary("Add", other)

    def __radd__(self, other: Operand) -> Tensor:
        return self._binary("Add", other, swapped=True)

    def __sub__(self, other: Operand) -> Tensor:
        return self._binary("Sub", other)

    def __rsub__(self, other: Operand) -> Tensor:
        return self._binary("Sub", other, swapped=True)

    def __mul__(self, other: Operand) -> Tensor:
        return self._binary("Mul", other)

    def __rmul__(self, other: Operand) -> Tensor:
        return self._binary("Mul", other, swapped=True)

    def __truediv__(self, other: Operand) -> Tensor:
        return self._binary("Div", other)

    def __rtruediv__(self, other: Operand) -> Tensor:
        return self._binary("Div", other, swapped=True)

    def __matmul__(self, other: Operand) -> Tensor:
        return self._binary("MatMul", other)

    def __pow__(self, other: Operand) -> Tensor:
        return self._binary("Pow", other)

    def __neg__(self) -> Tensor:
        return self._unary("Neg")

    def __lt__(self, other: Operand) -> Tensor:
        return self._binary("Less", other, "bool")

    def __le__(self, other: Operand) -> Tensor:
        return self._binary("LessOrEqual", other, "bool")

    def __gt__(self, other: Operand) -> Tensor:
        return self._binary("Greater", other, "bool")

    def __ge__(self, other: Operand) -> Tensor:
        return self._binary("GreaterOrEqual", other, "bool")

    def __and__(self, other: Operand) -> Tensor:
        return self._binary("And", other, "bool")

    def __or__(self, other: Operand) -> Tensor:
        return self._binary("Or", other, "bool")

    def __invert__(self) -> Tensor:
        return self._unary("Not")

    def equal(self, other: Operand) -> Tensor:
        if self.dtype == "str":
            self.graph.needs_opset(19)
        return self.graph.op("Equal", [self, self.graph.tensor(other, self.dtype)], "bool")

    def _unary(self, kind: str, dtype: str | None = None, **attributes: Any) -> Tensor:
        return self.graph.op(kind, [self], dtype or self.dtype, **attributes)

    def exp(self) -> Tensor:
        return self._unary("Exp")

    def log(self) -> Tensor:
        return self._unary("Log")

    def sqrt(self) -> Tensor:
        return self._unary("Sqrt")

    def abs(self) -> Tensor:
        return self._unary("Abs")

    def unary(self, kind: str) -> Tensor:
        """An operator of one input that keeps the dtype: Tanh, Floor, Cos …"""
        return self._unary(kind)

    def sigmoid(self) -> Tensor:
        """``scipy.special.expit`` in float64: ONNX Runtime's own Sigmoid gives 0 from about -37 on, and shares made of it are wrong."""
        return 1.0 / ((-self).exp() + 1.0)

    def isnan(self) -> Tensor:
        return self._unary("IsNaN", "bool")

    def softmax(self) -> Tensor:
        return self._unary("Softmax", axis=1)

    def cast(self, dtype: str) -> Tensor:
        return self if dtype == self.dtype else self._unary("Cast", dtype, to=ONNX_TYPES[dtype])

    def real(self) -> Tensor:
        return self.cast("float64")

    def shape(self) -> Tensor:
        return self._unary("Shape", "int64")

    def maximum(self, other: Operand) -> Tensor:
        return self._binary("Max", other)

    def minimum(self, other: Operand) -> Tensor:
        return self._binary("Min", other)

    def clip(self, low: float, high: float) -> Tensor:
        return self.maximum(np.float64(low)).minimum(np.float64(high))

    def _reduced(self, kind: str, axis: int, keep: bool) -> Tensor:
        if self.graph.opset >= 18 or kind == "ReduceSum":
            return self.graph.op(kind, [self, Whole([axis])], self.dtype, keepdims=int(keep))
        return self._unary(kind, axes=[axis], keepdims=int(keep))

    def sum(self, axis: int = 1, *, keep: bool = False) -> Tensor:
        return self._reduced("ReduceSum", axis, keep)

    def max(self, axis: int = 1, *, keep: bool = False) -> Tensor:
        return self._reduced("ReduceMax", axis, keep)

    def min(self, axis: int = 1, *, keep: bool = False) -> Tensor:
        return self._reduced("ReduceMin", axis, keep)

    def argmax(self, axis: int = 1) -> Tensor:
        return self._unary("ArgMax", "int64", axis=axis, keepdims=0)

    def argmin(self, axis: int = 1) -> Tensor:
        return self._unary("ArgMin", "int64", axis=axis, keepdims=0)

    def any(self, axis: int = 1) -> Tensor:
        return self.cast("int64").max(axis).cast("bool")

    def columns(self, places: Any) -> Tensor:
        """The given columns, (rows, n); as a vector for a single number."""
        return self.graph.op("Gather", [self, Whole(places)], self.dtype, axis=1)

    def take(self, places: Tensor, axis: int = 0) -> Tensor:
        """Entries along an axis; of a table of constants by places of any shape."""
        return self.graph.op("Gather", [self, places], self.dtype, axis=axis)

    def reshape(self, *sizes: int) -> Tensor:
        """0 keeps a size, -1 is worked out."""
        return self.graph.op("Reshape", [self, Whole(sizes)], self.dtype)

    def as_column(self) -> Tensor:
        return self.reshape(-1, 1)

    def flat(self) -> Tensor:
        return self.reshape(-1)

    def unsqueeze(self, axis: int) -> Tensor:
        return self.graph.op("Unsqueeze", [self, Whole([axis])], self.dtype)

    def transposed(self) -> Tensor:
        return self._unary("Transpose", perm=[1, 0])

    def smallest(self, count: int) -> tuple[Tensor, Tensor]:
        """The ``count`` smallest of every row, in order, and their places; of equals the first."""
        values, places = self.graph.ops("TopK", [self, Whole([count])], [self.dtype, "int64"], axis=1, largest=0, sorted=1)
        return values, places

    def running_sum(self, axis: int) -> Tensor:
        """The sum along an axis, its terms added one after another as numpy does along a first axis: equal bit by bit."""
        sums = self.graph.op("CumSum", [self, Whole(axis)], self.dtype)
        return self.graph.op("Gather", [sums, Whole(-1)], self.dtype, axis=axis)

    def label(self, keys: Sequence[str], values: Sequence[int], default: int = -1) -> Tensor:
        """Strings as whole numbers."""
        return self._unary(
            "LabelEncoder", "int64", domain=ML_DOMAIN, keys_strings=list(keys), values_int64s=list(values), default_int64=default
        )


def running_total(terms: Sequence[Tensor]) -> Tensor:
    """Terms added one after another."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
