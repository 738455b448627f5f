"""Measures what the features of ``digits`` are like on MNIST, and how many digits and other things the threshold refuses.

python tests/bench/figures_known.py --data MNIST_FOLDER [--write]

JSON. ``--write`` puts the measures into demo/assets/known-digits.npz. Letters and signs come from matplotlib's fonts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from onnxferry.demo.images.content import figures
from onnxferry.demo.shipped.known import Known
from onnxferry.runtime import load
from onnxferry.train.data.images import load_images

OUT = Path(__file__).parents[2] / "demo" / "assets" / "known-digits.npz"
BELOW = 0.9925  # share of the training images below the threshold
LETTERS = "ABCDEFGHJKLMNPQRTUVWXYabdefghkmnpqrtwxy"
SIGNS = "♥☺★#@&%?+=∞△□→"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    splits = load_images("mnist", arguments.data)
    model = load("digits")

    def features(images: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [model.engine.run({"image": images[i : i + 500]}, ["features"])["features"] for i in range(0, len(images), 500)]
        )

    known = measured(features(splits.train.images), splits.train.labels.astype(int))
    if arguments.write:
        np.savez_compressed(
            OUT, means=known.means.astype(np.float16), whitening=known.whitening.astype(np.float16), threshold=np.float32(known.threshold)
        )

    def refused(images: np.ndarray) -> float:
        found = [figures(image) != 1 or known.distance(row) > known.threshold for image, row in zip(images, features(images), strict=True)]
        return round(float(np.mean(found)), 4)

    noise = np.random.default_rng(0).integers(0, 256, (50, 112, 112, 1), np.uint8)
    pairs = np.stack([np.concatenate([a, b], axis=1) for a, b in zip(splits.test.images[:100], splits.test.images[100:200], strict=True)])
    blank = np.stack([np.full((64, 64, 1), level, np.uint8) for level in (0, 60, 128, 200, 255)])
    shown = {
        "MNIST test digits": refused(splits.test.images),
        "letters": refused(written(LETTERS)),
        "signs and shapes": refused(written(SIGNS)),
        "noise": refused(noise),
        "two digits": refused(pairs),
        "blank": refused(blank),
    }
    print(json.dumps({"threshold": round(known.threshold, 1), "share refused": shown}, indent=2))


def measured(features: np.ndarray, labels: np.ndarray) -> Known:
    """Means of the classes and the whitening of what is left, from float32 (n, features)."""
    means = np.stack([features[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    covariance = np.cov((features - means[labels]).T)
    covariance += 1e-4 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    whitening = np.linalg.cholesky(np.linalg.inv(covariance)).T.astype(np.float32)
    rough = Known(means.astype(np.float32), whitening, 0.0)
    return Known(rough.means, whitening, float(np.quantile([rough.distance(row) for row in features], BELOW)))


def written(characters: str) -> np.ndarray:
    """Each character in three fonts, uint8 (n, 280, 280, 1), dark on white."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    made = []
    for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf"):
        font = ImageFont.truetype(str(folder / name), 200)
        for character in characters:
            image = Image.new("L", (280, 280), 255)
            ImageDraw.Draw(image).text((140, 140), character, font=font, fill=0, anchor="mm", stroke_width=4)
            made.append(np.asarray(image)[..., None])
    return np.stack(made)


if __name__ == "__main__":
    main()
