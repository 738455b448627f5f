"""One image, as a file, bytes, a PIL image or an array, to a uint8 array (height, width, channels)."""

from __future__ import annotations

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np

from onnxferry.runtime.errors import InputError, InputNotFoundError

if TYPE_CHECKING:
    from PIL.Image import Image


ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image | np.ndarray"
"""A path, an encoded file's bytes, a file that is open for reading in binary mode, a PIL image, or an array (height, width) or
(height, width, 1 | 3)."""


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pbm")


# Formats that are decoded in this process. Pillow has more, but EPS runs Ghostscript, and each is attack surface.
# The common ones come first: the first that is not compiled in makes Pillow import all its plugins.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP")


_MAX_NAME = 200  # characters of a path that messages show


# Tags of TIFF, and a value of the photometric interpretation. Pillow inverts WhiteIsZero for up to 8 bits only.
_BITS_PER_SAMPLE, _SAMPLE_FORMAT, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 339, 262, 0


# What Pillow's decoders raise on broken bytes, beside OSError.
_BROKEN = (SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError, MemoryError, struct.error, zlib.error)


MAX_PIXELS = 2**26
"""Pixels of an image that is decoded, 67 million. A file of a hundred bytes may claim as many, and each takes up to 16 bytes meanwhile."""


def decode_image(image: ImageInput, name: str = "the image", *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """uint8 (height, width, channels), channels 1 for grey and 3 for red, green, blue.

    Transparency is laid over white (but a BMP without any opaque pixel is opaque), 12- and 16-bit values are scaled to 8, a photo is
    turned as its EXIF orientation says, palettes and CMYK become RGB, and of an animation the first frame is taken. A TIFF is read as it
    declares its samples. ``name`` is used in messages for an image without a path.

    Raises InputError for a file that does not exist (InputNotFoundError), is not an image, is truncated, or has more pixels than
    ``max_pixels`` or ``PIL.Image.MAX_IMAGE_PIXELS`` (89 million as Pillow ships it); and for an array of the wrong dtype or shape.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, name)
    if isinstance(image, str | os.PathLike):
        _refuse_no_name(image)
        return _from_file(Path(os.fsdecode(image)), max_pixels)
    if isinstance(image, bytes | bytearray | memoryview):
        return _from_stream(BytesIO(image), name, max_pixels)
    from PIL import Image

    if isinstance(image, Image.Image):
        return _from_image(image, name, max_pixels)
    if hasattr(image, "read"):
        return _from_stream(BytesIO(_all_of(image, name)), name, max_pixels)
    hint = "; use numpy.asarray(x)" if hasattr(image, "__array__") else ""
    expected = "a path, bytes, an open file, a PIL image or a uint8 array (height, width, 1 | 3)"
    raise InputError(f"{name}: expected {expected}, got {type(image).__name__}{hint}")


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
    if (mask := getattr(array, "mask", None)) is not None and np.any(mask):  # without an import of numpy.ma
        raise InputError(f"{name}: has masked pixels, which have no value; give x.filled(255), for example")
    array = np.asarray(array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.ndim == 2:
        array = array[..., np.newaxis]
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise InputError(f"{name}: expected an array (height, width) or (height, width, 1 | 3), got {array.shape}{_shape_hint(array)}")
    if 0 in array.shape:
        raise InputError(f"{name}: has no pixels, its shape is {array.shape}")
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        _refuse_8_bits_in_16(int(array.max()), name)
        return _from_16_bits(array)
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    hint = "(x * 255).round().astype('uint8') if its values are 0 to 1, " if array.dtype.kind == "f" else ""
    use = f"; use {hint}x.astype('uint8') if they are 0 to 255" if array.dtype.kind in "iuf" else ""
    raise InputError(f"{name}: expected a uint8 array with values 0 to 255, got {array.dtype}{use}")


def _shape_hint(array: np.ndarray) -> str:
    if array.dtype == object:
        return "; give images of several sizes as list(x)"
    if array.ndim == 3 and array.shape[0] in (1, 3):
        return "; channels come last: use x.transpose(1, 2, 0)"
    if array.ndim == 3 and array.shape[2] == 4:
        return "; for red, green, blue, alpha use PIL.Image.fromarray(x)"
    if array.ndim in (3, 4):
        return "; give an array of many images alone, not inside a list"
    return ""


def _refuse_8_bits_in_16(largest: int, name: str) -> None:
    """Raises InputError for values that fit 8 bits in an array of 16: as 16 bits they would all be black, which is hardly meant."""
    if 0 < largest < 256:
        raise InputError(
            f"{name}: has 16-bit values, of which the largest is {largest}, so it would be black; "
            "use x.astype('uint8') if they are 0 to 255"
        )


def _from_16_bits(array: np.ndarray) -> np.ndarray:
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 / 257 = 255, rounded to the nearest


def _refuse_no_name(path: str | os.PathLike[str]) -> None:
    """Raises InputError for text that is no file's name, and says what it is instead."""
    text = os.fspath(path)
    text = text if isinstance(text, str) else os.fsdecode(text)
    if not text:
        raise InputError("an image's name is empty, expected a path")
    scheme = text[:8].lower()
    if scheme.startswith("data:"):
        raise InputError(f"{_shown(text)}: is a data URI, expected a path or bytes; use base64.b64decode(uri.partition(',')[2])")
    if scheme.startswith(("http://", "https://", "ftp://", "s3://", "file://")):
        raise InputError(f"{_shown(text)}: is a URL, and nothing is fetched; download it first, or give its bytes")


def _shown(name: object) -> str:
    """A name for messages: a very long one is cut."""
    text = str(name)
    return text if len(text) <= _MAX_NAME else f"{text[:_MAX_NAME]}… ({len(text)} characters)"


def _all_of(file: Any, name: str) -> bytes:
    """What an open file holds from where it stands. Raises InputError for a file of text."""
    try:
        data = file.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise InputError(f"{name}: the file cannot be read ({error}); give one that is open for reading") from error
    if not isinstance(data, bytes):
        raise InputError(f"{name}: the file is open for text, expected binary; use open(path, 'rb')")
    if not data and _position(file) > 0:
        raise InputError(f"{name}: the file has been read to its end already; use file.seek(0) before")
    return data


def _position(file: Any) -> int:
    """Where an open file stands; 0 where it cannot say."""
    try:
        return int(file.tell())
    except (AttributeError, OSError, TypeError, ValueError):
        return 0


def _from_file(path: Path, max_pixels: int) -> np.ndarray:
    try:
        with path.open("rb") as stream:
            return _from_stream(stream, _shown(path), max_pixels)
    except FileNotFoundError:
        hint = "; ~ is not expanded here: give the whole path" if path.parts[:1] == ("~",) else ""
        raise InputNotFoundError(f"no such image: {_shown(path)}{hint}", path) from None
    except IsADirectoryError:
        raise InputError(
            f"{_shown(path)}: is a folder, expected an image; give a folder alone, not inside a list, for all images in it"
        ) from None
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{_shown(path)}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a name that no file can have
        raise InputError(f"no such image: {_shown(path)!r} ({error})") from error


def _from_stream(stream: BinaryIO, name: str, max_pixels: int) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(stream, formats=FORMATS) as image:
            return _from_image(image, name, max_pixels)
    except UnidentifiedImageError:
        stream.seek(0)
        raise _unknown_format(name, stream.read(32)) from None
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error)) from error
    except InputError:
        raise
    except (OSError, *_BROKEN) as error:
        raise _unreadable(name, error) from error


def _from_image(image: Image, name: str, max_pixels: int) -> np.ndarray:
    from PIL import Image as ImageModule
    from PIL import ImageOps

    width, height = image.size
    if ImageModule.MAX_IMAGE_PIXELS is not None and width * height > ImageModule.MAX_IMAGE_PIXELS:
        raise _too_large(name, f"{width} x {height}")
    if width * height > max_pixels:
        raise InputError(
            f"{name}: too many pixels ({width} x {height}, at most {max_pixels} are decoded); shrink it, or if you trust it, "
            "give decode_image(..., max_pixels=...) of onnxferry.runtime.images.decode instead"
        )
    if 0 in image.size:
        raise InputError(f"{name}: has no pixels, its size is {width} x {height}")
    try:
        wide = _wide_samples(image, name)  # of the image as it was opened: what a turned one was opened from is not known
        blank = image.format in ("BMP", "DIB") and image.mode == "RGBA" and image.getchannel("A").getextrema()[1] == 0
        image = ImageOps.exif_transpose(image)
        if wide is not None:
            return _from_wide(image, wide)
        if image.has_transparency_data and not blank:
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


class _WideSamples(NamedTuple):
    """Grey values with more than 8 bits."""

    largest: int  # the value of white, or of black where white is 0
    white_is_zero: bool


