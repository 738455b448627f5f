"""Rows to compare on that the example does not have: at every kind of threshold of a fitted estimator, and what it takes besides numbers.

    threshold_samples(source)      # {"rows at thresholds": {"X": ...}, "missing values": ...}, at most MAX_ROWS rows each

For every feature: the thresholds of trees, edges of bins, knots and limits that stand for it, each also one float32 and one float64
below and above; equal rows; zeros; rows far away; missing values where the estimator takes them; for texts the characters that
branches are there for. A sample that the estimator itself does not take is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxferry.export.source import Feeds
from onnxferry.export.sources.boosted.models import library

if TYPE_CHECKING:
    from onnxferry.export.sources.sklearn.estimator import SklearnSource

MAX_ROWS = 300
PER_FEATURE = 40
FAR = 1e3
"""Times the range of a column: where rows far away lie."""


def threshold_samples(source: SklearnSource) -> dict[str, Feeds]:
    """Named inputs; each is taken by the estimator, and answered by finite numbers where the examples are."""
    rng = np.random.default_rng(20)
    made = _texts(source) if source.texts else dict(_numbers(source, rng))
    return {name: feeds for name, feeds in made.items() if _answered(source, feeds)}


def _answered(source: SklearnSource, feeds: Feeds) -> bool:
    try:
        with np.errstate(all="ignore"):
            answers = source.run(feeds)
    except Exception:  # noqa: BLE001 - an estimator may raise anything for what it does not take
        return False
    if all(np.isfinite(each).all() for each in source.sample.values() if each.dtype.kind == "f"):
        return all(np.isfinite(each).all() for each in answers.values() if each.dtype.kind == "f")
    return True


def _numbers(source: SklearnSource, rng: np.random.Generator) -> Iterator[tuple[str, Feeds]]:
    found = thresholds(source.model)
    at = [_column(array, known) for array, known in _with_thresholds(source, found)]
    rows = min(MAX_ROWS, max((len(each) for each in at), default=0))
    if rows:
        yield "rows at thresholds", _rows(source, [_shuffled(each, rows, rng) for each in at])
    columns = [array[:, place] for array in source.examples.values() for place in range(array.shape[1])]
    if any(column.dtype.kind == "f" for column in columns):
        yield "missing values", _rows(source, [_with_missing(column, rng) for column in columns])
        yield "rows far away", _rows(source, [_far(column) for column in columns])
        yield "infinite values", _rows(source, [_infinite(column) for column in columns])
        yield "equal rows", _rows(source, [np.repeat(column[:1], 3) for column in columns])
    if any(column.dtype.kind in "Ui" for column in columns):
        yield "unseen categories", _rows(source, [_unseen(column) for column in columns])


def _with_thresholds(source: SklearnSource, found: dict[int, np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    place = 0
    for array in source.examples.values():
        for column in range(array.shape[1]):
            yield array[:, column], found.get(place, found.get(-1, np.zeros(0)))
            place += 1


def _column(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The thresholds of one column with their neighbors, in its dtype; its own values where there are none."""
    if values.dtype.kind != "f" or not known.size:
        return values
    kept = known if len(known) <= PER_FEATURE else known[np.linspace(0, len(known) - 1, PER_FEATURE).astype(int)]
    near = [kept]
    for dtype in (np.float32, np.float64):
        own = kept.astype(dtype)
        with np.errstate(over="ignore"):  # the neighbor of the largest number is infinity
            near += [own, np.nextafter(own, dtype(np.inf)), np.nextafter(own, dtype(-np.inf))]
    return np.concatenate([each.astype(values.dtype) for each in near])


