"""Uploaded images: an error where they are none, and scaled down to a size that is quick to show."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.images.decode import FORMATS, decode_image


@dataclass(frozen=True)
class ImageLimits:
    """What a page takes."""

    pixels: int = 50_000_000  # a 50-megapixel photo is 150 MB when it is decoded
    side: int = 512  # pixels of the longer side that the models are shown; the graph brings it to its own size


def read_upload(data: bytes, name: str, limits: ImageLimits | None = None) -> np.ndarray:
    """An image file's bytes → uint8 (height, width, 1 | 3), at most ``limits.side`` on its longer side.

    The size that its head claims is looked at before any pixel is decoded. Raises InputError for what is no image, is broken,
    or has too many pixels.
    """
    limits = limits or ImageLimits()
    try:
        with warnings.catch_warnings():
            # Pillow warns of what is refused below, in words of our own.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > limits.pixels:
                    size = f"{width * height / 1e6:.0f} megapixels ({width} × {height})"
                    raise InputError(f"{name} has {size}; shrink it to at most {limits.pixels // 10**6}")
                return shrink(decode_image(image, name), limits.side)
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: too many pixels; shrink it to at most {limits.pixels // 10**6} megapixels") from error
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError) as error:
        raise InputError(f"{name} is not an image that can be read; expected PNG, JPEG, GIF, BMP, TIFF or WebP") from error


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 (height, width, 1 | 3) with a longer side of at most ``side`` pixels, area-averaged; smaller images as they are."""
    height, width, channels = image.shape
    longest = max(height, width)
    if longest <= side:
        return image
    size = max(1, round(width * side / longest)), max(1, round(height * side / longest))
    smaller = Image.fromarray(image[..., 0] if channels == 1 else image).resize(size, Image.Resampling.BOX)
    return np.asarray(smaller).reshape(size[1], size[0], channels)


def has_light_ground(image: np.ndarray) -> bool:
    """True for dark on light, decided by the edge of a uint8 image (height, width, channels)."""
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    return bool(np.median(edge) > 127)


def framed_like_mnist(image: np.ndarray, size: int = 28, figure: int = 20) -> np.ndarray:
    """A figure, uint8 (height, width, channels), as MNIST lays it out: light on dark, ``figure`` pixels long, its mass in the middle.

    uint8 (size, size, 1). A model of MNIST that frames nothing itself is shown what it knows. Source: LeCun et al.,
    "Gradient-based learning applied to document recognition", 1998, and its data set's page. An empty image stays empty.
    """
    grey = image.mean(axis=2)  # (height, width)
    ink = 255 - grey if has_light_ground(image) else grey
    rows, columns = (np.flatnonzero((ink > 40).any(axis=axis)) for axis in (1, 0))
    made = np.zeros((size, size), np.float64)
    if not len(rows):
        return made.astype(np.uint8)[..., None]
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].round().astype(np.uint8)
    scale = figure / max(cut.shape)
    width, height = max(1, round(cut.shape[1] * scale)), max(1, round(cut.shape[0] * scale))
    small = np.asarray(Image.fromarray(cut).resize((width, height), Image.Resampling.BOX), np.float64)
    weight = max(small.sum(), 1.0)
    middle = [float((np.arange(small.shape[axis]) * small.sum(axis=1 - axis)).sum() / weight) for axis in (0, 1)]
    top, left = (min(max(round(size / 2 - m), 0), size - n) for m, n in zip(middle, small.shape, strict=True))
    made[top : top + height, left : left + width] = small
    return made.round().astype(np.uint8)[..., None]
