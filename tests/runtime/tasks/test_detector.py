"""Detectors on a graph made by hand: two boxes in every image, and what a file may not do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.artifact.metadata import metadata_from_contract
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.images.boxes import draw_boxes
from onnxferry.runtime.tasks.detector import Box, Detection, Detections, Detector
from onnxferry.runtime.tasks.loading import load

BOXES = np.array([[10, 2, 18, 12], [1, 1, 9, 11], [1, 2, 9, 12]], np.float32)
SCORES = np.array([0.9, 0.8, 0.7], np.float32)
CLASSES = np.array([3, 1, 2], np.int64)


def write_detector(path: Path, *, classes: np.ndarray = CLASSES, labels: tuple[str, ...] = tuple("0123456789"), top: float = 0.0) -> Path:
    """In every image three candidates, of which the last two overlap by 0.82. Nothing is found in an image of no brightness."""
    constants = {
        "boxes_1": BOXES[None] + np.array([0, top, 0, 0], np.float32),
        "scores_1": SCORES[None],
        "classes_1": classes[None],
        "most": np.array(10, np.int64),
        "zero": np.array(0, np.int64),
        "two": np.array(2, np.int64),
        "ones": np.array([1], np.int64),
        "candidates": np.array([3], np.int64),
        "edges": np.array([4], np.int64),
        "full": np.array(255, np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        node("ReduceMax", ["pixels"], ["light"], axes=[1, 2, 3], keepdims=0),
        node("Div", ["light", "full"], ["share"]),
        node("Unsqueeze", ["share", "ones"], ["column"]),  # (batch, 1)
        node("Mul", ["column", "scores_1"], ["candidate_scores"]),  # (batch, 3)
        node("Shape", ["share"], ["batch"]),
        node("Concat", ["batch", "candidates", "edges"], ["box_shape"], axis=0),
        node("Expand", ["boxes_1", "box_shape"], ["candidate_boxes"]),
        node("Concat", ["batch", "candidates"], ["class_shape"], axis=0),
        node("Expand", ["classes_1", "class_shape"], ["candidate_classes"]),
        node("Unsqueeze", ["candidate_scores", "ones"], ["one_class"]),
        node("NonMaxSuppression", ["candidate_boxes", "one_class", "most", "iou_threshold", "score_threshold"], ["kept"]),
        node("Gather", ["kept", "zero"], ["image_index"], axis=1),
        node("Gather", ["kept", "two"], ["cell"], axis=1),
        node("Unsqueeze", ["image_index", "ones"], ["left"]),
        node("Unsqueeze", ["cell", "ones"], ["right"]),
        node("Concat", ["left", "right"], ["places"], axis=1),
        node("GatherND", ["candidate_boxes", "places"], ["boxes"]),
        node("GatherND", ["candidate_scores", "places"], ["scores"]),
        node("GatherND", ["candidate_classes", "places"], ["class_index"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "two_boxes",
        [
            info("image", TensorProto.UINT8, ["batch", "height", "width", 1]),
            info("score_threshold", TensorProto.FLOAT, []),
            info("iou_threshold", TensorProto.FLOAT, []),
        ],
        [
            info("boxes", TensorProto.FLOAT, ["objects", 4]),
            info("scores", TensorProto.FLOAT, ["objects"]),
            info("class_index", TensorProto.INT64, ["objects"]),
            info("image_index", TensorProto.INT64, ["objects"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    contract = Contract(
        kind="detector",
        name="boxes",
        family="detector",
        labels=labels,
        defaults={"score_threshold": np.array(0.3, np.float32), "iou_threshold": np.array(0.5, np.float32)},
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    for key, value in metadata_from_contract(contract).items():
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_detector(tmp_path / "boxes.onnx")


@pytest.fixture
def model(path: Path):
    with load(path, device="cpu") as opened:
        assert isinstance(opened, Detector)
        yield opened


WHITE = np.full((20, 24), 255, np.uint8)


def test_objects_of_one_image(model: Detector) -> None:
    found = model.detect(WHITE)
    assert [(each.label, each.index, each.box) for each in found] == [("3", 3, Box(10, 2, 18, 12)), ("1", 1, Box(1, 1, 9, 11))]
    assert [each.score for each in found] == pytest.approx([0.9, 0.8])
    assert found.text == "13"  # from left to right
    assert json.loads(json.dumps(found.to_dict()))["objects"][0]["box"] == [10, 2, 18, 12]
    assert model.channels == 1


def test_thresholds(model: Detector) -> None:
    assert len(model.detect(WHITE, score_threshold=0.85)) == 1
    assert len(model.detect(WHITE, iou_threshold=0.9)) == 3
    assert model.detect(WHITE, score_threshold=1) == []
    for bad in (-0.1, 1.1, "0.5", True, float("nan")):
        with pytest.raises(InputError, match="score_threshold must be a number from 0 to 1"):
            model.detect(WHITE, score_threshold=bad)  # type: ignore[arg-type]


def test_no_object_is_an_empty_list(model: Detector) -> None:
    found = model.detect(np.zeros((9, 9), np.uint8))
    assert found == []
    assert found.text == ""
    assert found.lines() == []


def test_a_stream_of_images_of_several_sizes(model: Detector, tmp_path: Path) -> None:
    Image.fromarray(WHITE).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    errors: list[str] = []
    images = [
        ("file", tmp_path / "a.png"),
        ("broken", tmp_path / "b.png"),
        ("black", WHITE * 0),
        ("half", WHITE // 2),
        ("other", WHITE[:7]),
    ]
    found = dict(model.detect_each(images, on_error=lambda key, error: errors.append(key)))
    assert errors == ["broken"]
    assert {key: len(each) for key, each in found.items()} == {"file": 2, "black": 0, "half": 2, "other": 2}
    assert found["half"][0].score == pytest.approx(0.45, abs=0.01)
    with pytest.raises(InputError, match="batch_size"):
        model.detect_each([WHITE], 0)


def at(label: str, x: float, y: float, side: float = 10) -> Detection:
    return Detection(label, int(label), 0.9, Box(x, y, x + side, y + side))


def test_lines_are_read_from_top_to_bottom() -> None:
    found = Detections([at("4", 30, 21), at("2", 12, 1), at("1", 0, 3), at("3", 8, 22), at("9", 24, 5)])
    assert found.text == "129\n34"
    slanted = Detections([at(str(number), 12 * number, 3 * number) for number in (3, 0, 2, 1)])
    assert slanted.text == "0123"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: write_detector(path, classes=np.array([3, 1, 77])), "gives class_index 1 to 77, expected 0 to 9"),
        (lambda path: write_detector(path, top=float("nan")), "not finite"),
    ],
)
def test_lying_graphs(tmp_path: Path, spoil: Callable[[Path], Path], words: str) -> None:
    with load(spoil(tmp_path / "boxes.onnx"), device="cpu") as model:
        assert isinstance(model, Detector)
        with pytest.raises(ArtifactError, match=words):
            model.detect(WHITE, iou_threshold=1.0)


def test_without_labels_it_is_no_detector(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="labels, one a class"):
        load(write_detector(tmp_path / "boxes.onnx", labels=()), device="cpu")


def test_drawn_boxes() -> None:
    drawn = draw_boxes(WHITE[..., None], [(2, 10, 8, 18), (12, 4, 20, 19)], ["a", "长"], [0, 1])
    assert drawn.shape == (400, 480, 3)  # enlarged 20 times
    assert (drawn[15 * 20, 2 * 20] != 255).any()  # the left edge of the first frame
    assert (drawn[2 * 20, 22 * 20] == 255).all()
    assert draw_boxes(np.zeros((500, 10, 3), np.uint8), [], [], []).shape == (500, 10, 3)


def test_the_verb(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(WHITE).save(tmp_path / "n.png")
    Image.new("L", (5, 5)).save(tmp_path / "black.png")
    assert main(["detect", str(path), str(tmp_path / "n.png"), "--picture", str(tmp_path / "boxes.png")]) == 0
    out = capsys.readouterr().out
    assert "reads: 13" in out
    assert "0.90" in out
    with Image.open(tmp_path / "boxes.png") as image:
        assert image.size == (480, 400)
    assert main(["detect", str(path), str(tmp_path / "n.png"), str(tmp_path / "black.png"), "--json", "--score", "0.85"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [result["text"] for result in document["results"]] == ["3", ""]
    assert document["picture"] is None
    assert main(["detect", str(path), str(tmp_path / "black.png")]) == 0
    assert "nothing found" in capsys.readouterr().out


def test_what_the_verb_refuses(path: Path, recogniser: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(WHITE).save(tmp_path / "n.png")
    image = str(tmp_path / "n.png")
    assert main(["detect", str(path), image, image, "--picture", str(tmp_path / "x.png")]) == 1
    assert "--picture draws one image, and 2 are given" in capsys.readouterr().err
    assert main(["detect", str(recogniser), image]) == 1
    assert "is not a detector, its contract says recogniser" in capsys.readouterr().err
    assert main(["predict", str(path), image]) == 1
    assert "is not a recogniser, its contract says detector" in capsys.readouterr().err
    (tmp_path / "broken.png").write_bytes(b"x")
    assert main(["detect", str(path), str(tmp_path / "broken.png"), image]) == 1
    shown = capsys.readouterr()
    assert "reads: 13" in shown.out
    assert "broken.png" in shown.err


def write_set(folder: Path) -> Path:
    """As the graph answers, but for one box; and an image without any."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for name, value in (("a", 255), ("b", 0)):
        Image.new("L", (20, 20), value).save(folder / "images" / f"{name}.png")
    (folder / "labels" / "a.txt").write_text("1 0.7 0.35 0.4 0.5\n0 0.25 0.3 0.4 0.5\n")
    (folder / "classes.txt").write_text("1\n3\n")  # in another order than the model's
    return folder


def test_evaluate(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_set(tmp_path / "set")
    assert main(["evaluate", str(path), "--data", str(data), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["map"] == pytest.approx(1.0)
    assert document["classes"] == {"1": 1.0, "3": 1.0}
    assert (document["images"], document["boxes"], document["read"], document["read_share"]) == (2, 2, 2, 1.0)
    assert main(["evaluate", str(path), "--data", str(data)]) == 0
    assert "mAP 50-95" in capsys.readouterr().out
    (data / "classes.txt").write_text("1\ncat\n")
    assert main(["evaluate", str(path), "--data", str(data)]) == 1
    assert "names the class 'cat', and the model knows" in capsys.readouterr().err
    assert main(["evaluate", str(path), "--data", str(data), "--plot", str(tmp_path / "x.png")]) == 1
    assert "--plot does not apply to a detector" in capsys.readouterr().err
