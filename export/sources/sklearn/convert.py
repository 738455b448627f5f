"""A scikit-learn estimator as a graph: skl2onnx converts, and here its graph gets our inputs and outputs.

It converts for inputs of one precision; which one comes nearest to scikit-learn, whose trees compare in float32 and whose other
arithmetic is float64, depends on the estimator, and some operators exist for float32 alone. So there are several strategies.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.compose import add_prefix

from onnxferry.export.source import Candidate, Strategy
from onnxferry.export.sources.sklearn.steps import final_step, words
from onnxferry.runtime.errors import ExportError, MissingExtraError, first_line

if TYPE_CHECKING:
    from onnxferry.export.sources.sklearn.estimator import SklearnSource


try:
    import skl2onnx
    from skl2onnx.common import _container, exceptions
    from skl2onnx.common.data_types import BooleanTensorType, DoubleTensorType, FloatTensorType, Int64TensorType, StringTensorType
    from skl2onnx.sklapi import CastTransformer
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "skl2onnx", "sklearn", "exporting scikit-learn models") from error


ML_DOMAIN, ML_OPSET = "ai.onnx.ml", 3
"""ONNX Runtime 1.20 runs it; trees with float64 thresholds came with it."""


TYPES: Mapping[str, tuple[Any, int]] = {
    "float64": (DoubleTensorType, TensorProto.DOUBLE),
    "float32": (FloatTensorType, TensorProto.FLOAT),
    "int64": (Int64TensorType, TensorProto.INT64),
    "bool": (BooleanTensorType, TensorProto.BOOL),
    "str": (StringTensorType, TensorProto.STRING),
}


PREFIX, ADDED = "sklearn_", "added_"
"""Of all names inside, the converter's and those added here, so that none can be one of the table's columns or an output."""


@dataclass(frozen=True)
class _Way:
    """How skl2onnx is asked: what it takes for reals, and what for whole numbers and flags."""

    reals: str  # float64 or float32
    whole: bool  # whole numbers stay so, as categories should, and do not become reals, as what is scaled beside reals must
    joined: bool  # all columns as one matrix: few estimators take more than one input

    def inside(self, dtype: str) -> str:
        return self.reals if dtype.startswith("float") or (dtype in ("int64", "bool") and not self.whole) else dtype

    def __str__(self) -> str:
        return f"skl2onnx in {self.reals}" + (", whole numbers as they are" if self.whole else "")


def sklearn_strategies(source: SklearnSource, opset: int) -> Sequence[Strategy]:
    """The most exact first."""
    alike = len({spec.dtype == "str" for spec in source.inputs}) == 1  # all numbers, or all text
    joined = source.columns and alike and not _picks_columns(source.model)
    mixed = source.columns and not joined and any(spec.dtype in ("int64", "bool") for spec in source.inputs)
    ways = [_Way(reals, whole, joined) for reals in ("float64", "float32") for whole in ((True, False) if mixed else (False,))]
    return [Strategy(str(way), partial(_candidate, source, way, opset)) for way in ways]


def _candidate(source: SklearnSource, way: _Way, opset: int) -> Candidate:
    model = add_prefix(_converted(source, way, opset), PREFIX)
    _raise_ml_opset(model)
    if way.reals == "float64":
        _exact_thresholds(model.graph, final_step(source.model))
    _join_inputs(model.graph, source, way)
    _name_outputs(model.graph, source)
    return Candidate(model, converter="skl2onnx")


def _picks_columns(model: Any) -> bool:
    """Whether it, or the first step of it, chooses columns by their names."""
    while getattr(model, "steps", None):
        model = model.steps[0][1]
    return hasattr(model, "transformers_")


def _converted(source: SklearnSource, way: _Way, opset: int) -> onnx.ModelProto:
    model = _without_layout(source.model)
    model = _comparing_in_float32(model) if way.reals == "float64" else model
    if source.columns and not way.joined:
        model = _picking_by_place(model)
    types = [(_column(place), TYPES[way.inside(spec.dtype)][0]([None, spec.shape[1]])) for place, spec in enumerate(source.inputs)]
    if way.joined:
        types = [(_column(0), TYPES[way.inside(source.inputs[0].dtype)][0]([None, len(source.inputs)]))]
    final = id(final_step(model))
    problem: Exception | None = None
    choices: list[dict[str, bool]] = [{}]
    if "class_index" in source.answers:  # which of its options a classifier has is found out by asking
        choices = [{"zipmap": False}, {}]
        if "scores" in source.answers:
            choices = [{"zipmap": False, "raw_scores": True}, {"raw_scores": True}, *choices]
    for options in choices:
        try:
            with warnings.catch_warnings(), _plain_flags():
                warnings.simplefilter("ignore")
                made: onnx.ModelProto = skl2onnx.to_onnx(
                    model,
                    initial_types=types,
                    options={final: options} if options else None,
                    target_opset={"": opset, ML_DOMAIN: ML_OPSET},
                )
            return made
        except NameError as error:  # skl2onnx: "Option 'zipmap' not in [...]"
            problem = problem or error
        except (exceptions.MissingShapeCalculator, exceptions.MissingConverter) as error:
            raise ExportError(
                f"skl2onnx knows no way to ONNX for a part of {words(source.model)}: {_short(error)}; "
                "carry the rest, and do that part before or after it"
            ) from error
        except Exception as error:
            raise ExportError(f"skl2onnx cannot convert {words(source.model)}: {type(error).__name__}: {_short(error)}") from error
    raise ExportError(f"skl2onnx cannot convert {words(source.model)}: {_short(problem) if problem else 'no reason given'}") from problem


def _with_steps(model: Any, steps: list[tuple[str, Any]]) -> Any:
    changed = copy.copy(model)
    changed.steps = steps
    return changed


def _comparing_in_float32(model: Any) -> Any:
    """The model with its inputs rounded to float32 before every step that is made of scikit-learn's trees, as those do themselves."""
    if getattr(model, "steps", None):
        steps: list[tuple[str, Any]] = []
        for name, step in model.steps:
            if _is_tree(step):
                steps.append((f"{name}_float32", CastTransformer(dtype=np.float32)))
            steps.append((name, _comparing_in_float32(step) if getattr(step, "steps", None) else step))
        return _with_steps(model, steps)
    if _is_tree(model):
        from sklearn.pipeline import Pipeline

        return Pipeline([("float32", CastTransformer(dtype=np.float32)), ("trees", model)])
    return model


