"""Drawings as strokes: short enough for a link, and painted here, so that what is sent is small and what is read is sharp.

A drawing is text: strokes with a dot between them. A stroke is one character for the width of its pen and four for each point, two for
each coordinate, in the digits of URL-safe base64 (RFC 4648, section 5): a coordinate is a quarter of a pixel of a pad of SIDE pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIDE = 336
"""Pixels of the pad's side."""


PAINTED = 112
"""Pixels of the side of what is painted."""


LONGEST = 60_000
"""Characters of a drawing at most: ten minutes of a restless hand."""


DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


_VALUES = {character: value for value, character in enumerate(DIGITS)}


@dataclass(frozen=True, eq=False)
class Stroke:
    """From where the pen touched to where it left."""

    width: int  # of the pen, pixels of the pad
    points: np.ndarray  # float64 (n, 2): x and y, pixels of the pad


def read_strokes(text: object) -> list[Stroke]:
    """The strokes of a drawing; an empty list for what is none. What comes from a browser is untrusted."""
    if not isinstance(text, str) or not text or len(text) > LONGEST:
        return []
    strokes = []
    for part in text.split("."):
        numbers = [_VALUES.get(character, -1) for character in part]
        if len(numbers) < 5 or len(numbers) % 4 != 1 or min(numbers) < 0:
            return []
        pairs = np.array(numbers[1:], np.float64).reshape(-1, 2, 2)
        strokes.append(Stroke(max(1, numbers[0]), np.clip((pairs[..., 0] * 64 + pairs[..., 1]) / 4, 0, SIDE)))
    return strokes


def write_strokes(strokes: list[Stroke]) -> str:
    """The other way round."""

    def digits(value: float) -> str:
        quarter = min(max(round(value * 4), 0), 4 * SIDE)
        return DIGITS[quarter // 64] + DIGITS[quarter % 64]

    return ".".join(DIGITS[min(each.width, 63)] + "".join(digits(x) + digits(y) for x, y in each.points) for each in strokes)


def painted(strokes: list[Stroke], side: int = PAINTED) -> np.ndarray:
    """Dark strokes on white, uint8 (side, side, 1), with round ends and corners."""
    large = 2 * SIDE
    canvas = Image.new("L", (large, large), 255)
    draw = ImageDraw.Draw(canvas)
    for stroke in strokes:
        radius = float(stroke.width)
        points = [(2 * float(x), 2 * float(y)) for x, y in stroke.points]
        if len(points) > 1:
            draw.line(points, fill=17, width=2 * stroke.width)
        for x, y in points:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=17)
    return np.asarray(canvas.resize((side, side), Image.Resampling.BOX))[..., None]
