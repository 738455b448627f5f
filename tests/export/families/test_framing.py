"""The framing in few operators gives what the trainer's code gives, for images of any size, colour and contrast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from onnxferry.export.families.framing import framing_nodes, replace_framing
from onnxferry.runtime.artifact.zoo import zoo_model
from onnxferry.train.data.images import read_embedded_digits
from onnxferry.train.preprocessing import Preprocessing

MOST = 50  # operators a run


def session(channels: int, size: int, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    graph = helper.make_graph(
        framing_nodes("image", "framed", channels, size),
        "framing",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", channels])],
        [helper.make_tensor_value_info("framed", TensorProto.FLOAT, ["batch", 1, size, size])],
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def images(channels: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    digits = np.repeat(read_embedded_digits()[0][::100], channels, axis=3)
    frame = np.zeros((len(digits), 90, 130, channels), np.uint8)
    frame[:, 50:78, 100:128] = digits
    squares = []
    for side in (12, 17, 18, 20, 21, 40):  # below, within and above what counts as placed
        square = np.zeros((1, 60, 50, channels), np.uint8)
        square[:, 5 : 5 + side, 7 : 4 + side] = 200
        squares.append(square)
    broken = frame[:4].copy()
    broken[:, 60:63] = 0  # rows without ink within the figure
    noise = [rng.integers(low, high, (3, 40, 30, channels)).astype(np.uint8) for low, high in ((0, 256), (100, 110))]
    blank = [np.full(shape, 77, np.uint8) for shape in ((1, 1, 1, channels), (2, 3, 90, channels))]
    return [digits, 255 - digits, digits[:2, :, :20], digits[:2, 4:], frame, broken, *squares, *noise, *blank]


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 28), (1, 29), (3, 32)])
def test_it_gives_what_the_trainer_computes(channels: int, size: int) -> None:
    run, wanted = session(channels, size), Preprocessing("ink", size)
    for each in images(channels):
        (framed,) = run.run(None, {"image": each})
        expected = wanted(torch.from_numpy(each)).numpy()
        assert framed.shape == expected.shape
        # Float32 places of an image 130 pixels wide are exact to 1e-5; a figure that is placed elsewhere is off by 0.1 and more.
        np.testing.assert_allclose(framed, expected, rtol=0, atol=5e-5)
    assert run.run(None, {"image": np.zeros((0, 28, 28, channels), np.uint8)})[0].shape == (0, 1, size, size)


def test_it_starts_few_operators(tmp_path: Path) -> None:
    session(1, 28, tmp_path / "optimized.onnx")
    nodes = [node for node in onnx.load(tmp_path / "optimized.onnx").graph.node if node.op_type != "Constant"]
    assert len(nodes) <= MOST


def test_the_shipped_digits_have_it() -> None:
    graph = onnx.load(zoo_model("digits").path).graph
    (normalizing,) = [node for node in graph.node if "network.mean" in node.input]
    before = [node for node in graph.node[: list(graph.node).index(normalizing)] if node.op_type != "Constant"]
    assert 0 < len(before) <= MOST + 2  # a transpose and a factor, which ONNX Runtime makes part of a matrix product


def test_what_is_not_found_is_left_alone() -> None:
    node = helper.make_node("Sub", ["image", "mean"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    assert not replace_framing(model, 1, 28)
    assert list(model.graph.node) == [node]
