"""``onnxferry run``, and rows in ``predict`` and ``evaluate``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from onnxferry.runtime import RowClassifier, load
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.metadata import metadata_from_contract
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import InputError


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, build_onnx) -> Path:
    """Class 1, ``buys``, with the probability sigmoid(age - 40 + 100 if the city is Bonn)."""
    nodes = [
        helper.make_node("LabelEncoder", ["city"], ["bonus"], domain="ai.onnx.ml", keys_strings=["Bonn"], values_floats=[100.0]),
        helper.make_node("Cast", ["age"], ["years"], to=TensorProto.FLOAT),
        helper.make_node("Sum", ["years", "bonus", "minus"], ["score"]),
        helper.make_node("Sigmoid", ["score"], ["p"]),
        helper.make_node("Sub", ["one", "p"], ["q"]),
        helper.make_node("Concat", ["q", "p"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], ["class_index"], axis=1, keepdims=0),
    ]
    model = build_onnx(
        nodes,
        [("age", TensorProto.INT64, ["batch", 1]), ("city", TensorProto.STRING, ["batch", 1])],
        [("probabilities", TensorProto.FLOAT, ["batch", 2]), ("class_index", TensorProto.INT64, ["batch"])],
        [numpy_helper.from_array(np.float32(-40.5), "minus"), numpy_helper.from_array(np.float32(1), "one")],
        metadata=metadata_from_contract(Contract(kind="model", name="shop", labels=("leaves", "buys"))),
        domains={"ai.onnx.ml": 3},
    )
    path = tmp_path_factory.mktemp("shop") / "shop.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text("\ufeffid;age;city;kind\n1;34;Bonn;buys\n2;51;Ulm;buys\n3;20;Ulm;buys\n", encoding="utf-8")
    return path


def document(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_rows_of_a_table(shop: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(shop), "--feeds", str(rows), "-o", str(tmp_path / "y.csv")]) == 0
    printed = capsys.readouterr()
    assert "not used of rows.csv: id, kind" in printed.err
    assert (tmp_path / "y.csv").read_text().splitlines()[0] == "label,probabilities_0,probabilities_1,class_index"
    assert [line.partition(",")[0] for line in (tmp_path / "y.csv").read_text().splitlines()[1:]] == ["buys", "buys", "leaves"]
    assert main(["run", str(shop), "--feeds", str(rows), "-o", str(tmp_path / "y.npz"), "--json"]) == 0
    found = document(capsys)
    assert found["labels"] == ["buys", "buys", "leaves"]
    assert np.load(tmp_path / "y.npz")["class_index"].tolist() == found["outputs"]["class_index"]["values"] == [1, 1, 0]
    assert main(["run", str(shop), "--feeds", str(rows), "-o", str(tmp_path / "y.json")]) == 0
    assert json.loads((tmp_path / "y.json").read_text())["labels"] == ["buys", "buys", "leaves"]


def test_single_values_and_json(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(shop), "-f", "age=[51, 20]", "-f", "city=Ulm", "--json"]) == 0
    assert document(capsys)["labels"] == ["buys", "leaves"]
    (tmp_path / "x.json").write_text('[{"age": 51, "city": "Ulm"}]')
    assert main(["run", str(shop), "-f", str(tmp_path / "x.json"), "--json"]) == 0
    assert document(capsys)["labels"] == ["buys"]


def test_arrays(tmp_path: Path, scale_model: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scale.onnx").write_bytes(scale_model)
    np.savez(tmp_path / "x.npz", x=np.ones((2, 3), np.int32))
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    np.savez(tmp_path / "other.npz", rows=np.ones((2, 3), np.float32))
    for feeds in (["x.npz"], ["x.npy"], ["x=x.npy"], ["other.npz"], ["x=1,1,1", "factor=2"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            assert main(["run", "scale.onnx", *(word for each in feeds for word in ("--feeds", each)), "--json"]) == 0
        assert document(capsys)["outputs"]["y"]["values"][0] == [2, 2, 2]


def test_an_image_for_pixels(tmp_path: Path, build_onnx, capsys: pytest.CaptureFixture[str]) -> None:
    for dtype, name in ((TensorProto.UINT8, "pixels.onnx"), (TensorProto.FLOAT, "float.onnx")):
        model = build_onnx(
            [helper.make_node("Identity", ["x"], ["y"])], [("x", dtype, ["n", 3, "h", "w"])], [("y", dtype, ["n", 3, "h", "w"])]
        )
        onnx.save(model, tmp_path / name)
    Image.fromarray(np.full((2, 5), 9, np.uint8)).save(tmp_path / "a.png")
    assert main(["run", str(tmp_path / "pixels.onnx"), "--feeds", str(tmp_path / "a.png"), "--json"]) == 0
    assert document(capsys)["outputs"]["y"]["shape"] == [1, 3, 2, 5]
    assert main(["run", str(tmp_path / "float.onnx"), "--feeds", str(tmp_path / "a.png")]) == 1
    assert "--image HEIGHTxWIDTHxCHANNELS --scale 1/255" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        (["agee=3"], "no input 'agee'; it takes age: int64"),
        (["age=3"], "no --feeds for the input 'city'"),
        (["age=3", "age=4", "city=x"], "'age' twice"),
        (["age=x", "city=x"], "expected int64, such as 3.5 or [1, 2]"),
        (["age=" + "[" * 3_000, "city=x"], "expected int64, such as 3.5 or [1, 2]"),
        (["age=3.5", "city=x"], "3.5 at [0, 0] would change"),
        (["none.csv"], "there is no file none.csv"),
        (["none.zip"], "there is no file none.zip"),
    ],
)
def test_what_does_not_fit_is_said_by_name(shop: Path, feeds: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(shop), *(word for each in feeds for word in ("--feeds", each))]) == 1
    assert words in capsys.readouterr().err


def test_a_missing_text_is_said_by_row(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.csv").write_text("age,city\n3,Ulm\n4,\n")
    assert main(["run", str(shop), "--feeds", str(tmp_path / "rows.csv")]) == 1
    assert "rows.csv: row 2 of the column 'city' is empty" in capsys.readouterr().err


def test_predict_and_evaluate_rows(shop: Path, rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(shop), str(rows), "--top", "2", "--json"]) == 0
    first = document(capsys)["predictions"][0]
    assert (first["row"], first["label"], len(first["top"])) == ("rows.csv, row 1", "buys", 2)
    assert main(["predict", str(shop), str(rows)]) == 0
    assert "rows.csv, row 3" in capsys.readouterr().out
    assert main(["evaluate", str(shop), "--data", str(rows), "--target", "kind", "--json"]) == 0
    found = document(capsys)
    assert (found["rows"], found["correct"]) == (3, 2)
    assert main(["evaluate", str(shop), "--data", str(rows)]) == 1
    assert "Give --target NAME; beside the model's inputs there are id, kind" in capsys.readouterr().err
    assert main(["evaluate", str(shop), "--data", str(rows), "--target", "id"]) == 1
    assert "row 1 has the label '1', and the model knows leaves, buys" in capsys.readouterr().err
    assert main(["predict", str(shop), "photo.png"]) == 1
    assert "this model classifies rows" in capsys.readouterr().err


def test_rows_in_python(shop: Path) -> None:
    model = load(shop)
    assert isinstance(model, RowClassifier)
    one = model.predict_one({"age": 34, "city": "Bonn"})
    assert (one.label, one.index, one.probability > 0.99) == ("buys", 1, True)
    assert [p.label for p in model.predict({"age": [51, 20], "city": "Ulm"})] == ["buys", "leaves"]
    with pytest.raises(InputError, match=r"one row, got 2"):
        model.predict_one([{"age": 1, "city": "a"}, {"age": 2, "city": "b"}])
