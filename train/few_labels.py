"""What a trained encoder is worth where labels are few: a recogniser with it and one without, at several numbers of labels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.files import write_text_whole
from onnxferry.train.data.images import ImageSplits, draw_stratified
from onnxferry.train.families.cnn import CnnLearner, CnnOptions
from onnxferry.train.loop.checkpoint import Checkpoint
from onnxferry.train.loop.loop import LoopConfig, fit

STEPS = 600
"""Updates of every training, so that neither side is the one that learnt longer."""


STEPS_AN_EPOCH = 60
"""Fewer images than that many batches are repeated within an epoch, at whose end curves are drawn and all is saved."""


def compare_few_labels(
    splits: ImageSplits,
    encoder: Checkpoint,
    counts: str,
    config: LoopConfig,
    make: Callable[[ImageSplits, int, int], CnnLearner],
    *,
    seed: int,
    as_json: bool,
) -> list[dict[str, Any]]:
    """Train 2 × len(counts) recognisers into ``config.out``; writes few_labels.json there and prints a table.

    ``counts``: labels a class, separated by commas; ``seed``: of which are drawn. ``make``: of splits, epochs and batch, a learner
    that starts from ``encoder``. Validation is off: the last weights are tested, so nothing is chosen. Raises InputError for counts
    that are none, or more than there are.
    """
    classes = len(splits.classes)
    numbers = [_count(word, len(splits.train) // classes) for word in counts.split(",")]
    done = []
    for labels in numbers:
        chosen = draw_stratified(splits.train.labels, labels * classes, seed)
        batch = min(64, len(chosen))
        repeated = np.tile(chosen, max(1, STEPS_AN_EPOCH * batch // len(chosen)))
        few = dataclasses.replace(splits, train=splits.train.take(repeated), validation=splits.validation.take(np.arange(0)))
        epochs = max(1, round(STEPS / (len(repeated) // batch)))
        row: dict[str, Any] = {"labels_a_class": labels}
        for name, encoded in (("without", False), ("with", True)):
            learner = make(few, epochs, batch)
            if not encoded:  # the same network and normalisation, from a random start
                learner.init = None
            out = config.out / f"{labels}-{name}"
            result = fit(learner, dataclasses.replace(config, out=out))
            row[name] = result["test"]["accuracy"]
        done.append({**row, "test_images": len(splits.test)})
    report = {"encoder": dict(encoder.data), "rows": done, "steps": STEPS, "options": _options()}
    write_text_whole(config.out / "few_labels.json", json.dumps(report, indent=2) + "\n")
    if as_json:
        Console(soft_wrap=True).print_json(data={"run": str(config.out), "rows": done})
    else:
        table = Table("labels a class", "accuracy without", "with the encoder")
        for row in done:
            table.add_row(str(row["labels_a_class"]), f"{row['without']:.2%}", f"{row['with']:.2%}")
        Console().print(table)
    return done


def _options() -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(CnnOptions()).items() if k in ("weight_decay", "label_smoothing")}


def _count(word: str, most: int) -> int:
    try:
        number = int(word)
    except ValueError:
        raise InputError(f"--few-labels takes whole numbers separated by commas, got {word!r}") from None
    if not 1 <= number <= most:
        raise InputError(f"--few-labels {number} is out of range: there are {most} images a class to train on")
    return number
