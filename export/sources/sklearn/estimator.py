"""A fitted scikit-learn estimator or pipeline as a source.

The reference outputs are the estimator's own, computed in float64 as scikit-learn does, whatever dtype the file takes;
float outputs are rounded to float32 at the end. The rows are the only dynamic axis.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from sklearn.base import is_classifier, is_clusterer, is_outlier_detector, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from onnxferry.export.options import ExportOptions
from onnxferry.export.source import NUDGE, Feeds, InputSpec, Plan, Strategy, as_array, dtype_name, numbered
from onnxferry.export.sources.boosted.models import boosted_answers, library
from onnxferry.export.sources.sklearn.moved import moved_parameters
from onnxferry.export.sources.sklearn.steps import final_step, words
from onnxferry.export.sources.sklearn.thresholds import threshold_samples
from onnxferry.runtime.errors import ExportError, InputError, first_line

BATCH = "batch"


EXAMPLE_ROWS = 16
"""Rows of the given ones that are the example, evenly spread; the others are compared too."""


MISSING_CATEGORY = ""
"""Stands for a missing value in a text column of pandas' category dtype, whose estimators take missing categories."""


Answer = Callable[[Any, Any], np.ndarray]


def plans(model: Any, example_inputs: Any, options: ExportOptions, target: Path) -> Sequence[Plan]:
    """All given rows are compared; a classifier's classes become the contract's labels."""
    source = SklearnSource(model, example_inputs, dynamic_shapes=options.dynamic_shapes, output_names=options.output_names)
    samples = numbered([*source.more, *options.samples])
    samples |= threshold_samples(source)
    return [Plan(source, labels=source.labels, samples=samples, goldens=options.chosen_goldens(None))]


