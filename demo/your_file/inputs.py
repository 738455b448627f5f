"""Arrays for a model's inputs, whatever they are: from an image, a text, a file of arrays, or made up."""

from __future__ import annotations

import math
import re
import wave
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import IO

import numpy as np
from PIL import Image

from onnxferry.runtime.errors import InputError
from onnxferry.runtime.files import UNREADABLE
from onnxferry.runtime.formats import human_bytes
from onnxferry.runtime.onnx_file.made_inputs import random_array

MAX_ELEMENTS = 16 * 2**20
"""Elements of one input that are made here: what a file declares may be any number."""


@dataclass(frozen=True)
class Input:
    """One input as the file declares it."""

    name: str
    dtype: str  # numpy's name, or the file's where numpy has none
    shape: tuple[int | str | None, ...] | None  # None: of any rank

    @property
    def free_axes(self) -> tuple[int, ...]:
        """Axes whose size the caller chooses."""
        return tuple(axis for axis, size in enumerate(self.shape or ()) if not isinstance(size, int))

    @property
    def takes_image(self) -> str:
        """``NHWC`` or ``NCHW`` where the shape is an image's, else "": the axis of size 1 or 3 decides, uint8 and floats only."""
        shape = self.shape or ()
        if len(shape) != 4 or self.dtype not in ("uint8", "float32", "float16", "float64"):
            return ""
        return "NHWC" if shape[3] in (1, 3) else "NCHW" if shape[1] in (1, 3) else ""

    @property
    def takes_audio(self) -> bool:
        """True for samples, floats (length,), (batch, length) or (batch, 1, length) with a length that is free or long."""
        shape = self.shape or ()
        if self.dtype not in ("float32", "float16", "float64") or not 1 <= len(shape) <= 3:
            return False
        last = shape[-1]
        long = not isinstance(last, int) or last >= 256
        return long and all(not isinstance(size, int) or size == 1 for size in shape[:-1]) and (len(shape) < 3 or shape[1] == 1)

    @property
    def takes_values(self) -> bool:
        """True for numbers and flags: values can be typed."""
        return self.shape is not None and not self.takes_image and (self.dtype == "bool" or np.dtype(self.dtype).kind in "iuf")

    @property
    def takes_text(self) -> bool:
        """True for bytes, uint8 (batch, length)."""
        return self.dtype == "uint8" and self.shape is not None and len(self.shape) == 2


def sized(spec: Input, sizes: Mapping[int, int]) -> tuple[int, ...]:
    """The shape with the free axes filled in, 1 where ``sizes`` names none. Raises InputError beyond MAX_ELEMENTS."""
    shape = tuple(size if isinstance(size, int) else sizes.get(axis, 1) for axis, size in enumerate(spec.shape or ()))
    if any(size < 0 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise InputError(
            f"input {spec.name!r} of shape {shape} has {math.prod(shape):,} elements, and at most {MAX_ELEMENTS:,} are made here"
        )
    return shape


def made_up(spec: Input, sizes: Mapping[int, int], *, seed: int = 0, zeros: bool = False) -> np.ndarray:
    """Random values as :func:`onnxferry.runtime.onnx_file.made_inputs.random_array` draws them, or zeros.

    Raises InputError for a dtype that is no number or flag, and for a shape beyond MAX_ELEMENTS.
    """
    shape = sized(spec, sizes)
    try:
        made = random_array(spec.dtype, shape, np.random.default_rng(seed))
    except InputError as error:
        raise InputError(f"cannot generate values for the input {spec.name!r} ({error}); upload arrays instead") from error
    return np.zeros_like(made) if zeros else made


def from_image(spec: Input, image: np.ndarray, *, sizes: Mapping[int, int] | None = None) -> np.ndarray:
    """A uint8 image (height, width, 1 | 3) as this input takes it, batch 1: layout, channels, size and 0 … 1 for floats.

    Where height and width are free it stays as large as it is, unless ``sizes`` names them by axis. Raises InputError for an input
    that takes no images.
    """
    layout = spec.takes_image
    if not layout or spec.shape is None:
        raise InputError(f"input {spec.name!r} takes no image")
    rows, columns, channel = (1, 2, 3) if layout == "NHWC" else (2, 3, 1)
    channels = 3 if spec.shape[channel] == 3 else 1
    wanted = dict(sizes or {})
    sides: list[int] = [
        declared if isinstance(declared := spec.shape[axis], int) else wanted.get(axis, int(image.shape[i]))
        for i, axis in enumerate((rows, columns))
    ]
    height, width = sides
    if height * width * channels > MAX_ELEMENTS or height < 1 or width < 1:
        raise InputError(f"input {spec.name!r} wants {height} × {width} pixels, more than are made here")
    resized = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).convert("L" if channels == 1 else "RGB")
    if resized.size != (width, height):
        resized = resized.resize((width, height), Image.Resampling.BILINEAR)
    array = np.asarray(resized).reshape(1, height, width, channels)
    if layout == "NCHW":
        array = array.transpose(0, 3, 1, 2)
    made = array if spec.dtype == "uint8" else (array / 255).astype(spec.dtype)
    return np.ascontiguousarray(made)


