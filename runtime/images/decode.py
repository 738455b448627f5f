"""One image, as a file, bytes, a PIL image or an array, to a uint8 array (height, width, channels)."""

from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

import numpy as np

from onnxferry.runtime.errors import InputError, InputNotFoundError

if TYPE_CHECKING:
    from PIL.Image import Image


ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image | np.ndarray"
"""A path, an encoded file's bytes, a PIL image, or an array (height, width) or (height, width, 1 | 3)."""


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pbm")


# Formats that are decoded in this process. Pillow has more, but EPS runs Ghostscript, and each is attack surface.
# The common ones come first: the first that is not compiled in makes Pillow import all its plugins.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP")


# What Pillow's decoders raise on broken bytes, beside OSError.
_BROKEN = (SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError, MemoryError, struct.error, zlib.error)


def decode_image(image: ImageInput, name: str = "the image") -> np.ndarray:
    """uint8 (height, width, channels), channels 1 for grey and 3 for red, green, blue.

    Transparency is laid over white, 16-bit values are scaled to 8, a photo is turned as its EXIF orientation says, palettes
    and CMYK become RGB, and of an animation the first frame is taken. ``name`` is used in messages for an image without a path.

    Raises InputError for a file that does not exist (InputNotFoundError), is not an image, is truncated, or has more pixels than
    ``PIL.Image.MAX_IMAGE_PIXELS`` (89 million as Pillow ships it); and for an array of the wrong dtype or shape.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, name)
    if isinstance(image, str | os.PathLike):
        return _from_file(Path(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return _from_stream(BytesIO(image), name)
    from PIL import Image

    if isinstance(image, Image.Image):
        return _from_image(image, name)
    hint = "; use numpy.asarray(x)" if hasattr(image, "__array__") else ""
    raise InputError(
        f"{name}: expected a path, bytes, a PIL image or a uint8 array (height, width, 1 | 3), got {type(image).__name__}{hint}"
    )


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """uint8 (height, width, 1 | 3) to (height, width, channels): grey is repeated, colour is converted to luma.

    Luma as ITU-R BT.601 defines it, 0.299 R + 0.587 G + 0.114 B, rounded as Pillow does for its mode "L".
    """
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    red, green, blue = (image[..., i].astype(np.uint32) for i in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint8)[..., np.newaxis]


def _from_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., np.newaxis]
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise InputError(f"{name}: expected an array (height, width) or (height, width, 1 | 3), got {array.shape}{_shape_hint(array)}")
    if 0 in array.shape:
        raise InputError(f"{name}: has no pixels, its shape is {array.shape}")
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return _from_16_bits(array)
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    hint = "(x * 255).round().astype('uint8') if its values are 0 to 1, " if array.dtype.kind == "f" else ""
    raise InputError(
        f"{name}: expected a uint8 array with values 0 to 255, got {array.dtype}; use {hint}x.astype('uint8') if they are 0 to 255"
    )


def _shape_hint(array: np.ndarray) -> str:
    if array.ndim == 3 and array.shape[0] in (1, 3):
        return "; channels come last: use x.transpose(1, 2, 0)"
    if array.ndim == 3 and array.shape[2] == 4:
        return "; for red, green, blue, alpha use PIL.Image.fromarray(x)"
    if array.ndim in (3, 4):
        return "; give an array of many images alone, not inside a list"
    return ""


def _from_16_bits(array: np.ndarray) -> np.ndarray:
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 / 257 = 255, rounded to the nearest


def _from_file(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as stream:
            return _from_stream(stream, str(path))
    except FileNotFoundError:
        raise InputNotFoundError(f"no such image: {path}", path) from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder, expected an image; give a folder alone, not inside a list, for all images in it") from None
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a name that no file can have
        raise InputError(f"no such image: {str(path)!r} ({error})") from error


def _from_stream(stream: BinaryIO, name: str) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(stream, formats=FORMATS) as image:
            return _from_image(image, name)
    except UnidentifiedImageError:
        raise InputError(f"{name}: not an image, or broken at its start; expected {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error)) from error
    except InputError:
        raise
    except (OSError, *_BROKEN) as error:
        raise _unreadable(name, error) from error


def _from_image(image: Image, name: str) -> np.ndarray:
    from PIL import Image as ImageModule
    from PIL import ImageOps

    width, height = image.size
    if ImageModule.MAX_IMAGE_PIXELS is not None and width * height > ImageModule.MAX_IMAGE_PIXELS:
        raise _too_large(name, f"{width} x {height}")
    if 0 in image.size:
        raise InputError(f"{name}: has no pixels, its size is {width} x {height}")
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
            return _from_wide(image, name)
        if image.has_transparency_data:
            return _over_white(image)
        grey = image.mode in ("1", "L")
        return np.array(image.convert("L" if grey else "RGB")).reshape(image.height, image.width, 1 if grey else 3)
    except InputError:
        raise
    except (OSError, *_BROKEN) as error:
        raise _unreadable(name, error) from error


def _over_white(image: Image) -> np.ndarray:
    from PIL import Image as ImageModule

    grey = image.mode in ("1", "L", "LA", "La")
    if image.mode in ("La", "RGBa"):  # colours already multiplied by alpha
        image = image.convert("LA" if grey else "RGBA")
    colour = image.convert("RGBA")
    flat = ImageModule.alpha_composite(ImageModule.new("RGBA", colour.size, "white"), colour).convert("L" if grey else "RGB")
    return np.array(flat).reshape(flat.height, flat.width, 1 if grey else 3)


def _from_wide(image: Image, name: str) -> np.ndarray:
    """Modes with more than 8 bits: 16-bit files come as I;16 or I by format; anything else has no known range."""
    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise InputError(f"{name}: has {values.dtype.name} pixels of unknown range; convert it to 8 or 16 bits a channel")
    grey = _from_16_bits(values)[..., np.newaxis]
    transparent = image.info.get("transparency")  # PNG's tRNS: one grey value that is see-through
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return grey


def _too_large(name: str, size: str) -> InputError:
    return InputError(f"{name}: too many pixels ({size}); shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it")


def _unreadable(name: str, error: BaseException) -> InputError:
    return InputError(f"{name}: broken or truncated image ({error or type(error).__name__})")
