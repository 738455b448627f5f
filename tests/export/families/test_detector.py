"""A detector becomes one file: proved at sizes and in batches that were never traced, with and without objects."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from onnxferry.export import export_checkpoint
from onnxferry.export.families import detector as exporter
from onnxferry.runtime import Detector, load
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.errors import CheckpointError, InputError, ParityError
from onnxferry.train.data.images import load_images
from onnxferry.train.data.scenes import compose_scene
from onnxferry.train.families import detector as family
from onnxferry.train.families.detector import DetectorConfig, Network
from onnxferry.train.loop.checkpoint import Checkpoint


def checkpoint(channels: int = 1, framing: str = "ink") -> Checkpoint:
    """A network that has learnt nothing and finds objects all the same: blank cells are far below the threshold, others anywhere."""
    torch.manual_seed(0)
    config = DetectorConfig(labels=("a", "b", "c"), channels=channels, size=96, framing=framing, width=8, blocks=(1, 1))
    network = Network(config).train()
    digits = load_images("digits-5k", limit=100).test
    scenes = [compose_scene(np.random.default_rng(seed), digits, 70 + 10 * seed, 90) for seed in range(4)]
    images = [torch.from_numpy(scene.image).repeat(1, 1, channels)[None] for scene in scenes]
    canvas = family.Canvas(framing, config.size)
    with torch.no_grad():
        for image in images * 3:  # running statistics of its own
            network(canvas(image)[0])
        network.eval()
        features: list[torch.Tensor] = []
        hook = network.merge4.register_forward_hook(lambda _, __, out: features.append(out))
        network(canvas(torch.full((1, 64, 64, channels), 255, dtype=torch.uint8))[0])
        hook.remove()
        blank = features[0][0, :, 8, 8]  # of a cell far from the edges
        torch.nn.init.normal_(network.head.weight, std=0.5)
        weight = network.head.weight[:, :, 0, 0]
        network.head.weight[:, :, 0, 0] = weight - (weight @ blank)[:, None] * blank / (blank @ blank)  # blank cells say 0
        network.head.bias.zero_()
        seen = torch.cat([network(canvas(image)[0])[0].amax(dim=1).flatten() for image in images])
        network.head.weight /= seen.max() / 4  # scores that are not saturated have no ties
        network.head.bias[:3] = -seen.quantile(0.95) / (seen.max() / 4)
    return Checkpoint(
        family="detector",
        config=dataclasses.asdict(config),
        weights=network.state_dict(),
        examples={f"image{number}": image for number, image in enumerate(images)},
        provenance={"command": "onnxferry train detector --data /home/somebody/secret"},
    )


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    checkpoint().save(folder / "best.pt")
    report = export_checkpoint(folder / "best.pt", folder / "found.onnx")
    assert report.passed
    assert report.summary()["untraced_shapes"] >= 12
    assert report.outputs["boxes"].elements > 200  # not only empty answers
    return folder / "found.onnx"


@pytest.fixture
def model(artifact: Path):
    with load(artifact, device="cpu") as opened:
        assert isinstance(opened, Detector)
        yield opened


def test_the_file_says_what_it_is(artifact: Path, model: Detector) -> None:
    contract = model.contract
    assert contract is not None
    assert (contract.kind, contract.family, contract.labels) == ("detector", "detector", ("a", "b", "c"))
    assert {name: array.item() for name, array in contract.defaults.items()} == pytest.approx(
        {"score_threshold": family.SCORE_THRESHOLD, "iou_threshold": family.IOU_THRESHOLD}
    )
    assert len(contract.goldens) == 3
    assert "somebody" not in json.dumps(dict(contract.provenance))
    graph = onnx.load(artifact).graph
    operators = [node.op_type for node in graph.node]
    assert (operators.count("NonMaxSuppression"), operators.count("If")) == (1, 1)
    assert "MatMul" not in operators, "an image that keeps its size is not resampled"
    assert "Equal" not in operators, "the map's size is not computed of the image's"
    assert sum(kind not in ("Conv", "Relu", "Constant") for kind in operators) <= 80
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    shapes = {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.output}
    assert shapes["boxes"][1:] == [4]
    assert shapes["boxes"][0] == shapes["scores"][0] == shapes["class_index"][0] == shapes["image_index"][0]
    assert main(["check", str(artifact)]) == 0


def test_it_answers_as_the_network(model: Detector) -> None:
    made = checkpoint()
    reference = family.Detector(made.model()).eval()  # type: ignore[arg-type]
    rng = np.random.default_rng(5)
    for shape in ((1, 33, 190), (3, 61, 50), (2, 300, 211)):
        image = rng.integers(0, 256, (*shape, 1), dtype=np.uint8)
        with torch.inference_mode():
            boxes, scores, index, which = (each.numpy() for each in reference(torch.from_numpy(image), 0.3, 0.4))
        found = model.run({"image": image, "score_threshold": np.array(0.3, np.float32), "iou_threshold": np.array(0.4, np.float32)})
        assert len(boxes) > 0
        # As the export's own tolerances: float32 of pixels, and a sigmoid.
        np.testing.assert_allclose(found["boxes"], boxes, rtol=1e-5, atol=5e-3)
        np.testing.assert_allclose(found["scores"], scores, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(found["class_index"], index)
        np.testing.assert_array_equal(found["image_index"], which)


def test_images_in_a_batch_do_not_touch_each_other(model: Detector) -> None:
    images = [array.numpy()[0] for array in checkpoint().examples.values()]
    same = [images[0], 255 - images[0], np.zeros_like(images[0])]
    together = dict(model.detect_each(enumerate(same)))
    assert len(together[0]) > 0
    for number, image in enumerate(same):
        alone = model.detect(image)
        assert [each.label for each in alone] == [each.label for each in together[number]]
        for a, b in zip(alone, together[number], strict=True):
            assert a.box == pytest.approx(b.box, abs=1e-3)  # the sums of a larger product may be taken in another order


def test_color_and_any_image(tmp_path: Path) -> None:
    checkpoint(3, "fit").save(tmp_path / "best.pt")
    report = export_checkpoint(tmp_path / "best.pt", tmp_path / "color.onnx")
    assert report.passed
    with load(tmp_path / "color.onnx", device="cpu") as model:
        assert isinstance(model, Detector)
        assert model.channels == 3
        model.detect(Image.new("L", (30, 50), 9))


def test_a_graph_without_suppression_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge sees a graph that keeps boxes which the network drops."""
    monkeypatch.setattr(exporter, "MAX_BOXES", 1)
    checkpoint().save(tmp_path / "best.pt")
    with pytest.raises(ParityError, match="shape"):
        export_checkpoint(tmp_path / "best.pt", tmp_path / "found.onnx")
    assert not (tmp_path / "found.onnx").exists()