def from_values(spec: Input, text: str, sizes: Mapping[int, int]) -> np.ndarray:
    """Typed numbers, parted by commas or spaces: one fills the whole input, as many as it has elements fill it in order.

    Where one axis is free and ``sizes`` does not fit, that axis takes their number. Raises InputError for what is no number and for
    another count.
    """
    words = [word for word in re.split(r"[\s,;\[\]()]+", text) if word]
    try:
        numbers = [_FLAGS[word.lower()] if word.lower() in _FLAGS else float(word) for word in words]
        values = np.array(numbers).astype(spec.dtype)
    except (ValueError, OverflowError, TypeError) as error:
        raise InputError(f"the values of {spec.name!r} are no numbers: {text[:60]!r}; write such as 16000 or 0.5, 1, 2") from error
    if not len(values):
        raise InputError(f"no values were given for {spec.name!r}; write such as 16000 or 0.5, 1, 2")
    shape = sized(spec, sizes)
    if len(values) == 1:
        return np.full(shape, values[0])
    if math.prod(shape) != len(values) and spec.free_axes:
        last = spec.free_axes[-1]
        others = math.prod(size for axis, size in enumerate(shape) if axis != last)
        if others and len(values) % others == 0:
            shape = sized(spec, {**sizes, last: len(values) // others})
    if math.prod(shape) != len(values):
        raise InputError(f"{len(values)} values were given for {spec.name!r} of shape {shape}; give 1 or {math.prod(shape)}")
    return values.reshape(shape)


_FLAGS = {"true": 1.0, "false": 0.0}


def from_audio(spec: Input, data: bytes) -> np.ndarray:
    """A .wav file's samples as this input takes them, -1 … 1, one channel; cut or filled with silence where its length is fixed.

    Raises InputError for what is no .wav of 8, 16 or 32 bits.
    """
    try:
        with wave.open(BytesIO(data)) as file:
            width, channels = file.getsampwidth(), file.getnchannels()
            frames = file.readframes(min(file.getnframes(), MAX_ELEMENTS))
    except (wave.Error, EOFError, ValueError) as error:
        raise InputError(f"the sound for {spec.name!r} cannot be read ({error}); expected a .wav of whole numbers (PCM)") from error
    if width not in _SAMPLES:
        raise InputError(f"the sound for {spec.name!r} has samples of {8 * width} bits; expected 8, 16 or 32")
    dtype, middle, largest = _SAMPLES[width]
    samples = (np.frombuffer(frames, dtype).astype(np.float64).reshape(-1, channels).mean(axis=1) - middle) / largest
    last = (spec.shape or (None,))[-1]
    if isinstance(last, int):
        samples = np.pad(samples[:last], (0, max(0, last - len(samples))))
    shaped: np.ndarray = samples.reshape((1,) * (len(spec.shape or ()) - 1) + (-1,)).astype(spec.dtype)
    return shaped


_SAMPLES = {1: ("<u1", 128, 128.0), 2: ("<i2", 0, 2.0**15), 4: ("<i4", 0, 2.0**31)}


def from_text(text: str) -> np.ndarray:
    """UTF-8 bytes, uint8 (1, length)."""
    return np.frombuffer(text.encode("utf-8", "replace"), np.uint8)[None]


def from_file(data: bytes, inputs: Sequence[Input], limit: int = 64 * 2**20) -> dict[str, np.ndarray]:
    """An .npz of arrays by input name, or an .npy for a model with one input. Never unpickles.

    Raises InputError for what is neither, is larger than ``limit`` bytes when unpacked, or has names that the model has not.
    """
    names = [spec.name for spec in inputs]
    try:
        if data[:2] == b"PK":
            with zipfile.ZipFile(BytesIO(data)) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
                if size > limit:
                    raise InputError(f"the arrays take {human_bytes(size)}, and at most {human_bytes(limit)} are read here")
                for entry in archive.infolist():
                    with archive.open(entry) as stream:
                        _check_header(stream, entry.file_size)
            with np.load(BytesIO(data), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        else:
            _check_header(BytesIO(data), min(len(data), limit))
            arrays = {names[0] if len(names) == 1 else "": np.load(BytesIO(data), allow_pickle=False)}
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError("the file holds no arrays that can be read; expected numpy's .npy or .npz, without objects") from error
    strange = [name for name in arrays if name not in names]
    if strange:
        raise InputError(f"the file names {', '.join(map(repr, strange[:3]))}; the model's inputs are {', '.join(map(repr, names))}")
    return arrays


def _check_header(stream: IO[bytes], size: int) -> None:
    """The shape in an .npy's head is a claim, and numpy allocates by it: it is held against the bytes that are there."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > size:
        raise InputError(f"the file claims an array of {claimed:,} bytes and has {size:,}")
