"""Other operator sets for a file: what changes, operator by operator, and the graphs that may do the same.

``onnx.version_converter`` is known to give wrong graphs in places, and to leave subgraphs as they were. So each graph that is made here
is a candidate, which the export's comparison judges by running it beside the original.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import onnx
from onnx import defs, helper, inliner, version_converter

from onnxferry.export.graphs.inference import inferred
from onnxferry.export.graphs.nodes import RUNTIME_DOMAIN, all_nodes, subgraphs
from onnxferry.export.sources.foreign.adapters import adapted
from onnxferry.runtime.errors import ExportError, first_line

ML = "ai.onnx.ml"

Change = tuple[str, Callable[[], onnx.ModelProto], Sequence[str]]
"""A way to change the operator set: its name, what makes the model, and the operators that are written otherwise then."""


def opset_of(model: onnx.ModelProto, domain: str = "") -> int:
    """The operator set of a domain; 0 where the file does not use it."""
    return max(
        (each.version for each in model.opset_import if (each.domain or "") in ((domain, "ai.onnx") if not domain else (domain,))),
        default=0,
    )


def changes(model: onnx.ModelProto, opset: int) -> Sequence[Change]:
    """Ways to make the operator set ``opset``, the most faithful first. Raises ExportError, with the operator's name, for none."""
    missing = sorted({node.op_type for node in _standard(model) if schema(node.op_type, opset) is None})
    ready = _without_missing(_flat(model) if model.functions and opset != opset_of(model) else model, opset)
    now = opset_of(model)
    if opset == now:
        return [("the file as it is", lambda: _copy(ready), ())]
    changed = sorted({node.op_type for node in _standard(ready) if not _alike(node.op_type, now, opset)})
    if not changed:
        return [("the operators as they are", lambda: _with_opset(ready, opset), missing)]

    def step_by_step() -> onnx.ModelProto:
        return _with_opset(adapted(ready, now, opset, _alike), opset)

    def converter() -> onnx.ModelProto:
        return _by_onnx(ready, now, opset, changed)

    otherwise = sorted({*missing, *changed})
    return [("each operator by its schemas", step_by_step, otherwise), ("onnx.version_converter", converter, otherwise)]


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def _with_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    made = _copy(model)
    others = [each for each in made.opset_import if each.domain not in ("", "ai.onnx")]
    del made.opset_import[:]
    made.opset_import.extend([helper.make_opsetid("", opset), *others])
    return made


