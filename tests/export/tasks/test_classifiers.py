"""A classifier of one's own, of any framework, as a recogniser: labels behind it, an image in front of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from onnxferry.export import ImageInput, ParityError, export_model, verify_file
from onnxferry.export.graphs.nodes import all_nodes
from onnxferry.export.pipeline.provenance import shortened
from onnxferry.export.tasks import source
from onnxferry.export.tasks.classifier_head import head_for
from onnxferry.runtime import Classifier, Engine, load
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import ExportError, InputError

LABELS = ("cat", "dog", "sea lion")
GREY = ImageInput(height=12, width=12, channels=1, scale=1 / 255)


class Small(nn.Module):
    """Logits; takes (batch, 1, 12, 12)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3))

    def forward(self, pixels):
        return self.body(pixels) * 4


def pictures(count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 12, 12, 1), dtype=np.uint8)


def as_torch(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def test_pytorch_logits_become_a_recogniser(tmp_path: Path) -> None:
    model = Small().eval()
    report = export_model(model, None, tmp_path / "own.onnx", labels=LABELS, image=GREY)
    assert report.passed
    assert report.summary()["untraced_shapes"] > 5
    assert any("softmax" in note for note in report.notes)
    own = load(tmp_path / "own.onnx")
    assert isinstance(own, Classifier)
    images = pictures()
    with torch.no_grad():
        expected = model(as_torch(images)).softmax(1).numpy()
    for image, row in zip(images, expected, strict=True):
        prediction = own.predict_one(image)
        assert prediction.label == LABELS[row.argmax()]
        np.testing.assert_allclose(prediction.probabilities, row, rtol=1e-4, atol=1e-6)
    assert len(own.predict([images[0], np.zeros((40, 50, 3), np.uint8)])) == 2
    assert {node.domain for node in all_nodes(onnx.load(tmp_path / "own.onnx"))} == {""}
    assert verify_file(tmp_path / "own.onnx", model).passed
    with torch.no_grad():
        model.body[3].bias[0] += 0.01
    assert not verify_file(tmp_path / "own.onnx", model).passed


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """export and predict, evaluate, check, verify, optimize: as for a model that was trained here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "zoo_of_mine.py").write_text(
        "import torch\nfrom torch import nn\ndef make():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3))\n"
    )
    options = ["--labels", "cat,dog,sea lion", "--image", "12x12x1", "--scale", "1/255"]
    assert main(["export", "zoo_of_mine:make", "-o", "own.onnx", *options]) == 0
    own = load("own.onnx")
    assert isinstance(own, Classifier)
    for number, image in enumerate(pictures(24)):
        label = own.predict_one(image).label
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / f"{number}.png")
    first = next((tmp_path / "photos").rglob("*.png"))
    capsys.readouterr()
    assert main(["predict", "own.onnx", str(first), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["label"] == first.parent.name
    assert main(["evaluate", "own.onnx", "--data", "photos", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 1.0
    assert main(["check", "own.onnx"]) == 0
    assert main(["verify", "own.onnx", "zoo_of_mine:make"]) == 0
    np.savez("held_out.npz", image=pictures(16), labels=np.array([own.predict_one(image).index for image in pictures(16)]))
    assert main(["optimize", "own.onnx", "--data", "held_out.npz", "--budget", "top1 -0.1pt", "--batch", "1", "--seconds", "0.01"]) == 0


def test_preprocessing_that_is_wrong_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is with the definition, not with the nodes."""
    right = source.image_nodes

    def wrong(*arguments):
        nodes = right(*arguments)
        for node in nodes:
            if node.op_type == "Mul":
                node.op_type = "Add"
        return nodes

    monkeypatch.setattr(source, "image_nodes", wrong)
    foreign(tmp_path / "theirs.onnx", "N")
    image = ImageInput(height=16, width=16, channels=3, scale=1 / 255)
    with pytest.raises(ParityError):
        export_model(tmp_path / "theirs.onnx", None, tmp_path / "own.onnx", labels=LABELS, image=image)
    assert not (tmp_path / "own.onnx").exists()


@pytest.mark.parametrize(
    ("rows", "activation", "expected"),
    [
        ([[2.0, -1.0, 0.0], [0.1, 0.2, 0.9]], "softmax", None),
        ([[-0.2, -2.0, -3.0], [-1.0, -1.0, -1.2]], "softmax", None),  # logarithms of probabilities
        ([[0.2, 0.7, 0.1], [0.0, 0.0, 1.0]], "none", [[0.2, 0.7, 0.1], [0.0, 0.0, 1.0]]),
        ([[3.0], [-3.0]], "sigmoid", [[0.04742587, 0.95257413], [0.95257413, 0.04742587]]),
        ([[0.25], [0.75]], "none", [[0.75, 0.25], [0.25, 0.75]]),
    ],
)
def test_logits_and_probabilities_are_told_apart(rows: list[list[float]], activation: str, expected: list[list[float]] | None) -> None:
    """And the nodes do what numpy does."""
    scores = np.array(rows, np.float32)
    labels = LABELS if scores.shape[1] == 3 else LABELS[:2]
    head = head_for({"output": scores}, labels, "auto", None)
    assert head.activation == activation
    found = head.answer({"output": scores})
    np.testing.assert_allclose(found["probabilities"].sum(1), 1, rtol=1e-5)
    if expected is not None:
        np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-5)
    ends = [
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", scores.shape[1]])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(labels)]),
            helper.make_tensor_value_info("class_index", TensorProto.INT64, ["n"]),
        ],
    ]
    graph = helper.make_graph(head.nodes({"output": "output"}, scores.shape[1]), "g", *ends)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with Engine(model.SerializeToString()) as engine:
        given = engine.run({"output": scores})
    np.testing.assert_allclose(given["probabilities"], found["probabilities"], rtol=1e-5)
    assert given["class_index"].tolist() == found["class_index"].tolist()