def _column(place: int) -> str:
    """Its name for skl2onnx, which changes those that are no identifiers and mistakes some for its own (``label``)."""
    return f"column_{place}"


def _picking_by_place(model: Any) -> Any:
    """The model with its first step's columns as places in the table instead of names."""
    if getattr(model, "steps", None):
        (name, first), *others = model.steps
        return _with_steps(model, [(name, _picking_by_place(first)), *others])
    if not hasattr(model, "transformers_"):
        return model
    # However they were given: names, places, a mask, a slice, a function.
    places = model._transformer_to_input_indices
    changed = copy.copy(model)
    changed.transformers_ = [(name, step, list(places.get(name, columns))) for name, step, columns in model.transformers_]
    return changed


def _is_tree(step: Any) -> bool:
    """Trees of ``sklearn.tree`` and ensembles of them; the histogram ones compare in float64."""
    trees = getattr(step, "estimators_", None)
    first = step if trees is None else next(iter(np.ravel(np.asarray(trees, dtype=object))), None)
    return hasattr(first, "tree_")


def _without_layout(model: Any) -> Any:
    """A vote's ``flatten_transform`` shapes what its ``transform`` gives, which is not asked, and skl2onnx stops at it."""
    if getattr(model, "steps", None):
        *others, (name, last) = model.steps
        return _with_steps(model, [*others, (name, _without_layout(last))])
    if not getattr(model, "flatten_transform", False):
        return model
    changed = copy.copy(model)
    changed.flatten_transform = False
    return changed


