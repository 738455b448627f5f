"""An autoencoder's checkpoint to its two artifacts: the encoder, which also reconstructs and scores, and the decoder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from onnxferry.export.families.image_probes import image_probes
from onnxferry.export.graphs.writer import checked_target
from onnxferry.export.parity.report import ParityReport
from onnxferry.export.parity.tolerances import FLOATS, PIXELS, SCORES
from onnxferry.export.pipeline.export import export_module
from onnxferry.export.pipeline.provenance import without_paths
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.errors import CheckpointError, ExportError, InputError
from onnxferry.runtime.kinds import AUTOENCODER, DECODER, ENCODER
from onnxferry.runtime.tasks.autoencoder import decoder_path
from onnxferry.train.families.autoencoder import Autoencoder, DecoderTask, EncoderTask
from onnxferry.train.loop.checkpoint import EXPECTED, Checkpoint


def export_autoencoder(
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
    """Carry an autoencoder across: ``NAME.onnx`` and ``NAME.decoder.onnx``; see
    :func:`onnxferry.export.families.checkpoint.export_checkpoint`. Both are proved before either gets its name.
    """
    if with_labels:
        raise InputError("an autoencoder has no classes: leave --with-labels out")
    network = checkpoint.model()
    if not isinstance(network, Autoencoder):
        raise ExportError(f"the checkpoint rebuilds a {type(network).__name__}, not an autoencoder")
    target = checked_target(path)
    config = network.config
    examples = checkpoint.example("image", torch.uint8, None, None, config.channels)
    missing = [name for name in ("anomaly_threshold", "anomaly_quantile") if not isinstance(checkpoint.metrics.get(name), int | float)]
    if missing:
        raise CheckpointError(f"the checkpoint's metrics have no number {missing[0]!r}; {EXPECTED}")
    shared = {
        "channels": config.channels,
        "image_size": [config.size, config.size],
        "latent": config.latent,
        "variational": config.variational,
        "pair": _digest(checkpoint),  # the same in both files: a decoder of another model would give nonsense
    }
    contract = Contract(
        kind=ENCODER.name,
        name=name,
        family=AUTOENCODER.name,
        description=description or f"Images of any size to {config.latent} numbers and back, and how strange they are",
        options={
            **shared,
            "framing": config.framing,
            "anomaly_threshold": checkpoint.metrics["anomaly_threshold"],
            "anomaly_quantile": checkpoint.metrics["anomaly_quantile"],
        },
        metrics=dict(checkpoint.metrics),
        provenance={"data": dict(checkpoint.data), "training": without_paths(checkpoint.provenance)},
        license=license,
    )
    side = max(config.size // 2 + 3, 5)
    goldens: Sequence[Mapping[str, np.ndarray]] = () if golden is False else golden if golden is not True else ()
    if golden is True:
        goldens = [{"image": examples[:2]}, {"image": np.ascontiguousarray(examples[-1:, :, -side:])}]
    traced = np.random.default_rng(1).integers(0, 256, (2, 45, 37, config.channels), dtype=np.uint8)
    latents = _latents(network, examples)
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}.", dir=target.parent) as folder:
        made = Path(folder) / target.name
        report = export_module(
            EncoderTask(network).eval(),
            {"image": torch.from_numpy(traced)},
            made,
            contract=contract,
            dynamic_shapes={"image": {0: "batch", 1: "height", 2: "width"}},
            output_names=["reconstruction", "latent", "anomaly_score"],
            probes=image_probes(config.channels, examples),
            golden_inputs=goldens,
            tolerances={"reconstruction": PIXELS, "latent": FLOATS, "anomaly_score": SCORES},
            command=command,
        )
        export_module(
            DecoderTask(network).eval(),
            {"latent": torch.randn(3, config.latent, generator=torch.Generator().manual_seed(0))},
            decoder_path(made),
            contract=contract.replace(
                kind=DECODER.name, description=f"Makes an image of {config.latent} numbers: the second half of {name}", options=shared
            ),
            dynamic_shapes={"latent": {0: "batch"}},
            output_names=["image"],
            probes=[{"latent": latents}, {"latent": latents[::-1] * np.float32(1.5)}, {"latent": np.zeros((1, config.latent), np.float32)}],
            golden_inputs=_decoder_goldens(latents, golden),
            tolerances={"image": PIXELS},
            command=command,
        )
        decoder_path(made).replace(decoder_path(target))
        made.replace(target)
    return report


def _latents(network: Autoencoder, examples: np.ndarray) -> np.ndarray:
    """float32 (n, latent), of the example images."""
    with torch.inference_mode():
        return np.ascontiguousarray(EncoderTask(network).eval()(torch.from_numpy(examples.copy()))[1].numpy())


def _decoder_goldens(latents: np.ndarray, golden: bool | Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    if golden is False:
        return []
    # Where the user chose images, the others may be private, and latents are as private as their images.
    return [{"latent": latents[:2] if golden is True else np.eye(2, latents.shape[1], dtype=np.float32)}]


def _digest(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(checkpoint.weights.items()):
        digest.update(name.encode() + weight.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
