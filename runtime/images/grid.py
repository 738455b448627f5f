"""A grid of images as one image, and images written to a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from onnxferry.runtime.errors import InputError, InputNotFoundError
from onnxferry.runtime.files import written_whole

GAP_GREY = 128
"""The grey level between the images."""


def image_grid(images: np.ndarray, columns: int, *, gap: int = 1, scale: int = 1) -> np.ndarray:
    """uint8 (n, height, width) or (n, height, width, 1 | 3) → uint8 (rows, columns …) as one image of the same kind.

    ``gap``: pixels between them. ``scale``: how many times each pixel is repeated. Cells without an image stay grey.
    """
    flat = images[..., None] if images.ndim == 3 else images
    n, height, width, channels = flat.shape
    rows = max(1, -(-n // columns))
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), GAP_GREY, np.uint8)
    for i, image in enumerate(flat):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    canvas = canvas.repeat(scale, axis=0).repeat(scale, axis=1)
    return canvas[..., 0] if channels == 1 else canvas


def save_image(image: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Write uint8 (height, width) or (height, width, 3) as a .png file, atomically."""
    from PIL import Image

    target = Path(path)
    if target.suffix.lower() != ".png":
        raise InputError(f"an image is written as .png, got {target.name!r}")
    if not target.parent.is_dir():
        raise InputNotFoundError(f"the folder {target.parent} does not exist: make it, or give another place", target.parent)
    with written_whole(target) as part:
        Image.fromarray(image).save(part, format="PNG")
