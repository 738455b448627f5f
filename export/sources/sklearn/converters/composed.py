"""Estimators made of others: pipelines, column transformers, votes, stacks, chains, and wrappers."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxferry.export.sources.sklearn.converters.registry import (
    CLASS,
    PREDICT,
    PROBABILITIES,
    QUESTION,
    SCORES,
    TRANSFORM,
    Columns,
    Input,
    average,
    class_index,
    converts,
    labels_as_numbers,
    matrix,
    predict,
    probabilities,
    scores,
    transform,
    unsupported,
)
from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder, Tensor, Whole, running_total

METHODS = {TRANSFORM: transform, PREDICT: predict, PROBABILITIES: probabilities, SCORES: scores, CLASS: class_index}


def _delegates(names: tuple[str, ...], attribute: str, methods: tuple[str, ...] = tuple(METHODS)) -> None:
    """Estimators that answer with the one in an attribute."""
    for method in methods:

        def ask(graph: GraphBuilder, model: Any, x: Input, method: str = method) -> Tensor:
            return METHODS[method](graph, getattr(model, attribute), x)

        converts(method, *names)(ask)


_delegates(("GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV"), "best_estimator_")
_delegates(("SelfTrainingClassifier",), "estimator_", (PROBABILITIES, SCORES, CLASS))
_delegates(("RANSACRegressor",), "estimator_", (PREDICT,))
_delegates(("FixedThresholdClassifier", "TunedThresholdClassifierCV"), "estimator_", (PROBABILITIES, SCORES))
_delegates(("FrozenEstimator",), "estimator")


def _steps(graph: GraphBuilder, model: Any, x: Input, *, last: bool) -> Input:
    steps = model.steps if last else model.steps[:-1]
    for _, step in steps:
        if step is not None and not isinstance(step, str):
            x = transform(graph, step, x)
    return x


@converts(TRANSFORM, "Pipeline")
def _pipeline_transform(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = _steps(graph, model, x, last=True)
    return matrix(graph, found) if isinstance(found, Columns) else found


def _last(method: str) -> None:
    def ask(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
        return METHODS[method](graph, model.steps[-1][1], _steps(graph, model, x, last=False))

    converts(method, "Pipeline")(ask)


for _method in (PREDICT, PROBABILITIES, SCORES, CLASS):
    _last(_method)


def picked(graph: GraphBuilder, x: Input, places: list[int], *, vector: bool) -> Input:
    """Columns by place."""
    if isinstance(x, Columns):
        if vector:
            return x.parts[places[0]].flat()
        return Columns(tuple(x.parts[place] for place in places), tuple(x.names[place] for place in places))
    if vector:
        return x.columns(places[0])
    return x.columns(places)


@converts(TRANSFORM, "ColumnTransformer")
def _column_transformer(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    made = []
    for name, step, columns in model.transformers_:
        places = [int(place) for place in model._transformer_to_input_indices.get(name, [])]
        if not places or (isinstance(step, str) and step == "drop"):
            continue
        if name in model.output_indices_ and model.output_indices_[name].start == model.output_indices_[name].stop:
            continue
        weight = (model.transformer_weights or {}).get(name)
        vector = isinstance(columns, str | int) and not isinstance(columns, bool)
        part = picked(graph, x, places, vector=vector)
        found = part if isinstance(step, str) else transform(graph, step, part)
        plain = _joined_columns(graph, found) if isinstance(found, Columns) else found
        made.append(plain if weight is None else plain.real() * np.float64(weight))
    return _beside(graph, made, model)


def _joined_columns(graph: GraphBuilder, x: Columns) -> Tensor:
    if {part.dtype for part in x.parts} == {"str"}:
        return graph.concat(list(x.parts))
    return matrix(graph, x)


def _beside(graph: GraphBuilder, parts: list[Tensor], model: Any) -> Tensor:
    if not parts:
        raise unsupported(model, "no output")
    kinds = {part.dtype for part in parts}
    if "str" in kinds and len(kinds) > 1:
        raise unsupported(model, "text among its outputs; encode the text, or drop it")
    return parts[0] if len(parts) == 1 else graph.concat([part if part.dtype == "str" else part.real() for part in parts])


@converts(TRANSFORM, "FeatureUnion")
def _union(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    weights = model.transformer_weights or {}
    parts = []
    for name, step in model.transformer_list:
        if isinstance(step, str) and step == "drop":
            continue
        found = (matrix(graph, x)) if isinstance(step, str) else transform(graph, step, x)
        parts.append(found.real() * np.float64(weights[name]) if name in weights else found)
    return _beside(graph, parts, model)


@converts(PROBABILITIES, "VotingClassifier")
def _soft_vote(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return average([probabilities(graph, each, x) for each in model.estimators_], model._weights_not_none)


@converts(CLASS, "VotingClassifier")
def _vote(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    if model.voting == "soft":
        return _soft_vote(graph, model, x).argmax(1)
    known = len(model.classes_)
    weights = model._weights_not_none or [1] * len(model.estimators_)
    counts = [
        class_index(graph, each, x).as_column().equal(Whole(np.arange(known))).real() * np.float64(weight)
        for each, weight in zip(model.estimators_, weights, strict=True)
    ]
    return running_total(counts).argmax(1)


@converts(PREDICT, "VotingRegressor")
def _mean_vote(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return average([predict(graph, each, x) for each in model.estimators_], model._weights_not_none)


@converts(TRANSFORM, "VotingRegressor", "VotingClassifier")
def _votes(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    if not hasattr(model, "classes_"):
        return graph.concat([predict(graph, each, x).as_column() for each in model.estimators_])
    if model.voting == "soft" and model.flatten_transform:
        return graph.concat([probabilities(graph, each, x) for each in model.estimators_])
    if model.voting == "soft":
        raise unsupported(model, "flatten_transform=False")
    return graph.concat([class_index(graph, each, x).as_column() for each in model.estimators_])


@converts(TRANSFORM, "StackingClassifier", "StackingRegressor")
def _stack(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    parts = []
    for member, method in zip(model.estimators_, model.stack_method_, strict=True):
        if method == "predict_proba":
            found = probabilities(graph, member, x)
            parts.append(found.columns([1]) if len(member.classes_) == 2 else found)
        elif method == "decision_function":
            found = scores(graph, member, x)
            parts.append(found.as_column() if len(member.classes_) == 2 else found)
        elif hasattr(member, "classes_"):
            parts.append(labels_as_numbers(graph, member, class_index(graph, member, x)).as_column())
        else:
            found = predict(graph, member, x)
            parts.append(found.as_column())
    if model.passthrough:
        parts.append(matrix(graph, x))
    return graph.concat([part.real() for part in parts])


@converts(CLASS, "StackingClassifier")
def _stack_class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return class_index(graph, model.final_estimator_, _stack(graph, model, x))


@converts(PROBABILITIES, "StackingClassifier")
def _stack_probabilities(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return probabilities(graph, model.final_estimator_, _stack(graph, model, x))


@converts(SCORES, "StackingClassifier")
def _stack_scores(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return scores(graph, model.final_estimator_, _stack(graph, model, x))


@converts(PREDICT, "StackingRegressor")
def _stack_prediction(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return predict(graph, model.final_estimator_, _stack(graph, model, x))


def _members(graph: GraphBuilder, model: Any, x: Input) -> list[tuple[Any, Input]]:
    """The members of a bagging and the columns that each sees."""
    width = model.n_features_in_
    found = []
    for member, features in zip(model.estimators_, model.estimators_features_, strict=True):
        all_of_them = np.array_equal(features, np.arange(width))
        found.append((member, x if all_of_them else picked(graph, x, [int(i) for i in features], vector=False)))
    return found


@converts(PROBABILITIES, "BaggingClassifier")
def _bag(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    known = len(model.classes_)
    terms = []
    for member, seen in _members(graph, model, x):
        if not hasattr(member, "predict_proba"):
            terms.append(class_index(graph, member, seen).as_column().equal(Whole(np.arange(known))).real())
            continue
        found = probabilities(graph, member, seen)
        if len(member.classes_) < known:
            found = found @ np.eye(known)[np.asarray(member.classes_, int)]
        terms.append(found)
    return running_total(terms) / float(len(terms))


@converts(SCORES, "BaggingClassifier")
def _bag_scores(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return average([scores(graph, member, seen) for member, seen in _members(graph, model, x)])


@converts(PREDICT, "BaggingRegressor")
def _bag_prediction(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return average([predict(graph, member, seen) for member, seen in _members(graph, model, x)])


@converts(PREDICT, "MultiOutputRegressor")
def _several(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return graph.concat([predict(graph, each, x).as_column() for each in model.estimators_])


@converts(CLASS, "MultiOutputClassifier")
def _several_classes(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return graph.concat([class_index(graph, each, x).as_column() for each in model.estimators_])


@converts(QUESTION, "MultiOutputClassifier")
def _question(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return probabilities(graph, model.estimators_[graph.memo[QUESTION]], x)


@converts(QUESTION, "Pipeline")
def _pipeline_question(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    from onnxferry.export.sources.sklearn.converters.registry import question_probabilities

    return question_probabilities(graph, model.steps[-1][1], _steps(graph, model, x, last=False), graph.memo[QUESTION])


def _chained(graph: GraphBuilder, model: Any, x: Input, answer: Any) -> list[Tensor]:
    """Each member sees the answers of those before it as more features. In the order of the chain."""
    x = matrix(graph, x)
    made: list[Tensor] = []
    for member in model.estimators_:
        given = graph.concat([x, *(found.as_column().real() for found in made)])
        made.append(answer(graph, member, given))
    return made


def _in_order(graph: GraphBuilder, model: Any, parts: list[Tensor]) -> Tensor:
    back = np.argsort(np.asarray(model.order_))
    return graph.concat([parts[place].as_column() for place in back])


@converts(PREDICT, "RegressorChain")
def _chain(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _in_order(graph, model, _chained(graph, model, x, predict))


def _chain_method(model: Any) -> str:
    return str(getattr(model, "chain_method_", "predict"))


def _chain_members(graph: GraphBuilder, model: Any, x: Input) -> list[tuple[Any, Tensor]]:
    """The members of a chain of classifiers and what each is given."""
    x = matrix(graph, x)
    before: list[Tensor] = []
    found: list[tuple[Any, Tensor]] = []
    method = _chain_method(model)
    for member in model.estimators_:
        given = graph.concat([x, *before])
        found.append((member, given))
        if method == "predict":
            prediction = labels_as_numbers(graph, member, class_index(graph, member, given)).as_column()
        elif method == "decision_function":
            prediction = scores(graph, member, given).as_column()
        else:
            prediction = probabilities(graph, member, given).columns([1])
        before.append(prediction)
    return found


@converts(CLASS, "ClassifierChain")
def _chain_class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _in_order(graph, model, [class_index(graph, *each) for each in _chain_members(graph, model, x)])


@converts(PROBABILITIES, "ClassifierChain")
def _chain_probabilities(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    return _in_order(graph, model, [probabilities(graph, *each).columns([1]) for each in _chain_members(graph, model, x)])


@converts(PREDICT, "TransformedTargetRegressor")
def _transformed_target(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    from onnxferry.export.sources.sklearn.converters.preprocessing import inverse_transform

    raw = predict(graph, model.regressor_, x)
    found = inverse_transform(graph, model.transformer_, raw.as_column() if model._training_dim == 1 else raw)
    return found.flat() if model._training_dim == 1 else found


def _binary_score(graph: GraphBuilder, member: Any, x: Input) -> Tensor:
    """As ``sklearn.multiclass._predict_binary``: a score, or the second class's probability, (rows,)."""
    if type(member).__name__ == "_ConstantPredictor":
        first = x.parts[0] if isinstance(x, Columns) else x
        return graph.full(first, float(member.y_[0])).flat()
    if hasattr(member, "coef_") and not hasattr(member, "classes_"):
        return predict(graph, member, x).flat()
    if hasattr(member, "decision_function"):
        return scores(graph, member, x).flat()
    return probabilities(graph, member, x).columns(1)


