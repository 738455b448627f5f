"""Parts without a converter of our own: skl2onnx converts the part, and its graph is put in here."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from onnx.compose import add_prefix

from onnxferry.export.sources.other_files import way_from
from onnxferry.export.sources.sklearn.converters.registry import (
    CLASS,
    PREDICT,
    PROBABILITIES,
    SCORES,
    TRANSFORM,
    Columns,
    Input,
    index_of_scores,
    matrix,
)
from onnxferry.export.sources.sklearn.converters.tensors import ML_DOMAIN, ML_OPSET, GraphBuilder, Tensor
from onnxferry.export.sources.sklearn.skl2onnx_flags import plain_flags
from onnxferry.export.sources.sklearn.steps import words
from onnxferry.runtime.errors import ExportError, MissingExtraError, first_line

try:
    import skl2onnx
    from skl2onnx.common import exceptions
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, Int64TensorType, StringTensorType
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "skl2onnx", "sklearn", "exporting scikit-learn models") from error

TYPES = {"float64": DoubleTensorType, "float32": FloatTensorType, "int64": Int64TensorType, "str": StringTensorType}

NUMPY_TYPES = {
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT: "float32",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int64",
    TensorProto.BOOL: "bool",
    TensorProto.STRING: "str",
}

REALS = "reals"
"""Key of the builder's memo: the dtype that skl2onnx is asked for, float64 or float32."""


def by_skl2onnx(method: str, graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """The method's answer. Reals come back as float64."""
    if not hasattr(model, "predict") and not hasattr(model, "transform"):
        raise ExportError(f"{words(model)} has neither predict() nor transform(), so it cannot be part of a graph")
    outputs = _outputs(graph, model, x)
    if method == CLASS:
        return _label_index(graph, model, outputs[0], outputs)
    if method in (PROBABILITIES, SCORES):
        if len(outputs) < 2:
            raise ExportError(f"skl2onnx gives no {method} of {words(model)}")
        return outputs[1].real()
    if method in (PREDICT, TRANSFORM):
        found = outputs[0]
        return found if found.dtype in ("str", "int64") else found.real()
    raise ExportError(f"{words(model)} has no {method} that can be exported")


def _label_index(graph: GraphBuilder, model: Any, label: Tensor, outputs: list[Tensor]) -> Tensor:
    classes = np.asarray(model.classes_)
    if label.dtype == "str":
        return label.label([str(each) for each in classes], range(len(classes))).flat()
    if classes.dtype.kind in "iub" and np.array_equal(classes, np.arange(len(classes))):
        return label.cast("int64").flat()
    if classes.dtype.kind not in "iub":
        return index_of_scores(outputs[1].real(), len(classes))
    known = graph.constant(classes.astype(np.int64))
    return label.cast("int64").as_column().equal(known).cast("int64").argmax(1)


def _outputs(graph: GraphBuilder, model: Any, x: Input) -> list[Tensor]:
    key = ("skl2onnx", id(model), x if isinstance(x, Columns) else x.name)
    if key not in graph.memo:
        graph.memo[key] = _inlined(graph, model, _one_input(graph, x))
    made: list[Tensor] = graph.memo[key]
    return made


def _one_input(graph: GraphBuilder, x: Input) -> Tensor:
    if isinstance(x, Columns):
        kinds = {part.dtype for part in x.parts}
        if "str" in kinds and len(kinds) > 1:
            raise ExportError("text and numbers reach one step together; give each its own with a ColumnTransformer")
        x = graph.concat(list(x.parts)) if kinds == {"str"} else matrix(graph, x)
    if x.dtype == "str":
        return x
    return x.cast(graph.memo.get(REALS, "float64"))


def _inlined(graph: GraphBuilder, model: Any, x: Tensor) -> list[Tensor]:
    graph.parts.append(type(model).__name__)
    made = add_prefix(_asked(model, x.dtype, graph.opset), f"{graph.fresh('part')}_")
    if made.functions:
        raise ExportError(f"skl2onnx converts {words(model)} with functions of its own, which are not taken over")
    given = {value.name for value in made.graph.input}
    for node in made.graph.node:
        for place, name in enumerate(node.input):
            if name in given:
                node.input[place] = x.name
    graph.nodes.extend(made.graph.node)
    graph.constants.extend(made.graph.initializer)
    return [Tensor(graph, value.name, NUMPY_TYPES[value.type.tensor_type.elem_type]) for value in made.graph.output]


def _asked(model: Any, dtype: str, opset: int) -> onnx.ModelProto:
    features = getattr(model, "n_features_in_", None)
    options: list[dict[str, bool]] = [{}]
    if hasattr(model, "classes_"):  # which of its options a classifier has is found out by asking
        options = [{"zipmap": False}, {}]
        if not hasattr(model, "predict_proba"):
            options = [{"zipmap": False, "raw_scores": True}, {"raw_scores": True}, *options]
    elif hasattr(model, "offset_") or hasattr(model, "decision_function"):
        options = [{"score_samples": False}, {}]
    problem: Exception | None = None
    for option in options:
        try:
            with warnings.catch_warnings(), plain_flags():
                warnings.simplefilter("ignore")
                made: onnx.ModelProto = skl2onnx.to_onnx(
                    model,
                    initial_types=[("given", TYPES[dtype]([None, features]))],
                    options={id(model): option} if option else None,
                    target_opset={"": opset, ML_DOMAIN: ML_OPSET},
                )
            return made
        except NameError as error:  # skl2onnx: "Option 'zipmap' not in [...]"
            problem = problem or error
        except (exceptions.MissingShapeCalculator, exceptions.MissingConverter) as error:
            way = way_from(model) or ": export the other steps, and compute this one before or after the file"
            raise ExportError(f"{words(model)} has no conversion to ONNX{way}") from error
        except Exception as error:
            raise ExportError(f"skl2onnx cannot convert {words(model)}: {type(error).__name__}: {_short(error)}") from error
    raise ExportError(f"skl2onnx cannot convert {words(model)}: {_short(problem) if problem else 'no reason given'}") from problem


def _short(error: BaseException) -> str:
    """Its first line, cut: skl2onnx prints whole ensembles."""
    line = first_line(error, "no message")
    return line if len(line) <= 160 else line[:160] + " …"
