"""How much a trained encoder helps where labels are few: a recogniser with it and one without, at several numbers of labels.

The study behind ``onnxferry train cnn --init RUN --few-labels 10,100``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.files import write_json
from onnxferry.train.data.images import ImageSplits, draw_stratified
from onnxferry.train.families.cnn import CnnLearner, CnnOptions
from onnxferry.train.families.start import Start
from onnxferry.train.loop.loop import LoopConfig, fit
from onnxferry.train.loop.schedule import updates_per_epoch

STEPS = 600
"""Updates of each training run, so that neither side trains longer."""


STEPS_PER_EPOCH = 60
"""With fewer images than that many batches, images are repeated within an epoch: curves and checkpoints are written once an epoch."""


BATCH_SIZE = 64


def compare_few_labels(
    splits: ImageSplits,
    encoder: Start,
    counts: Sequence[int],
    config: LoopConfig,
    make: Callable[[ImageSplits, int, int], CnnLearner],
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Train 2 × len(counts) recognisers into ``config.out``, write few_labels.json there, and return a row for each count.

    A row: ``labels_a_class``, the test accuracies ``without`` and ``with`` the encoder, ``test_images``.
    ``counts``: labels per class. ``seed``: of which labels are drawn. ``make``: from splits, epochs and batch size, a learner that
    starts from ``encoder``. There is no validation: the last weights are tested, so nothing is chosen. Raises InputError for a
    count below 1 or above the number of training images per class.
    """
    classes = len(splits.classes)
    available = len(splits.train) // classes
    for count in counts:
        if not 1 <= count <= available:
            raise InputError(f"--few-labels {count} is out of range: there are {available} images a class to train on")
    rows = []
    for count in counts:
        few, epochs, batch = _few(splits, count * classes, seed)
        row: dict[str, Any] = {"labels_a_class": count}
        for name in ("without", "with"):
            learner = make(few, epochs, batch)
            if name == "without":  # the same network and normalization, from a random start
                learner.init = None
            result = fit(learner, dataclasses.replace(config, out=config.out / f"{count}-{name}"))
            row[name] = result["test"]["accuracy"]
        rows.append({**row, "test_images": len(splits.test)})
    defaults = CnnOptions()
    options = {"weight_decay": defaults.weight_decay, "label_smoothing": defaults.label_smoothing}
    report = {"encoder": dict(encoder.data), "rows": rows, "steps": STEPS, "options": options}
    write_json(config.out / "few_labels.json", report)
    return rows


def _few(splits: ImageSplits, count: int, seed: int) -> tuple[ImageSplits, int, int]:
    """``splits`` with ``count`` training images, repeated to fill an epoch; the epochs and the batch size that make STEPS updates."""
    chosen = draw_stratified(splits.train.labels, count, seed)
    batch = min(BATCH_SIZE, len(chosen))
    repeated = np.tile(chosen, max(1, STEPS_PER_EPOCH * batch // len(chosen)))
    few = dataclasses.replace(splits, train=splits.train.take(repeated), validation=splits.validation.take(np.arange(0)))
    return few, max(1, round(STEPS / updates_per_epoch(len(repeated), batch))), batch