@converts(CLASS, "OneVsRestClassifier")
def _rest_class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = [_binary_score(graph, member, x) for member in model.estimators_]
    uses_scores = hasattr(model.estimators_[0], "decision_function") or not hasattr(model.estimators_[0], "classes_")
    limit = 0.0 if uses_scores else 0.5
    if model.multilabel_:
        return graph.concat([(each > limit).cast("int64").as_column() for each in found])
    if len(found) == 1:
        return (found[0] > limit).cast("int64")
    return graph.concat([each.as_column() for each in found]).argmax(1)


@converts(PROBABILITIES, "OneVsRestClassifier")
def _rest_probabilities(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    parts = [
        _binary_score(graph, member, x).as_column()
        if type(member).__name__ == "_ConstantPredictor"
        else probabilities(graph, member, x).columns([1])
        for member in model.estimators_
    ]
    if len(parts) == 1:
        return graph.concat([1.0 - parts[0], parts[0]])
    joined = graph.concat(parts)
    if model.multilabel_:
        return joined
    total = joined.sum(keep=True)
    return joined / graph.where(total.equal(np.float64(0)), graph.constant(1.0), total)


@converts(SCORES, "OneVsRestClassifier")
def _rest_scores(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    parts = [_binary_score(graph, member, x) for member in model.estimators_]
    return parts[0] if len(parts) == 1 else graph.concat([part.as_column() for part in parts])


@converts(SCORES, "OneVsOneClassifier")
def _pairs_scores(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    chosen, sure = [], []
    for number, member in enumerate(model.estimators_):
        seen = x if model.pairwise_indices_ is None else picked(graph, x, list(model.pairwise_indices_[number]), vector=False)
        value = _binary_score(graph, member, seen)
        sure.append(value)
        above = value > (0.0 if hasattr(member, "decision_function") or not hasattr(member, "classes_") else 0.5)
        chosen.append(above.cast("int64"))
    known = len(model.classes_)
    found = pairwise_votes(graph, chosen, sure, known)
    return (found.columns(1) if known == 2 else found) if known > 2 else sure[0]


def pairwise_votes(graph: GraphBuilder, chosen: list[Tensor], sure: list[Tensor], known: int) -> Tensor:
    """As ``sklearn.utils.multiclass._ovr_decision_function``: votes, and confidences squeezed into (-1/3, 1/3) to break ties."""
    zero = sure[0] * 0.0
    votes, confidences = [zero] * known, [zero] * known
    pair = 0
    for i in range(known):
        for j in range(i + 1, known):
            confidences[i] = confidences[i] - sure[pair]
            confidences[j] = confidences[j] + sure[pair]
            second = chosen[pair].real()
            votes[i] = votes[i] + (1.0 - second)
            votes[j] = votes[j] + second
            pair += 1
    total = graph.concat([each.as_column() for each in confidences])
    squeezed = total / ((total.abs() + 1.0) * 3.0)
    return graph.concat([each.as_column() for each in votes]) + squeezed


@converts(CLASS, "OneVsOneClassifier")
def _pairs_class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = _pairs_scores(graph, model, x)
    if len(model.classes_) == 2:
        limit = 0.0 if hasattr(model.estimators_[0], "decision_function") else 0.5
        return (found > limit).cast("int64")
    return found.argmax(1)


@converts(CLASS, "OutputCodeClassifier")
def _code_class(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = graph.concat([_binary_score(graph, member, x).as_column() for member in model.estimators_])
    gaps = [((found - row[None, :]) * (found - row[None, :])).sum(keep=True) for row in np.asarray(model.code_book_, np.float64)]
    return graph.concat(gaps).argmin(1)


def _selected_first(method: str) -> None:
    """Recursive feature elimination answers with its estimator on the features that are left."""

    def ask(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
        places = [int(place) for place in np.flatnonzero(model.support_)]
        return METHODS[method](graph, model.estimator_, picked(graph, x, places, vector=False))

    converts(method, "RFE", "RFECV")(ask)


for _method in (PREDICT, PROBABILITIES, SCORES, CLASS):
    _selected_first(_method)
