"""From what JAX traces to a graph: one lowering for each primitive.

A lowering is a function ``(context, equation, *values) -> values``, registered under the primitive's names with :func:`lowers`.
Primitives: https://docs.jax.dev/en/latest/jax.lax.html. What has no lowering is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend import core
from jax.interpreters import partial_eval
from onnx import helper

from onnxferry.export.graphs import nodes
from onnxferry.export.sources.jax.graph import Graph, Shape, Value, all_known, element_count, known, onnx_type, same
from onnxferry.runtime.errors import ExportError, first_line

Values = Sequence[Value]
Lowering = Callable[..., "Value | Values"]

LOWERINGS: dict[str, Lowering] = {}

FOLDED_ELEMENTS = 1 << 22
"""The largest constant that is computed at the export; larger ones are computed by the graph."""

RANDOM = ("random", "threefry", "rng_")
HOST = {"pure_callback", "io_callback", "debug_callback", "debug_print", "python_callback", "infeed", "outfeed"}


def lowers(*names: str) -> Callable[[Lowering], Lowering]:
    def register(function: Lowering) -> Lowering:
        LOWERINGS.update(dict.fromkeys(names, function))
        return function

    return register


@dataclass(frozen=True, eq=False)
class Equation:
    """One step of the traced program."""

    primitive: str
    params: dict[str, Any]
    outputs: tuple[tuple[np.dtype[Any], Shape], ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.outputs[0][0]

    @property
    def shape(self) -> Shape:
        return self.outputs[0][1]


def make_graph(closed: Any, inputs: Sequence[tuple[str, np.dtype[Any], Shape]], outputs: Sequence[str], opset: int) -> onnx.ModelProto:
    """The graph of a closed jaxpr. ``inputs``: name, dtype and shape, with JAX's symbolic sizes where an axis is open."""
    graph = Graph(opset)
    graph.taken = {name for name, _, _ in inputs} | set(outputs)
    for name, _, shape in inputs:
        for place, size in enumerate(shape):
            if known(size) is None:
                graph.axes.setdefault(str(size), (name, place))
    fed = [Value(dtype, shape, shape, name) for name, dtype, shape in inputs]
    # Without what no output needs, such as the random key that a layer takes for a first state of zeros.
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
    results = run_jaxpr(graph, jaxpr, closed.consts, fed)
    declared = []
    for name, value in zip(outputs, results, strict=True):
        full = graph.full(value)
        graph.nodes.append(helper.make_node("Identity", [graph.ref(full)], [name]))
        declared.append(helper.make_tensor_value_info(name, onnx_type(value.dtype), [_axis(size) for size in value.shape]))
    taken = [helper.make_tensor_value_info(name, onnx_type(dtype), [_axis(size) for size in shape]) for name, dtype, shape in inputs]
    made = helper.make_graph(graph.nodes, "jax", taken, declared, graph.initializers)
    version = graph.main.opset
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", version)], ir_version=nodes.ir_version(version))


def _axis(size: Any) -> int | str | None:
    """A size for a declaration: a number, the name of an open axis, or None for an expression."""
    number = known(size)
    if number is not None:
        return number
    return str(size) if str(size).isidentifier() else None