def test_scikit_learn_on_pixels(tmp_path: Path) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    rows, kinds = pictures(60).reshape(60, -1) / 255, np.array(LABELS)[rng.integers(0, 3, 60)]
    model = linear_model.LogisticRegression(max_iter=300).fit(rows, kinds)
    export_model(model, None, tmp_path / "own.onnx", image=GREY)
    own = load(tmp_path / "own.onnx")
    assert own.labels == tuple(sorted(LABELS))
    assert [p.label for p in own.predict(pictures(60))] == model.predict(rows).tolist()


def foreign(path: Path, batch: int | str, opset: int = 13) -> np.ndarray:
    """An .onnx file from elsewhere, NCHW, whose input and output are called as ours are. Returns its weights."""
    weights = np.random.default_rng(0).standard_normal((3, 3), dtype=np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 16, 16])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7), path)
    return weights


@pytest.mark.parametrize("batch", [1, "N"])
def test_an_onnx_file_from_elsewhere(tmp_path: Path, batch: int | str) -> None:
    weights = foreign(tmp_path / "theirs.onnx", batch)
    image = ImageInput(height=16, width=16, channels=3, scale=1 / 64, fit="crop")
    report = export_model(tmp_path / "theirs.onnx", None, tmp_path / "own.onnx", labels=LABELS, image=image)
    assert report.passed
    images = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    logits = images.reshape(3, -1, 3).mean(1) / 64 @ weights
    assert [p.index for p in load(tmp_path / "own.onnx").predict(images)] == logits.argmax(1).tolist()


def test_an_old_operator_set_is_refused_with_what_to_do(tmp_path: Path) -> None:
    foreign(tmp_path / "theirs.onnx", "N", opset=9)
    with pytest.raises(ExportError, match=r"operator set 9.*convert_version"):
        export_model(tmp_path / "theirs.onnx", None, tmp_path / "own.onnx", labels=LABELS, image="16x16x3")


def test_an_image_without_labels(tmp_path: Path) -> None:
    """Of any model: an image in, the model's own outputs out; here of one that takes rows of pixels."""
    torch.manual_seed(0)
    model = nn.Linear(144, 2).eval()
    export_model(model, None, tmp_path / "own.onnx", image=GREY)
    own = load(tmp_path / "own.onnx")
    images = pictures()
    with torch.no_grad():
        expected = model(as_torch(images).flatten(1)).numpy()
    np.testing.assert_allclose(own.run({"image": images})["output"], expected, rtol=1e-4, atol=1e-5)


