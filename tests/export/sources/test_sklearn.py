"""scikit-learn's estimators: carried with their own inputs and answers, exact where converters are not, and refused in words."""

from __future__ import annotations

import json
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("skl2onnx", reason="skl2onnx is not installed: pip install 'onnxferry[sklearn]'")

import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import DBSCAN, KMeans
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.datasets import load_diabetes, load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from onnxferry.export import export_model
from onnxferry.export.parity.probes import probes
from onnxferry.export.pipeline.verify import verify_file
from onnxferry.export.source import InputSpec
from onnxferry.export.sources.sklearn.converters import registry
from onnxferry.export.sources.sklearn.estimator import SklearnSource
from onnxferry.runtime import load
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import ExportError, InputError, ParityError

WINE, KINDS = load_wine(return_X_y=True)
PATIENTS, PROGRESS = load_diabetes(return_X_y=True)
PATIENTS, PROGRESS = PATIENTS[:200], PROGRESS[:200]

CLASSIFIERS: list[Callable[[], Any]] = [
    lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    lambda: DecisionTreeClassifier(random_state=0),
    lambda: RandomForestClassifier(8, random_state=0),
    lambda: make_pipeline(StandardScaler(), RandomForestClassifier(8, random_state=0)),
    lambda: GradientBoostingClassifier(n_estimators=4, random_state=0),
    lambda: make_pipeline(StandardScaler(), make_pipeline(PCA(3), KNeighborsClassifier())),
    lambda: GaussianNB(),
    lambda: VotingClassifier([("one", LogisticRegression(max_iter=50)), ("two", GaussianNB())], voting="soft"),
]
SCORERS: list[Callable[[], Any]] = [
    lambda: make_pipeline(StandardScaler(), SVC()),
    lambda: make_pipeline(StandardScaler(), LinearSVC()),
    lambda: make_pipeline(StandardScaler(), RidgeClassifier()),
]
REGRESSORS: list[Callable[[], Any]] = [
    lambda: LinearRegression(),
    lambda: RandomForestRegressor(8, random_state=0),
    lambda: make_pipeline(PolynomialFeatures(2), StandardScaler(), LinearRegression()),
    lambda: SVR(),  # no operator for float64
]
REALS = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def fitted(make: Callable[[], Any], rows: np.ndarray, answers: Any = None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some have not converged
        return make().fit(rows, answers)


def answered(path: Path, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    with load(path, device="cpu") as model:
        return model.run(feeds)


@REALS
@pytest.mark.parametrize("make", CLASSIFIERS)
def test_classifiers(tmp_path: Path, make: Callable[[], Any], dtype: type) -> None:
    model = fitted(make, WINE, np.array(["red", "white", "rosé"])[KINDS])
    rows = WINE.astype(dtype)
    report = export_model(model, rows, tmp_path / "m.onnx")
    assert report.passed
    with load(tmp_path / "m.onnx", device="cpu") as file:
        assert file.labels == ("red", "rosé", "white")
        found = file.run({"X": rows})
    assert [file.labels[i] for i in found["class_index"]] == model.predict(rows.astype(float)).tolist()
    assert found["probabilities"].dtype == np.float32
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(rows.astype(float)), atol=1e-5)


@pytest.mark.parametrize("kinds", [3, 2])
@pytest.mark.parametrize("make", SCORERS)
def test_classifiers_without_probabilities_give_their_scores(tmp_path: Path, make: Callable[[], Any], kinds: int) -> None:
    rows, labels = WINE[kinds > KINDS], 5 * KINDS[kinds > KINDS] - 5  # -5, 0, 5
    model = fitted(make, rows, labels)
    assert export_model(model, rows, tmp_path / "m.onnx").passed
    found = answered(tmp_path / "m.onnx", X=rows)
    assert model.classes_[found["class_index"]].tolist() == model.predict(rows).tolist()
    scores = model.decision_function(rows)
    np.testing.assert_allclose(found["scores"], scores, atol=1e-4 * np.abs(scores).max())


@REALS
@pytest.mark.parametrize("make", REGRESSORS)
def test_regressors(tmp_path: Path, make: Callable[[], Any], dtype: type) -> None:
    model = fitted(make, PATIENTS, PROGRESS)
    assert export_model(model, PATIENTS.astype(dtype), tmp_path / "m.onnx").passed
    found = answered(tmp_path / "m.onnx", X=PATIENTS.astype(dtype))["prediction"]
    np.testing.assert_allclose(found, model.predict(PATIENTS.astype(dtype).astype(float)), rtol=1e-4)


def test_regressors_of_several_targets(tmp_path: Path) -> None:
    model = LinearRegression().fit(PATIENTS, np.stack([PROGRESS, -PROGRESS], axis=1))
    assert export_model(model, PATIENTS, tmp_path / "m.onnx").passed
    assert answered(tmp_path / "m.onnx", X=PATIENTS[:5])["prediction"].shape == (5, 2)


@REALS
@pytest.mark.parametrize("make", [HistGradientBoostingRegressor, HistGradientBoostingClassifier])
def test_thresholds_stay_exact_where_the_converter_rounds_them(tmp_path: Path, make: Any, dtype: type) -> None:
    # Values that lie on thresholds, half of which rounding to float32 would move to the other side.
    rng = np.random.default_rng(0)
    rows = np.round(rng.normal(size=(300, 2)), 1).astype(np.float32).astype(float)
    model = make(max_iter=5, min_samples_leaf=2, random_state=0).fit(rows, (rows[:, 0] * 3 + rows[:, 1] > 0.4) * 7)
    nodes = [tree.nodes for each in model._predictors for tree in each]
    thresholds = np.unique(np.concatenate([n["num_threshold"][n["is_leaf"] == 0] for n in nodes]))
    near = np.concatenate([thresholds, np.nextafter(thresholds, 9), np.nextafter(thresholds, -9)]).astype(dtype)
    rows = np.stack([near, near[::-1]], axis=1)
    assert export_model(model, rows, tmp_path / "m.onnx").passed
    name, wanted = ("prediction", model.predict) if make is HistGradientBoostingRegressor else ("probabilities", model.predict_proba)
    np.testing.assert_allclose(answered(tmp_path / "m.onnx", X=rows)[name], wanted(rows.astype(float)), rtol=1e-5)


def test_what_is_no_prediction(tmp_path: Path) -> None:
    for model, outputs in (
        (PCA(3).fit(WINE), {"transformed": (4, 3)}),
        (OneHotEncoder().fit(KINDS[:, None]), {"transformed": (4, 3)}),
        (KMeans(3, n_init=1, random_state=0).fit(WINE), {"cluster": (4,)}),
        (IsolationForest(n_estimators=5, random_state=0).fit(WINE), {"inlier": (4,), "scores": (4,)}),
    ):
        rows = KINDS[:, None] if isinstance(model, OneHotEncoder) else WINE
        assert export_model(model, rows, tmp_path / "m.onnx").passed
        assert {name: array.shape for name, array in answered(tmp_path / "m.onnx", X=rows[:4]).items()} == outputs


def frame(rows: int = 120) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "age": rng.normal(40, 12, rows),
            "town": rng.choice(["Bern", "Łódź", "Oslo"], rows),
            "rooms": rng.integers(1, 7, rows),
            "garden": rng.random(rows) < 0.4,
        }
    )
    price = table.age * 0.02 + table.rooms * 0.3 + (table.town == "Oslo")
    return table, np.where(price > price.median(), "dear", "cheap")


