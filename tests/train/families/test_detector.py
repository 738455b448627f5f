"""The detector: its targets, its suppression, and a tiny run from the user's own boxes to a checkpoint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import DataError, InputError
from onnxferry.train.data import detection
from onnxferry.train.data.own_boxes import OwnScenes, load_own_boxes
from onnxferry.train.data.scenes import Scene
from onnxferry.train.families.detector import Candidates, Canvas, Detector, DetectorConfig, Network, start_from
from onnxferry.train.families.detector_boxes import box_loss, choice_loss, heat_loss, non_maximum_suppression, targets
from onnxferry.train.loop.checkpoint import load_checkpoint

BOXES = torch.tensor([[[8.0, 8, 24, 32], [40, 4, 44, 20]], [[0, 0, 60, 60], [0, 0, 0, 0]]])
LABELS = torch.tensor([[2, 0], [1, -1]])


def test_targets_have_a_peak_in_the_middle_of_each_box() -> None:
    heat, wanted, label, weight = targets(BOXES, LABELS, 3, 16, 16, stride=4)
    assert (heat == 1).nonzero().tolist() == [[0, 0, 3, 10], [0, 2, 5, 4], [1, 1, 7, 7]]
    assert wanted[0, :, 5, 4].tolist() == [8, 8, 24, 32]
    assert wanted[0, :, 3, 10].tolist() == [40, 4, 44, 20]
    assert weight[0, 5, 4] == 1
    assert label[0, 5, 4] == 2
    assert label[0, 3, 10] == 0
    assert not weight[label < 0].any()
    assert (weight[1] > 0).sum() > (weight[0] > 0).sum() / 2  # a large box is learned by more cells
    assert weight[0, 15, 15] == 0
    assert heat[1, [0, 2]].max() == 0  # what is padded has no heat


def test_an_image_without_an_object_has_no_target_and_a_finite_loss() -> None:
    heat, wanted, label, weight = targets(torch.zeros(1, 1, 4), torch.tensor([[-1]]), 2, 4, 4, stride=4)
    assert heat.sum() == weight.sum() == 0
    logits = torch.full((1, 2, 4, 4), -4.0)
    assert 0 < heat_loss(logits, heat) < 1
    assert box_loss(torch.zeros(1, 4, 4, 4), wanted, weight) == 0
    assert choice_loss(logits, label, weight) == 0


def test_the_losses_are_least_for_the_truth() -> None:
    heat, wanted, label, weight = targets(BOXES, LABELS, 3, 16, 16, stride=4)
    right = torch.where(heat == 1, 9.0, -9.0)
    assert heat_loss(right, heat) < 0.01 < heat_loss(-right, heat)
    learned = F.one_hot(label.clamp(min=0), 3).movedim(-1, 1).float()
    assert choice_loss(9 * learned, label, weight) < 0.01 < choice_loss(-9 * learned, label, weight)
    # 1e-6: float32 of a ratio of areas
    assert box_loss(wanted, wanted, weight) < 1e-6
    far = wanted + 200
    assert box_loss(far, wanted, weight) > 1  # boxes that do not touch still have a slope: generalized IoU


def test_suppression_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 4], [20, 20, 30, 30], [5, 5, 5, 5]])
    scores = torch.tensor([0.6, 0.9, 0.5, 0.7, 0.05])
    assert non_maximum_suppression(boxes, scores, 0.5, 0.1, 100).tolist() == [1, 3, 2]  # 0 shares 0.8 with 1, 2 shares just 0.5
    assert non_maximum_suppression(boxes, scores, 0.49, 0.1, 100).tolist() == [1, 3]
    assert non_maximum_suppression(boxes, scores, 0.5, 0.1, 2).tolist() == [1, 3]
    assert non_maximum_suppression(boxes, scores, 1.0, 0.6, 100).tolist() == [1, 3]  # above the threshold, not at it
    assert non_maximum_suppression(boxes, scores, 0.5, 0.9, 100).tolist() == []
    assert non_maximum_suppression(boxes[:0], scores[:0], 0.5, 0.1, 100).tolist() == []


def test_the_canvas_keeps_small_images_and_reduces_large_ones() -> None:
    canvas = Canvas("ink", 64)
    image = torch.zeros(1, 20, 33, 1, dtype=torch.uint8)
    image[0, 4:9, 5:11] = 255
    seen, scale = canvas(image)
    assert (seen.shape, scale) == ((1, 1, 32, 48), 1)
    assert seen[0, 0, :20, :33].allclose(image[0, :, :, 0] / 255)
    assert seen[0, 0, 20:].abs().max() == 0
    seen, scale = canvas(torch.zeros(2, 130, 100, 1, dtype=torch.uint8))
    assert scale == pytest.approx(130 / 64)
    assert seen.shape == (2, 1, 64, 64)  # 100 / 2.03 is 49.2, and 64 the next multiple of 16


def test_boxes_are_in_pixels_of_the_image_whatever_its_size() -> None:
    """A network that says one box in one cell: the same place of an image three times as large is three times as far."""
    network = Network(DetectorConfig(labels=("a",), size=64, width=4, blocks=(1, 1))).eval()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.zero_()
    candidates = Candidates(network)
    small, _, _ = candidates(torch.zeros(1, 64, 64, 1, dtype=torch.uint8))
    large, scores, index = candidates(torch.zeros(1, 192, 192, 1, dtype=torch.uint8))
    assert large.shape == (1, 256, 4)
    torch.testing.assert_close(large, 3 * small)
    assert small[0, 8 * 16 + 8].tolist() == [22, 22, 46, 46]  # the cell at 34, 34, and a box of 24
    assert small.min() == 0
    assert small.max() == 64  # cut at the edges
    assert (scores == 0.5).all()
    assert (index == 0).all()


def test_a_batch_is_numbered() -> None:
    torch.manual_seed(0)
    network = Network(DetectorConfig(labels=("a", "b"), size=64, width=4, blocks=(1, 1))).eval()
    with torch.no_grad():
        network.head.bias[:2] = 1.0
    image = torch.randint(0, 256, (3, 40, 40, 1), dtype=torch.uint8)
    boxes, scores, index, which = Detector(network)(image)
    assert len(boxes) == len(scores) == len(index) == len(which)
    assert which.unique().tolist() == [0, 1, 2]
    alone = Detector(network)(image[1:2])
    torch.testing.assert_close(boxes[which == 1], alone[0])
    none = Detector(network)(image, 1.0)
    assert [tuple(each.shape) for each in none] == [(0, 4), (0,), (0,), (0,)]


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """14 images of a dark square or a dark bar, as YOLO has them; one is empty."""
    rng = np.random.default_rng(0)
    root = tmp_path / "shapes"
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("square\nbar\n")
    for number in range(14):
        image = np.full((48, 64), 230, np.uint8)
        left, top = rng.integers(2, 40), rng.integers(2, 20)
        width, height = (16, 16) if number % 2 else (8, 24)
        lines = ""
        if number:
            image[top : top + height, left : left + width] = 20
            lines = f"{1 - number % 2} {(left + width / 2) / 64} {(top + height / 2) / 48} {width / 64} {height / 48}\n"
        Image.fromarray(image).save(root / "images" / f"{number:02}.png")
        (root / "labels" / f"{number:02}.txt").write_text(lines)
    return root


TINY = ["--width", "4", "--epochs", "2", "--batch", "4", "--side", "48", "--size", "64", "--device", "cpu"]


def test_a_run_on_own_boxes(squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "detector", "--data", str(squares), *TINY, "--out", str(tmp_path / "run"), "--json"]) == 0
    shown = capsys.readouterr()
    assert "images: 10 to train on, 1 to choose the epoch by, 3 to test on" in shown.err
    result = json.loads(shown.out)
    assert set(result["test"]) == {"loss", "map", "map50", "map75", "n"}
    assert "little was learned" in result["warnings"][0]
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.config["labels"] == ("square", "bar")
    assert str(tmp_path) not in json.dumps(dict(checkpoint.data))
    assert checkpoint.model().training is False
    assert main(["train", "detector", "--data", str(squares), *TINY, "--out", str(tmp_path / "run"), "--resume", "--json"]) == 0


def test_an_interrupted_epoch_goes_on_with_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_fabric import Fabric

    from onnxferry.train.families.detector import DetectorLearner, DetectorOptions

    monkeypatch.setattr(detection, "SCENES", (1, 1))
    data = detection.load_scenes("digits-5k", limit=40, scenes=6)
    learner = DetectorLearner(data, DetectorOptions(epochs=1, batch=2, side=64), framing="ink", width=4)
    learner.fabric = Fabric(accelerator="cpu")
    whole, rest = list(learner.batches(0, 0)), list(learner.batches(0, 2))
    assert (len(whole), len(rest)) == (3, 1)
    for a, b in zip(whole[2], rest[0], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(whole[0][0][0, :8, :8], next(learner.batches(1, 0))[0][0, :8, :8])


def test_own_scenes_move_boxes_with_their_images() -> None:
    image = np.full((40, 60, 3), 255, np.uint8)
    image[10:30, 20:50] = 0
    scene = Scene(image, np.array([[20, 10, 50, 30]], np.float32), np.array([1]))
    for mirror in (False, True):
        for seed in range(12):
            made = OwnScenes([scene], mirror).scene(np.random.default_rng(seed), 0, 70, 90)
            assert made.image.shape == (70, 90, 3)
            for left, top, right, bottom in made.boxes:
                dark = np.argwhere(made.image[..., 0] < made.image.max() / 2)
                # 2 pixels: resampling blurs an edge over one, and rounds to another.
                assert np.abs(dark.min(axis=0) - [top, left]).max() <= 2
                assert np.abs(dark.max(axis=0) + 1 - [bottom, right]).max() <= 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--framing", "round"], "unknown framing 'round'"),
        (["--mirror"], "--mirror is for your own images"),
        (["--dataset", "fashion"], "unknown data set 'fashion'"),
        (["--learning-rate", "0"], "learning_rate must be above 0"),
    ],
)
def test_options_that_make_no_sense(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "detector", *words, "--out", str(tmp_path / "run")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_too_few_images(squares: Path) -> None:
    for file in sorted((squares / "images").iterdir())[2:]:
        file.unlink()
        (squares / "labels" / f"{file.stem}.txt").unlink()
    with pytest.raises(DataError, match="has 2 images, too few"):
        load_own_boxes(squares, size=64)


def test_one_class_and_one_part_are_fine(squares: Path) -> None:
    for file in (squares / "labels").glob("*.txt"):
        lines = [line for line in file.read_text().splitlines() if line.startswith("0")]
        file.write_text("\n".join(lines))
    (squares / "classes.txt").write_text("square\n")
    splits = load_own_boxes(squares, size=32, color=False, validation=0)
    assert splits.classes == ("square",)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (11, 0, 3)
    assert splits.test[0].image.shape == (24, 32, 1)  # reduced, and its boxes with it
    assert max(scene.boxes.max(initial=0) for scene in splits.test) <= 32


def test_unknown_fields_of_the_network() -> None:
    with pytest.raises(InputError, match="unknown framing"):
        DetectorConfig(labels=("a",), framing="round")


def test_a_start_from_another_run(squares: Path) -> None:
    """Of other classes: the last layer is new, the others are those of the start before the first update."""
    from lightning_fabric import Fabric

    from onnxferry.train.families.detector import DetectorLearner, DetectorOptions

    own = load_own_boxes(squares, size=64, color=False)
    first = DetectorLearner(own, DetectorOptions(epochs=1), framing="ink", width=4)
    first.setup(Fabric(accelerator="cpu"), 1)
    start = first.checkpoint()
    other = DetectorLearner(dataclasses.replace(own, classes=("a", "b", "c")), DetectorOptions(), framing="ink", width=4, init=start)
    other.setup(Fabric(accelerator="cpu"), 1)
    weights = other.checkpoint().weights
    assert torch.equal(weights["stem.0.0.weight"], start.weights["stem.0.0.weight"])
    assert weights["head.weight"].shape[0] == 7
    assert other.described()["data"]["started from"] == "a detector trained on shapes"
    wide = DetectorLearner(own, DetectorOptions(), framing="ink", width=8, init=start)
    with pytest.raises(InputError, match="of another shape"):
        wide.setup(Fabric(accelerator="cpu"), 1)
    with pytest.raises(InputError, match="takes a run of train detector"):
        start_from(Network(first.config), dataclasses.replace(start, family="cnn"))
