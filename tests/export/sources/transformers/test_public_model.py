"""A model of somebody else's library, randomly initialised: BERT, as transformers builds it."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from onnxferry.export import export_model
from onnxferry.runtime.engine.engine import Engine

# transformers brings neither torch nor an ONNX Runtime of its own, so it is in [all] and CI has it.
if os.environ.get("CI"):
    transformers = importlib.import_module("transformers")
else:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'onnxferry[transformers]'")


@pytest.mark.slow
def test_bert(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, max_position_embeddings=64
    )
    model = transformers.BertModel(config).eval()
    ids = torch.randint(0, 97, (2, 7))
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    axes = {"input_ids": {0: "batch", 1: "time"}, "attention_mask": {0: "batch", 1: "time"}}
    report = export_model(model, {"input_ids": ids, "attention_mask": mask}, tmp_path / "bert.onnx", dynamic_shapes=axes)
    assert report.passed
    assert sum(not case.traced for case in report.compared) >= 5
    assert tuple(report.outputs) == ("last_hidden_state", "pooler_output")
    # Not by the judge: another batch, another length, and a sentence that is padding throughout.
    ids = np.random.default_rng(1).integers(0, 97, (3, 11))
    mask = np.array([[1] * 11, [1] * 4 + [0] * 7, [0] * 11])
    with torch.no_grad():
        want = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
    with Engine(tmp_path / "bert.onnx", device="cpu") as engine:
        got = engine.run({"input_ids": ids, "attention_mask": mask})
    np.testing.assert_allclose(got["last_hidden_state"], want.last_hidden_state.numpy(), atol=1e-5)
    np.testing.assert_allclose(got["pooler_output"], want.pooler_output.numpy(), atol=1e-5)