def _shuffled(values: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(np.resize(rng.permutation(values), rows))


def _with_missing(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if values.dtype.kind != "f":
        return np.resize(values, 24)
    made = np.resize(rng.permutation(values), 24)
    made[rng.random(24) < 0.3] = np.nan
    made[:1] = np.nan
    return made


def _far(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind != "f":
        return np.resize(values, 4)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    span = (high - low) or 1.0
    return np.array([low - FAR * span, high + FAR * span, 0.0, -0.0], values.dtype)


def _infinite(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind != "f":
        return np.resize(values, 4)
    return np.array([np.inf, -np.inf, *np.resize(values, 2)], values.dtype)


def _unseen(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "U":
        return np.array([*values[:2].tolist(), "never seen", ""])
    if values.dtype.kind == "i":
        return np.resize(np.concatenate([values[:2], [values.max() + 1, values.min() - 1]]), 4)
    return np.resize(values, 4)


def _rows(source: SklearnSource, columns: list[np.ndarray]) -> Feeds:
    made, place = {}, 0
    for name, array in source.examples.items():
        width = array.shape[1]
        joined = np.stack(columns[place : place + width], axis=1)
        made[name] = joined if array.dtype.kind == "U" else joined.astype(array.dtype)
        place += width
    return made


def thresholds(model: Any) -> dict[int, np.ndarray]:
    """Thresholds by the place of their feature; -1 for one that holds for all. Only where the features are those of the input."""
    found: dict[int, list[float]] = {}
    _collect(model, found)
    return {place: np.unique(np.asarray(values, np.float64)) for place, values in found.items()}


SCALERS = ("StandardScaler", "MinMaxScaler", "RobustScaler", "MaxAbsScaler")


def _collect(model: Any, found: dict[int, list[float]]) -> None:
    if getattr(model, "steps", None):
        _collect_steps(model, found)
        return
    if library(model):
        from onnxferry.export.sources.boosted.edges import edges as edges_of

        for place, values in edges_of(model).items():
            found.setdefault(place, []).extend(values.tolist())
        return
    for each in _members(model):
        tree = getattr(each, "tree_", None)
        if tree is not None:
            for place, value in zip(tree.feature, tree.threshold, strict=True):
                if place >= 0:
                    found.setdefault(int(place), []).append(float(value))
    for each in (tree for trees in getattr(model, "_predictors", ()) for tree in trees):
        for node in each.nodes[each.nodes["is_leaf"] == 0]:
            found.setdefault(int(node["feature_idx"]), []).append(float(node["num_threshold"]))
    for name in ("bin_edges_", "bsplines_"):
        for place, edges in enumerate(getattr(model, name, ())):
            found.setdefault(place, []).extend(float(value) for value in np.ravel(edges.t if hasattr(edges, "t") else edges))
    if hasattr(model, "quantiles_"):
        for place, edges in enumerate(np.transpose(model.quantiles_)):
            found.setdefault(place, []).extend(edges.tolist())
    if hasattr(model, "X_thresholds_"):
        found.setdefault(0, []).extend(np.asarray(model.X_thresholds_, float).tolist())
    for name in ("threshold", "binarize"):
        value = getattr(model, name, None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            found.setdefault(-1, []).append(float(value))


def _members(model: Any) -> Iterator[Any]:
    if hasattr(model, "tree_"):
        yield model
    features = getattr(model, "estimators_features_", None)
    width = getattr(model, "n_features_in_", 0)
    if features is not None and any(len(each) != width for each in features):
        return  # their numbers are those of the members
    yield from np.ravel(np.asarray(getattr(model, "estimators_", []), dtype=object))


def _collect_steps(model: Any, found: dict[int, list[float]]) -> None:
    """Of the first step as they are; of the one after a scaler scaled back."""
    steps = [step for _, step in model.steps if step is not None and not isinstance(step, str)]
    if not steps:
        return
    _collect(steps[0], found)
    if len(steps) > 1 and type(steps[0]).__name__ in SCALERS:
        inner: dict[int, list[float]] = {}
        _collect(steps[1], inner)
        width = steps[0].n_features_in_
        for place, values in inner.items():
            for column in range(width) if place < 0 else [place]:
                table = np.zeros((len(values), width))
                table[:, column] = values
                back = np.asarray(steps[0].inverse_transform(table))[:, column]
                found.setdefault(column, []).extend(back.tolist())


def _texts(source: SklearnSource) -> dict[str, Feeds]:
    from onnxferry.export.sources.sklearn.converters.text.vectorizers import special_characters

    (name, array), *_ = source.examples.items()
    known = [str(each) for each in array.ravel() if str(each).strip()] or ["text"]
    made = {"no words": ["", " ", "...", f"{known[0]}\t{known[-1]}\n{known[0]}\r{known[-1]}"]}
    for block, characters in enumerate(special_characters()):
        if all(each.isalpha() for each in characters) and _hashes(source.model):
            continue  # hashes are of ASCII alone, and the run of a file says so
        texts = [f"{known[0]}{characters[0]}{known[-1]}", *(f"{known[0]} a{each}b {each}" for each in characters)]
        made[f"characters of block {block}"] = texts
    return {case: {name: np.array(texts).reshape(-1, *([1] * (array.ndim - 1)))} for case, texts in made.items()}


def _hashes(model: Any) -> bool:
    """Whether a HashingVectorizer is among the steps."""
    parts = [step for _, step, *_ in (*getattr(model, "steps", ()), *getattr(model, "transformer_list", ()))]
    inner = getattr(model, "best_estimator_", None)
    return type(model).__name__ == "HashingVectorizer" or any(map(_hashes, [*parts, *([inner] if inner is not None else [])]))
