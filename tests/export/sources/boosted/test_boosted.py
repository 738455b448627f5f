"""LightGBM, XGBoost and CatBoost: the file gives what the library's own ``predict`` gives, at thresholds and at rows never seen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from onnxferry.export import export_model, verify_file
from onnxferry.export.sources.boosted.edges import edges
from onnxferry.export.sources.boosted.models import library, places_of
from onnxferry.export.sources.boosted.source import as_estimator
from onnxferry.runtime import Engine
from onnxferry.runtime.errors import ExportError, InputError
from tests.export.sources.boosted import boosted_models as made_models

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries warn of names that an array does not have, and the like

CLOSE = 2e-6
"""Float32 has 7 digits. XGBoost's and ONNX Runtime's exponentials differ in the last of them."""


def own_answers(model: Any, rows: Any) -> dict[str, np.ndarray]:
    """As the library's user asks for them."""
    model = as_estimator(model) if library(model) else model
    if hasattr(model, "predict_proba"):
        shares = np.asarray(model.predict_proba(rows))
        predicted = np.asarray(model.predict(rows))
        several = predicted.ndim == 2 and predicted.shape[1] > 1
        return {"class_index": predicted if several else places_of(model.classes_, predicted), "probabilities": shares}
    return {"prediction": np.asarray(model.predict(rows))}


def harsh_rows(model: Any, rows: np.ndarray) -> np.ndarray:
    """Rows at the thresholds and their neighbors in the dtype of the rows, zeros of both signs, tiny numbers, NaN and infinities."""
    rng = np.random.default_rng(9)
    made = np.resize(rows, (300, rows.shape[1])).copy()
    special = np.array([0.0, -0.0, 1e-36, -1e-36, 1e-35, -1e-35, np.nan, np.inf, -np.inf], rows.dtype)
    for place in range(rows.shape[1]):
        known = edges(model).get(place, np.zeros(0)).astype(rows.dtype)
        near = np.concatenate(
            [known, np.nextafter(known, np.inf, dtype=rows.dtype), np.nextafter(known, -np.inf, dtype=rows.dtype), special]
        )
        chosen = rng.random(300) < 0.6
        made[chosen, place] = rng.choice(near, int(chosen.sum()))
    return made


@pytest.mark.parametrize("name", made_models.MODELS)
def test_the_file_gives_what_the_library_gives(name: str, tmp_path: Path) -> None:
    model, rows = made_models.MODELS[name]()
    report = export_model(model, rows[:50], tmp_path / "m.onnx")
    assert report.passed
    with Engine(tmp_path / "m.onnx", device="cpu") as engine:
        sets = [rows, rows[:1], rows[50:53]]
        if isinstance(rows, np.ndarray) and library(model) and "linear" not in name:
            harsh = harsh_rows(model, rows)
            # A DMatrix of XGBoost takes no infinities.
            sets.append(np.where(np.isinf(harsh), np.nan, harsh).astype(rows.dtype) if name.startswith("xgboost booster") else harsh)
        for each in sets:
            feeds = {"X": each} if isinstance(each, np.ndarray) else columns(each)
            found = engine.run(feeds)
            for output, want in own_answers(model, each).items():
                if output == "class_index":
                    np.testing.assert_array_equal(found[output], want)
                else:
                    scale = max(1.0, float(np.abs(want).max()))
                    np.testing.assert_allclose(found[output], want, rtol=CLOSE, atol=CLOSE * scale, equal_nan=True)


def columns(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """As a program without pandas would give them."""
    made = {}
    for name in frame:
        values = frame[name]
        if values.dtype.name == "category":
            values = values.astype(object)
            values = values.where(values.notna(), "")
        array = values.to_numpy()
        made[str(name)] = (
            array.astype(str)
            if any(isinstance(v, str) for v in array)
            else array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
        )[:, None]
    return made


def test_classes_in_any_order() -> None:
    assert places_of(np.array(["b", "a", "c"]), np.array(["c", "a", "b"])).tolist() == [2, 1, 0]


FILES = {
    "lightgbm two classes": "model.txt",
    "lightgbm booster": "model.txt",
    "lightgbm regression": "model.txt",
    "xgboost booster": "model.json",
    "xgboost two outputs": "model.ubj",
    "xgboost dart": "model.json",
    "catboost three classes": "model.cbm",
    "catboost regression": "model.json",
}


def save(model: Any, path: Path) -> None:
    if library(model) == "catboost":
        model.save_model(str(path), format="json" if path.suffix == ".json" else "cbm")
    else:
        getattr(model, "booster_", model).save_model(str(path))


@pytest.mark.parametrize("name", FILES)
def test_a_saved_model_is_exported_without_rows(name: str, tmp_path: Path) -> None:
    model, rows = made_models.MODELS[name]()
    path = tmp_path / FILES[name]
    save(model, path)
    assert export_model(path, None, tmp_path / "m.onnx").passed
    assert verify_file(tmp_path / "m.onnx", path).passed
    with Engine(tmp_path / "m.onnx", device="cpu") as engine:
        spec = engine.inputs[0]
        found = engine.run({"X": rows.astype(spec.dtype)})
    for output, want in own_answers(model, rows).items():
        np.testing.assert_allclose(found[output], want, rtol=1e-5, atol=1e-5)


def test_a_model_file_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from onnxferry.runtime.cli.main import main

    model, _ = made_models.MODELS["lightgbm two classes"]()
    save(model, tmp_path / "m.txt")
    assert main(["export", str(tmp_path / "m.txt"), "-o", str(tmp_path / "m.onnx")]) == 0
    assert "none were given" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "m.onnx")]) == 0


