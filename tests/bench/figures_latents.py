"""The shipped autoencoder's figures, through the runtime, on MNIST's 10,000 test images.

    python tests/bench/figures_latents.py --data DIR --fashion DIR     # IDX files; without them they are looked up or fetched
    python tests/bench/figures_latents.py --checkpoint RUN             # and parity with PyTorch, on all of them

Mean squared error beside PCA's, fitted on the 60,000 training images with as many components; the anomaly score's AUROC between
the digits and Fashion-MNIST's 10,000 test images. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from onnxferry.runtime import Autoencoder, load
from onnxferry.train.data.images import load_images
from onnxferry.train.families.autoencoder import DecoderTask, EncoderTask
from onnxferry.train.families.pca import fit_pca
from onnxferry.train.loop.checkpoint import load_checkpoint


def auroc(ordinary: np.ndarray, strange: np.ndarray) -> float:
    """The chance that a strange one scores higher than an ordinary one; ties count a half."""
    ranked = np.sort(ordinary)
    below, upto = np.searchsorted(ranked, strange, "left"), np.searchsorted(ranked, strange, "right")
    return float((below + upto).mean() / 2 / len(ordinary))


def channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def apart(ours: np.ndarray, theirs: np.ndarray) -> tuple[int, float]:
    difference = np.abs(ours.astype(int) - theirs)
    return int(difference.max()), float(np.count_nonzero(difference) / difference.size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits-ae")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--fashion", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()
    digits = load_images("mnist", arguments.data, validation=0)
    clothes = load_images("fashion-mnist", arguments.fashion, validation=0).test.images
    model = load(arguments.model, device="cpu")
    if not isinstance(model, Autoencoder):
        raise SystemExit(f"{arguments.model} is not an autoencoder")
    test = digits.test.images
    scores = model.anomaly_score(test)
    mse = float(scores.astype(np.float64).mean())
    linear = fit_pca(channels_first(digits.train.images), model.latent).mse(channels_first(test))
    strange = model.anomaly_score(clothes)
    figures: dict[str, object] = {
        "model": arguments.model,
        "test_images": len(test),
        "latents": model.latent,
        "mean squared error": mse,
        "PCA's, as many components": linear,
        "share of PCA's": mse / linear,
        "AUROC, digits against fashion": auroc(scores, strange),
        "digits above the threshold": float((scores > model.threshold).mean()),
        "fashion above the threshold": float((strange > model.threshold).mean()),
    }
    if arguments.checkpoint:
        network = load_checkpoint(arguments.checkpoint, "ae").model()
        encoder, decoder = EncoderTask(network).eval(), DecoderTask(network).eval()  # type: ignore[arg-type]
        parts: list[list[np.ndarray]] = [[], [], [], []]
        with torch.inference_mode():
            for start in range(0, len(test), 500):
                made, latent, score = encoder(torch.from_numpy(test[start : start + 500].copy()))
                for part, array in zip(parts, (made, latent, score, decoder(latent)), strict=True):
                    part.append(array.numpy())
        made, latent, score, decoded = (np.concatenate(part) for part in parts)
        largest, share = apart(model.reconstruct(test), made[..., 0])
        largest_decoded, share_decoded = apart(model.decode(latent), decoded[..., 0])
        figures["levels a pixel differs from PyTorch's, at most"] = max(largest, largest_decoded)
        figures["share of pixels that differ"] = max(share, share_decoded)
        figures["largest difference of a latent from PyTorch"] = float(np.abs(model.encode(test) - latent).max())
        figures["largest difference of a score from PyTorch"] = float(np.abs(scores - score).max())
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
