"""Models of a common size that are made for measuring, with random weights: nobody's to use, and the same on every machine.

``resnet18``: He et al. 2015 (arXiv 1512.03385), table 1, 18 layers, on images uint8 (batch, 224, 224, 3).
``lstm-2x512``: a text generator of two LSTM layers of 512, without skip connections, and what ``onnxferry optimize`` makes of it: its
budget is checked on a text that the model writes itself.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnxferry.export.families.checkpoint import export_checkpoint
from onnxferry.export.optimize.optimize import optimize
from onnxferry.export.pipeline.export import export_module
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.engine.engine import Engine
from onnxferry.runtime.kinds import RNN
from onnxferry.train.families.cnn import Block, start_convolutions
from onnxferry.train.families.rnn import Rnn, RnnConfig
from onnxferry.train.loop.checkpoint import Checkpoint

SIDE = 224


CLASSES = 1000


class ResNet18(nn.Module):
    """``image`` uint8 (batch, 224, 224, 3) → probabilities float32 (batch, 1000), class_index int64 (batch,)."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1))
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        blocks: list[nn.Module] = []
        inputs = 64
        for outputs in (64, 128, 256, 512):
            blocks += [Block(inputs, outputs, 1 if outputs == inputs else 2), Block(outputs, outputs, 1)]
            inputs = outputs
        self.stages = nn.Sequential(*blocks)
        self.head = nn.Linear(512, CLASSES)
        start_convolutions(self.stem, self.stages)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        pixels = image.permute(0, 3, 1, 2).to(torch.float32) / 255.0
        features = self.stages(self.stem((pixels - self.mean) / self.std)).mean(dim=(2, 3))
        probabilities = F.softmax(self.head(features), dim=1)
        return probabilities, probabilities.argmax(dim=1)


def resnet18() -> ResNet18:
    """Its blocks' second normalisations start at zero, and would multiply all that they read by it: here they do not."""
    torch.manual_seed(0)
    network = ResNet18()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, Block):
                module.norm2.weight.fill_(0.5)
        network.head.weight.mul_(8)  # so that the classes differ
    return network.eval()


def _make_resnet18(path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    export_module(
        resnet18(),
        {"image": images},
        path,
        contract=Contract(kind="model", name="resnet18", description="Random weights, for measuring"),
        dynamic_shapes={"image": {0: "batch"}},
        output_names=["probabilities", "class_index"],
        golden=[{"image": images[:1].numpy()}],
        decisions={"probabilities"},
    )


WRITTEN = 64, 600
"""Texts, and bytes of each, that the made text generator is optimized on."""


def _make_lstm(path: Path) -> None:
    torch.manual_seed(0)
    config = RnnConfig(cell="lstm", depth=2, width=512, skip=False)
    network = Rnn(config).eval()
    with torch.no_grad():
        network.head.weight.normal_(0, 0.3)
        for parameter in network.parameters():
            parameter.copy_(parameter.half().float())
    source = path.with_suffix(".pt")
    examples = {"text": torch.arange(256, dtype=torch.uint8)}
    Checkpoint(RNN.name, vars(config), dict(network.state_dict()), data={"name": "none"}, examples=examples).save(source)
    try:
        export_checkpoint(source, path, name="lstm-2x512", description="Random weights, for measuring")
    finally:
        source.unlink()
    text = path.with_suffix(".txt")
    with Engine(path) as engine:
        uniforms = np.random.default_rng(0).random(WRITTEN, dtype=np.float32)
        text.write_bytes(engine.run({"prompt": np.full((WRITTEN[0], 1), ord("\n"), np.uint8), "uniforms": uniforms})["bytes"].tobytes())
    try:
        optimize(path, data=text)
    finally:
        text.unlink()


def make(name: str, path: Path) -> None:
    """Write the model of that name, one of ``scoreboard.models.MADE``, to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder, path.name)
        {"resnet18": _make_resnet18, "lstm-2x512": _make_lstm}[name](made)
        for file in sorted(Path(folder).iterdir(), key=lambda file: file == made):  # the model last: where it is, its variants are
            file.replace(path.with_name(file.name))
