"""A fitted estimator as a graph: our own converters, and skl2onnx's for parts that have none here.

Numbers are float64 throughout, as scikit-learn computes; its trees compare in float32, and so does the graph. Some of skl2onnx's parts
exist for float32 alone, so that there is a second strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import onnx
from onnx import helper

from onnxferry.export.source import Candidate, Strategy
from onnxferry.export.sources.boosted import convert as boosted  # importing it registers its converters, as the next line does
from onnxferry.export.sources.sklearn import converters as _registered  # noqa: F401
from onnxferry.export.sources.sklearn.converters import fallback, registry
from onnxferry.export.sources.sklearn.converters.neighbors import LIKELY
from onnxferry.export.sources.sklearn.converters.tensors import ML_DOMAIN, ML_OPSET, ONNX_TYPES, GraphBuilder, Tensor, Whole
from onnxferry.export.sources.sklearn.steps import words
from onnxferry.runtime.errors import ExportError

if TYPE_CHECKING:
    from onnxferry.export.sources.sklearn.estimator import SklearnSource

METHODS: dict[str, Callable[[GraphBuilder, Any, Any], Tensor]] = {
    "class_index": registry.class_index,
    "probabilities": registry.probabilities,
    "scores": registry.scores,
    "prediction": registry.predict,
    "cluster": registry.predict,
    "inlier": registry.predict,
    "transformed": registry.transform,
}


def sklearn_strategies(source: SklearnSource, opset: int) -> Sequence[Strategy]:
    """The most exact first."""
    return [Strategy(f"converters in {reals}", partial(_candidate, source, reals, opset)) for reals in ("float64", "float32")]


def _candidate(source: SklearnSource, reals: str, opset: int) -> Candidate:
    graph = GraphBuilder(opset)
    graph.memo[fallback.REALS] = reals
    graph.memo[boosted.GIVEN_ROWS] = source.given_rows
    inputs = [Tensor(graph, spec.name, spec.dtype) for spec in source.inputs]
    x: registry.Input
    if source.columns:
        x = registry.Columns(tuple(inputs), tuple(spec.name for spec in source.inputs))
    else:
        (x,) = inputs
        x = x.flat() if source.texts else x
    made = []
    for kind, name in zip(source.answers, source.output_names, strict=True):
        value = _answer(kind, graph, source.model, x)
        made.append(_as_output(graph, kind, name, value, source))
    if reals == "float32" and not graph.parts:
        raise ExportError(f"{words(source.model)} has no part that float32 would change")
    return Candidate(_model(graph, source, made), converter="skl2onnx" if graph.parts else "", likely=graph.memo.get(LIKELY))


def _answer(kind: str, graph: GraphBuilder, model: Any, x: registry.Input) -> Tensor:
    prefix, _, number = kind.rpartition("_")
    if prefix == "probabilities":
        return registry.question_probabilities(graph, model, x, int(number))
    return METHODS[kind](graph, model, x)


def _as_output(graph: GraphBuilder, kind: str, name: str, value: Tensor, source: SklearnSource) -> Tensor:
    """With the dtype and number of axes that the source's own answer has, and the output's name."""
    sample = source.sample[name]
    if sample.dtype.kind == "U":
        raise ExportError(f"{words(source.model)} gives text; encode it, or leave the step out")
    if value.dtype == "str":
        raise ExportError(f"{words(source.model)} gives text where numbers were expected")
    wanted = {"f": "float32", "b": "bool"}.get(sample.dtype.kind, "int64")
    value = value.cast(wanted)
    if sample.ndim == 1:
        if kind == "scores":  # of two classes some give both
            value = graph.op("Reshape", [value, Whole([0, -1])], wanted)
            value = graph.op("Gather", [value, Whole(-1)], wanted, axis=1)
        else:
            value = value.flat()
    elif sample.ndim == 2:
        value = graph.op("Reshape", [value, Whole([0, sample.shape[1]])], wanted)
    graph.nodes.append(helper.make_node("Identity", [value.name], [name], name=f"sklearn_output_{name}"))
    return Tensor(graph, name, wanted)


def _model(graph: GraphBuilder, source: SklearnSource, outputs: Sequence[Tensor]) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(spec.name, ONNX_TYPES[spec.dtype], list(spec.shape)) for spec in source.inputs]
    results = [helper.make_tensor_value_info(each.name, ONNX_TYPES[each.dtype], None) for each in outputs]
    return helper.make_model(
        helper.make_graph(graph.nodes, "sklearn", inputs, results, graph.constants),
        opset_imports=[helper.make_opsetid("", graph.opset), helper.make_opsetid(ML_DOMAIN, ML_OPSET)],
    )
