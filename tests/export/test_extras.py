"""What each extra can do without the packages of the others: exports in a child process in which those cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""

TRAINING_ONLY = ("lightning_fabric", "lightning", "mlxtend", "matplotlib")


def child(blocked: tuple[str, ...], program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCK.format(names=blocked) + program], capture_output=True, text=True, check=False, cwd=folder
    )


CHECKPOINT = """
import torch
from onnxferry.export import export_checkpoint
from onnxferry.train.families.gan import GanConfig, Generator
from onnxferry.train.loop.checkpoint import Checkpoint
import dataclasses, pathlib

config = GanConfig(labels=("a", "b"), noise=4, width=8)
network = Generator(config)
examples = {"noise": torch.randn(4, 4), "label": torch.arange(4) % 2}
Checkpoint("gan", dataclasses.asdict(config), network.state_dict(), examples=examples).save(pathlib.Path("best.pt"))
assert export_checkpoint("best.pt", "gan.onnx").passed
"""


def test_a_checkpoint_is_exported_without_what_only_training_needs(tmp_path: Path) -> None:
    result = child(TRAINING_ONLY, CHECKPOINT, tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "gan.onnx").is_file()