def houses(last: Any) -> Any:
    table, price = frame()
    columns = [
        ("reals", StandardScaler(), make_column_selector(dtype_include=["number", "bool"])),
        ("town", OneHotEncoder(handle_unknown="ignore"), ["town"]),
    ]
    return make_pipeline(ColumnTransformer(columns), last).fit(table, price)


@pytest.mark.parametrize("last", [LogisticRegression(), RandomForestClassifier(8, random_state=0)])
def test_a_table_with_text_is_an_input_a_column(tmp_path: Path, last: Any) -> None:
    table, _ = frame()
    model = houses(last)
    assert export_model(model, table, tmp_path / "m.onnx").passed
    with load(tmp_path / "m.onnx", device="cpu") as file:
        assert [(spec.name, spec.dtype, spec.shape) for spec in file.engine.inputs] == [
            ("age", "float64", ("batch", 1)),
            ("town", "str", ("batch", 1)),
            ("rooms", "int64", ("batch", 1)),
            ("garden", "bool", ("batch", 1)),
        ]
        new = pd.DataFrame({"age": [31.5, 70.0], "town": ["Łódź", "Rome"], "rooms": [6, 1], "garden": [True, False]})
        found = file.run({name: new[[name]].to_numpy() for name in new})
        assert [file.labels[i] for i in found["class_index"]] == model.predict(new).tolist()
        assert {array.dtype.kind for array in file.contract.goldens[0].inputs.values()} == {"f", "O", "i", "b"}
    assert main(["check", str(tmp_path / "m.onnx"), "--device", "cpu"]) == 0
    assert main(["check", str(tmp_path / "m.onnx"), "--untrusted"]) == 0
    assert main(["export", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "again.onnx")]) == 0  # its own samples say what text it takes


