"""What the methods that take images accept: one image, many, or a folder, to decoded images one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.images.decode import ImageInput, decode_image
from onnxferry.runtime.images.folders import list_images

ImagesInput: TypeAlias = "ImageInput | Iterable[ImageInput]"
"""One image (see :func:`~onnxferry.runtime.images.decode.decode_image`), a folder of images, an iterable of images of any sizes, or
an array of images (n, height, width) or (n, height, width, 1 | 3)."""


OnError: TypeAlias = Literal["raise", "skip"] | Callable[[Any, InputError], object]
"""What happens for an image that cannot be read: the error is raised, the image is left out, or a function is called with the image's
key and the error, and the image is left out."""


_ITEM = "a path, bytes, an open file, a PIL image or a uint8 array (height, width) or (height, width, 1 | 3)"


def decode_each(
    images: ImagesInput | Iterable[tuple[Any, ImageInput]], on_error: OnError = "raise", channels: int | None = None
) -> Iterator[tuple[Any, np.ndarray]]:
    """Keys and decoded images, uint8 (height, width, 1 | 3), one at a time and in the order given.

    ``images``: as :data:`ImagesInput`, or pairs of a key and an image. Without a pair the key is the path for a path, and else the
    position. An array with three axes is one image where its last axis is 1 or 3, and else n grey images (n, height, width);
    grey images of that width are given as (n, height, width, 1).
    ``channels``: of the model. Where it is 3, an array (3, height, width) may be one colour image with its channels first, and
    is refused.

    Raises InputError for what is not an image where ``on_error`` is "raise", and always for an ``images`` or ``on_error`` of the
    wrong type; DataError for a folder without images.
    """
    if on_error not in ("raise", "skip") and not callable(on_error):
        raise InputError(f"on_error must be 'raise', 'skip' or a function of a key and an error, got {on_error!r}")
    return _decoded(_named(images, channels), on_error)


def decode_images(images: ImagesInput, channels: int | None = None) -> Iterator[np.ndarray]:
    """As :func:`decode_each`, without keys. Raises InputError, which for many images names the position."""
    return (image for _, image in decode_each(images, channels=channels))


def _decoded(named: Iterator[tuple[Any, str, Any]], on_error: OnError) -> Iterator[tuple[Any, np.ndarray]]:
    for key, name, image in named:
        try:
            decoded = decode_image(image, name)
        except InputError as error:
            if on_error == "raise":
                raise
            if on_error != "skip":
                on_error(key, error)
        else:
            yield key, decoded


def _named(images: Any, channels: int | None) -> Iterator[tuple[Any, str, Any]]:
    """Key, name for messages, and image, not decoded."""
    if isinstance(images, np.ndarray):
        return _of_array(images, channels)
    if isinstance(images, str | os.PathLike) and os.fspath(images) and _is_folder(images):
        return ((path, str(path), path) for path in list_images(images))
    if (
        isinstance(images, list | tuple)
        or (isinstance(images, Iterator) and not hasattr(images, "read"))
        or (isinstance(images, Iterable) and not _is_one(images))
    ):
        return (_of_item(position, item) for position, item in enumerate(images))
    return iter([(images if isinstance(images, str | os.PathLike) else 0, "the image", images)])


def _is_one(images: Any) -> bool:
    """Whether something that can be iterated over is one image all the same, or is nothing that holds images."""
    single = isinstance(images, str | bytes | bytearray | memoryview | Mapping)
    return single or hasattr(images, "__array__") or hasattr(images, "read")  # a file that is open


def _is_folder(path: str | os.PathLike[str]) -> bool:
    """False also for a name that no file can have, which decoding it reports."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def _of_item(position: int, item: Any) -> tuple[Any, str, Any]:
    if isinstance(item, tuple):
        if len(item) != 2:
            raise InputError(f"image {position}: expected {_ITEM}, or a pair of a key and one of these, got a tuple of {len(item)}")
        key, image = item
        return key, key if isinstance(key, str) else f"image {key}", image
    return item if isinstance(item, str | os.PathLike) else position, f"image {position}", item


def _of_array(array: np.ndarray, channels: int | None) -> Iterator[tuple[Any, str, Any]]:
    if array.ndim == 4 or (array.ndim == 3 and _is_many(array, channels)):
        return ((i, f"image {i}", image) for i, image in enumerate(array))
    return iter([(0, "the image", array)])


def _is_many(array: np.ndarray, channels: int | None) -> bool:
    """Whether an array with three axes is many grey images."""
    if array.shape[2] in (1, 3, 4):  # 4: red, green, blue, alpha, which decode_image refuses with what to do
        return False
    if channels == 3 and array.shape[0] == 3:
        raise InputError(
            f"the image: an array {array.shape} may be one image with its channels first or three grey ones, and the model takes "
            "colour; use x.transpose(1, 2, 0) for one image, x[..., None] for three"
        )
    return True
