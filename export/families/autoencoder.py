"""An autoencoder to its two files: the encoder, which also reconstructs and scores, and the decoder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from onnxferry.export.families.framing import task_source
from onnxferry.export.families.image_probes import image_probes, traced_image
from onnxferry.export.options import ExportOptions, Feeds
from onnxferry.export.parity.tolerances import FLOATS, PIXELS, SCORES
from onnxferry.export.pipeline.provenance import without_paths
from onnxferry.export.source import Plan, numbered
from onnxferry.export.sources.pytorch.module import TorchSource
from onnxferry.runtime.artifact.contract import Contract
from onnxferry.runtime.errors import CheckpointError, ExportError, InputError
from onnxferry.runtime.kinds import AUTOENCODER, DECODER, ENCODER
from onnxferry.runtime.tasks.autoencoder import decoder_path
from onnxferry.train.families.autoencoder import Autoencoder, DecoderTask, EncoderTask
from onnxferry.train.loop.checkpoint import EXPECTED, Checkpoint


def autoencoder_plans(checkpoint: Checkpoint, name: str, options: ExportOptions) -> Sequence[Plan]:
    """Two files: ``NAME.onnx``, ``image`` → ``reconstruction``, ``latent`` and ``anomaly_score``; ``NAME.decoder.onnx``, ``latent`` →
    ``image``.
    """
    if options.with_labels:
        raise InputError("an autoencoder has no classes: leave with_labels (--with-labels) out")
    network = checkpoint.model()
    if not isinstance(network, Autoencoder):
        raise ExportError(f"the checkpoint rebuilds a {type(network).__name__}, not an autoencoder")
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
        "pair": _digest(checkpoint),  # the same in both files: the decoder of another model would make nonsense
    }
    contract = Contract(
        kind=ENCODER.name,
        name=name,
        family=AUTOENCODER.name,
        description=f"Encodes images of any size as {config.latent} numbers, reconstructs them, and scores how anomalous they are",
        options={
            **shared,
            "framing": config.framing,
            "anomaly_threshold": checkpoint.metrics["anomaly_threshold"],
            "anomaly_quantile": checkpoint.metrics["anomaly_quantile"],
        },
        metrics=dict(checkpoint.metrics),
        provenance={"data": dict(checkpoint.data), "training": without_paths(checkpoint.provenance)},
    )
    side = max(config.size // 2 + 3, 5)
    goldens = [{"image": examples[:2]}, {"image": np.ascontiguousarray(examples[-1:, :, -side:])}]
    encoder = Plan(
        task_source(
            EncoderTask(network).eval(),
            {"image": torch.from_numpy(traced_image(config.channels))},
            dynamic_shapes={"image": {0: "batch", 1: "height", 2: "width"}},
            output_names=["reconstruction", "latent", "anomaly_score"],
        ),
        contract,
        samples=image_probes(config.channels, examples),
        goldens=options.chosen_goldens(goldens),
        tolerances={"reconstruction": PIXELS, "latent": FLOATS, "anomaly_score": SCORES},
    )
    latents = _latents(network, examples)
    probes = [latents, latents[::-1] * np.float32(1.5), np.zeros((1, config.latent), np.float32)]
    probes += [np.eye(config.latent, dtype=np.float32) * size for size in (np.float32(30), np.float32(-30), np.float32(1e-8))]
    decoder = Plan(
        TorchSource(
            DecoderTask(network).eval(),
            {"latent": torch.randn(3, config.latent, generator=torch.Generator().manual_seed(0))},
            dynamic_shapes={"latent": {0: "batch"}},
            output_names=["image"],
        ),
        contract.replace(
            kind=DECODER.name, description=f"Makes an image from {config.latent} numbers: the second half of {name}", options=shared
        ),
        samples=numbered([{"latent": probe} for probe in probes]),
        goldens=_decoder_goldens(latents, options.golden),
        tolerances={"image": PIXELS},
        place=decoder_path,
    )
    return [encoder, decoder]


def _latents(network: Autoencoder, examples: np.ndarray) -> np.ndarray:
    """float32 (n, latent), of the example images."""
    with torch.inference_mode():
        return np.ascontiguousarray(EncoderTask(network).eval()(torch.from_numpy(examples.copy()))[1].numpy())


def _decoder_goldens(latents: np.ndarray, golden: bool | Sequence[Feeds]) -> list[dict[str, np.ndarray]]:
    if golden is False:
        return []
    # If the user chose images, the others may be private, and latents are as private as their images.
    return [{"latent": latents[:2] if golden is True else np.eye(2, latents.shape[1], dtype=np.float32)}]


def _digest(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(checkpoint.weights.items()):
        digest.update(name.encode() + weight.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
