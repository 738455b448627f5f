"""Detectors: images in, objects out, each with a box, a label and a score.

model = load("digit-scenes")
for found in model.detect("phone.jpg"):
    print(found.label, found.score, found.box)
model.detect("phone.jpg").text      # the labels from left to right: "0301234567"
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from onnxferry.runtime.arguments import whole_number
from onnxferry.runtime.errors import ArtifactError, InputError
from onnxferry.runtime.images.batches import image_batches
from onnxferry.runtime.images.decode import ImageInput
from onnxferry.runtime.images.inputs import ImagesInput, OnError, decode_each
from onnxferry.runtime.kinds import DETECTOR
from onnxferry.runtime.tasks.model import Model, not_as_promised, promised

if TYPE_CHECKING:
    from onnxferry.runtime.engine.runner import Runner


OPTIONAL: Mapping[str, tuple[str, int]] = {"score_threshold": ("float32", 0), "iou_threshold": ("float32", 0)}
"""The inputs that have a default: dtype and number of axes."""


_OUTPUTS = {"boxes": "float32", "scores": "float32", "class_index": "int64", "image_index": "int64"}


class Box(NamedTuple):
    """Edges in pixels of the image, from its left and top; the right and bottom edges are outside the object."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Detection:
    """One object."""

    label: str
    index: int  # of the label, in the model's labels
    score: float  # 0 to 1
    box: Box

    def to_dict(self) -> dict[str, Any]:
        """For JSON: ``label``, ``index``, ``score``, ``box`` (left, top, right, bottom)."""
        return {"label": self.label, "index": self.index, "score": self.score, "box": list(self.box)}


class Detections(list[Detection]):
    """The objects of one image, the likeliest first."""

    @property
    def text(self) -> str:
        """The labels from left to right, and from line to line where the objects stand in several.

            model.detect("phone.jpg").text      # "0301234567"

        Two objects are in one line where the middle of one lies between the top and the bottom of the other.
        """
        return "\n".join("".join(found.label for found in line) for line in self.lines())

    def lines(self) -> list[list[Detection]]:
        """The objects in lines, from top to bottom, each from left to right."""
        lines: list[list[Detection]] = []
        for found in sorted(self, key=_middle_x):
            near = [line for line in lines if _same_line(line[-1], found)]
            if near:
                min(near, key=lambda line: abs(_middle_y(line[-1]) - _middle_y(found))).append(found)
            else:
                lines.append([found])
        return sorted(lines, key=lambda line: sum(map(_middle_y, line)) / len(line))

    def to_dict(self) -> dict[str, Any]:
        """For JSON: ``text`` and ``objects``."""
        return {"text": self.text, "objects": [found.to_dict() for found in self]}


def _middle_x(found: Detection) -> float:
    return (found.box.left + found.box.right) / 2


def _middle_y(found: Detection) -> float:
    return (found.box.top + found.box.bottom) / 2


def _same_line(a: Detection, b: Detection) -> bool:
    return a.box.top < _middle_y(b) < a.box.bottom or b.box.top < _middle_y(a) < b.box.bottom


