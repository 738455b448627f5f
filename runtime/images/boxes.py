"""Boxes drawn into an image."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

LEAST_SIDE = 480
"""Images whose longer side is less are enlarged, by whole numbers, so that labels can be read."""


def draw_boxes(image: np.ndarray, boxes: Sequence[Sequence[float]], labels: Sequence[str], colors: Sequence[int]) -> np.ndarray:
    """uint8 (height, width, 1 | 3) → uint8 (height × n, width × n, 3), n whole: the image with a frame and a label for each box.

    ``boxes``: left, top, right, bottom in pixels of the image. ``colors``: one number a box; equal numbers get the same color.

        draw_boxes(image, [found.box for found in objects], [found.label for found in objects], [found.index for found in objects])
    """
    from PIL import Image, ImageDraw, ImageFont

    scale = max(1, -(-LEAST_SIDE // max(image.shape[:2])))
    gray = image.shape[2] == 1
    opened = Image.fromarray(image[..., 0] if gray else image).convert("RGB")
    opened = opened.resize((opened.width * scale, opened.height * scale), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(opened)
    thick = max(1, round(max(opened.size) / 300))
    font = ImageFont.load_default(max(12, round(max(opened.size) / 40)))
    for box, label, number in zip(boxes, labels, colors, strict=True):
        left, top, right, bottom = (edge * scale for edge in box)
        color = _color(number)
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color, width=thick)
        _write(draw, label, font, color, (left, top), opened.size)
    return np.asarray(opened)


def _write(draw: object, label: str, font: object, color: tuple[int, int, int], place: tuple[float, float], size: tuple[int, int]) -> None:
    """The label on a ground of the frame's color, above its corner where there is room and else inside."""
    text = "".join(c for c in label if c.isprintable())
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)  # type: ignore[attr-defined]
    width, height = right - left + 4, bottom - top + 4
    x = max(0.0, min(place[0], size[0] - width))
    y = place[1] - height if place[1] >= height else place[1]
    draw.rectangle((x, y, x + width, y + height), fill=color)  # type: ignore[attr-defined]
    draw.text((x + 2 - left, y + 2 - top), text, font=font, fill="white")  # type: ignore[attr-defined]


def _color(number: int) -> tuple[int, int, int]:
    """Colors far from one another for numbers next to one another: steps of the golden ratio around the circle of hues."""
    red, green, blue = colorsys.hls_to_rgb((0.6 + number * 0.618034) % 1, 0.42, 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)
