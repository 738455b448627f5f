"""An image generator's checkpoint to its artifact: noise and labels in, uint8 images out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from onnxferry.export.parity.report import ParityReport
from onnxferry.export.parity.tolerances import PIXELS
from onnxferry.export.pipeline.export import export_module
from onnxferry.export.pipeline.provenance import without_paths
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.errors import CheckpointError, ExportError, InputError
from onnxferry.runtime.kinds import GAN, IMAGE_GENERATOR
from onnxferry.train.families.gan import Generator, GeneratorTask
from onnxferry.train.loop.checkpoint import EXPECTED, Checkpoint

RANDOM = "numpy.random.Generator(PCG64(seed)).standard_normal((n, noise), dtype=float32), a row an image"


def export_generator(
    checkpoint: Checkpoint,
    path: str | os.PathLike[str],
    *,
    name: str,
    description: str,
    license: str,
    golden: bool | Sequence[Mapping[str, np.ndarray]],
    with_labels: bool = False,
    command: Sequence[str],
) -> ParityReport:
    """Carry an image generator across; see :func:`onnxferry.export.families.checkpoint.export_checkpoint`."""
    if with_labels:
        raise InputError("an image generator takes classes and gives none: leave --with-labels out")
    network = checkpoint.model()
    if not isinstance(network, Generator):
        raise ExportError(f"the checkpoint rebuilds a {type(network).__name__}, not an image generator")
    config = network.config
    noise, label = checkpoint.example("noise", torch.float32, config.noise), checkpoint.example("label", torch.int64)
    if len(noise) != len(label) or label.min() < 0 or label.max() >= len(config.labels):
        raise CheckpointError(f"the checkpoint's examples are no {len(config.labels)} classes' noise and labels, row by row; {EXPECTED}")
    contract = Contract(
        kind=IMAGE_GENERATOR.name,
        name=name,
        family=GAN.name,
        description=description or f"Makes {config.size} x {config.size} images of {len(config.labels)} classes out of noise",
        labels=config.labels,
        options={"channels": config.channels, "image_size": [config.size, config.size], "noise": config.noise, "random": RANDOM},
        metrics=dict(checkpoint.metrics),
        provenance={"data": dict(checkpoint.data), "training": without_paths(checkpoint.provenance)},
        license=license,
    )
    rng = np.random.default_rng(7)

    def drawn(count: int, factor: float = 1.0) -> dict[str, np.ndarray]:
        numbers = rng.standard_normal((count, config.noise), dtype=np.float32) * np.float32(factor)
        return {"noise": numbers, "label": np.arange(count) % len(config.labels)}

    probes = [{"noise": noise, "label": label}, drawn(64), drawn(33, 2.0), drawn(1, 0.0)]
    goldens: Sequence[Mapping[str, np.ndarray]]
    goldens = [{"noise": noise[:3], "label": label[:3]}, {"noise": noise[-1:], "label": label[-1:]}] if golden is True else golden or ()
    return export_module(
        GeneratorTask(network).eval(),
        {
            "noise": torch.from_numpy(rng.standard_normal((5, config.noise), dtype=np.float32)),
            "label": torch.arange(5) % len(config.labels),
        },
        path,
        contract=contract,
        dynamic_shapes={"noise": {0: "batch"}, "label": {0: "batch"}},
        output_names=["image"],
        probes=probes,
        golden_inputs=goldens,
        tolerances={"image": PIXELS},
        command=command,
    )
