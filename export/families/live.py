"""Trains a small recogniser of digits in a given time while someone watches, then exports it and compares the file with PyTorch.

    python -m onnxferry.export.families.live FOLDER [--seconds 60]

``FOLDER/watched.npz`` is written whole some sixty times, and holds what was seen so far:

    record          JSON: state (training, exporting, done, failed), epochs, updates, images, versions, and at the end parity and figures
    seconds, loss, accuracy, updates    float32 (n,) each, a value a look; accuracy is of held-out images
    kernels         float16 (n, maps, side, side): the weights of the first layer
    wrong, said     int16 (n, 12): held-out images that are read wrongly, as positions in images, and what is read; -1 for none
    images, labels  uint8 (m, 28, 28) and int16 (m,): the held-out images that were ever wrong

and in the end ``FOLDER/digits.onnx``. The process ends when the one that started it does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from onnxferry.export.families.checkpoint import export_checkpoint
from onnxferry.runtime.errors import OnnxFerryError
from onnxferry.runtime.files import written_whole
from onnxferry.runtime.machine.cpu import available_cpus, cpu_name
from onnxferry.train.data.augment import AugmentConfig
from onnxferry.train.data.images import ImageSplits, load_images
from onnxferry.train.families.cnn import CnnLearner, CnnOptions, preprocess_all
from onnxferry.train.loop.learner import Learner
from onnxferry.train.loop.loop import LoopConfig, Observer, fit
from onnxferry.train.preprocessing import Preprocessing

WATCHED = "watched.npz"


FILE = "digits.onnx"


_LOOKS = 60  # in the time that is given, at most one a second


_LOOKED_AT = 400  # held-out images, so that a look costs a tenth of a second


_SHOWN = 12  # mistakes


_MEASURED = 8  # updates that are timed before the run, to know how many fit into it


class Watcher(Observer):
    """Writes what is to be seen."""

    def __init__(self, folder: Path, splits: ImageSplits, record: dict[str, Any]) -> None:
        self.path, self.record = folder / WATCHED, record
        self.images, self.labels = splits.validation.images[:_LOOKED_AT], splits.validation.labels[:_LOOKED_AT]
        self.begun = time.monotonic()
        self.between = max(1.0, record["asked_seconds"] / _LOOKS)  # seconds
        self.looked = -self.between
        self.rows: list[tuple[float, float, float, int]] = []
        self.kernels: list[np.ndarray] = []
        self.wrong: list[list[tuple[int, int]]] = []
        self.learner: Any = None
        self.parent = os.getppid()
        self.framed: torch.Tensor | None = None

    def began(self, learner: Learner) -> None:
        self.learner = learner
        self.framed = preprocess_all(self.images, Preprocessing(self.learner.config.framing, self.learner.config.size)).float() / 255

    def stepped(self, epoch: int, step: int, means: Mapping[str, float]) -> None:
        if os.getppid() != self.parent:
            raise KeyboardInterrupt  # the page was closed
        now = time.monotonic() - self.begun
        if now - self.looked >= self.between:
            self.looked = now
            self.look(now, float(means["loss"]), epoch * self.learner.steps_per_epoch() + step)

    def look(self, seconds: float, loss: float, updates: int) -> None:
        network = self.learner.average.module
        was_training = network.training
        network.eval()
        with torch.inference_mode():
            said = network(self.framed)[0].argmax(dim=1).numpy()
        network.train(was_training)
        wrong = np.flatnonzero(said != self.labels)
        self.rows.append((seconds, loss, 1 - len(wrong) / len(self.labels), updates))
        self.kernels.append(network.stem[0].weight.detach()[:, 0].numpy().astype(np.float16))
        self.wrong.append([(int(i), int(said[i])) for i in wrong[:_SHOWN]])
        self.write()

    def write(self, **more: Any) -> None:
        """All that was seen, with ``more`` in the record."""
        self.record |= more
        ever = sorted({i for look in self.wrong for i, _ in look})
        places = {image: place for place, image in enumerate(ever)}
        wrong, said = np.full((len(self.wrong), _SHOWN), -1, np.int16), np.full((len(self.wrong), _SHOWN), -1, np.int16)
        for row, look in enumerate(self.wrong):
            for column, (image, label) in enumerate(look):
                wrong[row, column], said[row, column] = places[image], label
        columns = np.array(self.rows, np.float32).reshape(-1, 4).T
        arrays: dict[str, np.ndarray] = dict(zip(("seconds", "loss", "accuracy", "updates"), columns, strict=True))
        arrays |= {
            "kernels": np.stack(self.kernels) if self.kernels else np.zeros((0, 1, 1, 1), np.float16),
            "wrong": wrong,
            "said": said,
            "images": self.images[ever][..., 0],
            "labels": self.labels[ever].astype(np.int16),
            "record": np.array(json.dumps(self.record)),
        }
        with written_whole(self.path) as part, part.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)


def learner_of(splits: ImageSplits, epochs: int) -> CnnLearner:
    """A network so small that some hundred updates fit into a minute, and whose average follows them."""
    # Less is changed than in a long run: a minute is for learning what digits look like.
    changes = AugmentConfig(rotation=8, scale=0.1, shear=0.05, shift=0.05, elastic=0, blur=0)
    learner = CnnLearner(splits, CnnOptions(epochs=epochs, batch=64, average=0.95, augment=changes), framing="ink", width=8)
    learner.config = dataclasses.replace(learner.config, blocks=(1, 1, 1))
    return learner


def epochs_in(seconds: float, splits: ImageSplits) -> int:
    """How many passes over the data fit into that time here, by the time that some updates take."""
    learner = learner_of(splits, 1)
    learner.setup(Fabric(accelerator="cpu", devices=1), total_steps=_MEASURED)
    batches = learner.batches(0, 0)
    times = []
    for _ in range(_MEASURED):
        begun = time.monotonic()
        learner.step(next(batches))
        times.append(time.monotonic() - begun)
    return max(1, int(seconds / (float(np.median(times)) * learner.steps_per_epoch())))


def train(folder: Path, seconds: float) -> None:
    """Raises OnnxFerryError where training or the comparison fails; the record says so then."""
    # One CPU is left to the process that shows it; threads that wait for a busy one would slow all of them down.
    torch.set_num_threads(max(1, available_cpus() - 1))
    splits = load_images("digits-5k")
    record: dict[str, Any] = {
        "state": "training",
        "asked_seconds": seconds,
        "images": len(splits.train),
        "held_out": _LOOKED_AT,
        "versions": {"torch": torch.__version__.split("+")[0], "python": platform.python_version()},
        "processor": cpu_name(),
    }
    watcher = Watcher(folder, splits, record)
    watcher.write()
    try:
        # An epoch's validation and the looks take a fifth of the time.
        epochs = epochs_in(0.8 * seconds, splits)
        learner = learner_of(splits, epochs)
        watcher.record |= {"epochs": epochs, "planned": epochs * learner.steps_per_epoch()}
        watcher.begun = time.monotonic()
        result = fit(learner, LoopConfig(out=folder / "run", command="onnxferry demo", device="cpu"), watcher)
        trained = time.monotonic() - watcher.begun
        watcher.write(state="exporting")
        report = export_checkpoint(folder / "run", folder / FILE, name="digits", description="Digits, trained in the demo")
        watcher.write(
            state="done",
            trained_seconds=round(trained, 1),
            test={name: result["test"][name] for name in ("accuracy", "n")},
            parity=report.summary(),
            bytes=(folder / FILE).stat().st_size,
        )
    except OnnxFerryError as error:
        watcher.write(state="failed", error=str(error))
        raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    try:
        train(arguments.folder, arguments.seconds)
    except OnnxFerryError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