REFUSED = {
    "cut.txt": r"cut off, or of another version",
    "loop.txt": r"without children: the file is damaged",
    "parents.txt": r"two parents or none: the file is damaged",
    "cut.json": r"is no JSON",
    "other.json": r"is no model file that is read here; expected a model file of LightGBM \(\.txt\)",
    "dump.json": r"is a dump of XGBoost, which cannot be loaded: save the model, save_model\('model\.json'\)",
    "newer.json": r"damaged, or of another version",
    "cut.cbm": r"CatBoost 1\..* cannot read cut\.cbm",
    "cut.ubj": r"XGBoost .* cannot read cut\.ubj",
    "old.model": r"XGBoost's old binary format: open it with an XGBoost before 3\.1",
    "words.txt": r"is no model file that is read here",
    "missing.txt": r"there is no file",
    "ctr.cbm": r"statistics of the targets by category \(CTR\)",
}


def broken(name: str, path: Path) -> None:
    light = made_models.MODELS["lightgbm regression"]()[0].booster_.model_to_string()
    extreme = bytes(made_models.MODELS["xgboost booster"]()[0].save_raw("json")).decode()
    texts = {
        "cut.txt": light[: len(light) // 3],
        "loop.txt": light.replace("left_child=1", "left_child=0", 1),
        "parents.txt": re.sub(r"left_child=(\S+) \S+", r"left_child=\1 \1", light, count=1),
        "cut.json": extreme[: len(extreme) // 2],
        "other.json": '{"a": 1}',
        "dump.json": '[{"nodeid": 0, "leaf": 1}]',
        "newer.json": '{"learner": {"gradient_booster": {}}, "version": [9, 0, 0]}',
        "cut.ubj": "{L\x00\x00\x00\x00",
        "old.model": "binf\x00\x00",
        "words.txt": "a text\n",
        "cut.cbm": "CBM1abc",
    }
    if name in texts:
        path.write_bytes(texts[name].encode("latin-1"))
    if name == "ctr.cbm":
        import catboost

        frame = made_models.frame(missing=False)
        rows = frame.assign(town=frame["town"].astype(str))[["a", "town"]]
        options = {**made_models.CAT, "one_hot_max_size": 2}
        catboost.CatBoostClassifier(**options, cat_features=["town"]).fit(rows, made_models.of_frame(frame)).save_model(str(path))


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_exported_says_why(name: str, tmp_path: Path) -> None:
    broken(name, tmp_path / name)
    with pytest.raises((ExportError, InputError), match=REFUSED[name]) as caught:
        export_model(tmp_path / name, None, tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.onnx").exists()


def test_what_has_no_form_in_a_graph_is_refused(tmp_path: Path) -> None:
    import catboost
    import lightgbm

    frame = made_models.frame(missing=False)
    rows = frame.assign(town=frame["town"].astype(str))[["a", "town"]]
    ctr = catboost.CatBoostClassifier(**{**made_models.CAT, "one_hot_max_size": 2}, cat_features=["town"])
    with pytest.raises(ExportError, match=r"statistics of the targets by category \(CTR\).*one_hot_max_size=255"):
        export_model(ctr.fit(rows, made_models.of_frame(frame)), rows, tmp_path / "m.onnx")
    one_hot = catboost.CatBoostClassifier(**made_models.CAT, cat_features=["town"], one_hot_max_size=255)
    few = rows[rows["town"] == "Oslo"]
    with pytest.raises(ExportError, match=r"categories of town that none of the given rows has.*best the training data"):
        export_model(one_hot.fit(rows, made_models.of_frame(frame)), few, tmp_path / "m.onnx")
    for model in (lightgbm.LGBMClassifier(), catboost.CatBoostClassifier()):
        with pytest.raises(InputError, match=r"is not fitted, so there is nothing to export; call fit\(\) first"):
            export_model(model, rows[["a"]], tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"is a class; give a fitted LGBMClassifier"):
        export_model(lightgbm.LGBMClassifier, rows[["a"]], tmp_path / "m.onnx")
    frame_model, _ = made_models.MODELS["lightgbm frame"]()
    with pytest.raises(InputError, match=r"text categories .*: give rows to compare on, a DataFrame or a \.csv file"):
        export_model(frame_model, None, tmp_path / "m.onnx")
    own = lightgbm.LGBMRegressor(**made_models.LIGHT, objective=lambda y, p: (p - y, np.ones_like(y)))
    x = made_models.rows()
    assert export_model(own.fit(x, made_models.number(x)), x, tmp_path / "own.onnx").passed
    assert not (tmp_path / "m.onnx").exists()
