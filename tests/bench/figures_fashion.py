"""The shipped recogniser of clothing, through the runtime, on Fashion-MNIST's 10,000 test images.

    python tests/bench/figures_fashion.py --data DIR            # DIR holds the IDX files; without it they are looked up or fetched
    python tests/bench/figures_fashion.py --checkpoint RUN      # and parity with PyTorch, on all of them

Accuracy with its 95 % interval (Wilson 1927), the accuracy of the worst class, and the size. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from onnxferry.runtime import Classifier, load
from onnxferry.runtime.artifact.zoo import find_model
from onnxferry.runtime.evaluation.scores import wilson_interval
from onnxferry.train.data.images import load_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    arguments = parser.parse_args()
    test = load_images("fashion-mnist", arguments.data).test
    model = load(arguments.model, device="cpu")
    if not isinstance(model, Classifier):
        raise SystemExit(f"{arguments.model} is not a recogniser")
    right = np.array([p.index for p in model.predict(list(test.images))]) == test.labels
    classes = {label: float(right[test.labels == i].mean()) for i, label in enumerate(model.labels)}
    worst = min(classes, key=classes.__getitem__)
    figures: dict[str, object] = {
        "model": arguments.model,
        "test_images": len(test),
        "accuracy": float(right.mean()),
        "95 % interval": [round(bound, 4) for bound in wilson_interval(int(right.sum()), len(right))],
        "accuracy of the worst class": round(classes[worst], 4),
        "the worst class": worst,
        "bytes of the file": find_model(arguments.model).stat().st_size,
    }
    if arguments.checkpoint:
        figures.update(parity(model, arguments.checkpoint, test.images))
    print(json.dumps(figures, indent=2))


def parity(model: Classifier, checkpoint: Path, images: np.ndarray) -> dict[str, object]:
    """The largest difference of a probability, and the decisions that differ, over ``images`` uint8 (n, height, width, channels)."""
    import torch

    from onnxferry.train.families.cnn import Recogniser
    from onnxferry.train.loop.checkpoint import load_checkpoint

    source = Recogniser(load_checkpoint(checkpoint, "cnn").model()).eval()  # type: ignore[arg-type]
    largest, changed = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(images), 500):
            batch = images[start : start + 500]
            expected = source(torch.from_numpy(batch.copy()))[0].numpy()
            actual = model.run({"image": batch})["probabilities"]
            largest = max(largest, float(np.abs(actual - expected).max()))
            changed += int((actual.argmax(axis=1) != expected.argmax(axis=1)).sum())
    return {"largest difference of a probability from PyTorch": largest, "decisions that differ from PyTorch": changed}


if __name__ == "__main__":
    main()
