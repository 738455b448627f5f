"""A trained classifier in PyTorch, to measure its exported file against."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from onnxferry.runtime.tasks.classifier import Classifier, Prediction
from onnxferry.runtime.timing import time_in_turns
from onnxferry.train.families.cnn import Recogniser
from onnxferry.train.loop.checkpoint import load_checkpoint


class TrainedClassifier:
    """The network of a run folder or checkpoint, with its preprocessing, on the CPU."""

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self.module = Recogniser(load_checkpoint(run).model()).eval()  # type: ignore[arg-type]

    def compare(self, predictions: Sequence[Prediction], images: np.ndarray) -> dict[str, Any]:
        """The file's predictions against PyTorch's. ``images``: uint8 (n, height, width, channels)."""
        batches = [torch.from_numpy(images[i : i + 100].copy()) for i in range(0, len(images), 100)]
        with torch.inference_mode():
            expected = np.concatenate([self.module(batch)[0].numpy() for batch in batches])
        actual = np.stack([p.probabilities for p in predictions])
        return {
            "largest_difference": float(np.abs(actual - expected).max()),
            "decisions": len(actual),
            "decisions_changed": int((actual.argmax(axis=1) != expected.argmax(axis=1)).sum()),
        }

    def latency(self, classifier: Classifier, images: np.ndarray, seconds: float = 2.0) -> dict[str, float]:
        """Median milliseconds per call of the engine and of PyTorch (eager, inference mode), in turn, with as many threads."""
        feeds = {"image": np.ascontiguousarray(images)}
        tensor = torch.from_numpy(images.copy())
        threads = torch.get_num_threads()
        torch.set_num_threads(classifier.engine.threads)
        calls: dict[str, Callable[[], object]] = {"onnxferry": lambda: classifier.run(feeds), "pytorch": lambda: self.module(tensor)}
        try:
            with torch.inference_mode():
                for call in calls.values():
                    for _ in range(3):
                        call()
                times = time_in_turns(calls, seconds, min_rounds=5)
        finally:
            torch.set_num_threads(threads)
        return {name: round(1e3 * statistics.median(values), 3) for name, values in times.items()}