def test_what_does_not_apply(tmp_path: Path) -> None:
    made = checkpoint()
    made.save(tmp_path / "best.pt")
    with pytest.raises(InputError, match="with_labels"):
        export_checkpoint(tmp_path / "best.pt", tmp_path / "found.onnx", with_labels=True)
    dataclasses.replace(made, examples={}).save(tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match="no example images"):
        export_checkpoint(tmp_path / "best.pt", tmp_path / "found.onnx")


def test_variants_are_scored_by_their_boxes(artifact: Path) -> None:
    from onnxferry.export.optimize.budget import parse_budget
    from onnxferry.export.optimize.samples import samples_for
    from onnxferry.export.optimize.score import needed_budget, outputs_of, score
    from onnxferry.runtime.engine.engine import Engine
    from onnxferry.runtime.kinds import DETECTOR

    with Engine(artifact, device="cpu") as engine:
        first, second = samples_for(engine, DETECTOR, None, None, limit=70)
        assert set(first.feeds) == {"image"}
        outputs = outputs_of(engine, second.feeds)
        assert outputs["image_index"].max() >= 64  # of the second batch
    assert second.labels is not None
    assert second.labels.shape[::2] == (70, 5)
    rows = [(image, row) for image, rows in enumerate(second.labels) for row in rows if row[0] >= 0]
    right = {
        "image_index": np.array([image for image, _ in rows]),
        "boxes": np.array([row[1:] for _, row in rows]),
        "scores": np.ones(len(rows), np.float32),
        "class_index": np.array([int(row[0]) for _, row in rows]),
    }
    some = {name: array[: len(rows) * 9 // 10] for name, array in right.items()}
    found = score(parse_budget("map -20pt"), right, some, second.labels)
    assert (found.metric, found.source, found.n, found.inside) == ("map", 100.0, 70, True)
    assert 80 < found.variant < 100
    assert needed_budget(found)[0].startswith("map -")
    assert not score(parse_budget(DETECTOR.budget), right, some, second.labels).inside