@pytest.mark.parametrize(
    "make",
    [
        lambda: LogisticRegression(),
        lambda: RandomForestClassifier(8, random_state=0),
        lambda: HistGradientBoostingClassifier(max_iter=5),
        lambda: make_pipeline(SimpleImputer(), StandardScaler(), GaussianNB()),
        lambda: make_pipeline(ColumnTransformer([("s", StandardScaler(), ["a/b", "total bill"])], remainder="passthrough"), GaussianNB()),
    ],
)
def test_a_table_of_numbers_whatever_its_columns_are_called(tmp_path: Path, make: Callable[[], Any]) -> None:
    rng = np.random.default_rng(0)
    bills = rng.normal(40, 12, 90)
    table = pd.DataFrame({"total bill": bills, "probabilities_": rng.normal(size=90), "a/b": rng.integers(1, 7, 90), "label": bills > 50})
    model = make()
    if isinstance(model, HistGradientBoostingClassifier) or "simpleimputer" in getattr(model, "named_steps", {}):
        table.loc[::7, "total bill"] = np.nan
    model.fit(table, (bills > 40) * 1)
    assert export_model(model, table, tmp_path / "m.onnx").passed
    found = answered(tmp_path / "m.onnx", **{name: table[[name]].to_numpy() for name in table})
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(table), atol=1e-5)
    renamed = table.rename(columns={"label": "class_index"})
    with pytest.raises(InputError, match="'class_index' would be an input and an output: name the outputs otherwise"):
        export_model(GaussianNB().fit(renamed.fillna(0), (bills > 40) * 1), renamed.fillna(0), tmp_path / "no.onnx")


def test_a_table_of_text_alone(tmp_path: Path) -> None:
    table = frame()[0].assign(way=lambda t: np.where(t.garden, "north", "south"))[["town", "way"]]
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(table, table.town == "Oslo")
    assert export_model(model, table, tmp_path / "m.onnx").passed
    found = answered(tmp_path / "m.onnx", **{name: table[[name]].to_numpy() for name in table})
    assert found["class_index"].astype(bool).tolist() == model.predict(table).tolist()


def test_the_file_can_be_judged_again(tmp_path: Path) -> None:
    table, price = frame()
    model = houses(LogisticRegression())
    export_model(model, table, tmp_path / "m.onnx")
    assert verify_file(tmp_path / "m.onnx", model).passed
    other = houses(LogisticRegression()).fit(table, price[::-1])
    report = verify_file(tmp_path / "m.onnx", other)
    assert not report.passed
    assert {failure.kind for failure in report.failures} == {"difference"}


