"""A user's own images with boxes, to train a detector on: read into memory, split, and varied."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from onnxferry.runtime.errors import DataError
from onnxferry.runtime.evaluation.labelled_boxes import WHOLE, LabelledBoxes, find_labelled_boxes
from onnxferry.runtime.images.folders import folder_sha256
from onnxferry.train.data.detection import DetectionSplits
from onnxferry.train.data.progress import Progress, no_progress
from onnxferry.train.data.scenes import Scene

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.125
"""Of all images, and of the rest, where the set is not split."""


LEAST_SEEN = 0.4
"""Share of a box's area that must be inside a training image; a box of which less is seen is left out."""


ZOOM = (0.6, 1.5)
"""Least and greatest enlargement of a training image."""


@dataclass(frozen=True, eq=False)
class OwnScenes:
    """Images of the user's, each time at another size and place, brighter or darker, and mirrored if that is allowed."""

    scenes: Sequence[Scene]
    mirror: bool = False

    def __len__(self) -> int:
        return len(self.scenes)

    def scene(self, rng: np.random.Generator, position: int, height: int, width: int) -> Scene:
        source = self.scenes[position]
        gray = source.image.shape[2] == 1
        pixels = source.image[..., 0] if gray else source.image
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        ground = np.median(edge, axis=0).astype(np.uint8).tolist()
        zoom = float(np.exp(rng.uniform(*np.log(ZOOM))))
        image = Image.fromarray(pixels)
        sides = [max(1, round(side * zoom)) for side in image.size]
        image = image.resize((sides[0], sides[1]), Image.Resampling.BILINEAR)
        left, top = (int(rng.integers(min(0, room), max(0, room) + 1)) for room in (width - sides[0], height - sides[1]))
        canvas = Image.new("L" if gray else "RGB", (width, height), ground if gray else tuple(ground))
        canvas.paste(image, (left, top))
        canvas = ImageEnhance.Brightness(canvas).enhance(float(rng.uniform(0.7, 1.3)))
        canvas = ImageEnhance.Contrast(canvas).enhance(float(rng.uniform(0.7, 1.3)))
        scales = np.array([sides[0] / pixels.shape[1], sides[1] / pixels.shape[0]] * 2, np.float32)
        whole = source.boxes * scales + np.array([left, top] * 2, np.float32)
        boxes = np.clip(whole, 0, np.array([width, height] * 2, np.float32))
        kept = _areas(boxes) >= LEAST_SEEN * _areas(whole)
        made, boxes = np.asarray(canvas).reshape(height, width, -1), boxes[kept]
        if self.mirror and rng.random() < 0.5:
            made, boxes = (
                made[:, ::-1],
                boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32) + np.array([width, 0, width, 0], np.float32),
            )
        return Scene(np.ascontiguousarray(made), boxes, source.labels[kept])


def _areas(boxes: np.ndarray) -> np.ndarray:
    found: np.ndarray = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return found


def load_own_boxes(
    data: str | os.PathLike[str],
    *,
    size: int,
    color: bool = True,
    mirror: bool = False,
    seed: int = 0,
    validation: int | None = None,
    limit: int | None = None,
    progress: Progress = no_progress,
) -> DetectionSplits:
    """Images with boxes as :func:`~onnxferry.runtime.evaluation.labelled_boxes.find_labelled_boxes` finds them, in three parts.

    Images whose longer side is above ``size`` are reduced to it. A set without a test part is split here, by ``seed``: a fifth is for
    testing, an eighth of the rest for validation (``validation`` of them, 0 for none).
    Raises DataError for what is wrong with the set, and for fewer than 3 images.
    """
    place = Path(data)
    found = find_labelled_boxes(place)
    channels = 3 if color else 1
    count, done = sum(map(len, found.values())), 0
    parts: dict[str, list[Scene]] = {}
    digests: dict[Path, str] = {}
    for part, labelled in found.items():
        parts[part] = []
        for path, image, boxes, labels in labelled.decoded(channels):
            parts[part].append(_reduced(Scene(image, boxes, labels), size))
            digests[path] = hashlib.sha256(path.read_bytes() + boxes.tobytes() + labels.tobytes()).hexdigest()
            done += 1
            progress("reading images", done, count, "images")
    train = parts.pop(WHOLE, None) or parts.get("train", [])
    test = parts.get("test")
    rng = np.random.default_rng(seed)
    if test is None:
        train, test = _carved(train, max(1, round(TEST_SHARE * len(train))), rng)
    held_out = parts.get("validation")
    if validation == 0:
        train, held_out = [*train, *(held_out or ())], []
    elif held_out is None:
        train, held_out = _carved(train, max(1, round(VALIDATION_SHARE * len(train))) if validation is None else validation, rng)
    if not train or not test:
        raise DataError(f"{place}: has {count} images, too few for training, validation and testing; expected at least 3")
    folder = place if place.is_dir() else place.parent
    return DetectionSplits(
        name=place.resolve().stem if place.is_file() else place.resolve().name,
        classes=next(iter(found.values())).classes,
        train=OwnScenes(train if limit is None else train[:limit], mirror),
        validation=held_out,
        test=test,
        channels=channels,
        sha256=folder_sha256(folder, {path: digest for path, digest in digests.items() if path.is_relative_to(folder)}),
        source=f"images of one's own with boxes: {count} images",
        notes=_empty_classes(found),
    )


def _empty_classes(found: dict[str, LabelledBoxes]) -> tuple[str, ...]:
    classes = next(iter(found.values())).classes
    counts = np.bincount(np.concatenate([labels for part in found.values() for labels in part.labels]), minlength=len(classes))
    without = [name for name, count in zip(classes, counts, strict=True) if not count]
    return (f"no box is of the classes {', '.join(without)}",) if without else ()


def _carved(scenes: list[Scene], count: int, rng: np.random.Generator) -> tuple[list[Scene], list[Scene]]:
    """The rest, and ``count`` drawn ones; both may be empty."""
    order = rng.permutation(len(scenes))
    return [scenes[i] for i in np.sort(order[count:])], [scenes[i] for i in np.sort(order[:count])]


def _reduced(scene: Scene, size: int) -> Scene:
    height, width, channels = scene.image.shape
    ratio = size / max(height, width)
    if ratio >= 1:
        return scene
    opened = Image.fromarray(scene.image[..., 0] if channels == 1 else scene.image)
    new = max(1, round(width * ratio)), max(1, round(height * ratio))
    made = np.asarray(opened.resize(new, Image.Resampling.BOX)).reshape(new[1], new[0], channels)
    return Scene(made, (scene.boxes * np.array([new[0] / width, new[1] / height] * 2)).astype(np.float32), scene.labels)
