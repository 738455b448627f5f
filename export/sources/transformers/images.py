"""A folder's ``preprocessor_config.json`` as an :class:`ImageInput`: resize, crop and normalization go into the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxferry.export.sources.transformers.folder import ModelFolder
from onnxferry.export.tasks.image_input import ImageInput
from onnxferry.runtime.errors import InputError

FILE = "preprocessor_config.json"
RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers."""


def image_of(folder: ModelFolder) -> ImageInput:
    """Raises InputError for a preparation of images that has no equivalent here."""
    found = folder.json(FILE)
    if not found:
        raise InputError(f"{folder.path} does not say how images are prepared ({FILE} is missing)")
    channels = int(folder.config.get("num_channels") or 3)
    scale = float(found.get("rescale_factor", 1 / 255)) if found.get("do_rescale", True) else 1.0
    normal: dict[str, Any] = {}
    if found.get("do_normalize", True):
        normal = {"mean": tuple(found.get("image_mean") or (0.0,)), "std": tuple(found.get("image_std") or (1.0,))}
    resample = found.get("resample", 2)
    if resample not in RESAMPLING:
        raise InputError(f"{FILE} resizes by Pillow's filter {resample!r}; expected one of {', '.join(map(str, RESAMPLING))}")
    size = _size(found.get("size"))
    fields: dict[str, Any] = {"interpolation": RESAMPLING[resample], "channels": channels, "scale": scale, **normal}
    if not found.get("do_resize", True):
        raise InputError(f"{FILE} does not resize images: models of one size alone are exported")
    if found.get("do_center_crop"):
        height, width = _sides(_size(found.get("crop_size")))
        shortest = size.get("shortest_edge")
        if shortest is None:
            raise InputError(f"{FILE} resizes to {size} and crops: expected a shortest_edge")
        return ImageInput(height=height, width=width, fit="crop", resize=shortest, **fields)
    height, width = _sides(size)
    fit = "stretch" if "height" in size else "crop"
    return ImageInput(height=height, width=width, fit=fit, **fields)


def _size(found: Any) -> Mapping[str, int]:
    """Older files have a number."""
    if isinstance(found, int):
        return {"height": found, "width": found}
    if isinstance(found, Mapping) and all(isinstance(value, int) for value in found.values()):
        return found
    raise InputError(f"{FILE} has the size {found!r}, which is not read")


def _sides(size: Mapping[str, int]) -> tuple[int, int]:
    if "height" in size and "width" in size:
        return size["height"], size["width"]
    if "shortest_edge" in size:
        raise InputError(f"{FILE} keeps images of any shape ({dict(size)}): say a size and a crop")
    raise InputError(f"{FILE} has the size {dict(size)}, which is not read")