class SklearnSource:
    """``examples``: an array (rows, features), a DataFrame or a dict of columns, each a vector of rows; best the rows of a test set.

    An array is one input, named ``X`` or as in the dict; a DataFrame is one input (rows, 1) a column, of its name and dtype, which may
    be text. Outputs: of a classifier ``class_index`` int64 (rows,), the place in ``labels``, and ``probabilities`` float32 (rows,
    classes), or ``scores`` where it has no probabilities; of one that answers several questions ``class_index`` (rows, questions) and
    ``probabilities_0`` and so on; of a regressor ``prediction`` float32, shaped as ``predict`` gives it; of a clustering ``cluster``
    int64 (rows,), and of a mixture ``probabilities`` too; of an outlier detector ``inlier`` int64 (rows,), 1 or -1, and ``scores``
    float32 (rows,); of a transformer ``transformed`` float32 (rows, n). Text vectorizers take one input of texts, (rows,).
    Raises InputError for what is not fitted, and for examples that it cannot be called with.
    """

    def __init__(
        self,
        model: Any,
        examples: Any,
        *,
        dynamic_shapes: Any = None,
        output_names: Sequence[str] | None = None,
    ) -> None:
        self.model = model
        if not library(model):
            _check_fitted(model)
        self.texts = takes_texts(model)
        self.columns, arrays = _texts(model, examples) if self.texts else _columns(model, examples)
        self.categories = frozenset() if self.texts else _category_columns(examples)
        self.examples, self.more = _split(arrays)
        axis = _batch_name(dynamic_shapes, list(arrays))
        self.inputs = tuple(
            InputSpec(name, dtype_name(array), (axis, *array.shape[1:]), array.shape, by_column=array.ndim == 2)
            for name, array in self.examples.items()
        )
        self.answers = _answers(model)
        given = tuple(output_names or self.answers)
        if len(given) != len(self.answers) or len(set(given)) != len(given):
            raise InputError(f"output_names must be {len(self.answers)} different names, for {', '.join(self.answers)}; got {list(given)}")
        both = sorted(set(given) & set(self.examples))
        if both:
            raise InputError(f"{both[0]!r} would be an input and an output: name the outputs otherwise with output_names")
        self.output_names = given
        self.labels = (
            tuple(str(label) for label in model.classes_)
            if "class_index" in self.answers and isinstance(model.classes_, np.ndarray)
            else ()
        )
        self.notes: Sequence[str] = ()
        self.reals: np.dtype[Any] | None = np.dtype(np.float64)  # None: as they are given
        try:
            self.sample = self._first_answer()
        except Exception as error:
            line = first_line(error, "no message")[:300]
            raise ExportError(
                f"the model itself fails on the example ({type(error).__name__}: {line}); give rows as it was fitted on"
            ) from error

    def _first_answer(self) -> dict[str, np.ndarray]:
        try:
            return self._answered(self.examples)
        except ValueError:
            if not any(array.dtype == np.float32 for array in self.examples.values()):
                raise
            self.reals = None  # a k-means that was fitted on float32 takes nothing else
            return self._answered(self.examples)

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        with np.errstate(over="ignore"):  # the largest float64 numbers are infinite in float32
            return {name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in self._answered(feeds).items()}

    def run_float64(self, feeds: Feeds) -> dict[str, np.ndarray] | None:
        return self._answered(feeds)

    def run_nudged(self, feeds: Feeds, seed: int) -> dict[str, np.ndarray] | None:
        """Only the inputs change: an estimator's parameters are not in one place."""
        rng = np.random.default_rng(seed)
        moved = {
            name: array * (1 + NUDGE * rng.standard_normal(array.shape)) if array.dtype.kind == "f" else array
            for name, array in feeds.items()
        }
        return self._answered(self._as_fitted(moved))

    def run_moved(self, feeds: Feeds, seed: int, roundings: float) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        size = roundings * float(np.finfo(self.reals or np.float32).eps)
        # Each number by its own size and, in every second run, by that of its row: what measures distances has no more digits than that.
        rows = [np.abs(a.reshape(len(a), -1)).max(1, initial=0.0) for a in feeds.values() if a.dtype.kind == "f"]
        largest = np.max(rows, axis=0, keepdims=True).T if rows and seed % 2 else 0.0
        moved = {n: a + size * (np.abs(a) + largest) * rng.standard_normal(a.shape) if a.dtype.kind == "f" else a for n, a in feeds.items()}
        return self._answered(self._as_fitted(moved), moved_parameters(self.model, rng, size))

    def _as_fitted(self, feeds: Feeds) -> Feeds:
        """Float64 numbers in the dtype that the estimator takes."""
        if self.reals is not None:
            return feeds
        return {name: array.astype(self.examples[name].dtype) for name, array in feeds.items()}

    def strategies(self, opset: int) -> Sequence[Strategy]:
        from onnxferry.export.sources.sklearn.convert import sklearn_strategies

        return sklearn_strategies(self, opset)

    def provenance(self) -> dict[str, Any]:
        import onnx
        import skl2onnx

        return {
            "framework": "scikit-learn",
            "versions": {
                "scikit-learn": str(sklearn.__version__),
                "skl2onnx": str(skl2onnx.__version__),
                "onnx": str(onnx.__version__),
                "numpy": np.__version__,
            },
            "model": words(self.model),
            **_sha256(self.model),
        }

    def _answered(self, feeds: Feeds, model: Any = None) -> dict[str, np.ndarray]:
        rows = self._rows(feeds)
        model = self.model if model is None else model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of categories that a probe made up, and the like
            return {name: np.asarray(answer(model, rows)) for name, answer in zip(self.output_names, self.answers.values(), strict=True)}

    def _rows(self, feeds: Feeds) -> Any:
        """What the estimator is called with. Reals are float64, as its own arithmetic is, if it takes them."""
        exact = {
            name: array.astype(self.reals or array.dtype) if array.dtype.kind == "f" else np.asarray(array) for name, array in feeds.items()
        }
        if self.texts:
            (texts,) = exact.values()
            return [str(text) for text in texts.ravel()]
        if not self.columns:
            (matrix,) = exact.values()
            names = getattr(self.model, "feature_names_in_", None)
            if names is None:
                return matrix
            import pandas as pd

            return pd.DataFrame(matrix, columns=names)
        import pandas as pd

        # Text as objects, as in the frames that people fit on.
        columns = {name: array[:, 0] for name, array in exact.items()}
        frame = pd.DataFrame({name: c.astype(object) if c.dtype.kind == "U" else c for name, c in columns.items()})
        for name in self.categories:
            frame[name] = pd.Categorical(frame[name].where(frame[name] != MISSING_CATEGORY, None))
        return frame

    def given_rows(self) -> Any:
        """All rows that were given, as the estimator is called with them."""
        parts = [self.examples, *self.more]
        return self._rows({name: np.concatenate([part[name] for part in parts]) for name in self.examples})


def _sha256(model: Any) -> dict[str, str]:
    try:
        return {"weights_sha256": hashlib.sha256(pickle.dumps(model, protocol=5)).hexdigest()}
    except (pickle.PicklingError, AttributeError, TypeError):  # a function of one's own inside that has no name
        return {}


def _check_fitted(model: Any) -> None:
    if isinstance(model, type):
        raise InputError(f"{model.__name__} is a class; give a fitted {model.__name__}")
    try:
        check_is_fitted(model)
    except NotFittedError as error:
        raise InputError(f"this {words(model)} is not fitted, so there is nothing to export; call fit() first") from error
    except TypeError as error:
        raise InputError(f"{words(model)} is no estimator: {error}") from error


