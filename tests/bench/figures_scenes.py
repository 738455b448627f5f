"""The shipped detector's figures, through the runtime, on scenes and numbers of MNIST's test digits.

    python tests/bench/figures_scenes.py --data DIR            # DIR holds MNIST's IDX files; without it they are looked up or fetched
    python tests/bench/figures_scenes.py --checkpoint RUN      # and parity with PyTorch, on 200 scenes
    python tests/bench/figures_scenes.py --write FOLDER        # only writes the scenes and the numbers, each as YOLO has them

1,000 scenes of 96 to 256 pixels a side: mean average precision, as ``onnxferry evaluate digit-scenes --data FOLDER/scenes`` gives it too.
1,000 numbers of 3 to 7 digits: how many are read whole. No test digit was seen in training, nor when the epoch was chosen.
Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onnxferry.runtime import Detector, load
from onnxferry.runtime.evaluation.average_precision import average_precision
from onnxferry.train.data.detection import load_scenes
from onnxferry.train.data.images import ImageSet, load_images
from onnxferry.train.data.scenes import Scene, compose_number

NUMBERS = 1000

COLD = """
import time; begun = time.perf_counter()
from onnxferry.runtime import load
import numpy as np
load({model!r}).detect(np.zeros((96, 160), np.uint8))
print(time.perf_counter() - begun)
"""


def numbers(digits: ImageSet, count: int = NUMBERS) -> list[tuple[Scene, str]]:
    """Numbers of 3 to 7 digits, always the same."""
    made = []
    for number in range(count):
        rng = np.random.default_rng((28, 3, number))
        made.append(compose_number(rng, digits, 3 + number % 5))
    return made


def precision_of(model: Detector, scenes: Sequence[Scene]) -> dict[str, float]:
    found = []
    for scene in scenes:
        objects = model.detect(scene.image, score_threshold=0.01)
        boxes = np.array([each.box for each in objects]).reshape(-1, 4)
        found.append((boxes, np.array([each.score for each in objects]), np.array([each.index for each in objects], int)))
    result = average_precision(found, [(scene.boxes, scene.labels) for scene in scenes])
    return {
        "mAP 50-95": round(result.mean, 4),
        "mAP 50": round(result.at_50, 4),
        "mAP 75": round(result.at_75, 4),
        "worst class's average precision": round(min(result.classes.values()), 4),
    }


def parity(model: Detector, checkpoint: Path, scenes: Sequence[Scene]) -> dict[str, float]:
    """Against PyTorch: how far boxes and scores differ, and in how many scenes another number of objects or another label comes out."""
    import torch

    from onnxferry.train.families.detector import Detector as Network
    from onnxferry.train.loop.checkpoint import load_checkpoint

    network = Network(load_checkpoint(checkpoint).model()).eval()  # type: ignore[arg-type]
    pixels, certainty, changed = 0.0, 0.0, 0
    for scene in scenes:
        with torch.inference_mode():
            boxes, scores, index, _ = (each.numpy() for each in network(torch.from_numpy(scene.image)[None]))
        found = model.detect(scene.image)
        if [each.index for each in found] != index.tolist():
            changed += 1
        elif len(found):
            pixels = max(pixels, float(np.abs(np.array([each.box for each in found]) - boxes).max()))
            certainty = max(certainty, float(np.abs(np.array([each.score for each in found]) - scores).max()))
    return {
        "largest difference of an edge from PyTorch, pixels": pixels,
        "largest difference of a score from PyTorch": certainty,
        "scenes whose objects differ from PyTorch": changed,
    }


def write(folder: Path, scenes: Sequence[Scene]) -> None:
    """As YOLO has them."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
    for number, scene in enumerate(scenes):
        height, width = scene.image.shape[:2]
        Image.fromarray(scene.image[..., 0]).save(folder / "images" / f"{number:04}.png")
        lines = []
        for (left, top, right, bottom), label in zip(scene.boxes.tolist(), scene.labels.tolist(), strict=True):
            shares = ((left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height)
            lines.append(" ".join([str(label), *(f"{share:.7f}" for share in shares)]) + "\n")
        (folder / "labels" / f"{number:04}.txt").write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digit-scenes")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    scenes = load_scenes("mnist", arguments.data, validation=0).test
    written = numbers(load_images("mnist", arguments.data).test)
    if arguments.write:
        write(arguments.write / "scenes", scenes)
        write(arguments.write / "numbers", [scene for scene, _ in written])
        return
    model = load(arguments.model, device="cpu")
    if not isinstance(model, Detector):
        raise SystemExit(f"{arguments.model} is not a detector")
    read = [model.detect(scene.image).text == text for scene, text in written]
    figures: dict[str, Any] = {
        "model": arguments.model,
        "scenes": len(scenes),
        "boxes": sum(len(scene.labels) for scene in scenes),
        **precision_of(model, scenes),
        "numbers of 3 to 7 digits": len(read),
        "read whole": round(sum(read) / len(read), 4),
        "read whole, by digits": {str(3 + k): round(float(np.mean(read[k::5])), 4) for k in range(5)},
    }
    if arguments.checkpoint:
        figures.update(parity(model, arguments.checkpoint, scenes[:200]))
    cold = [
        float(subprocess.run([sys.executable, "-c", COLD.format(model=arguments.model)], capture_output=True, text=True, check=True).stdout)
        for _ in range(11)
    ]
    figures["import + load + first detection, seconds, median of 11 processes"] = round(statistics.median(cold), 3)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
