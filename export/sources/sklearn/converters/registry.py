"""Which function converts which estimator. Each is called as ``function(graph, estimator, x)`` and returns a Tensor.

``x`` is a :class:`Tensor` (rows, features), a vector of texts, or :class:`Columns`, the columns of a table, each (rows, 1).
What has no function here is converted by skl2onnx (see fallback.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder, Tensor
from onnxferry.export.sources.sklearn.steps import words
from onnxferry.runtime.errors import ExportError


@dataclass(frozen=True)
class Columns:
    """The columns of a table, in order: dtypes may differ."""

    parts: tuple[Tensor, ...]
    names: tuple[str, ...]


Input = Tensor | Columns
Function = Callable[[GraphBuilder, Any, Any], Tensor]
F = TypeVar("F", bound=Callable[..., Any])

TRANSFORM, PREDICT, PROBABILITIES, SCORES, CLASS = "transform", "predict", "predict_proba", "decision_function", "class_index"

QUESTION = "question_probabilities"
"""Key of the builder's memo: the number of the question that is asked for."""

PACKAGES = ("sklearn", "lightgbm", "xgboost", "catboost", "onnxferry")
"""Of the classes that functions are registered for: a class of the user's own may have any name."""

_FUNCTIONS: dict[tuple[str, str], Function] = {}


def converts(method: str, *names: str) -> Callable[[F], F]:
    """Registers a function for a method of the estimators of these class names."""

    def register(function: F) -> F:
        for name in names:
            _FUNCTIONS[method, name] = function
        return function

    return register


def converter(method: str, model: Any) -> Function | None:
    for kind in type(model).__mro__:
        if kind.__module__.partition(".")[0] in PACKAGES:
            found = _FUNCTIONS.get((method, kind.__name__))
            if found is not None:
                return found
    return None


def converted(method: str, graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """The answer of a method on x, computed once for each model and input."""
    from onnxferry.export.sources.sklearn.converters.fallback import by_skl2onnx

    key = (method, id(model), x if isinstance(x, Columns) else x.name)
    if key not in graph.memo:
        function = converter(method, model) or (_class_index if method == CLASS and _knows_classes(model) else None)
        graph.memo[key] = function(graph, model, x) if function is not None else by_skl2onnx(method, graph, model, x)
    made: Tensor = graph.memo[key]
    return made


def transform(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return converted(TRANSFORM, graph, model, x)


def predict(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """Of a regressor its numbers, of a clustering or outlier detector its whole numbers."""
    return converted(PREDICT, graph, model, x)


def probabilities(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return converted(PROBABILITIES, graph, model, x)


def scores(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return converted(SCORES, graph, model, x)


def class_index(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """The place of the predicted class in ``classes_``, int64 (rows,)."""
    return converted(CLASS, graph, model, x)


def question_probabilities(graph: GraphBuilder, model: Any, x: Input, number: int) -> Tensor:
    """Of one of the questions that a classifier answers."""
    function = converter(QUESTION, model)
    if function is None:
        raise unsupported(model, "probabilities of several targets; export one estimator for each")
    graph.memo[QUESTION] = number
    return function(graph, model, x)


def _knows_classes(model: Any) -> bool:
    return converter(PROBABILITIES, model) is not None or converter(SCORES, model) is not None


def _class_index(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """By probabilities or scores, as most classifiers decide."""
    if converter(PROBABILITIES, model) is not None:
        return probabilities(graph, model, x).argmax(1)
    return index_of_scores(scores(graph, model, x), len(model.classes_))


def index_of_scores(found: Tensor, classes: int) -> Tensor:
    """Two classes: one score, above 0 for the second. More: the largest."""
    if classes == 2:
        return (found.flat() > 0.0).cast("int64")
    return found.argmax(1)


def matrix(graph: GraphBuilder, x: Input) -> Tensor:
    """As numbers, float64 (rows, features)."""
    if isinstance(x, Columns):
        key = ("matrix", x)
        if key not in graph.memo:
            graph.memo[key] = graph.concat([matrix(graph, part) for part in x.parts])
        made: Tensor = graph.memo[key]
        return made
    if x.dtype == "str":
        raise ExportError("a step for numbers is given text")
    return x.real()


def column_list(x: Input, count: int) -> list[Tensor]:
    """The columns, each (rows, 1), with their own dtypes."""
    if isinstance(x, Columns):
        return list(x.parts)
    return [x.columns([place]) for place in range(count)]


def unsupported(model: Any, why: str) -> ExportError:
    return ExportError(f"{words(model)} cannot be exported with {why}")


def labels_as_numbers(graph: GraphBuilder, model: Any, index: Tensor, dtype: Any = np.float64) -> Tensor:
    """Class indices as the class labels, where those are numbers."""
    classes = np.asarray(model.classes_)
    if classes.dtype.kind not in "iufb":
        raise unsupported(model, "class names that are text, where another step computes with them")
    return graph.constant(classes.astype(dtype)).take(index)


def average(parts: Sequence[Tensor], weights: Any = None) -> Tensor:
    """As numpy.average over a first axis: terms are added one after another."""
    from onnxferry.export.sources.sklearn.converters.tensors import running_total

    if weights is None:
        return running_total(parts) / np.float64(len(parts))
    known = np.asarray(weights, np.float64)
    answer: Tensor = running_total([part * each for part, each in zip(parts, known, strict=True)]) / known.sum()
    return answer