def test_labels_alone_take_the_size_from_the_model(tmp_path: Path) -> None:
    report = export_model(
        Small().eval(), torch.rand(2, 1, 12, 12), tmp_path / "own.onnx", labels=LABELS, dynamic_shapes={"pixels": {0: "n"}}
    )
    assert isinstance(load(tmp_path / "own.onnx"), Classifier)
    assert any("0 to 255" in note for note in report.notes)


def test_the_size_of_the_image_is_the_model_s_own_where_it_says_it(tmp_path: Path) -> None:
    model = Small().eval()
    report = export_model(
        model,
        torch.rand(2, 1, 12, 12),
        tmp_path / "own.onnx",
        labels=LABELS,
        image={"scale": 1 / 255, "fit": "crop"},
        dynamic_shapes={"pixels": {0: "n"}},
    )
    assert not any("0 to 255" in note for note in report.notes)
    export_model(model, None, tmp_path / "said.onnx", labels=LABELS, image=ImageInput.parse("12x12x1", scale=1 / 255, fit="crop"))
    images = pictures(5)
    with load(tmp_path / "own.onnx") as own, load(tmp_path / "said.onnx") as said:
        np.testing.assert_allclose(own.run({"image": images})["probabilities"], said.run({"image": images})["probabilities"], atol=1e-6)
    assert verify_file(tmp_path / "own.onnx", model).passed


@pytest.mark.parametrize(
    ("model", "image", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(144, 3)), {"scale": 1 / 255}, r"does not say the size of an image .*--image HEIGHTxWIDTH"),
        (Small(), {"layout": "nhwc"}, "layout='nhwc' does not fit the model's input, which is nchw"),
        (Small(), {"size": 12}, "a dict of ImageInput's fields"),
        (Small(), {"std": 0}, "std must be finite and not 0"),
    ],
)
def test_a_size_that_the_model_does_not_say(tmp_path: Path, model: nn.Module, image: dict[str, object], words: str) -> None:
    examples = torch.rand(2, 144) if isinstance(model, nn.Sequential) else torch.rand(2, 1, 12, 12)
    with pytest.raises(InputError, match=words):
        export_model(model.eval(), examples, tmp_path / "own.onnx", labels=LABELS, image=image)
    with pytest.raises(InputError, match=r"or say the size of its image: .*--image"):
        export_model(model.eval(), None, tmp_path / "own.onnx", labels=LABELS, image=image)


def test_samples_are_images(tmp_path: Path) -> None:
    foreign(tmp_path / "theirs.onnx", "N")
    with pytest.raises(InputError, match="'x', expected the one array 'image'"):
        export_model(tmp_path / "theirs.onnx", None, tmp_path / "own.onnx", labels=LABELS, image="16x16x3", samples=[{"x": pictures(3)}])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": LABELS[:2], "image": GREY}, "2 labels are given, and no output"),
        ({"labels": ("a", "b", "a"), "image": GREY}, "'a' is given twice"),
        ({"labels": "abc", "image": GREY}, "a list of class names"),
        ({"image": GREY, "activation": "softmax"}, "give labels="),
        ({"labels": LABELS, "image": GREY, "activation": "relu"}, "unknown activation"),
        ({"labels": LABELS, "image": GREY, "scores": "y"}, "'y' does not hold 3"),
        ({"labels": LABELS, "image": "13x13x1"}, "the model itself fails"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises((InputError, ExportError), match=words):
        export_model(Small().eval(), None, tmp_path / "own.onnx", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "own.onnx").exists()


def test_several_inputs_take_no_image(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["c"])]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 8, 8]) for name in names] for names in ("ab", "c")]
    model = helper.make_model(helper.make_graph(nodes, "g", *ends), opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "two.onnx")
    with pytest.raises(InputError, match="one input, and this one has 2: a, b"):
        export_model(tmp_path / "two.onnx", None, tmp_path / "own.onnx", image="8x8x3")


def test_a_fraction_is_no_path() -> None:
    assert shortened(["export", "/home/me/m.onnx", "--scale", "1/255", "--std=1/2"]) == [
        "export",
        "m.onnx",
        "--scale",
        "1/255",
        "--std=1/2",
    ]


def test_a_run_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match="option labels does not apply"):
        export_model(tmp_path / "run", None, tmp_path / "own.onnx", labels=LABELS)