def test_a_converter_that_is_wrong_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = registry.converter

    def wrong(method: str, model: Any) -> Any:
        function = real(method, model)
        if function is None or method != registry.PROBABILITIES:
            return function
        return lambda graph, model, x: function(graph, model, x) * 1.001

    monkeypatch.setattr(registry, "converter", wrong)
    model = fitted(LogisticRegression, WINE, KINDS)
    with pytest.raises(ParityError, match="output 'probabilities' differs"):
        export_model(model, WINE, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_all_rows_are_compared_and_few_are_carried(tmp_path: Path) -> None:
    model = fitted(LogisticRegression, WINE, KINDS)
    report = export_model(model, WINE, tmp_path / "m.onnx", samples=[{"X": WINE[:3] + 1}])
    given = ("the example", "sample 0", "sample 1")
    assert [next(iter(case.shapes.values()))[0] for case in report.cases if case.name in given] == [16, 162, 3]
    with load(tmp_path / "m.onnx", device="cpu") as file:
        carried = file.contract.goldens[0].inputs["X"]
        assert file.contract.provenance["framework"] == "scikit-learn"
    assert carried.shape == (16, 13)
    np.testing.assert_array_equal(carried[[0, -1]], WINE[[0, -1]])  # spread over all: data are often sorted by class


def test_probes_of_a_table_keep_to_each_columns_range() -> None:
    example = np.array([[0.0, 1000.0], [1.0, 3000.0]])
    spec = InputSpec("X", "float64", ("batch", 2), (2, 2), by_column=True)
    for case in probes([spec], {"X": example}):
        if "values" not in case.name and case.name != "zeros":
            drawn = case.feeds["X"]
            assert ((drawn >= example.min(0)) & (drawn <= example.max(0))).all(), case.name
    words = InputSpec("town", "str", ("batch", 1), (2, 1), by_column=True)
    towns = {str(word) for case in probes([words], {"town": np.array([["Bern"], ["Oslo"]])}) for word in case.feeds["town"].flat}
    assert towns == {"Bern", "Oslo"}


class Squared(TransformerMixin, BaseEstimator):
    def fit(self, rows: Any, answers: Any = None) -> Squared:
        self.n_features_in_ = rows.shape[1]
        return self

    def transform(self, rows: Any) -> Any:
        return rows**2


@pytest.mark.parametrize(
    ("make", "example", "error", "text"),
    [
        (lambda: LogisticRegression(), WINE, InputError, "this LogisticRegression is not fitted, so there is nothing to export"),
        (lambda: LogisticRegression, WINE, InputError, "LogisticRegression is a class; give a fitted LogisticRegression"),
        (lambda: fitted(GaussianNB, WINE, KINDS), WINE[:, :4], InputError, "was fitted on 13 features, the example has 4"),
        (lambda: fitted(GaussianNB, WINE, KINDS), WINE[0], InputError, "must be rows of features"),
        (lambda: fitted(GaussianNB, WINE, KINDS), WINE[:0], InputError, "must be rows of features"),
        (lambda: fitted(GaussianNB, WINE, KINDS), None, InputError, "give rows of a test set"),
        (lambda: fitted(GaussianNB, WINE, KINDS), WINE.astype(complex), InputError, "expected numbers, flags or text"),
        (lambda: houses(GaussianNB()), frame()[0].assign(town=[None, *["Bern"] * 119]), InputError, "'town' holds (None|nan)"),
        (lambda: houses(GaussianNB()), {"age": np.ones(3), "town": np.array(["Bern"] * 2)}, InputError, "different numbers of rows"),
        (
            lambda: make_pipeline(OneHotEncoder(), GaussianNB()),
            frame()[0][["town"]],
            InputError,
            "this OneHotEncoder . GaussianNB is not fitted",
        ),
        (
            lambda: make_pipeline(OneHotEncoder(), LogisticRegression()).fit(frame()[0][["town"]], frame()[1]),
            pd.DataFrame({"town": ["Bern", "Rome"]}),
            ExportError,
            r"fails on the example \(ValueError: Found unknown categories.*give rows as it was fitted on",
        ),
        (lambda: DBSCAN().fit(WINE), WINE, ExportError, "DBSCAN has neither predict"),
        (lambda: make_pipeline(Squared(), GaussianNB()).fit(WINE, KINDS), WINE, ExportError, "Squared has no conversion to ONNX"),
    ],
)
def test_refusals(tmp_path: Path, make: Callable[[], Any], example: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        export_model(make(), example, tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_only_rows_are_dynamic(tmp_path: Path) -> None:
    model = fitted(GaussianNB, WINE, KINDS)
    assert SklearnSource(model, WINE, dynamic_shapes={"X": {0: "rows"}}).inputs[0].shape == ("rows", 13)
    with pytest.raises(InputError, match="only the rows, axis 0 of X, are dynamic"):
        export_model(model, WINE, tmp_path / "m.onnx", dynamic_shapes={"X": {1: "features"}})
    with pytest.raises(InputError, match="output_names must be 2 different names"):
        export_model(model, WINE, tmp_path / "m.onnx", output_names=["one"])
    assert export_model(model, WINE, tmp_path / "m.onnx", output_names=["kind", "class_index"]).passed
    assert set(answered(tmp_path / "m.onnx", X=WINE[:1])) == {"kind", "class_index"}


MODULE = """
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.datasets import load_wine

def fitted():
    return LogisticRegression(max_iter=20).fit(*load_wine(return_X_y=True))

model = fitted()
"""


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wines.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "wines", raising=False)
    np.savez("rows.npz", wine=WINE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("fitted", "model"):
            assert main(["export", f"wines:{name}", "--samples", "rows.npz", "-o", "m.onnx", "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["passed"]
        assert main(["check", "m.onnx", "--against", "wines:model"]) == 0
        assert main(["export", "wines:model", "--input", "X:float32[rows,13]", "-o", "drawn.onnx"]) == 0
        capsys.readouterr()
        for arguments, text in (
            (["wines:model"], "give rows of a test set"),
            (
                ["wines:model", "--samples", "rows.npz", "--weights", "rows.npz"],
                "the option weights does not apply to a fitted scikit-learn estimator",
            ),
            (["model.joblib"], "may run code when it is read"),
        ):
            (tmp_path / "model.joblib").touch()
            assert main(["export", *arguments, "-o", "no.onnx"]) == 1
            assert text in " ".join(capsys.readouterr().err.split())
            assert not (tmp_path / "no.onnx").exists()


def test_the_command_reads_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model, (table, _) = houses(RandomForestClassifier(4, random_state=0)), frame()
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    (tmp_path / "houses_.py").write_text("import pickle\ndef made(): return pickle.load(open('model.pkl', 'rb'))\n")
    monkeypatch.chdir(tmp_path)
    table.to_csv("rows.csv", index=False)
    assert main(["export", "houses_:made", "--samples", "rows.csv", "-o", "m.onnx"]) == 0
    with load("m.onnx", device="cpu") as file:
        assert file.contract.labels == ("cheap", "dear")
        assert [spec.dtype for spec in file.engine.inputs] == ["float64", "str", "int64", "bool"]
    capsys.readouterr()
    (tmp_path / "bad.csv").write_bytes(b"a,b\n1,2,3\n4,5,6,7\n\xff")
    assert main(["export", "houses_:made", "--samples", "bad.csv", "-o", "no.onnx"]) == 1
    assert "bad.csv is not UTF-8" in capsys.readouterr().err
