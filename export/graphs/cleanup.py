"""What every captured graph goes through before it is compared: no local paths, no stale shapes, a version that old runtimes load.

Exporters leave in a file the paths of the user's sources (stack traces in node metadata), shapes that hold for the
traced sizes only, and an IR version newer than the operators need. All of it is removed here; the weights and the
computation stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from onnxferry.export.graphs.axes import count_axes_from_the_start
from onnxferry.export.graphs.int64_kernels import rewrite_large_integers
from onnxferry.export.graphs.nodes import OPSET, RUNTIME_DOMAIN, STANDARD_DOMAINS, all_nodes, copied, ir_version, subgraphs
from onnxferry.export.graphs.sigmoids import write_small_sigmoids
from onnxferry.export.graphs.writer import check_valid
from onnxferry.export.source import Candidate, InputSpec
from onnxferry.runtime.errors import ExportError

RANDOM_OPERATORS = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")


def clean(candidate: Candidate, inputs: Sequence[InputSpec], output_names: Sequence[str]) -> onnx.ModelProto:
    """A cleaned copy, with inputs and outputs in the given order. Raises ExportError where they cannot be matched."""
    cleaned = onnx.ModelProto()
    cleaned.CopyFrom(candidate.model)
    if not candidate.foreign:
        count_axes_from_the_start(cleaned)
    strip_leaks(cleaned)
    _order_inputs(cleaned.graph, inputs)
    _order_outputs(cleaned.graph, output_names)
    _drop_unused_initializers(cleaned.graph)
    if not candidate.foreign:
        rewrite_large_integers(cleaned)
        write_small_sigmoids(cleaned)
        cleaned.ir_version = ir_version(max((o.version for o in cleaned.opset_import if o.domain in STANDARD_DOMAINS), default=OPSET))
    return cleaned


def strip_leaks(model: onnx.ModelProto) -> None:
    """Remove documentation strings and metadata everywhere: they hold stack traces with local paths."""
    model.doc_string = ""
    del model.metadata_props[:]
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        del function.value_info[:]
        for node in function.node:
            _strip_node(node)
    _strip_graph(model.graph)
    model.graph.name = "main_graph"


def _strip_graph(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    # Shapes of intermediate values hold for the traced sizes only, and runtimes infer them anyway.
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    for tensor in graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    for node in graph.node:
        _strip_node(node)


def _strip_node(node: onnx.NodeProto) -> None:
    node.doc_string = ""
    del node.metadata_props[:]
    for attribute in node.attribute:
        attribute.doc_string = ""
        for subgraph in subgraphs(attribute):
            _strip_graph(subgraph)
        if attribute.HasField("t"):
            attribute.t.doc_string = ""


def _order_inputs(graph: onnx.GraphProto, inputs: Sequence[InputSpec]) -> None:
    found = {value.name: value for value in graph.input}
    defaults = {tensor.name for tensor in graph.initializer}
    optional = [value for value in graph.input if value.name in defaults]
    unknown = sorted(set(found) - {spec.name for spec in inputs} - defaults)
    if unknown:
        raise ExportError(f"the exporter gave the graph an input {unknown[0]!r} that the model does not have")
    # An input that the model never reads may be missing: it is declared all the same, as callers will feed it.
    ordered = [onnx.helper.make_tensor_value_info(spec.name, _element_type(spec.dtype), list(spec.shape)) for spec in inputs]
    kept = [copied(value) for value in optional]
    del graph.input[:]
    graph.input.extend([*ordered, *kept])


def _element_type(dtype: str) -> int:
    return int(onnx.TensorProto.STRING) if dtype == "str" else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _order_outputs(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    found = {value.name: value for value in graph.output}
    missing = [name for name in names if name not in found]
    if missing or len(found) != len(names):
        raise ExportError(f"the exporter's graph gives the outputs {', '.join(found) or 'none'}, and the model gives {', '.join(names)}")
    ordered = [copied(found[name]) for name in names]
    del graph.output[:]
    graph.output.extend(ordered)


def _drop_unused_initializers(graph: onnx.GraphProto) -> None:
    used = {value.name for value in graph.output}

    def collect(nodes: Sequence[onnx.NodeProto]) -> None:
        for node in nodes:
            used.update(node.input)
            for attribute in node.attribute:
                for subgraph in subgraphs(attribute):
                    used.update(value.name for value in subgraph.output)
                    collect(subgraph.node)

    collect(graph.node)
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)


def declare_output_shapes(model: onnx.ModelProto, observed: Sequence[tuple[Mapping[str, int], Mapping[str, tuple[int, ...]]]]) -> list[str]:
    """Correct the declared shapes of the outputs by what the source gave. Returns the corrections, in words.

    ``observed`` holds, for every compared case, the sizes of the dynamic axes and the shapes of the outputs.
    An axis that changes with the input must not be declared as a number: ONNX Runtime warns at every run then.
    """
    fixed = []
    for value in model.graph.output:
        shapes = [(sizes, shapes[value.name]) for sizes, shapes in observed]
        ranks = {len(shape) for _, shape in shapes}
        if len(ranks) != 1:
            raise ExportError(
                f"output {value.name!r} has {len(ranks)} different numbers of axes, depending on the input: a graph cannot promise that"
            )
        declared = _declared(value)
        dims: list[int | str] = []
        for axis in range(ranks.pop()):
            seen = [shape[axis] for _, shape in shapes]
            old = declared[axis] if declared is not None and axis < len(declared) else None
            dims.append(_dim(value.name, axis, seen, [sizes for sizes, _ in shapes], old))
        if declared is not None and any(isinstance(o, int) and isinstance(n, str) for o, n in zip(declared, dims, strict=False)):
            fixed.append(f"output {value.name!r} was declared with a frozen size: {list(declared)}, now {dims}")
        dtype = value.type.tensor_type.elem_type
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, dtype, dims))
    return fixed


def _declared(value: onnx.ValueInfoProto) -> list[int | str | None] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim]


def _dim(output: str, axis: int, seen: Sequence[int], sizes: Sequence[Mapping[str, int]], declared: int | str | None) -> int | str:
    for name in sizes[0] if sizes else ():
        values = [s.get(name) for s in sizes]
        if values == list(seen) and len(set(values)) > 1:
            return name
    if len(set(seen)) == 1 and (declared is None or declared == seen[0]):
        return seen[0]
    # A name of an input's axis would promise equality, which was just seen not to hold.
    if isinstance(declared, str) and declared and declared not in (sizes[0] if sizes else ()):
        return declared
    return f"{output}_dim{axis}"


def check(model: onnx.ModelProto, *, foreign: bool = False) -> None:
    """Raise ExportError where the graph is not valid ONNX, uses operators that are not standard, or draws random numbers."""
    for node in all_nodes(model):
        local = any(f.name == node.op_type and f.domain == node.domain for f in model.functions)
        allowed = (*STANDARD_DOMAINS, RUNTIME_DOMAIN) if foreign else STANDARD_DOMAINS
        if node.domain not in allowed and not local:
            raise ExportError(
                f"the graph uses the operator {node.domain}::{node.op_type}, which is no standard ONNX and would not run elsewhere"
            )
    try:
        check_valid(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ExportError(f"the exported graph is not valid ONNX: {str(error).strip().splitlines()[0]}") from error


def random_operators(model: onnx.ModelProto) -> list[str]:
    """Operators whose answer changes from run to run: random draws, and dropout that was left on."""
    found = [node.op_type for node in all_nodes(model) if node.op_type in RANDOM_OPERATORS]
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == onnx.TensorProto.BOOL}
    for node in all_nodes(model):
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] and bool(constants.get(node.input[2], True)):
            found.append("Dropout in training mode")
    return found
