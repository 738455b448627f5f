"""The shipped recogniser's figures, through the runtime, on MNIST's 10,000 test images.

    python tests/bench/figures_digits.py --data DIR            # DIR holds MNIST's IDX files; without it they are looked up or fetched
    python tests/bench/figures_digits.py --checkpoint RUN      # and parity with PyTorch, on all of them

Accuracy on the originals, inverted, 200 pixels wide in colour, small and off-centre; then import + load + first
prediction in a fresh process. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
from figures_fashion import parity
from PIL import Image

from onnxferry.runtime import Classifier, load

COLD = """
import time; begun = time.perf_counter()
from onnxferry.runtime import load
import numpy as np
load({model!r}).predict(np.zeros((28, 28), np.uint8))
print(time.perf_counter() - begun)
"""


def coloured(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """28 × 28 → 200 × 200 × 3, bicubic, with a random dark ground and a random light figure or the other way round."""
    large = np.asarray(Image.fromarray(image).resize((200, 200), Image.Resampling.BICUBIC))[..., None] / 255.0
    dark, light = rng.integers(0, 90, 3), rng.integers(165, 256, 3)
    ground, figure = (dark, light) if rng.random() < 0.5 else (light, dark)
    return (ground + (figure - ground) * large).round().astype(np.uint8)


def off_centre(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image at half to twice its size, anywhere in a frame of 120 × 160."""
    side = int(rng.integers(14, 57))
    canvas = np.zeros((120, 160), np.uint8)
    top, left = int(rng.integers(0, 121 - side)), int(rng.integers(0, 161 - side))
    canvas[top : top + side, left : left + side] = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()

    from onnxferry.train.data.images import load_images

    test = load_images("mnist", arguments.data).test
    images, labels = test.images[..., 0], test.labels
    model = load(arguments.model, device="cpu")
    if not isinstance(model, Classifier):
        raise SystemExit(f"{arguments.model} is not a recogniser")

    def accuracy(images: list[np.ndarray] | np.ndarray) -> float:
        return float(np.mean([p.index for p in model.predict(images)] == labels))

    rng = np.random.default_rng(0)
    figures: dict[str, object] = {
        "model": arguments.model,
        "test_images": len(images),
        "accuracy": accuracy(list(images)),
        "inverted": accuracy(list(255 - images)),
        "200 pixels wide, in colour": accuracy([coloured(image, rng) for image in images]),
        "half to twice the size, off-centre": accuracy([off_centre(image, rng) for image in images]),
    }
    if arguments.checkpoint:
        figures.update(parity(model, arguments.checkpoint, test.images))
    cold = [
        float(subprocess.run([sys.executable, "-c", COLD.format(model=arguments.model)], capture_output=True, text=True, check=True).stdout)
        for _ in range(11)
    ]
    figures["import + load + first prediction, seconds, median of 11 processes"] = round(statistics.median(cold), 3)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
