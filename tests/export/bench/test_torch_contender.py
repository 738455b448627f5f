"""Networks that are rebuilt out of files: proved, or refused; and what a byte is held against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxferry.export.bench.contenders.base import open_contender
from onnxferry.export.bench.contenders.rebuilt import rebuild, rebuild_text
from onnxferry.export.bench.verdicts import shipped_rows
from onnxferry.export.bench.workloads import bench_model, make_job
from onnxferry.runtime.errors import CheckFailedError, ExportError

IMAGES = [name for name in shipped_rows() if name != "shakespeare"]


@pytest.mark.parametrize("name", IMAGES)
def test_every_shipped_network_is_rebuilt_and_answers_as_its_file(name: str) -> None:
    model = bench_model(name)
    job = make_job(model, 2, count=1)
    made = rebuild(model.path).run(job.feeds[0])
    for output, expected in job.answers[0].items():
        atol = 1.0 if expected.dtype == np.uint8 else 1e-4
        np.testing.assert_allclose(made[output].astype(float), expected.astype(float), rtol=1e-3, atol=atol)


def test_a_weight_that_is_another_one_is_caught(tmp_path: Path) -> None:
    model = onnx.load(bench_model("digits").path)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "network.head.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[::-1].copy(), weight.name))
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(CheckFailedError, match=r"the PyTorch network rebuilt from other\.onnx"):
        rebuild(tmp_path / "other.onnx")


def test_a_weight_that_is_missing_is_named(tmp_path: Path) -> None:
    model = onnx.load(bench_model("digits").path)
    next(tensor for tensor in model.graph.initializer if tensor.name == "network.head.weight").name = "renamed"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ExportError, match=r"'network.head.weight'.*is not in the file"):
        rebuild(tmp_path / "other.onnx")


def test_a_file_of_nobodys_has_no_network(tmp_path: Path, scale_model: bytes) -> None:
    (tmp_path / "scale.onnx").write_bytes(scale_model)
    with pytest.raises(ExportError, match="carries no contract"):
        rebuild(tmp_path / "scale.onnx")
    with pytest.raises(ExportError, match="is no text generator"):
        rebuild_text(tmp_path / "scale.onnx")


@pytest.mark.parametrize("name", ["torch", "one-step"])
def test_text_is_written_the_same(name: str) -> None:
    model = bench_model("shakespeare")
    job = make_job(model, 2, count=2)
    contender = open_contender(name, model, 1)
    call = contender.ready(job.feeds)
    for i, expected in enumerate(job.answers):
        assert np.array_equal(contender.named(call(i))["bytes"], expected["bytes"])


def test_openvino_answers(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed: pip install 'onnxferry[bench]'")
    model = bench_model("digits-gan")
    contender = open_contender("openvino-f32", model, 1)
    assert contender.precision == "float32"
    for batch in (1, 3):  # one after the other: what was fixed for the first must not bind the second
        job = make_job(model, batch, count=2)
        call = contender.ready(job.feeds)
        made = contender.named(call(1))["image"].astype(int)
        assert np.abs(made - job.answers[1]["image"]).max() <= 1