def run_jaxpr(graph: Graph, jaxpr: Any, consts: Sequence[Any], values: Values) -> list[Value]:
    """Adds the nodes of a jaxpr; the values of its outputs."""
    known_values: dict[Any, Value] = {}

    def read(atom: Any) -> Value:
        if isinstance(atom, core.Literal):
            aval: Any = atom.aval
            return graph.constant(_plain(atom.val, aval.dtype))
        if atom not in known_values:
            raise ExportError("it uses a random key: take random numbers as an input, and leave dropout off")
        return known_values[atom]

    for variable, const in zip(jaxpr.constvars, consts, strict=True):
        if _is_key(variable.aval.dtype):
            continue  # what needs it is refused
        known_values[variable] = const if isinstance(const, Value) else graph.constant(_plain(const, variable.aval.dtype))
    known_values.update(zip(jaxpr.invars, values, strict=True))
    for each in jaxpr.eqns:
        graph.line = _line(each) or graph.line
        made = _lowered(graph, each, [read(atom) for atom in each.invars])
        known_values.update(zip(each.outvars, made, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _lowered(graph: Graph, each: Any, values: list[Value]) -> Sequence[Value]:
    name = str(each.primitive.name)
    outputs = tuple((_dtype(variable.aval), tuple(variable.aval.shape)) for variable in each.outvars)
    equation = Equation(name, dict(each.params), outputs)
    lowering = LOWERINGS.get(name)
    if lowering is None:
        raise ExportError(_refusal(name, graph.line))
    folded = _folded(graph, each, equation, values)
    if folded is not None:
        return folded
    try:
        made = lowering(graph, equation, *values)
    except ExportError as error:
        raise error if graph.line in str(error) else ExportError(f"{first_line(error)} (in {graph.line})") from error
    found = [made] if isinstance(made, Value) else list(made)
    return [_as_traced(graph, value, dtype, shape) for value, (dtype, shape) in zip(found, outputs, strict=True)]


def _as_traced(graph: Graph, value: Value, dtype: np.dtype[Any], shape: Shape) -> Value:
    """The value with JAX's dtype, and JAX's own expressions for its sizes."""
    if value.dtype.kind == "c":  # a pair of real values, see lowerings/spectral.py
        return value
    cast = graph.cast(value, dtype)
    stored = tuple(size if same(size, own) else own for size, own in zip(shape, cast.stored, strict=True))
    return Value(dtype, shape, stored, cast.name, cast.array)


def _folded(graph: Graph, each: Any, equation: Equation, values: Values) -> Sequence[Value] | None:
    """The outputs where all inputs are constants, computed by JAX itself. Broadcasts stay small: they are stored as they were."""
    if equation.primitive in ("broadcast_in_dim", "iota", "dim_as_value") or not values or each.effects:
        return None
    if any(value.array is None or not all_known(value.shape) for value in values) or any(_subprograms(equation.params)):
        return None
    if not all(all_known(shape) and element_count(shape) <= FOLDED_ELEMENTS for _, shape in equation.outputs):
        return None
    arrays = [np.broadcast_to(value.array, [int(size) for size in value.shape]) for value in values if value.array is not None]
    try:
        made = each.primitive.bind(*(jax.numpy.asarray(array) for array in arrays), **each.params)
    except Exception:  # noqa: BLE001 - the graph computes it then
        return None
    return [graph.constant(np.asarray(array)) for array in (made if each.primitive.multiple_results else [made])]


def _subprograms(params: dict[str, Any]) -> list[Any]:
    return [value for value in params.values() if isinstance(value, core.Jaxpr | core.ClosedJaxpr)]


def _is_key(dtype: Any) -> bool:
    return bool(jax.numpy.issubdtype(dtype, jax.dtypes.prng_key))


def _dtype(aval: Any) -> np.dtype[Any]:
    """The dtype of a traced value. Raises ExportError for one without a counterpart, such as a random key."""
    if _is_key(aval.dtype):
        raise ExportError("it uses a random key: take random numbers as an input, and leave dropout off")
    found: np.dtype[Any] = np.dtype(aval.dtype)
    return found


def _plain(value: Any, dtype: Any) -> np.ndarray:
    if _is_key(dtype):
        raise ExportError("it uses a random key: take random numbers as an input, and leave dropout off")
    return np.asarray(value, np.dtype(dtype))


def _refusal(name: str, line: str) -> str:
    where = f" (in {line})" if line else ""
    if name.startswith(RANDOM):
        return f"it draws random numbers ({name}): take them as an input, and leave dropout off{where}"
    if name in HOST:
        return f"it calls Python while it runs ({name}), which a graph cannot{where}"
    return f"the JAX primitive {name} has no counterpart in the graph{where}: compute this part before or after the model"


def _line(equation: Any) -> str:
    """The line of the user's program that made the equation, as ``model.py:12``."""
    from jax._src import source_info_util

    try:
        frame = source_info_util.user_frame(equation.source_info.traceback)
    except (AttributeError, TypeError):  # JAX moved it: only the line in messages is lost
        return ""
    return "" if frame is None else f"{frame.file_name.rpartition('/')[2]}:{frame.start_line}"
