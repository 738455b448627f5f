"""Models whose weights do not fit into one message of protobuf: they lie beside the file, and are proved all the same.

CI lowers the threshold. The real thing, 2.2 GB of weights (some 12 GB of memory, 5 GB of disk):
``ONNXFERRY_LARGE=1 pytest tests/export/pipeline/test_large_models.py``.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from onnxferry.export import ParityError, export_model
from onnxferry.export.graphs.nodes import EXTERNAL_DATA_BYTES, weight_bytes
from onnxferry.export.graphs.writer import opened
from onnxferry.runtime.cli.main import main
from onnxferry.runtime.engine.engine import Engine

LARGE = bool(os.environ.get("ONNXFERRY_LARGE"))


class Wide(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(width, 64)
        self.head = nn.Linear(64, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.table(ids)).mean(1))


def lowered(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    for module in ("graphs.writer", "sources.pytorch.capture"):
        monkeypatch.setattr(f"onnxferry.export.{module}.EXTERNAL_DATA_BYTES", limit)


IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])
AXES = {"ids": {0: "batch", 1: "time"}}


def carried(model: nn.Module, path: Path) -> None:
    report = export_model(model, IDS, path, dynamic_shapes=AXES)
    assert report.passed
    assert any(not case.traced for case in report.compared)
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".data", ".onnx"]
    ids = np.array([[3, 1, 4, 1, 5]])
    with Engine(path, device="cpu") as engine, torch.no_grad():
        np.testing.assert_allclose(engine.run({"ids": ids})["output"], model(torch.from_numpy(ids)).numpy(), atol=1e-6)
    assert main(["check", str(path)]) == 0
    assert main(["check", str(path), "--untrusted", "--max-memory", "8", "--max-seconds", "300"]) == 0


def test_weights_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered(monkeypatch, 10_000)
    carried(Wide(100).eval(), tmp_path / "m.onnx")


def test_what_is_refused_leaves_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered(monkeypatch, 10_000)
    with pytest.raises(ParityError) as caught:
        export_model(Wide(100).eval(), IDS, tmp_path / "m.onnx", dynamic_shapes=AXES, rtol=0.0, atol=0.0)
    assert "differs at" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_weights_are_counted_without_writing_them(tmp_path: Path) -> None:
    """Protobuf raises where it is asked how long a message of more than 2 GiB is."""
    model = onnx.ModelProto()
    for element in (onnx.TensorProto.FLOAT, onnx.TensorProto.INT8):
        model.graph.initializer.add(data_type=element, dims=[2**15, 2**15])
    assert weight_bytes(model) == 5 * 2**30 > EXTERNAL_DATA_BYTES


def test_a_graph_is_opened_through_a_folder_that_goes_again(scale_model: bytes) -> None:
    model = onnx.load_from_string(scale_model)
    for limit in (None, 0):
        with opened(model, external_data_bytes=limit) as engine:
            np.testing.assert_array_equal(engine.run({"x": np.ones((1, 3), np.float32)})["y"], np.full((1, 3), 2, np.float32))
            if limit == 0:
                assert engine.path is not None
    assert engine.path is not None
    assert not engine.path.parent.exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not LARGE, reason="takes 12 GB of memory: ONNXFERRY_LARGE=1 runs it")
def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    carried(Wide(8_700_000).eval(), tmp_path / "m.onnx")
    assert next(tmp_path.glob("m.onnx.*.data")).stat().st_size > 2.2e9
