"""An image generator (GAN) to its file: noise and labels in, uint8 images out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from onnxferry.export.options import ExportOptions
from onnxferry.export.parity.tolerances import PIXELS
from onnxferry.export.pipeline.provenance import without_paths
from onnxferry.export.source import Plan, numbered
from onnxferry.export.sources.pytorch.module import TorchSource
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.errors import CheckpointError, ExportError, InputError
from onnxferry.runtime.kinds import GAN, IMAGE_GENERATOR
from onnxferry.train.families.gan import Generator, GeneratorTask
from onnxferry.train.loop.checkpoint import EXPECTED, Checkpoint

RANDOM = "numpy.random.Generator(PCG64(seed)).standard_normal((n, noise), dtype=float32), a row an image"


def generator_plans(checkpoint: Checkpoint, name: str, options: ExportOptions) -> Sequence[Plan]:
    """``noise`` float32 (batch, noise), ``label`` int64 (batch,) → ``image`` uint8 (batch, size, size, channels)."""
    if options.with_labels:
        raise InputError("an image generator takes classes and has no output of classes: leave with_labels (--with-labels) out")
    network = checkpoint.model()
    if not isinstance(network, Generator):
        raise ExportError(f"the checkpoint rebuilds a {type(network).__name__}, not an image generator")
    config = network.config
    noise, label = checkpoint.example("noise", torch.float32, config.noise), checkpoint.example("label", torch.int64)
    if len(noise) != len(label) or label.min() < 0 or label.max() >= len(config.labels):
        raise CheckpointError(f"the checkpoint's examples are not noise and labels of {len(config.labels)} classes, row by row; {EXPECTED}")
    contract = Contract(
        kind=IMAGE_GENERATOR.name,
        name=name,
        family=GAN.name,
        description=f"Makes {config.size} x {config.size} images of {len(config.labels)} classes out of noise",
        labels=config.labels,
        options={"channels": config.channels, "image_size": [config.size, config.size], "noise": config.noise, "random": RANDOM},
        metrics=dict(checkpoint.metrics),
        provenance={"data": dict(checkpoint.data), "training": without_paths(checkpoint.provenance)},
    )
    rng = np.random.default_rng(7)

    def drawn(count: int, factor: float = 1.0) -> dict[str, np.ndarray]:
        numbers = rng.standard_normal((count, config.noise), dtype=np.float32) * np.float32(factor)
        return {"noise": numbers, "label": np.arange(count) % len(config.labels)}

    goldens = [{"noise": noise[:3], "label": label[:3]}, {"noise": noise[-1:], "label": label[-1:]}]
    samples = numbered([{"noise": noise, "label": label}, drawn(64), drawn(33, 2.0), drawn(1, 0.0), drawn(12, 100.0), drawn(12, 1e-8)])
    return [
        Plan(
            TorchSource(
                GeneratorTask(network).eval(),
                {
                    "noise": torch.from_numpy(rng.standard_normal((5, config.noise), dtype=np.float32)),
                    "label": torch.arange(5) % len(config.labels),
                },
                dynamic_shapes={"noise": {0: "batch"}, "label": {0: "batch"}},
                output_names=["image"],
            ),
            contract,
            samples=samples,
            goldens=options.chosen_goldens(goldens),
            tolerances={"image": PIXELS},
        )
    ]
