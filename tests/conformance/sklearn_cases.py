"""Every estimator of scikit-learn that predicts or transforms, fitted on data that suits it, exported, and run in bare ONNX Runtime.

    python tests/conformance/sklearn_cases.py --record rows.jsonl     # all of them; begun again, it goes on
    python tests/conformance/sklearn_cases.py --only Ridge,PCA

An estimator is right (exported, and equal on new rows), refused (with a reason), wrong, foreign (an exception that is none of
onnxferry's), or outside (it transforms targets, or cannot be fitted here).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import all_estimators

from onnxferry.export import export_model
from onnxferry.export.sources.sklearn.estimator import SklearnSource
from onnxferry.runtime.errors import OnnxFerryError

SEED = 0
ROWS, FEATURES = 90, 4

TEXTS = [
    "the cat sat on the mat",
    "A dog, and a cat!",
    "mats are for dogs",
    "no cats; no dogs...",
    "Über-cool café",
    "e-mail me at noon",
] * 8

PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "ColumnTransformer": lambda: {"transformers": [("a", StandardScaler(), [0, 1]), ("b", "passthrough", [2])]},
    "FeatureUnion": lambda: {"transformer_list": [("a", StandardScaler()), ("b", "passthrough")]},
    "Pipeline": lambda: {"steps": [("a", StandardScaler()), ("b", LogisticRegression())]},
    "VotingClassifier": lambda: {
        "estimators": [("a", LogisticRegression()), ("b", DecisionTreeClassifier(max_depth=2))],
        "voting": "soft",
        "weights": [2, 1],
    },
    "VotingRegressor": lambda: {"estimators": [("a", Ridge()), ("b", Ridge(alpha=9))]},
    "StackingClassifier": lambda: {"estimators": [("a", LogisticRegression()), ("b", DecisionTreeClassifier(max_depth=2))]},
    "StackingRegressor": lambda: {"estimators": [("a", Ridge()), ("b", Ridge(alpha=9))]},
    "SparseCoder": lambda: {"dictionary": np.eye(FEATURES)},
    "FrozenEstimator": lambda: {"estimator": LogisticRegression().fit(*classes())},
    "CalibratedClassifierCV": lambda: {"estimator": LogisticRegression()},
    "FunctionTransformer": lambda: {"func": np.exp},
    "TransformedTargetRegressor": lambda: {"regressor": Ridge(), "func": np.log1p, "inverse_func": np.expm1},
    "RandomForestClassifier": lambda: {"n_estimators": 12},
    "ClassifierChain": lambda: {"estimator": LogisticRegression()},
    "RegressorChain": lambda: {"estimator": Ridge()},
    "MultiOutputClassifier": lambda: {"estimator": LogisticRegression()},
    "MultiOutputRegressor": lambda: {"estimator": Ridge()},
    "SelfTrainingClassifier": lambda: {"estimator": LogisticRegression()},
    "FixedThresholdClassifier": lambda: {"estimator": LogisticRegression(), "threshold": 0.3},
    "TunedThresholdClassifierCV": lambda: {"estimator": LogisticRegression()},
    "GridSearchCV": lambda: {"estimator": LogisticRegression(), "param_grid": {"C": [0.1, 1.0]}},
    "HalvingGridSearchCV": lambda: {"estimator": LogisticRegression(), "param_grid": {"C": [0.1, 1.0]}},
    "RandomizedSearchCV": lambda: {"estimator": LogisticRegression(), "param_distributions": {"C": [0.1, 1.0]}, "n_iter": 2},
    "HalvingRandomSearchCV": lambda: {"estimator": LogisticRegression(), "param_distributions": {"C": [0.1, 1.0]}},
    "OneVsOneClassifier": lambda: {"estimator": LogisticRegression()},
    "OneVsRestClassifier": lambda: {"estimator": LogisticRegression()},
    "OutputCodeClassifier": lambda: {"estimator": LogisticRegression(), "random_state": 0},
    "RFE": lambda: {"estimator": LogisticRegression(), "n_features_to_select": 2},
    "RFECV": lambda: {"estimator": LogisticRegression(), "min_features_to_select": 2},
    "SelectFromModel": lambda: {"estimator": RandomForestClassifier(5)},
    "SequentialFeatureSelector": lambda: {"estimator": LogisticRegression(), "n_features_to_select": 2},
    "GenericUnivariateSelect": lambda: {"mode": "k_best", "param": 2},
    "SelectKBest": lambda: {"k": 2},
    "SelectFdr": lambda: {"alpha": 0.5},
    "SelectFpr": lambda: {"alpha": 0.5},
    "SelectFwe": lambda: {"alpha": 0.5},
    "LocalOutlierFactor": lambda: {"novelty": True},
    "QuantileTransformer": lambda: {"n_quantiles": 20},
    "GaussianRandomProjection": lambda: {"n_components": 2},
    "SparseRandomProjection": lambda: {"n_components": 2},
    "RadiusNeighborsClassifier": lambda: {"radius": 50.0},
    "RadiusNeighborsRegressor": lambda: {"radius": 50.0},
    "RadiusNeighborsTransformer": lambda: {"radius": 2.0},
    "TfidfVectorizer": lambda: {"ngram_range": (1, 2)},
    "CountVectorizer": lambda: {"stop_words": "english"},
    "MultiTaskElasticNet": dict,
    "FeatureAgglomeration": lambda: {"n_clusters": 2},
    "PLSCanonical": lambda: {"n_components": 2},
    "BaggingClassifier": lambda: {"max_features": 0.5},
    "HashingVectorizer": lambda: {"n_features": 64},
    "MLPClassifier": lambda: {"hidden_layer_sizes": (5,), "max_iter": 50},
    "MLPRegressor": lambda: {"hidden_layer_sizes": (5,), "max_iter": 50},
}
"""What an estimator cannot be made without, or is more itself with."""

SEVERAL_TARGETS = ("MultiTask", "MultiOutputRegressor", "RegressorChain", "PLSCanonical", "CCA", "PLSSVD")
SEVERAL_QUESTIONS = ("ClassifierChain", "MultiOutputClassifier")
TWO_CLASSES = ("FixedThresholdClassifier", "TunedThresholdClassifierCV")
POSITIVE = (
    "BoxCox",
    "MultinomialNB",
    "ComplementNB",
    "AdditiveChi2Sampler",
    "SkewedChi2Sampler",
    "LatentDirichletAllocation",
    "NMF",
    "MiniBatchNMF",
)
TARGET_TRANSFORMERS = ("LabelBinarizer", "LabelEncoder", "MultiLabelBinarizer")


def classes(count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    made = make_classification(ROWS, FEATURES, n_informative=3, n_redundant=0, n_classes=count, random_state=SEED)
    return np.asarray(made[0]), np.asarray(made[1])


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    estimator: str
    status: str
    detail: str = ""


def names() -> list[str]:
    found = []
    for name, kind in all_estimators():
        if hasattr(kind, "predict") or hasattr(kind, "transform"):
            found.append(name)
    return found


def data(name: str, kind: Any) -> tuple[Any, Any, Any]:
    """Rows to fit on, the target, and new rows."""
    rng = np.random.default_rng(SEED + 1)
    if name in ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer", "TfidfTransformer") and name != "TfidfTransformer":
        texts = [text for text in TEXTS if text.isascii()] if name == "HashingVectorizer" else TEXTS
        return texts, None, ["a new cat!", "", "DOGS and mats, dogs"]
    if name == "CategoricalNB":
        x = rng.integers(0, 4, (ROWS, FEATURES))
        return x, (x[:, 0] + x[:, 1]) % 3, x[:20]
    if name in ("OneHotEncoder", "OrdinalEncoder", "TargetEncoder"):
        x = pd.DataFrame({"a": rng.choice(["x", "y", "z"], ROWS), "b": rng.integers(0, 4, ROWS)})
        return x, rng.normal(size=ROWS), x[:20]
    if name == "IsotonicRegression":
        x = np.sort(rng.normal(size=(ROWS, 1)), axis=0)
        return x, np.arange(ROWS) + rng.normal(size=ROWS), x[:20]
    x, y = classes(2 if name in TWO_CLASSES else 3)
    tags = kind.__sklearn_tags__()
    new = np.concatenate([x[:10] * 1.01, rng.normal(size=(20, FEATURES)), x[:5].round(1)])
    if name in POSITIVE or tags.input_tags.positive_only:
        x, new = np.abs(x), np.abs(new)
    if name in ("MissingIndicator", "SimpleImputer", "KNNImputer", "IterativeImputer"):
        x = np.where(rng.random(x.shape) < 0.1, np.nan, x)
    if tags.input_tags.allow_nan and name not in ("FunctionTransformer", "Pipeline"):
        new = np.where(rng.random(new.shape) < 0.1, np.nan, new)
    if name == "KernelCenterer":
        return x @ x.T, None, new @ x.T
    if any(name.startswith(each) for each in SEVERAL_TARGETS):
        return x, np.stack([x[:, 0] + y, x[:, 1] - y], axis=1), new
    if name in SEVERAL_QUESTIONS:
        return x, np.stack([y > 0, y > 1], axis=1).astype(int), new
    if tags.estimator_type == "regressor":
        return x, 3 + np.abs(x[:, 0]) + y + 0.1, new
    return x, y, new


def checked(name: str) -> Row:
    """The estimator with its place in the table."""
    kind = dict(all_estimators())[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name in TARGET_TRANSFORMERS:
            return Row(name, "outside", "it transforms targets, not rows")
        try:
            made = kind(**PARTS.get(name, dict)())
            if "random_state" in made.get_params(deep=False):
                made.set_params(random_state=0)
            rows, target, new = data(name, made)
            made.fit(rows) if target is None else made.fit(rows, target)
        except Exception as error:  # noqa: BLE001 - a case that cannot be made is a row of its own
            return Row(name, "outside", f"it is not fitted here: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.onnx"
            try:
                export_model(made, rows, path)
            except OnnxFerryError as error:
                return Row(name, "refused", str(error).splitlines()[0][:200])
            except Exception as error:  # noqa: BLE001 - this is what is looked for
                return Row(name, "foreign", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}")
            return _compared(name, made, path, new)


def _compared(name: str, model: Any, path: Path, new: Any) -> Row:
    """The file in bare ONNX Runtime beside the estimator, on rows that the export has not seen."""
    source = SklearnSource(model, new)
    feeds = {spec.name: source.examples[spec.name] for spec in source.inputs}
    wanted = source.run(feeds)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    found = session.run(list(wanted), {key: each.astype(object) if each.dtype.kind == "U" else each for key, each in feeds.items()})
    for (output, want), got in zip(wanted.items(), found, strict=True):
        if want.dtype.kind == "f":
            scale = float(np.nanmax(np.abs(want[np.isfinite(want)]), initial=0.0))
            same = np.isclose(got, want, rtol=1e-4, atol=1e-5 * scale, equal_nan=True)
        else:
            same = got == want
        if not np.all(same):
            return Row(name, "wrong", f"{output}: {int(np.sum(~same))} of {want.size} differ")
    return Row(name, "right")


ORDER = ("right", "refused", "wrong", "foreign")


def recorded(path: Path) -> list[Row]:
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def record(row: Row, path: Path) -> None:
    """Keep the row, in the place of an older one."""
    rows = {kept.estimator: kept for kept in [*recorded(path), row]}
    path.write_text("".join(json.dumps(asdict(rows[key])) + "\n" for key in sorted(rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description="the estimators of scikit-learn, exported and compared")
    parser.add_argument("--only", default="", help="names of estimators, with commas")
    parser.add_argument("--record", type=Path, help="a .jsonl file; rows that it has are not run again, unless --only names them")
    arguments = parser.parse_args()
    only = [name for name in arguments.only.split(",") if name]
    done = {row.estimator for row in recorded(arguments.record)} if arguments.record and not only else set()
    rows = []
    for name in only or names():
        if name in done:
            continue
        row = checked(name)
        rows.append(row)
        print(row.status, row.estimator, row.detail, file=sys.stderr, flush=True)
        if arguments.record:
            record(row, arguments.record)
    print(dict(Counter(row.status for row in (recorded(arguments.record) if arguments.record else rows))))


if __name__ == "__main__":
    main()


__all__ = ["CalibratedClassifierCV", "Row", "checked", "names", "recorded"]
