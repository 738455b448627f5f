"""What is done to an image before a model sees it: :class:`ImageInput`, and its definition in numpy and Pillow.

image_graph.py builds the same as ONNX nodes; an export compares the two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from onnxferry.runtime.errors import InputError

FITS = ("stretch", "crop", "pad")
INTERPOLATIONS = ("bilinear", "bicubic", "linear", "nearest")
LAYOUTS = ("auto", "nchw", "nhwc", "nhw", "flat")
CHANNELS = ("rgb", "bgr")
MAX_SIDE = 4096


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """The image that a model takes, and how it is made from an image of any size. The exported file does all of it.

        ImageInput(height=28, width=28, channels=1, scale=1 / 255)
        ImageInput.parse("224x224x3", scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), fit="crop", resize=256)

    In this order: the image, uint8 with 1 or 3 channels, is resized and cut (``fit``, ``resize``, ``interpolation``), its channels are
    put in the order ``color``, and each value becomes ``(value * scale - mean) / std`` in float32. Values between two levels that
    resizing gives are not rounded.

    Raises InputError for a value that makes no sense.
    """

    height: int  # pixels that the model takes
    width: int
    channels: int  # 1 (grey) or 3
    scale: float = 1.0  # what each value, 0 to 255, is multiplied with; 1/255 for a model that was trained on 0 to 1
    mean: tuple[float, ...] = (0.0,)  # subtracted after that; one for all channels, or one a channel in the order of ``color``
    std: tuple[float, ...] = (1.0,)  # divided by after that; as ``mean``
    fit: str = "stretch"  # stretch: both sides are resized; crop: the middle is cut out; pad: the whole image in a frame of ``pad_value``
    resize: int | None = None  # with crop: length of the shorter side before cutting; None: as short as the cut allows
    interpolation: str = "bilinear"  # bilinear, bicubic: as Pillow and torchvision (antialiased); linear: as OpenCV and Keras; nearest
    color: str = "rgb"  # order of the channels that the model takes: rgb or bgr
    layout: str = "auto"  # nchw, nhwc, nhw (grey), flat (pixels in a row, by row, column, channel); auto: what the model takes
    pad_value: float = 0.0  # with pad: the frame's value, 0 to 255

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            side = getattr(self, name)
            if isinstance(side, bool) or not isinstance(side, int) or not 1 <= side <= MAX_SIDE:
                raise InputError(f"an image's {name} must be a whole number from 1 to {MAX_SIDE}, got {side!r}")
        if self.channels not in (1, 3):
            raise InputError(f"an image has 1 or 3 channels, got {self.channels!r}")
        for name, known in (("fit", FITS), ("interpolation", INTERPOLATIONS), ("layout", LAYOUTS), ("color", CHANNELS)):
            if getattr(self, name) not in known:
                raise InputError(f"unknown {name} {getattr(self, name)!r}; expected one of {', '.join(known)}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            numbers = tuple(float(n) for n in (value if isinstance(value, Sequence) else (value,)))
            if len(numbers) not in (1, self.channels) or not all(map(math.isfinite, numbers)):
                raise InputError(f"{name} must be 1 finite number or {self.channels}, one a channel, got {value!r}")
            object.__setattr__(self, name, numbers)
        if 0.0 in self.std or not math.isfinite(self.scale) or self.scale == 0 or not 0 <= self.pad_value <= 255:
            raise InputError("scale and std must be finite and not 0, and pad_value 0 to 255")
        if self.resize is not None and (self.fit != "crop" or not max(self.height, self.width) <= self.resize <= MAX_SIDE):
            raise InputError(
                f"resize is the shorter side before fit='crop' cuts {self.height} x {self.width} out of it: expected fit='crop' and at "
                f"least {max(self.height, self.width)}, got fit={self.fit!r} and {self.resize!r}"
            )
        if self.color == "bgr" and self.channels == 1:
            raise InputError("color='bgr' needs 3 channels, and this image has 1")
        if self.layout == "nhw" and self.channels != 1:
            raise InputError("layout='nhw' is for grey images, with 1 channel")

    @classmethod
    def parse(cls, text: str, **keywords: Any) -> ImageInput:
        """``"HEIGHTxWIDTHxCHANNELS"``, such as ``"28x28x1"``, with other fields as keywords. Raises InputError for other text."""
        match = re.fullmatch(r"\s*(\d{1,6})\s*[x×,]\s*(\d{1,6})\s*[x×,]\s*(\d{1,6})\s*", text)
        if match is None:
            raise InputError(f"an image's size is HEIGHTxWIDTHxCHANNELS, such as 28x28x1 or 224x224x3, got {text!r}")
        height, width, channels = map(int, match.groups())
        return cls(height=height, width=width, channels=channels, **keywords)

    @property
    def plain(self) -> bool:
        """True where values go in as they are, 0 to 255."""
        return self.scale == 1 and set(self.mean) == {0.0} and set(self.std) == {1.0}

    def to_json(self) -> dict[str, Any]:
        """For the contract."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> ImageInput:
        """Of a contract, which is untrusted: InputError for what :meth:`to_json` does not make."""
        names = {each.name for each in fields(cls)}
        known: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in found.items() if n in names}
        try:
            return cls(**known)
        except (TypeError, ValueError) as error:
            raise InputError(f"the contract's image input makes no sense ({error}); export the model again") from error

    def sizes(self, height: int, width: int) -> tuple[int, int]:
        """What an image (height, width) is resized to, before it is cut or framed."""
        if self.fit == "stretch":
            return self.height, self.width
        if self.resize is not None:
            return self.resize * height // min(height, width), self.resize * width // min(height, width)
        across, down = height * self.width // width, width * self.height // height  # as high, as wide, if the other side just fits
        if self.fit == "crop":
            return max(self.height, across), max(self.width, down)
        return min(self.height, max(1, across)), min(self.width, max(1, down))

    def arranged(self, images: np.ndarray, layout: str, dtype: str = "float32") -> np.ndarray:
        """What the model is given for uint8 images (n, height, width, channels), in a layout and dtype that it takes.

        This is the definition: Pillow's resize of float images, but ``linear`` and ``nearest``, which are written out.
        """
        rows = [self._resized(image.astype(np.float32)) for image in images]
        pixels = np.stack(rows) if rows else np.zeros((0, self.height, self.width, self.channels), np.float32)
        if self.color == "bgr":
            pixels = pixels[..., ::-1]
        one = np.float32
        pixels = ((pixels * one(self.scale)) - np.array(self.mean, one)) / np.array(self.std, one)
        if np.dtype(dtype).kind in "iu":
            limits = np.iinfo(dtype)
            pixels = np.clip(np.round(pixels), limits.min, limits.max)
        if layout == "nchw":
            pixels = pixels.transpose(0, 3, 1, 2)
        elif layout != "nhwc":
            pixels = pixels[..., 0] if layout == "nhw" else pixels.reshape(len(pixels), -1)
        return np.ascontiguousarray(pixels.astype(dtype))

    def _resized(self, image: np.ndarray) -> np.ndarray:
        """float32 (height, width, channels) of any size to the model's."""
        high, wide = self.sizes(*image.shape[:2])
        whole = np.stack([self._plane(image[..., k], high, wide) for k in range(self.channels)], axis=-1)
        if self.fit == "pad":
            framed = np.full((self.height, self.width, self.channels), self.pad_value, np.float32)
            top, left = (self.height - high) // 2, (self.width - wide) // 2
            framed[top : top + high, left : left + wide] = whole
            return framed
        top, left = round((high - self.height) / 2), round((wide - self.width) / 2)
        return whole[top : top + self.height, left : left + self.width]

    def _plane(self, plane: np.ndarray, high: int, wide: int) -> np.ndarray:
        if plane.shape == (high, wide):
            return plane
        if self.interpolation == "nearest":
            rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip((high, wide), plane.shape, strict=True))
            chosen: np.ndarray = plane[rows][:, columns]
            return chosen
        if self.interpolation == "linear":
            for axis, new in enumerate((high, wide)):
                old = plane.shape[axis]
                at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
                low = np.floor(at).astype(int)
                share = (at - low).astype(np.float32)
                share = share[:, None] if axis == 0 else share
                plane = plane.take(low, axis) * (1 - share) + plane.take(np.minimum(low + 1, old - 1), axis) * share
            return plane
        from PIL import Image

        how = Image.Resampling.BILINEAR if self.interpolation == "bilinear" else Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((wide, high), how))


def as_image_input(image: object) -> ImageInput:
    """An :class:`ImageInput`, from one or from ``"28x28x1"`` or ``(28, 28, 1)``. Raises InputError for anything else."""
    if isinstance(image, ImageInput):
        return image
    if isinstance(image, str):
        return ImageInput.parse(image)
    if isinstance(image, tuple | list) and len(image) == 3:
        return ImageInput(height=image[0], width=image[1], channels=image[2])
    raise InputError(f"image must be an ImageInput, or a size such as '28x28x1', got {image!r}")


def drawn_images(height: int, width: int, channels: int, count: int, seed: int = 0) -> np.ndarray:
    """uint8 (count, height, width, channels): coarse random patches under fine noise, of which resizing keeps something."""
    rng = np.random.default_rng((21, seed))
    coarse = rng.integers(0, 256, (count, 4, 4, channels))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    fine = rng.integers(-40, 41, (count, height, width, channels))
    drawn: np.ndarray = np.clip(coarse[:, rows][:, :, columns] + fine, 0, 255).astype(np.uint8)
    return drawn