def _standard(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The nodes of ONNX' own domain, those in subgraphs too."""
    return (node for node in all_nodes(model) if node.domain in ("", "ai.onnx"))


def _flat(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without local functions: each has operator sets of its own."""
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:
        raise ExportError(f"the file's functions cannot be put into its graph ({first_line(error)[:200]})") from error


def schema(operator: str, opset: int) -> defs.OpSchema | None:
    """An operator's schema in an operator set; None where it is not there, or is no longer."""
    try:
        found = defs.get_schema(operator, opset, "")
    except defs.SchemaError:
        return None
    return None if found.deprecated else found


def _alike(operator: str, one: int, other: int) -> bool:
    """Whether a node of that operator can mean the same in both sets as it is: inputs, outputs and attributes have not changed.

    Other element types may be allowed: the runtime refuses what it cannot run.
    """
    low, high = min(one, other), max(one, other)
    found = [schema(operator, low), *(schema(operator, version) for version in range(low + 1, high + 1))]
    first = found[0]
    return first is not None and all(each is not None and _signature(each) == _signature(first) for each in found)


def _signature(found: defs.OpSchema) -> tuple[object, ...]:
    inputs = [(each.name, str(each.option)) for each in found.inputs]
    outputs = [(each.name, str(each.option)) for each in found.outputs]
    attributes = {name: (str(each.type), each.required, each.default_value.SerializeToString()) for name, each in found.attributes.items()}
    return inputs, outputs, attributes


def _without_missing(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Operators that the set does not have are written out by ONNX' own definition of them, where there is one."""
    now, made = opset_of(model), model
    while missing := {node.op_type for node in _standard(made) if schema(node.op_type, opset) is None}:
        made = _written_out(made, missing, now, opset)  # a definition may use operators that are defined by others
    return made


def _written_out(model: onnx.ModelProto, missing: Collection[str], now: int, opset: int) -> onnx.ModelProto:
    types = _types(model)
    made = _copy(model)

    def expand(graph: onnx.GraphProto) -> None:
        kept: list[onnx.NodeProto] = []
        for node in graph.node:
            for attribute in node.attribute:
                for inner in subgraphs(attribute):
                    expand(inner)
            kept += _definition(node, now, opset, types) if node.domain in ("", "ai.onnx") and node.op_type in missing else [node]
        nodes = [_copied_node(node) for node in kept]
        del graph.node[:]
        graph.node.extend(nodes)

    expand(made.graph)
    return made


def _copied_node(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    known = inferred(model)
    found = {value.name: value.type for value in (*known.graph.input, *known.graph.value_info, *known.graph.output)}
    for tensor in model.graph.initializer:
        found[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
    return found


def _definition(node: onnx.NodeProto, now: int, opset: int, types: dict[str, onnx.TypeProto]) -> list[onnx.NodeProto]:
    """The nodes that ONNX defines this one by, with operators that the set ``opset`` has."""
    own = schema(node.op_type, now)
    bodies = [] if own is None else _bodies(own, node, now, types)
    unsaid = {} if own is None else {name: each.default_value for name, each in own.attributes.items() if each.default_value.type}
    written = [(version, _inlined(function, node, unsaid)) for version, function in bodies]
    if node.op_type == "LayerNormalization":
        written.insert(0, (17, _layer_normalization(node)))
    for version, inner in written:
        body = helper.make_graph(inner, "body", [], [])
        try:
            nodes = list(adapted(helper.make_model(body), version, now, _alike, f"{node.output[0]}_converted").graph.node)
        except ExportError:  # the body of another version may be nearer
            continue
        if nodes and all(_can_be(each, node.op_type, now, opset) for each in nodes):
            return nodes
    raise ExportError(
        f"operator set {opset} has no operator {node.op_type}, and ONNX defines it by none that this set has: it came with operator set "
        f"{own.since_version if own else now}, so the file cannot be older"
        if own is not None and own.since_version > opset
        else f"operator set {opset} has no operator {node.op_type} any more: the file cannot be newer"
    )


def _can_be(node: onnx.NodeProto, inside: str, now: int, opset: int) -> bool:
    """Whether a node of the definition of ``inside`` is in the operator set, or can be written out in turn."""
    if node.domain not in ("", "ai.onnx") or schema(node.op_type, opset) is not None:
        return True
    own = schema(node.op_type, now)
    return own is not None and node.op_type != inside and _is_defined(own)


def _is_defined(own: Any) -> bool:
    return bool(own.function_opset_versions or own.context_dependent_function_opset_versions)


def _bodies(own: Any, node: onnx.NodeProto, now: int, types: dict[str, onnx.TypeProto]) -> Iterator[tuple[int, onnx.FunctionProto]]:
    """ONNX's definitions of the operator up to the operator set ``now``, the newest first, each with its operator set."""
    payload = node.SerializeToString()
    given = [types.get(name, onnx.TypeProto()).SerializeToString() for name in node.input]
    for version in sorted((v for v in own.function_opset_versions if v <= now), reverse=True):
        yield version, _function(own.get_function_with_opset_version(version))
    if all(given):
        for version in sorted((v for v in own.context_dependent_function_opset_versions if v <= now), reverse=True):
            body = own.get_context_dependent_function_with_opset_version(version, payload, given)
            if body:
                yield version, _function(body)


def _function(body: bytes | onnx.FunctionProto) -> onnx.FunctionProto:
    if isinstance(body, onnx.FunctionProto):
        return body
    made = onnx.FunctionProto()
    made.ParseFromString(body)
    return made


def _inlined(function: onnx.FunctionProto, node: onnx.NodeProto, defaults: Mapping[str, onnx.AttributeProto]) -> list[onnx.NodeProto]:
    """The function's nodes, with the names and attributes of this call."""
    prefix = f"{node.output[0]}_{node.op_type}"
    names = {"": "", **dict.fromkeys(function.input, ""), **dict(zip(function.input, node.input, strict=False))}
    names |= {formal: actual for formal, actual in zip(function.output, node.output, strict=False) if actual}
    given = {**defaults, **{attribute.name: attribute for attribute in node.attribute}}
    return [_called(inner, names, prefix, given) for inner in function.node]


def _called(node: onnx.NodeProto, names: Mapping[str, str], prefix: str, given: Mapping[str, onnx.AttributeProto]) -> onnx.NodeProto:
    """A copy of a function's node, and of what is in its subgraphs. ``names``: those that are not simply prefixed."""
    made = _copied_node(node)
    made.name = ""
    made.input[:] = [names.get(name, f"{prefix}_{name}") for name in node.input]
    made.output[:] = [names.get(name, f"{prefix}_{name}") for name in node.output]
    del made.attribute[:]
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            copy = made.attribute.add()
            copy.CopyFrom(attribute)
        elif attribute.ref_attr_name in given:
            copy = made.attribute.add()
            copy.CopyFrom(given[attribute.ref_attr_name])
            copy.name = attribute.name
    for attribute in made.attribute:
        for graph in subgraphs(attribute):
            inner = [_called(each, names, prefix, given) for each in graph.node]
            del graph.node[:]
            graph.node.extend(inner)
            for value in (*graph.input, *graph.output, *graph.initializer):
                value.name = names.get(value.name, f"{prefix}_{value.name}")
    return made


def _layer_normalization(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """In two passes, as runtimes compute it; ONNX's own definition subtracts squares, which large values do not survive.

    Empty where the axes to reduce are not known, or the statistics are outputs too.
    """
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    axis = given.get("axis", -1)
    if axis >= 0 or any(node.output[1:]):
        return []
    y = node.output[0]
    mean, apart, variance, spread = (f"{y}_LayerNormalization_{part}" for part in ("mean", "apart", "variance", "spread"))
    axes, last = list(range(axis, 0)), len(node.input) > 2 and node.input[2]
    scaled = f"{y}_LayerNormalization_scaled" if last else y
    epsilon = helper.make_tensor("epsilon", onnx.TensorProto.FLOAT, [], [given.get("epsilon", 1e-5)])
    made = [
        helper.make_node("ReduceMean", [node.input[0]], [mean], axes=axes),
        helper.make_node("Sub", [node.input[0], mean], [apart]),
        helper.make_node("Mul", [apart, apart], [f"{apart}2"]),
        helper.make_node("ReduceMean", [f"{apart}2"], [variance], axes=axes),
        helper.make_node("Constant", [], [f"{y}_epsilon"], value=epsilon),
        helper.make_node("Add", [variance, f"{y}_epsilon"], [f"{variance}_e"]),
        helper.make_node("Sqrt", [f"{variance}_e"], [spread]),
        helper.make_node("Div", [apart, spread], [f"{apart}_n"]),
        helper.make_node("Mul", [f"{apart}_n", node.input[1]], [scaled]),
    ]
    return [*made, helper.make_node("Add", [scaled, node.input[2]], [y])] if last else made


def _by_onnx(model: onnx.ModelProto, now: int, opset: int, changed: Sequence[str]) -> onnx.ModelProto:
    plain = {node.domain for node in all_nodes(model)} - {"", "ai.onnx", ML, RUNTIME_DOMAIN}
    try:
        made = version_converter.convert_version(model, opset)
    except Exception as error:
        words = first_line(error)[:200]
        named = next((operator for operator in changed if operator in words), "")
        what = f"the operator {named}" if named else f"one of the operators {', '.join(changed)}"
        raise ExportError(f"{what} cannot be converted from operator set {now} to {opset} ({words})") from error
    if plain or opset_of(made) != opset:
        raise ExportError(f"the operators {', '.join(changed)} cannot be converted from operator set {now} to {opset}")
    return made


def ml_changes(model: onnx.ModelProto, most: int) -> list[str]:
    """Lower ``ai.onnx.ml`` in place to what a runtime reads at most. Raises ExportError, with the operator's name."""
    now = opset_of(model, ML)
    if now <= most:
        return []
    for operator in sorted({node.op_type for node in all_nodes(model) if node.domain == ML}):
        try:
            new, old = defs.get_schema(operator, now, ML), defs.get_schema(operator, most, ML)
        except defs.SchemaError as error:
            raise ExportError(
                f"the operator {ML}::{operator} is not in operator set {most} of {ML}, the newest that the target reads"
            ) from error
        if _signature(new) != _signature(old):
            raise ExportError(f"the operator {ML}::{operator} changed after operator set {most} of {ML}, the newest that the target reads")
    for each in model.opset_import:
        if each.domain == ML:
            each.version = most
    return [f"operator set {now} of {ML}, now {most}"]