def _columns(model: Any, examples: Any) -> tuple[bool, dict[str, np.ndarray]]:
    """Whether each input is a column, and the inputs by name, all of two axes."""
    if hasattr(examples, "to_numpy") and hasattr(examples, "columns"):
        examples = {str(name): _column(str(name), _values(examples[name])) for name in examples.columns}
        columns = True
    elif isinstance(examples, Mapping):
        arrays = {str(name): np.asarray(value) for name, value in examples.items()}
        columns = not (len(arrays) == 1 and next(iter(arrays.values())).ndim == 2 and next(iter(arrays.values())).shape[1] != 1)
        if not columns and len(arrays) == 1:
            return False, _checked(model, arrays)
        examples = {name: _column(name, array) for name, array in arrays.items()}
    elif examples is None:
        raise InputError(
            "a scikit-learn estimator needs rows to compare on: give rows of a test set as example inputs (on the command line --samples "
            "FILE.csv, or FILE.npz with one array of rows)"
        )
    else:
        if isinstance(examples, tuple | list) and len(examples) == 1:
            (examples,) = examples
        return False, _checked(model, {"X": np.asarray(examples)})
    if not examples:
        raise InputError("the example inputs have no columns")
    if len({array.shape[0] for array in examples.values()}) > 1:
        raise InputError(f"the columns have different numbers of rows: {', '.join(f'{n} {a.shape[0]}' for n, a in examples.items())}")
    return columns, _checked(model, examples)


