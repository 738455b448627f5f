"""What a recogniser makes of few images: a set that is easy to tell apart is learned, and the first line says how."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import figures_photos
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from onnxferry.runtime.cli.main import main
from onnxferry.train.data.images import load_images
from onnxferry.train.families.cnn import CnnLearner, CnnOptions
from onnxferry.train.loop.checkpoint import load_checkpoint


@pytest.mark.slow
def test_few_photos_are_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """60 photos, of which 42 are trained on: the preset's own batch of 50 would make 18."""
    figures_photos.write("clothes", tmp_path, each=20, others=4)
    small = ["--color", "--size", "28", "--width", "4", "--epochs", "30", "--preset", "quick", "--device", "cpu"]
    (tmp_path / "photos" / "a" / "notes.txt").write_text("no photo")
    assert main(["train", "cnn", "--data", str(tmp_path / "photos"), *small, "--out", str(tmp_path / "run"), "--json"]) == 0
    shown = capsys.readouterr()
    assert "note: 1 file was passed over (1 .txt)" in shown.err
    assert "images: 42 to train on, 6 to choose the epoch by, 12 to test on; batch 16, 30 epochs of 3 updates: 90 updates" in shown.err
    result = json.loads(shown.out)
    assert result["test"]["accuracy"] >= 0.9
    assert set(result["baseline"]) == {"majority", "logistic_regression"}
    assert load_checkpoint(tmp_path / "run").metrics["baseline"] == result["baseline"]


def test_mistakes_in_rare_classes_cost_more() -> None:
    splits = load_images("digits-5k", limit=200, validation=10)
    rare = np.concatenate([np.flatnonzero(splits.train.labels != 3), np.flatnonzero(splits.train.labels == 3)[:2]])
    splits = dataclasses.replace(splits, train=splits.train.take(rare))
    learner = CnnLearner(splits, CnnOptions(epochs=1, class_weights="balanced"), framing="ink", width=4)
    learner.setup(Fabric(accelerator="cpu"), 10)
    counts = np.bincount(splits.train.labels, minlength=10)
    expected = torch.from_numpy(len(rare) / (10 * counts)).float()
    assert learner.class_weights is not None
    torch.testing.assert_close(learner.class_weights, expected)


_UPDATES = """
import torch
from onnxferry.train.families.cnn import Cnn, CnnConfig, fast_layout
for width in (4, 6, 8, 12, 16, 24):
    network = Cnn(CnnConfig(labels=("a", "b"), width=width)).to(memory_format=fast_layout(width)).train()
    for count in (2, 50, 128):
        logits, _ = network(torch.rand(count, 1, 28, 28).contiguous(memory_format=fast_layout(width)))
        logits.square().mean().backward()
"""


def test_networks_of_any_width_train() -> None:
    """torch's channels-last kernels end the process at some widths, hence a process of its own."""
    done = subprocess.run([sys.executable, "-c", _UPDATES], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
