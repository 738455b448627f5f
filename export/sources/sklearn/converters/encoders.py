"""Encoders of categories, and imputers."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxferry.export.sources.sklearn.converters.registry import TRANSFORM, Input, column_list, converts, matrix, predict, unsupported
from onnxferry.export.sources.sklearn.converters.tensors import GraphBuilder, Tensor, Whole
from onnxferry.export.sources.sklearn.converters.text.vectorizers import required


def category_index(graph: GraphBuilder, model: Any, column: Tensor, categories: Any) -> Tensor:
    """The place of each value among the categories, (rows, 1); -1 for one that is unknown."""
    known = np.asarray(categories)
    if column.dtype == "str":
        words = [str(each) for each in known]
        return column.label(words, range(len(words)))
    if known.dtype.kind == "O":
        if not all(isinstance(each, int | float | np.number | bool | np.bool_) for each in known):
            raise unsupported(model, "categories of text for a column of numbers")
        known = known.astype(np.float64)
    if known.dtype.kind not in "iufb":
        raise unsupported(model, "categories of text for a column of numbers")
    column = column.real()
    hits = column.equal(known.astype(np.float64)[None, :])
    if known.dtype.kind == "f" and np.isnan(known).any():
        hits = hits | (column.isnan() & graph.constant(np.isnan(known)[None, :]))
    hits = hits.cast("int64")
    return graph.where(hits.max(keep=True) > Whole(0), hits.argmax(1).as_column(), graph.constant(-1))


def _grouped(graph: GraphBuilder, model: Any, number: int, place: Tensor) -> Tensor:
    """With infrequent categories taken together, as the encoder does."""
    if not getattr(model, "_infrequent_enabled", False):
        return place
    mapping = model._default_to_infrequent_mappings[number]
    if mapping is None:
        return place
    table = np.concatenate([np.asarray(mapping, np.int64), [-1]])
    return graph.constant(table).take(graph.where(place < Whole(0), graph.constant(len(mapping)), place))


@converts(TRANSFORM, "OneHotEncoder")
def _one_hot(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    made = []
    for number, column in enumerate(column_list(x, len(model.categories_))):
        categories = model.categories_[number]
        place = _grouped(graph, model, number, category_index(graph, model, column, categories))
        count = len(categories)
        infrequent = getattr(model, "_infrequent_enabled", False) and model._infrequent_indices[number] is not None
        if infrequent:
            count = int(np.max(model._default_to_infrequent_mappings[number])) + 1
            if model.handle_unknown in ("infrequent_if_exist", "warn"):
                place = graph.where(place < Whole(0), graph.constant(count - 1), place)
        hits = place.equal(Whole(np.arange(count)[None, :])).cast("float64")
        if model.handle_unknown == "error":
            hits = _unknown_is_error(graph, hits, place)
        if model.drop_idx_ is not None and model.drop_idx_[number] is not None:
            dropped = int(model.drop_idx_[number])
            if infrequent:
                dropped = int(model._default_to_infrequent_mappings[number][dropped])
            kept = [each for each in range(count) if each != dropped]
            if not kept:
                continue
            hits = hits.columns(kept)
        made.append(hits)
    if not made:
        raise unsupported(model, "no output")
    return graph.concat(made)


def _unknown_is_error(graph: GraphBuilder, made: Tensor, place: Tensor) -> Tensor:
    """As scikit-learn raises for an unknown category, so does the run of the file."""
    return made + required(graph, place >= Whole(0), "a_category_was_not_among_those_that_were_fitted").real()


@converts(TRANSFORM, "OrdinalEncoder")
def _ordinal(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    made = []
    for number, column in enumerate(column_list(x, len(model.categories_))):
        categories = np.asarray(model.categories_[number])
        place = category_index(graph, model, column, categories)
        grouped = _grouped(graph, model, number, place)
        value = grouped.real()
        missing = model._missing_indices.get(number) if hasattr(model, "_missing_indices") else None
        if missing is not None:
            value = graph.where(place.equal(Whole(missing)), graph.constant(float(model.encoded_missing_value)), value)
        if model.handle_unknown == "use_encoded_value":
            made.append(graph.where(place < Whole(0), graph.constant(float(model.unknown_value)), value))
        else:
            made.append(_unknown_is_error(graph, value, place))
    return graph.concat(made)


@converts(TRANSFORM, "TargetEncoder")
def _target(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    made = []
    classes = len(model.classes_) if model.target_type_ == "multiclass" else 1
    for number, column in enumerate(column_list(x, len(model.categories_))):
        place = category_index(graph, model, column, model.categories_[number])
        for label in range(classes):
            encodings = np.asarray(model.encodings_[number * classes + label], np.float64)
            mean = float(np.ravel(model.target_mean_)[label if classes > 1 else 0])
            table = np.concatenate([encodings, [mean]])
            made.append(graph.constant(table).take(graph.where(place < Whole(0), graph.constant(len(encodings)), place)))
    return graph.concat(made)


def _is_missing(graph: GraphBuilder, model: Any, x: Tensor) -> Tensor:
    value = model.missing_values
    if isinstance(value, float) and np.isnan(value):
        return x.isnan()
    if value is None or isinstance(value, str):
        raise unsupported(model, f"missing_values={value!r} in numbers")
    return x.equal(np.float64(value))


@converts(TRANSFORM, "SimpleImputer")
def _simple_imputer(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    columns = column_list(x, model.n_features_in_)
    text = {column.dtype for column in columns} == {"str"}
    statistics = np.asarray(model.statistics_)
    made = []
    for column, value in zip(columns, statistics, strict=True):
        if text:
            missing = model.missing_values
            if not isinstance(missing, str):
                made.append(column)  # text inputs hold no NaN
            else:
                made.append(graph.where(column.equal(missing), graph.constant(str(value)), column))
            continue
        if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
            if getattr(model, "keep_empty_features", False):
                made.append(column.real())
            continue  # a column without values is left out
        column = column.real()
        made.append(graph.where(_is_missing(graph, model, column), graph.constant(np.float64(value)), column))
    joined = graph.concat(made)
    if model.indicator_ is None:
        return joined
    return graph.concat([joined, _indicator(graph, model.indicator_, x).real()])


@converts(TRANSFORM, "MissingIndicator")
def _indicator(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    found = _is_missing(graph, model, matrix(graph, x))
    places = np.asarray(model.features_).tolist()
    if not places:
        raise unsupported(model, "no feature that had missing values when it was fitted")
    return found.cast("int64").columns(places).cast("bool")


@converts(TRANSFORM, "KNNImputer")
def _knn_imputer(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    """Distances over the features that both rows have, scaled up; the nearest rows that have the feature give their mean."""
    if model.metric != "nan_euclidean":
        raise unsupported(model, "a metric of one's own")
    found = matrix(graph, x)
    fitted = np.asarray(model._fit_X, np.float64)
    absent = np.asarray(model._mask_fit_X, bool)
    flags = _is_missing(graph, model, found)
    width = fitted.shape[1]
    total: Tensor | None = None
    shared: Tensor | None = None
    for place in range(width):
        both = (~flags.columns([place])) & graph.constant(~absent[None, :, place])
        gap = found.columns([place]) - np.where(absent[:, place], 0.0, fitted[:, place])[None, :]
        square = graph.where(both, gap * gap, graph.constant(0.0))
        total = square if total is None else total + square
        shared = both.cast("float64") if shared is None else shared + both.cast("float64")
    if total is None or shared is None:
        raise unsupported(model, "no feature")
    none = shared.equal(np.float64(0))
    gaps = graph.where(none, graph.constant(np.inf), (total / shared.maximum(1.0) * float(width)).sqrt())
    made = []
    valid = np.asarray(model._valid_mask, bool)
    for place in range(width):
        column, flag = found.columns([place]), flags.columns([place])
        if not valid[place]:
            if model.keep_empty_features:
                made.append(graph.where(flag, graph.constant(0.0), column))
            continue
        donors = np.flatnonzero(~absent[:, place])
        near, places = gaps.columns(donors).smallest(min(int(model.n_neighbors), len(donors)))
        values = graph.constant(fitted[donors, place]).take(places)
        reachable = near < np.inf
        if model.weights == "uniform":
            weights = reachable.cast("float64")
        elif model.weights == "distance":
            zero = near.equal(np.float64(0))
            exact = zero.any().as_column()
            weights = graph.where(exact, zero.cast("float64"), 1.0 / graph.where(zero, graph.constant(1.0), near))
            weights = graph.where(reachable, weights, graph.constant(0.0))
        else:
            raise unsupported(model, "a function of one's own as weights")
        count = weights.sum(keep=True)
        no_donor = count.equal(np.float64(0))
        mean = (values * weights).sum(keep=True) / graph.where(no_donor, graph.constant(1.0), count)
        mean = graph.where(no_donor, graph.constant(float(fitted[donors, place].mean())), mean)
        made.append(graph.where(flag, mean, column))
    joined = graph.concat(made)
    if not model.add_indicator:
        return joined
    return graph.concat([joined, _indicator(graph, model.indicator_, x).real()])


@converts(TRANSFORM, "IterativeImputer")
def _iterative_imputer(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    if model.sample_posterior:
        raise unsupported(model, "sample_posterior=True, which draws random numbers")
    found = matrix(graph, x)
    flags = _is_missing(graph, model, found)
    filled = _simple_imputer(graph, model.initial_imputer_, x)
    kept = np.flatnonzero(~np.isnan(np.asarray(model.initial_imputer_.statistics_, np.float64)))
    columns = [filled.columns([place]) for place in range(len(kept))]
    masks = [flags.columns([int(place)]) for place in kept]
    low, high = np.asarray(model._min_value), np.asarray(model._max_value)
    for step in model.imputation_sequence_:
        others = graph.concat([columns[place] for place in step.neighbor_feat_idx])
        guess = predict(graph, step.estimator, others).as_column()
        guess = guess.clip(float(low[step.feat_idx]), float(high[step.feat_idx]))
        columns[step.feat_idx] = graph.where(masks[step.feat_idx], guess, columns[step.feat_idx])
    joined = graph.concat(columns)
    if not model.add_indicator:
        return joined
    return graph.concat([joined, _indicator(graph, model.indicator_, x).real()])


@converts(TRANSFORM, "LabelBinarizer")
def _label_binarizer(graph: GraphBuilder, model: Any, x: Input) -> Tensor:
    raise unsupported(model, "a vector of labels as input: it is for targets")