def _checked(model: Any, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {}
    for name, array in arrays.items():
        if array.ndim != 2 or not array.shape[0] or not array.shape[1]:
            raise InputError(f"the example of {name!r} must be rows of features, (rows, features), got shape {array.shape}")
        array = as_array(array)
        if array.dtype.kind == "O":
            bad = next(value for value in array.flat if not isinstance(value, str))
            raise InputError(
                f"{name!r} holds {bad!r} ({type(bad).__name__}) among text, and a graph's text is never missing: fill it with a word in "
                f"the data that you fit on and export with, x.fillna({{{name!r}: 'missing'}}), in place of an imputer in the pipeline"
            )
        if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
            raise InputError(f"{name!r} is {array.dtype}; use float32 or float64")
        if array.dtype.kind in "iu":
            array = array.astype(np.int64)
        elif array.dtype.kind not in "fbU":
            raise InputError(f"{name!r} is {array.dtype}; expected numbers, flags or text")
        found[name] = array
    wanted = getattr(model, "n_features_in_", None)
    have = sum(array.shape[1] for array in found.values())
    if wanted and wanted != have:  # 0 where it is not known
        raise InputError(f"{words(model)} was fitted on {wanted} features, the example has {have}")
    return found


def takes_texts(model: Any) -> bool:
    """True for a text vectorizer, or a pipeline or union that starts with one: it is given a vector of texts."""
    while True:
        if getattr(model, "steps", None):
            model = model.steps[0][1]
        elif getattr(model, "transformer_list", None):
            model = model.transformer_list[0][1]
        elif hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        else:
            return hasattr(model, "build_analyzer")


def _texts(model: Any, examples: Any) -> tuple[bool, dict[str, np.ndarray]]:
    """Texts as a list, an array, a Series, or one column of a table: the input's name, and (rows,) or, for a column, (rows, 1)."""
    if examples is None:
        raise InputError("a text model needs texts to compare on: give a list of them as example inputs")
    name = "X"
    if isinstance(examples, Mapping) or hasattr(examples, "columns"):
        names = list(examples)
        if len(names) != 1:
            raise InputError(f"{words(model)} takes one text a row, and the example has {len(names)} columns: {', '.join(map(str, names))}")
        table = hasattr(examples, "columns")
        name, examples = str(names[0]), examples[names[0]]
        if table:  # as every column of a table: (rows, 1)
            examples = np.asarray(examples, dtype=object).reshape(-1, 1)
    if isinstance(examples, tuple) and len(examples) == 1:
        (examples,) = examples
    array = np.asarray(examples, dtype=object)
    if array.ndim not in (1, 2) or not array.size or (array.ndim == 2 and array.shape[1] != 1):
        raise InputError(f"{words(model)} takes one text a row, got shape {array.shape}")
    bad = next((each for each in array.flat if not isinstance(each, str)), None)
    if bad is not None:
        raise InputError(f"{name!r} holds {bad!r} ({type(bad).__name__}) among texts: every row must be a str")
    return False, {name: array.astype(str)}


def _category_columns(examples: Any) -> frozenset[str]:
    """The columns of a frame that have pandas' category dtype, which some estimators look at."""
    if not hasattr(examples, "to_numpy") or not hasattr(examples, "columns"):
        return frozenset()
    return frozenset(str(name) for name in examples.columns if str(examples[name].dtype) == "category")


def _values(series: Any) -> np.ndarray:
    if str(series.dtype) != "category":
        return np.asarray(series.to_numpy())
    if any(isinstance(each, str) for each in series.cat.categories):
        return np.asarray(series.astype(object).where(series.notna(), MISSING_CATEGORY).to_numpy())
    return np.asarray(series.astype(float if series.isna().any() else series.cat.categories.dtype).to_numpy())


def _column(name: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != 1:
        raise InputError(f"the column {name!r} must be a vector of rows, got shape {array.shape}")
    return array


def _split(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """The example and the rows that are left, if any."""
    rows = next(iter(arrays.values())).shape[0]
    chosen = np.unique(np.linspace(0, rows - 1, min(rows, EXAMPLE_ROWS)).astype(int))
    left = np.setdiff1d(np.arange(rows), chosen)
    return {n: a[chosen] for n, a in arrays.items()}, [{n: a[left] for n, a in arrays.items()}] if left.size else []


def _batch_name(dynamic_shapes: Any, names: Sequence[str]) -> str:
    """The name of the rows' axis. Raises InputError where another axis is to be dynamic."""
    if not dynamic_shapes:
        return BATCH
    if not isinstance(dynamic_shapes, Mapping) or not all(
        name in names and isinstance(axes, Mapping) and set(axes) <= {0} for name, axes in dynamic_shapes.items()
    ):
        raise InputError(f"of a scikit-learn model only the rows, axis 0 of {', '.join(names)}, are dynamic; leave dynamic_shapes out")
    found = {str(axis) for axes in dynamic_shapes.values() for axis in axes.values()}
    if len(found) > 1:
        raise InputError(f"the rows of all columns are one axis, and dynamic_shapes calls it {' and '.join(sorted(found))}")
    return found.pop() if found else BATCH


def _answers(model: Any) -> dict[str, Answer]:
    """What the estimator can say, by output name."""
    if library(final_step(model)):
        return boosted_answers(model, final_step(model))
    if is_classifier(model):
        classes = getattr(model, "classes_", None)
        if isinstance(classes, list):
            return _several_answers(model, classes)
        if not isinstance(classes, np.ndarray) or classes.ndim != 1 or classes.dtype.kind not in "iuUObf":
            raise ExportError(f"{words(model)} has no list of classes: export the classifiers that it is made of")
        if getattr(model, "multilabel_", False) or (getattr(model, "out_activation_", "") == "logistic" and model.n_outputs_ > 1):
            return {"class_index": lambda m, x: m.predict(x).astype(np.int64), "probabilities": lambda m, x: m.predict_proba(x)}
        found: dict[str, Answer] = {"class_index": lambda m, x: np.searchsorted(m.classes_, m.predict(x)).astype(np.int64)}
        if hasattr(model, "predict_proba"):
            found["probabilities"] = lambda m, x: m.predict_proba(x)
        elif hasattr(model, "decision_function"):
            found["scores"] = lambda m, x: m.decision_function(x)
        return found
    if is_regressor(model):
        return {"prediction": lambda m, x: np.asarray(m.predict(x), np.float64)}
    if is_outlier_detector(model):
        return {"inlier": lambda m, x: m.predict(x).astype(np.int64), "scores": lambda m, x: m.decision_function(x)}
    if hasattr(model, "predict") and hasattr(model, "predict_proba"):  # a mixture
        return {"cluster": lambda m, x: m.predict(x).astype(np.int64), "probabilities": lambda m, x: m.predict_proba(x)}
    if is_clusterer(model) and hasattr(model, "predict"):
        return {"cluster": lambda m, x: m.predict(x).astype(np.int64)}
    if hasattr(model, "transform"):
        return {"transformed": lambda m, x: _dense(m.transform(x))}
    raise ExportError(f"{words(model)} has neither predict() nor transform() for new rows, so there is nothing to export")


def _several_answers(model: Any, classes: list[np.ndarray]) -> dict[str, Answer]:
    """Of a classifier that answers several questions: the place among each question's classes, and each one's probabilities."""

    def places(m: Any, x: Any) -> np.ndarray:
        found = np.asarray(m.predict(x))
        return np.stack([np.searchsorted(known, found[:, k].astype(known.dtype)) for k, known in enumerate(classes)], 1).astype(np.int64)

    answers: dict[str, Answer] = {"class_index": places}
    if type(final_step(model)).__name__ == "ClassifierChain":
        if hasattr(model, "predict_proba"):
            answers["probabilities"] = lambda m, x: m.predict_proba(x)
    elif hasattr(model, "predict_proba"):
        for number in range(len(classes)):
            answers[f"probabilities_{number}"] = lambda m, x, k=number: m.predict_proba(x)[k]  # type: ignore[misc]
    return answers


def _dense(array: Any) -> np.ndarray:
    return np.asarray(array.toarray() if hasattr(array, "toarray") else array)
