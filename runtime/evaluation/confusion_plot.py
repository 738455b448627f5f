"""A confusion matrix as an image, drawn with Pillow alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxferry.runtime.evaluation.scores import Scores
from onnxferry.runtime.files import written_whole

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont


_RIGHT, _WRONG, _PAPER, _INK, _FAINT = (27, 110, 73), (178, 42, 42), (255, 255, 255), (34, 34, 34), (225, 225, 225)


_LONGEST_SIDE = 8000  # pixels of the matrix, however many classes


def write_confusion_plot(scores: Scores, path: str | os.PathLike[str]) -> None:
    """Writes ``draw_confusion``'s image as PNG, whatever the suffix. The file is written atomically."""
    with written_whole(Path(path)) as part:
        draw_confusion(scores).save(part, "PNG")


def draw_confusion(scores: Scores) -> Image:
    """RGB image: a row for each true class, a column for each predicted one, each row shaded by its own total.

    The diagonal is green and mistakes are red; mistakes are shaded by the square root of their share, so that rare ones show too.
    Counts and labels are written where they fit.
    """
    from PIL import Image, ImageDraw, ImageFont

    classes = len(scores.labels)
    cell = min(max(56 if classes <= 12 else 36 if classes <= 40 else 12, 2), max(_LONGEST_SIDE // classes, 1))
    font = _font(scores.labels, max(min(cell // 3, 18), 9))
    heading = ImageFont.load_default(20)
    written = cell >= 24  # otherwise there is no room for numbers and labels
    numbered = numbered_labels(scores)
    names = [str(i) if i in numbered else _shortened(label, font, 160) for i, label in enumerate(scores.labels)]
    margin = 16 + (round(max(font.getlength(name) for name in names)) + 12 if written else 0)
    top = 76 + (margin if written else 16)
    left = 34 + margin
    side = classes * cell
    key = f"no font here has the letters of {', '.join(map(str, numbered))}: classes by their position" if numbered and written else ""
    image = Image.new("RGB", (max(left + side + 24, 420), top + side + (48 if key else 24)), _PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((16, 12), f"{scores.accuracy:.2%} right of {scores.count}", _INK, font=heading)
    draw.text((16, 40), "rows: true class     columns: predicted class", _INK, font=ImageFont.load_default(14))

    draw.text((16, top + side + 16), key, _INK, font=ImageFont.load_default(12))

    totals = np.maximum(scores.confusion.sum(axis=1, keepdims=True), 1)
    shares = scores.confusion / totals  # (classes, classes)
    for row, column in np.ndindex(classes, classes):
        share, count = float(shares[row, column]), int(scores.confusion[row, column])
        strength = share if row == column else share**0.5
        colour = _mix(_PAPER, _RIGHT if row == column else _WRONG, strength)
        x, y = left + column * cell, top + row * cell
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=colour, outline=_FAINT if written else None)
        if written and count and font.getlength(str(count)) < cell - 2:
            draw.text((x + cell / 2, y + cell / 2), str(count), _PAPER if strength > 0.5 else _INK, font=font, anchor=_middle(font))
    if written:
        for place, name in enumerate(names):
            y = top + place * cell + cell / 2
            draw.text((left - 8 - font.getlength(name), y - font.getbbox(name)[3] / 2), name, _INK, font=font)
            _write_upwards(image, name, (left + place * cell + cell // 2, top - 8), font)
    return image


def numbered_labels(scores: Scores) -> dict[int, str]:
    """The labels that no font here has letters for: in the image they are shown by their number, the position among the labels."""
    font = _font(scores.labels, 18)
    return {i: label for i, label in enumerate(scores.labels) if not _has_letters(font, label)}


_SYSTEM_FONTS = ("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc", "msyh.ttc", "PingFang.ttc", "DejaVuSans.ttf", "arial.ttf")
"""Tried in this order where Pillow's own font, which has ASCII letters only, lacks one: the systems' usual ones."""


def _font(labels: Sequence[str], size: int) -> ImageFont | FreeTypeFont:
    """A font for all labels; if there is none, Pillow's own."""
    from PIL import ImageFont

    own = ImageFont.load_default(size)
    if all(_has_letters(own, label) for label in labels):
        return own
    for name in _SYSTEM_FONTS:
        try:
            found = ImageFont.truetype(name, size)
        except (OSError, ImportError):  # there is none of that name, or this Pillow has no FreeType
            continue
        if all(_has_letters(found, label) for label in labels):
            return found
    return own


def _has_letters(font: ImageFont | FreeTypeFont, text: str) -> bool:
    """Whether no letter is drawn as the font's sign for a missing one."""
    if text.isascii():
        return True
    try:
        missing = bytes(font.getmask("\U0010fffd"))
        return all(bytes(font.getmask(letter)) != missing for letter in set(text) if not letter.isspace())
    except UnicodeEncodeError:  # Pillow's bitmap font, where it has no FreeType
        return False


def _shortened(label: str, font: ImageFont | FreeTypeFont, width: int) -> str:
    """The label cut to ``width`` pixels."""
    if font.getlength(label) <= width:
        return label
    while label and font.getlength(label + "…") > width:
        label = label[:-1]
    return label + "…"


def _write_upwards(image: Image, text: str, foot: tuple[int, int], font: ImageFont | FreeTypeFont) -> None:
    """Draw text that is read from bottom to top, starting at ``foot``."""
    from PIL import Image as ImageModule
    from PIL import ImageDraw

    width, height = round(font.getlength(text)) + 1, round(font.getbbox(text)[3]) + 1
    flat = ImageModule.new("RGB", (width, height), _PAPER)
    ImageDraw.Draw(flat).text((0, 0), text, _INK, font=font)
    image.paste(flat.rotate(90, expand=True), (foot[0] - height // 2, foot[1] - width))


def _middle(font: ImageFont | FreeTypeFont) -> str | None:
    """None without FreeType: Pillow then has one bitmap font, without anchors."""
    return "mm" if hasattr(font, "set_variation_by_name") else None


def _mix(a: tuple[int, int, int], b: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue
