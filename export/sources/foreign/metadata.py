"""What the metadata of other tools' files says: the keys that Ultralytics writes, read as text and never evaluated.

Source: https://docs.ultralytics.com/modes/export/ and ``Exporter.export_onnx`` of the ultralytics package, which writes
``description``, ``author``, ``version``, ``license``, ``task``, ``names``, ``imgsz``, ``stride`` and ``batch`` as ``str(value)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxferry.export.sources.foreign.literals import parsed_literal
from onnxferry.export.tasks.image_input import MAX_SIDE, ImageInput
from onnxferry.runtime.artifact.contract import NOT_TEXT

TASKS = ("detect", "segment", "classify", "pose", "obb", "semantic")
MAX_NAMES = 100_000
MAX_LINE = 500
LETTERBOX_GREY = 114.0
"""The frame's value in Ultralytics' LetterBox."""


@dataclass(frozen=True)
class FileMetadata:
    """What a file says of itself, as far as it could be read. ``problems``: one sentence for each value that could not."""

    task: str = ""  # detect, classify, …; "" where it does not say
    labels: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None  # height, width
    stride: int | None = None  # image sizes are multiples of it
    text: Mapping[str, str] = field(default_factory=dict)  # description, author, license, version
    problems: tuple[str, ...] = ()

    def image(self, channels: int = 3) -> ImageInput | None:
        """The preprocessing that Ultralytics does for this task; None where the file does not say its image size.

        Classification: the middle of the image, resized with Pillow's bilinear filter (``classify_transforms``). Everything else:
        the whole image in a grey frame (``LetterBox``), resized as OpenCV does; coordinates that come out are those of the frame.
        """
        if self.image_size is None:
            return None
        height, width = self.image_size
        if self.task == "classify":
            return ImageInput(height=height, width=width, channels=channels, scale=1 / 255, fit="crop", resize=max(height, width))
        return ImageInput(
            height=height,
            width=width,
            channels=channels,
            scale=1 / 255,
            fit="pad",
            pad_value=LETTERBOX_GREY,
            interpolation="linear",
        )


def read_metadata(metadata: Mapping[str, str]) -> FileMetadata:
    """What these ``metadata_props`` say. Nothing is raised for values of another form: they become ``problems``."""
    problems: list[str] = []

    def value(key: str, read: Any) -> Any:
        if key not in metadata:
            return None
        try:
            return read(parsed_literal(metadata[key]))
        except ValueError as error:
            problems.append(f"the file's metadata {key!r} is left out: {error}")
            return None

    text = {key: _line(metadata[key]) for key in ("description", "author", "license", "version") if metadata.get(key)}
    task = metadata.get("task", "")
    return FileMetadata(
        task=task if task in TASKS else "",
        labels=value("names", _labels) or (),
        image_size=value("imgsz", _image_size),
        stride=value("stride", _stride),
        text=text,
        problems=tuple(problems),
    )


def _line(text: str) -> str:
    """On one line that a terminal shows as it is."""
    return NOT_TEXT.sub(" ", text)[:MAX_LINE].strip()


def _labels(found: Any) -> tuple[str, ...]:
    if isinstance(found, dict):
        try:
            numbered = {int(key): name for key, name in found.items()}
        except ValueError as error:
            raise ValueError("its keys are no class numbers") from error
        if sorted(numbered) != list(range(len(numbered))):
            raise ValueError("its keys are not 0, 1, 2 …")
        found = [numbered[key] for key in sorted(numbered)]
    if not isinstance(found, list) or not found or len(found) > MAX_NAMES or not all(isinstance(name, str) for name in found):
        raise ValueError("expected class names, as {0: 'cat', 1: 'dog'}")
    names = tuple(_line(name) or f"class {number}" for number, name in enumerate(found))
    if len(set(names)) < len(names):
        raise ValueError("a class name is there twice")
    return names


def _image_size(found: Any) -> tuple[int, int]:
    sides = [found, found] if isinstance(found, int) else found
    if not isinstance(sides, list) or len(sides) != 2 or not all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides):
        raise ValueError(f"expected [height, width], each 1 to {MAX_SIDE}")
    return sides[0], sides[1]


def _stride(found: Any) -> int:
    if type(found) is not int or not 1 <= found <= MAX_SIDE:
        raise ValueError("expected a whole number")
    return found
