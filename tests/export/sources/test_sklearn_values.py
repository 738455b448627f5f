"""Exported estimators at the values where conversions go wrong: thresholds, ties, missing values, texts, unseen categories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("skl2onnx", reason="skl2onnx is not installed: pip install 'onnxferry[sklearn]'")

import pandas as pd
from sklearn.cluster import Birch, BisectingKMeans, KMeans, MeanShift
from sklearn.datasets import make_classification
from sklearn.ensemble import ExtraTreesRegressor, RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.manifold import Isomap, LocallyLinearEmbedding
from sklearn.mixture import GaussianMixture
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsRegressor, RadiusNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, FunctionTransformer, KBinsDiscretizer, OneHotEncoder, OrdinalEncoder, QuantileTransformer
from sklearn.tree import DecisionTreeClassifier

from onnxferry.export import export_model
from onnxferry.export.sources.sklearn.converters.text.token_pattern import PatternError, words_pattern
from onnxferry.export.sources.sklearn.estimator import SklearnSource
from onnxferry.export.sources.sklearn.thresholds import MAX_ROWS, thresholds
from onnxferry.runtime import load
from onnxferry.runtime.errors import ExportError, OnnxFerryError, ParityError

TEXTS = ["The cat sat on the mat", "a dog, and a CAT!", "mats are for dogs", "no cats; no dogs…", "café au lait", ""] * 3


def exported(model: Any, rows: Any, folder: Path) -> Callable[..., dict[str, np.ndarray]]:
    assert export_model(model, rows, folder / "m.onnx").passed

    def ask(**feeds: np.ndarray) -> dict[str, np.ndarray]:
        with load(folder / "m.onnx", device="cpu") as file:
            return file.run(feeds)

    return ask


@pytest.mark.parametrize("missing_at_fit", [True, False])
def test_missing_values_go_where_the_tree_says(tmp_path: Path, missing_at_fit: bool) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 3))
    holes = np.where(rng.random(rows.shape) < 0.3, np.nan, rows)
    classes = (np.nan_to_num(holes[:, 0], nan=-9.0) > 0).astype(int)
    seen = holes if missing_at_fit else rows
    for model, output in (
        (RandomForestClassifier(6, random_state=0), "probabilities"),
        (ExtraTreesRegressor(6, random_state=0), "prediction"),
    ):
        model.fit(seen, classes)
        ask = exported(model, rows, tmp_path)  # the rows of the test have no missing values
        wanted = model.predict_proba(holes) if output == "probabilities" else model.predict(holes)
        np.testing.assert_allclose(ask(X=holes)[output], wanted, atol=1e-6)


def test_a_tree_of_one_feature_and_nan(tmp_path: Path) -> None:
    model = DecisionTreeClassifier().fit(np.array([[np.nan], [np.nan], [-1.0], [5.0]]), [0, 0, 0, 1])
    asked = np.array([[np.nan], [-1.0], [5.0]])
    assert exported(model, np.array([[-1.0], [5.0]]), tmp_path)(X=asked)["class_index"].tolist() == model.predict(asked).tolist()


def test_equal_votes_are_decided_as_scikit_learn_does(tmp_path: Path) -> None:
    rows, classes = make_classification(400, 6, random_state=1)
    model = RandomForestClassifier(20, max_depth=8, random_state=0).fit(rows[:200], classes[:200])
    asked = np.concatenate([rows, rows * 10])
    votes = model.predict_proba(asked)
    assert (np.abs(votes[:, 0] - votes[:, 1]) < 1e-9).any()
    assert exported(model, rows[:40], tmp_path)(X=asked)["class_index"].tolist() == model.predict(asked).tolist()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Binarizer(threshold=1.1),
        lambda: KBinsDiscretizer(4, strategy="uniform", encode="onehot-dense"),
        lambda: KBinsDiscretizer(4, strategy="kmeans", encode="ordinal"),
    ],
)
def test_thresholds_are_float64(tmp_path: Path, make: Callable[[], Any], dtype: type) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 2))
    model = make().fit(rows)
    known = thresholds(model)
    edges = known.get(-1, known.get(0, np.zeros(0)))
    asked = np.concatenate([edges, np.nextafter(edges, 9), np.nextafter(edges, -9)]).astype(dtype)
    asked = np.stack([asked, asked], axis=1)
    found = exported(model, rows.astype(dtype), tmp_path)(X=asked)["transformed"]
    np.testing.assert_array_equal(found, model.transform(asked.astype(float)))


def test_rows_at_thresholds_are_compared(tmp_path: Path) -> None:
    rows, classes = make_classification(200, 4, n_redundant=0, random_state=1)
    report = export_model(RandomForestClassifier(9, random_state=0).fit(rows, classes), rows[:30], tmp_path / "m.onnx")
    compared = {case.name: next(iter(case.shapes.values()))[0] for case in report.cases if case.compared}
    assert 0 < compared["rows at thresholds"] <= MAX_ROWS
    assert {"missing values", "rows far away", "equal rows"} <= set(compared)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TfidfVectorizer(ngram_range=(1, 2), stop_words="english", sublinear_tf=True),
        lambda: CountVectorizer(token_pattern=r"\b[a-zA-Z]+\b", binary=True, lowercase=False),
    ],
)
def test_text_vectorizers(tmp_path: Path, make: Callable[[], Any]) -> None:
    model = make().fit(TEXTS)
    asked = ["The CAT, the dog—and mats", "", "cat\tcat (dog)", "CAFÉ"]
    found = exported(model, TEXTS, tmp_path)(X=np.array(asked, dtype=object))["transformed"]
    np.testing.assert_allclose(found, model.transform(asked).toarray(), atol=1e-6)


def test_texts_in_all_the_shapes_that_are_passed(tmp_path: Path) -> None:
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(TEXTS, [0, 1, 1] * 6)
    for given in (TEXTS, np.array(TEXTS), pd.Series(TEXTS)):
        source = SklearnSource(model, given)
        assert [(spec.name, spec.dtype, spec.shape) for spec in source.inputs] == [("X", "str", ("batch",))]
    ask = exported(model, pd.DataFrame({"text": TEXTS}), tmp_path)
    found = ask(text=np.array([["the dog"], ["a cat"]], dtype=object))
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(["the dog", "a cat"]), atol=1e-6)


def test_a_text_with_an_unknown_character_is_an_error_not_a_wrong_count(tmp_path: Path) -> None:
    ask = exported(CountVectorizer().fit(TEXTS), TEXTS, tmp_path)
    with pytest.raises(OnnxFerryError, match="a_text_has_a_character_that_this_file_does_not_know"):
        ask(X=np.array(["cat\U0001f9ff dog"], dtype=object))


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (CountVectorizer(analyzer="char").fit(TEXTS), "analyzer='char': ONNX has no operator that takes a string apart"),
        (CountVectorizer(tokenizer=str.split, token_pattern=None).fit(TEXTS), "a tokenizer of its own"),
        (CountVectorizer(token_pattern=r"[a-z-]+").fit(TEXTS), "token_pattern='.a-z-.+'"),
        (HashingVectorizer(n_features=65537), "n_features=65537, whose rows are dense in a file; take n_features=65536 or fewer"),
        (HashingVectorizer(n_features=8, strip_accents="ascii"), "strip_accents='ascii': do that step before the file"),
    ],
)
def test_what_stays_outside_of_text(tmp_path: Path, model: Any, text: str) -> None:
    with pytest.raises(ExportError, match=text):
        export_model(model, TEXTS, tmp_path / "m.onnx")


def test_hashes_of_words(tmp_path: Path) -> None:
    """Of every length from 2 to 12, so that MurmurHash3 has each number of whole and left bytes."""
    model = HashingVectorizer(n_features=101, stop_words="english")
    texts = ["The cat sat on the mat", "a dog, and a CAT!", "no cats; no dogs…", ""] * 3
    ask = exported(model, texts, tmp_path)
    asked = ["ab abc abcd abcde abcdef abcdefg abcdefgh", "snake_case 1234567890 01234567890 abcdefghijkl", "cat cat\tdog (CAT)", ""]
    found = ask(X=np.array(asked, dtype=object))["transformed"]
    np.testing.assert_allclose(found, model.transform(asked).toarray(), atol=1e-6)
    for odd in ("caf\u00e9 dog", "x" * 33):
        with pytest.raises(OnnxFerryError, match="a_word_is_not_ascii_or_longer_than_32_characters"):
            ask(X=np.array([odd], dtype=object))


def test_token_patterns() -> None:
    assert words_pattern(r"\S+") is None
    assert words_pattern(r"(?u)\b\w\w+\b")
    for pattern in (r"[a-z]+", r"\b\w+'\w+\b", r"\b(\w+)\b", r"\w+(?=x)"):
        with pytest.raises(PatternError):
            words_pattern(pattern)


def test_unseen_and_infrequent_categories(tmp_path: Path) -> None:
    table = pd.DataFrame({"town": ["Bern"] * 9 + ["Oslo"] * 9 + ["Rome", "Paris"]})
    asked = np.array([["Bern"], ["Rome"], ["nowhere"]], dtype=object)
    for model in (
        OneHotEncoder(min_frequency=3, handle_unknown="infrequent_if_exist"),
        OrdinalEncoder(min_frequency=3, handle_unknown="use_encoded_value", unknown_value=-1),
    ):
        ask = exported(model.fit(table), table, tmp_path)
        wanted = model.transform(pd.DataFrame({"town": asked[:, 0]}))
        np.testing.assert_array_equal(ask(town=asked)["transformed"], wanted.toarray() if hasattr(wanted, "toarray") else wanted)


def test_mixtures_several_questions_and_functions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(80, 3)) + 4
    mixture = GaussianMixture(2, random_state=0).fit(rows)
    found = exported(mixture, rows, tmp_path)(X=rows)
    assert found["cluster"].tolist() == mixture.predict(rows).tolist()
    several = MultiOutputClassifier(LogisticRegression()).fit(rows, rows[:, :2] > 4)
    found = exported(several, rows, tmp_path)(X=rows)
    assert found["class_index"].tolist() == several.predict(rows).astype(int).tolist()
    np.testing.assert_allclose(found["probabilities_1"], several.predict_proba(rows)[1], atol=1e-6)
    logs = make_pipeline(FunctionTransformer(np.log1p), Ridge()).fit(rows, rows[:, 0])
    np.testing.assert_allclose(exported(logs, rows, tmp_path)(X=rows)["prediction"], logs.predict(rows), rtol=1e-5)
    own = make_pipeline(FunctionTransformer(np.clip, kw_args={"a_min": 0, "a_max": 1}), Ridge()).fit(rows, rows[:, 0])
    with pytest.raises(ExportError, match="cannot be exported with the function clip: known are numpy's"):
        export_model(own, rows, tmp_path / "m.onnx")


def test_shares_of_classes_of_which_none_is_likely(tmp_path: Path) -> None:
    """ONNX Runtime's Sigmoid of float64 is 0 where the model's is 1e-30, and a share of such numbers is 1."""
    rows, classes = make_classification(90, 4, n_informative=3, n_redundant=0, n_classes=3, random_state=0)
    model = OneVsRestClassifier(LogisticRegression()).fit(rows, classes)
    for each in model.estimators_:
        each.coef_[:] = -np.abs(each.coef_) - 0.1
    asked = np.array([[40.0, 20.0, 30.0, 50.0], [90.0, 90.0, 80.0, 40.0]])
    assert max(each.predict_proba(asked)[:, 1].max() for each in model.estimators_) < 1e-6
    found = exported(model, rows[:30], tmp_path)(X=asked)
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(asked), atol=1e-6)


@pytest.mark.parametrize("kind", [KMeans, BisectingKMeans, MeanShift, Birch])
def test_the_nearest_center_of_a_row_far_away(tmp_path: Path, kind: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 2)) + np.repeat([[0, 0], [9, 0], [0, 9]], 20, axis=0)
    model = (kind(3, random_state=0) if "KMeans" in kind.__name__ else kind()).fit(rows)
    asked = np.array([[2e9, 1.0], [-2e9, 3e9], [1.0, 2e9], [-1e9, -1e9]])
    assert exported(model, rows[:20], tmp_path)(X=asked)["cluster"].tolist() == model.predict(asked).tolist()


def test_a_clustering_fitted_on_float32_takes_float32_alone(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    model = KMeans(4, random_state=0).fit(rows)
    assert exported(model, rows[:20], tmp_path)(X=rows)["cluster"].tolist() == model.predict(rows).tolist()


def test_quantiles_of_a_normal_distribution(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).exponential(size=(200, 2))
    model = QuantileTransformer(n_quantiles=50, output_distribution="normal").fit(rows)
    ends = model.quantiles_[[0, -1]]
    asked = np.concatenate([rows, ends, ends + 1e-8, ends - 1e-8, ends * 3, rows[:5] * 0])
    found = exported(model, rows[:20], tmp_path)(X=asked)["transformed"]
    np.testing.assert_allclose(found, model.transform(asked), rtol=1e-6, atol=1e-7)


def test_a_mixture_of_whole_numbers_measures_in_whole_numbers(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 50, (150, 4))
    model = GaussianMixture(2, random_state=0).fit(rows)
    assert np.abs(model.predict_proba(rows) - model.predict_proba(rows.astype(float))).max() > 1e-3
    found = exported(model, rows[:40], tmp_path)(X=rows)
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(rows), atol=1e-6)


def test_a_row_without_neighbors_among_whole_number_targets(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 2))
    model = RadiusNeighborsRegressor(0.8).fit(rows, np.arange(60))
    asked = np.array([[0.0, 0.0], [900.0, 900.0]])
    found = exported(model, rows[:20], tmp_path)(X=asked)["prediction"]
    np.testing.assert_allclose(found, [model.predict(asked[:1])[0], -(2.0**63)])  # NaN as a whole number


def test_a_refusal_names_rows_that_are_equally_near(tmp_path: Path) -> None:
    rows = np.random.default_rng(3).integers(0, 50, (150, 5))
    model = KNeighborsRegressor(3).fit(rows, np.random.default_rng(4).integers(0, 3, 150))
    with pytest.raises(ParityError) as refused:
        export_model(model, rows[:40], tmp_path / "m.onnx")
    assert "several fitted rows are equally near" in refused.value.report.explain()
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("model", [Isomap(n_neighbors=4), LocallyLinearEmbedding(n_neighbors=4)], ids=["isomap", "locally linear"])
def test_embeddings_of_new_rows(tmp_path: Path, model: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(30, 3))
    ask = exported(model.fit(rows), rows[:8] + 0.1, tmp_path)
    new = rows[10:20] * 1.1
    np.testing.assert_allclose(ask(X=new)["transformed"], model.transform(new), rtol=1e-4, atol=1e-5)