def _wide_samples(image: Image, name: str) -> _WideSamples | None:
    """None for an image of 8 bits a channel. Raises InputError for pixels whose range is not known.

    Pillow has 16-bit values as mode I;16 (TIFF, PNG) or I (PGM, which it scales to 65535), and I also for 32-bit and signed ones.
    """
    tags = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
    signed = tags is not None and 2 in _as_tuple(tags.get(_SAMPLE_FORMAT, 1))
    if signed or image.mode == "F" or (image.mode == "I" and image.format not in ("PPM", "PNG")):
        kind = "float32" if image.mode == "F" else "signed integer" if signed else "int32"
        raise InputError(f"{name}: has {kind} pixels of unknown range; convert it to 8 or 16 bits a channel, unsigned")
    if image.mode not in ("I", "I;16", "I;16L", "I;16B", "I;16N"):
        return None
    if tags is None:
        if image.format is None:  # made from an array; a file says itself that it has 16 bits, and every viewer shows it black
            _refuse_8_bits_in_16(int(np.asarray(image).max()), name)
        return _WideSamples(65535, False)
    return _WideSamples(2 ** _as_tuple(tags.get(_BITS_PER_SAMPLE, 16))[0] - 1, tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)


def _from_wide(image: Image, samples: _WideSamples) -> np.ndarray:
    values = np.asarray(image)
    whole = np.minimum(values, samples.largest).astype(np.uint32) * 65535 // samples.largest
    grey = _from_16_bits(65535 - whole if samples.white_is_zero else whole)[..., np.newaxis]
    transparent = image.info.get("transparency")  # PNG's tRNS: one grey value that is see-through
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return grey


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


_OTHER_FORMATS = (
    ("AVIF", 4, (b"ftypavif", b"ftypavis")),
    ("HEIC", 4, (b"ftypheic", b"ftypheix", b"ftypheim", b"ftypheis", b"ftyphevc", b"ftyphevx", b"ftypmif1", b"ftypmsf1")),
    ("JPEG 2000", 0, (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")),
    ("JPEG XL", 0, (b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")),
    ("ICO", 0, (b"\x00\x00\x01\x00",)),
    ("PDF", 0, (b"%PDF",)),
    ("PSD", 0, (b"8BPS",)),
    ("SVG", 0, (b"<svg", b"<?xml")),
)
"""Formats that are not read: name, position of their signature, signatures."""


_NO_IMAGES = (
    ("is a Git LFS pointer, not the image itself; run `git lfs pull`", (b"version https://git-lfs",)),
    ("is a web page, most likely an error of the server that it came from; download the image itself", (b"<!doctype html", b"<html")),
    ("is base64 text, not bytes; use base64.b64decode(text) before", (b"ivborw0kggo", b"/9j/", b"data:image/", b"r0lgod", b"uklgr")),
    ("is JSON, not an image; send the bytes of the image themselves", (b"{", b"[")),
)
"""What is sent or saved in place of an image, by how it starts, in small letters: of base64 PNG, JPEG, GIF and WebP."""


def _unknown_format(name: str, start: bytes) -> InputError:
    for other, at, signatures in _OTHER_FORMATS:
        if start[at:].startswith(signatures):
            return InputError(f"{name}: is {other}, which is not read; convert it to PNG or JPEG (read are {', '.join(FORMATS)})")
    for words, starts in _NO_IMAGES:
        if start.lstrip().lower().startswith(starts):
            return InputError(f"{name}: {words}")
    if not start:
        return InputError(f"{name}: is empty, expected an image ({', '.join(FORMATS)})")
    return InputError(f"{name}: not an image, or broken at its start; expected {', '.join(FORMATS)}")


def _too_large(name: str, size: str) -> InputError:
    return InputError(f"{name}: too many pixels ({size}); shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it")


def _unreadable(name: str, error: BaseException) -> InputError:
    return InputError(f"{name}: broken or truncated image ({error or type(error).__name__})")