class Detector(Model):
    """Finds objects in images of any size.

    The graph does the whole task, non-maximum suppression included; this class decodes images and converts them to the number of channels.
    """

    noun = DETECTOR.noun

    def __init__(self, engine: Runner) -> None:
        super().__init__(engine)
        self.channels = _check_detector(engine)

    def detect(self, image: ImageInput, *, score_threshold: float | None = None, iou_threshold: float | None = None) -> Detections:
        """The objects in one image, the likeliest first; an empty list where there is none.

            model.detect("street.jpg")
            model.detect(array, score_threshold=0.1)    # uint8 (height, width) or (height, width, 1 | 3)

        ``image``: a path, bytes, an open file, a PIL image or an array. ``score_threshold``: objects with a lower score are left out.
        ``iou_threshold``: of two boxes whose intersection is more than this share of their union, only the likelier one is kept. None: the
        model's own.
        Raises InputError for what cannot be read as one image, and for a threshold that is not 0 to 1.
        """
        ((_, found),) = self.detect_each([(0, image)], score_threshold=score_threshold, iou_threshold=iou_threshold)
        return found

    def detect_each(
        self,
        images: ImagesInput | Iterable[tuple[Any, ImageInput]],
        batch_size: int | None = None,
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        on_error: OnError = "raise",
    ) -> Iterator[tuple[Any, Detections]]:
        """A stream of any length: keys and what was found, while only a bounded number of images is held in memory.

            for path, found in model.detect_each("photos/", on_error="skip"):
                print(path, found.text)

        ``images``, ``on_error``: as :meth:`Classifier.predict_each` takes them. ``batch_size``: that many images of one size run together
        at most; None for 64, or what tuning found best. Thresholds as for :meth:`detect`.
        """
        feeds = _thresholds(score_threshold=score_threshold, iou_threshold=iou_threshold)
        together = whole_number("batch_size", self.good_batch if batch_size is None else batch_size, 1)
        return self._detect_each(image_batches(decode_each(images, on_error, self.channels), self.channels, together), feeds)

    def _detect_each(
        self, batches: Iterator[list[tuple[Any, np.ndarray]]], feeds: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[Any, Detections]]:
        for batch in batches:
            outputs = self.engine.run({"image": np.stack([image for _, image in batch]), **feeds}, list(_OUTPUTS))
            yield from zip((key for key, _ in batch), self.detections(outputs, len(batch)), strict=True)

    def detections(self, outputs: Mapping[str, Any], count: int) -> list[Detections]:
        """What was found in each of ``count`` images, from the graph's outputs by name, as ``run`` returns them.

        Raises ArtifactError for outputs that cannot be right: of another shape, not finite, with a class or an image that there is not.
        """
        boxes = promised(self.engine, outputs, "boxes", "float32", (None, 4))
        scores, classes, images = (promised(self.engine, outputs, name, dtype, (len(boxes),)) for name, dtype in list(_OUTPUTS.items())[1:])
        for name, index, most in (("class_index", classes, len(self.labels)), ("image_index", images, count)):
            if index.size and not 0 <= index.min() <= index.max() < most:
                raise ArtifactError(
                    f"{self.engine.path} gives {name} {index.min()} to {index.max()}, expected 0 to {most - 1}; export it again"
                )
        if not np.isfinite(boxes).all() or not np.isfinite(scores).all():
            raise ArtifactError(f"{self.engine.path} gives boxes or scores that are not finite; `onnxferry check` may say more")
        found = [Detections() for _ in range(count)]
        for box, score, index, image in zip(boxes.tolist(), scores.tolist(), classes.tolist(), images.tolist(), strict=True):
            found[image].append(Detection(self.labels[index], index, score, Box(*box)))
        return found


def _thresholds(**given: float | None) -> dict[str, np.ndarray]:
    """Those that the caller gives, as inputs."""
    feeds = {}
    for name, value in given.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InputError(f"{name} must be a number from 0 to 1, got {value!r}")
        feeds[name] = np.array(value, np.float32)
    return feeds


def _check_detector(engine: Runner) -> int:
    """The number of channels that the graph takes, 1 or 3. Raises ArtifactError where it is not the detector it says it is."""
    image = next((spec for spec in engine.inputs if spec.name == "image"), None)
    needed = [spec.name for spec in engine.inputs]
    if needed != ["image"] or image is None or image.dtype != "uint8" or len(image.shape) != 4 or image.shape[3] not in (1, 3):
        raise not_as_promised(engine, Detector.noun, "the one needed input image, uint8 (batch, height, width, 1 | 3)", engine.inputs)
    optional = {spec.name: spec for spec in engine.optional_inputs}
    for name, (dtype, rank) in OPTIONAL.items():
        if name not in optional or optional[name].dtype != dtype or len(optional[name].shape) != rank:
            raise not_as_promised(engine, Detector.noun, f"an input {name}, {dtype} (), with a default", engine.optional_inputs)
    outputs = {spec.name: spec.dtype for spec in engine.outputs}
    for name, dtype in _OUTPUTS.items():
        if outputs.get(name) != dtype:
            raise not_as_promised(engine, Detector.noun, f"an output {name}, {dtype}", engine.outputs)
    labels: Sequence[str] = engine.contract.labels if engine.contract else ()
    if not labels:
        raise not_as_promised(engine, Detector.noun, "labels, one a class", ())
    return int(image.shape[3] or 0)
