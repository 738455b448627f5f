"""What detectors are trained on: images with boxes, of the user's own or composed of single digits (scenes.py), in three parts."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnxferry.runtime.errors import InputError
from onnxferry.train.data.images import ImageSet, load_images
from onnxferry.train.data.progress import Progress, no_progress
from onnxferry.train.data.scenes import BEND, SIDES, Scene, compose_scene

SCENES = (1000, 300)
"""Composed scenes for testing and for validation."""


class TrainingScenes(Protocol):
    """Where training images come from."""

    def __len__(self) -> int:
        """How many are one epoch."""
        ...

    def scene(self, rng: np.random.Generator, position: int, height: int, width: int) -> Scene:
        """One of exactly that size; ``position`` of 0 … len - 1."""
        ...


@dataclass(frozen=True, eq=False)
class ComposedScenes:
    """New scenes for ever: none comes twice."""

    digits: ImageSet
    count: int

    def __len__(self) -> int:
        return self.count

    def scene(self, rng: np.random.Generator, position: int, height: int, width: int) -> Scene:
        return compose_scene(rng, self.digits, height, width, bend=BEND)


@dataclass(frozen=True, eq=False)
class DetectionSplits:
    """Images with boxes for training, validation and testing."""

    name: str
    classes: tuple[str, ...]
    train: TrainingScenes
    validation: Sequence[Scene]  # empty where there is none
    test: Sequence[Scene]
    channels: int  # of the images, 1 or 3
    sha256: str  # of what the data is made of
    source: str  # where it is from, in words; never a path of this machine
    notes: tuple[str, ...] = ()


def load_scenes(
    name: str | None = None,
    data: str | os.PathLike[str] | None = None,
    *,
    scenes: int = 4096,
    seed: int = 0,
    validation: int | None = None,
    limit: int | None = None,
    progress: Progress = no_progress,
) -> DetectionSplits:
    """Scenes of digits: of ``digits-5k``, the default, or of ``mnist``.

    ``name``, ``data``: as :func:`~onnxferry.train.data.images.load_images` takes them. ``scenes``: how many are an epoch. ``limit``: train
    on so many digits at most. ``validation``: scenes to choose the epoch by, 0 for none, None for 300.
    The three parts are composed of the digits of the three parts of that set. The test scenes depend on the set alone, not on ``seed``.
    Raises InputError for a set that has no digits, and what load_images raises.
    """
    splits = load_images(name, data, seed=seed, limit=limit, progress=progress)
    if splits.classes != tuple(str(digit) for digit in range(10)):
        raise InputError(f"scenes are composed of digits, and {splits.name} has none: expected digits-5k or mnist, or your own --data")
    test, chosen_by = SCENES[0], SCENES[1] if validation is None else validation
    return DetectionSplits(
        name=f"scenes of {splits.name}",
        classes=splits.classes,
        train=ComposedScenes(splits.train, scenes),
        validation=[_composed(splits.validation, 1, number) for number in range(chosen_by)],
        test=[_composed(splits.test, 2, number) for number in range(test)],
        channels=1,
        sha256=splits.sha256,
        source=f"composed of single digits: {splits.source}",
        notes=splits.notes,
    )


def _composed(digits: ImageSet, part: int, number: int) -> Scene:
    """Scene ``number`` of a part: always the same."""
    rng = np.random.default_rng((28, part, number))
    height, width = (int(side) for side in rng.integers(SIDES[0], SIDES[1] + 1, 2))
    return compose_scene(rng, digits, height, width)


def batch_size_of_images(rng: np.random.Generator, side: int) -> tuple[int, int]:
    """Height and width of a batch of training images: of some ``side`` squared pixels, up to twice as long as they are wide."""
    across = math.exp(rng.uniform(-math.log(1.6), math.log(1.6)) / 2)
    whole = side * float(rng.uniform(0.75, 1.15))
    return max(32, round(whole / across)), max(32, round(whole * across))