def _raise_ml_opset(model: onnx.ModelProto) -> None:
    """skl2onnx names the oldest version that its own nodes need; ours may need a newer one, in which those mean the same."""
    kept = [opset for opset in model.opset_import if opset.domain != ML_DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend([*kept, helper.make_opsetid(ML_DOMAIN, ML_OPSET)])


def _exact_thresholds(graph: onnx.GraphProto, final: Any) -> None:
    """skl2onnx rounds the thresholds of histogram gradient boosting to float32; here float64 is compared, as scikit-learn does."""
    rounds = getattr(final, "_predictors", None)
    trees = [node for node in graph.node if node.op_type.startswith("TreeEnsemble")]
    if rounds is None or len(trees) != 1:
        return
    exact = np.concatenate([np.where(tree.nodes["is_leaf"], 0.0, tree.nodes["num_threshold"]) for each in rounds for tree in each])
    rounded = next((attribute for attribute in trees[0].attribute if attribute.name == "nodes_values"), None)
    if rounded is None or not np.array_equal(np.asarray(rounded.floats, np.float32), exact.astype(np.float32)):
        return  # another order than the one known: the judge says what it comes to
    trees[0].attribute.remove(rounded)
    trees[0].attribute.append(helper.make_attribute("nodes_values_as_tensor", numpy_helper.from_array(exact, "thresholds")))


@contextmanager
def _plain_flags() -> Iterator[None]:
    """skl2onnx 1.20 hands numpy's flags to onnx for whole numbers, which newer ones of onnx refuse (histogram gradient boosting)."""
    make = getattr(_container, "make_node", None)
    if make is None:
        yield
        return

    def make_node(*arguments: Any, **attributes: Any) -> Any:
        plain = {
            name: [int(each) if isinstance(each, np.bool_ | bool) else each for each in value] if isinstance(value, list) else value
            for name, value in attributes.items()
        }
        return make(*arguments, **plain)

    _container.make_node = make_node
    try:
        yield
    finally:
        _container.make_node = make


def _join_inputs(graph: onnx.GraphProto, source: SklearnSource, way: _Way) -> None:
    """Before the converter's graph: inputs of our names and dtypes, cast to what it takes, or joined to the one that it takes."""
    taken = [value.name for value in graph.input]
    nodes = []
    if way.joined:
        columns = [f"{ADDED}{_column(place)}" for place in range(len(source.inputs))]
        kind = TYPES[way.inside(source.inputs[0].dtype)][1]
        nodes += [helper.make_node("Cast", [spec.name], [within], to=kind) for spec, within in zip(source.inputs, columns, strict=True)]
        nodes.append(helper.make_node("Concat", columns, taken, axis=1))
    else:
        for place, spec in enumerate(source.inputs):
            within = PREFIX + _column(place)
            if within in taken:  # what is not read may be left out
                nodes.append(helper.make_node("Cast", [spec.name], [within], to=TYPES[way.inside(spec.dtype)][1]))
    after = list(graph.node)
    del graph.node[:], graph.input[:]
    graph.node.extend([*nodes, *after])


def _name_outputs(graph: onnx.GraphProto, source: SklearnSource) -> None:
    """The converter's first outputs as those of the source: names, dtypes, shapes, and classes as places among the labels."""
    made = [value.name for value in graph.output]
    if len(made) < len(source.answers):
        raise ExportError(f"skl2onnx gave only {', '.join(made)}, and {', '.join(source.answers)} were to come")
    del graph.output[:]
    for given, (kind, name) in zip(made, zip(source.answers, source.output_names, strict=True), strict=False):
        sample = source.sample[name]
        value = given
        if kind == "class_index":
            value = _class_index(graph, value, source)
        number = TensorProto.FLOAT if sample.dtype.kind == "f" else TensorProto.INT64
        value = _added(graph, "Cast", [value], f"{name}_cast", to=number)
        if kind == "scores" and sample.ndim == 1:
            # Of two classes, the second's score; some converters give both.
            value = _added(graph, "Reshape", [value, _constant(graph, f"{name}_rows", [0, -1])], f"{name}_rows_out")
            value = _added(graph, "Gather", [value, _constant(graph, f"{name}_last", -1)], f"{name}_picked", axis=1)
        elif sample.ndim == 1:
            value = _added(graph, "Reshape", [value, _constant(graph, f"{name}_flat", [-1])], f"{name}_reshaped")
        graph.node[-1].output[0] = name  # what was added last gives it
        graph.output.append(helper.make_tensor_value_info(name, number, None))


def _class_index(graph: onnx.GraphProto, value: str, source: SklearnSource) -> str:
    classes = np.asarray(source.model.classes_)
    if classes.dtype.kind in "iub":
        if np.array_equal(classes, np.arange(len(classes))):
            return value
        keys: dict[str, Any] = {"keys_int64s": [int(each) for each in classes]}
        value = _added(graph, "Cast", [value], "label_int64", to=TensorProto.INT64)
    else:
        keys = {"keys_strings": [str(each) for each in classes]}
    return _added(graph, "LabelEncoder", [value], "label_index", domain=ML_DOMAIN, values_int64s=list(range(len(classes))), **keys)


def _added(graph: onnx.GraphProto, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
    graph.node.append(helper.make_node(kind, inputs, [f"{ADDED}{name}"], name=f"{ADDED}{name}", **attributes))
    return f"{ADDED}{name}"


def _constant(graph: onnx.GraphProto, name: str, value: Any) -> str:
    graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.int64), f"{ADDED}{name}"))
    return f"{ADDED}{name}"


def _short(error: BaseException) -> str:
    """Its first line, cut: skl2onnx prints whole ensembles."""
    line = first_line(error, "no message")
    return line if len(line) <= 160 else line[:160] + " …"
