"""Preprocessing: from an image of any size to the network's small square, in operations that export to standard ONNX.

The exported graph and the trainer share this code, so a model is trained on exactly what the exported file will compute.

There are two kinds. Files and the command line call them by their ``framing``: it is a field of checkpoints, an option of the
contract, and ``--framing`` of ``onnxferry train cnn``.

``fit``  the largest centred square of the image, averaged down (or interpolated up) to ``size``.
``ink``  for single figures on a plain background, as MNIST was made (LeCun et al. 1998, "Gradient-based learning applied to
         document recognition", section III.A): find the foreground, whatever its colour and the background's; scale its
         longer side (the rows, or the columns, that hold some of it) to 20/28 of the square; put its centre of mass in the
         middle. An image that is already placed so passes unchanged.

Resampling is by area: an output pixel is the mean of the source it covers, and where it covers less than a source pixel
it is the linear interpolation. Both are one formula, the overlap of two intervals, and one matrix product per axis.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from onnxferry.runtime.errors import InputError

FRAMINGS = ("fit", "ink")


BOX_THRESHOLD = 0.3001  # of the strongest foreground: fainter pixels do not widen the bounding box (JPEG noise, soft shadows)


MASS_THRESHOLD = 0.1001  # of the strongest foreground: fainter pixels do not move the centre of mass (paper, sensor noise)


# Strengths are quotients of whole numbers up to 255: none lies so near to these that rounding decides.


MIN_CONTRAST = 0.1  # of the full range: an image with less is taken as blank and not amplified


BOX = 20 / 28  # longer side of the foreground's box, as a share of the output's side (MNIST)


MIDDLE = 0.5 / 28  # MNIST's centre of mass is half a pixel right of and below the middle on average: it was rounded down


SNAP = (0.8, 1.05)  # at a scale in this range the image is already preprocessed: keep its pixels, shift by whole ones


def area_weights(size: int, length: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    """Resampling matrices for one axis, float32 (batch, size, source length).

    ``length``: arange of the source pixels, float32 (source length,). ``centre``: source coordinate, in pixels, of the
    middle of the output (batch,). ``scale``: source pixels per output pixel (batch,). Pixels outside the source have weight 0.
    """
    steps = torch.arange(size, dtype=torch.float32, device=centre.device) + (0.5 - size / 2)
    middle = centre[:, None] + steps[None, :] * scale[:, None]  # (batch, size)
    width = scale.clamp(min=1.0)[:, None, None]
    low = middle[:, :, None] - width / 2
    overlap = torch.minimum(low + width, length + 1.0) - torch.maximum(low, length)
    return overlap.clamp(min=0.0) / width


def resample(image: Tensor, centre_y: Tensor, centre_x: Tensor, scale: Tensor, size: int) -> Tensor:
    """``image`` float32 (batch, channels, height, width) → (batch, channels, size, size), by area."""
    rows = torch.arange(image.shape[2], dtype=torch.float32, device=image.device)
    columns = torch.arange(image.shape[3], dtype=torch.float32, device=image.device)
    down = area_weights(size, rows, centre_y, scale)[:, None]  # (batch, 1, size, height)
    across = area_weights(size, columns, centre_x, scale)[:, None].transpose(2, 3)  # (batch, 1, width, size)
    return torch.matmul(torch.matmul(down, image), across)


def center_square(image: Tensor, size: int) -> Tensor:
    """The centred square of ``image`` float32 (batch, channels, height, width), resampled to (…, size, size)."""
    height, width = image.shape[2], image.shape[3]
    one = torch.ones_like(image[:, 0, 0, 0])
    scale = one * min_dim(height, width, image) / size
    return resample(image, one * height / 2, one * width / 2, scale, size)


def min_dim(height: int, width: int, like: Tensor) -> Tensor:
    """min(height, width) as a tensor, so that it stays dynamic in an exported graph."""
    return torch.minimum(like.new_ones(()) * height, like.new_ones(()) * width)


def center_square_uint8(image: Tensor, size: int) -> Tensor:
    """``center_square`` of one image, rounded: uint8 (height, width, channels) → uint8 (size, size, channels)."""
    pixels = image.permute(2, 0, 1)[None].float()
    return center_square(pixels, size)[0].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()


def foreground(image: Tensor) -> Tensor:
    """How far each pixel is from the background, 0 … 1: float32 (batch, channels, height, width) in 0 … 1 → (batch, height, width).

    The background is the median of the image's outermost ring in each channel, so dark on light, light on dark and
    any two colours give the same result.
    """
    ring = torch.cat([image[:, :, 0, :], image[:, :, -1, :], image[:, :, :, 0], image[:, :, :, -1]], dim=2)
    ranked = torch.sort(ring, dim=2).values
    background = ranked[:, :, ranked.shape[2] // 2]
    distance = (image - background[:, :, None, None]).abs().amax(dim=1)
    return distance / distance.amax(dim=(1, 2), keepdim=True).clamp(min=MIN_CONTRAST)


def crop_foreground(image: Tensor, size: int) -> Tensor:
    """The foreground of ``image`` float32 (batch, channels, height, width) in 0 … 1, scaled and centred: (batch, 1, size, size).

    export/families/framing.py computes the same in fewer operators, and is verified against this.
    """
    strength = foreground(image)  # (batch, height, width)
    rows = torch.arange(image.shape[2], dtype=torch.float32, device=image.device)
    columns = torch.arange(image.shape[3], dtype=torch.float32, device=image.device)
    inside = strength > BOX_THRESHOLD
    longest = torch.maximum(inside.any(dim=2).float().sum(dim=1), inside.any(dim=1).float().sum(dim=1))
    least, most = placed_extents(size)
    placed = (longest >= least) & (longest <= most)
    scale = torch.where(placed, torch.ones_like(longest), longest / (BOX * size))
    mass = strength * (strength > MASS_THRESHOLD)
    mass_y, mass_x = _centre(mass.sum(dim=2), rows), _centre(mass.sum(dim=1), columns)
    offset = MIDDLE * size * scale
    centre_y = torch.where(placed, _snapped(mass_y, size), mass_y + 0.5 - offset)
    centre_x = torch.where(placed, _snapped(mass_x, size), mass_x + 0.5 - offset)
    return resample(strength[:, None], centre_y, centre_x, scale, size)


def placed_extents(size: int) -> tuple[int, int]:
    """The longer side, in pixels, of figures that are placed already: from and to, by :data:`SNAP`."""
    low, high = (limit * BOX * size for limit in SNAP)
    return math.floor(low + 1e-6) + 1, math.ceil(high - 1e-6) - 1


def _centre(mass: Tensor, index: Tensor) -> Tensor:
    """Centre of mass in pixels, (batch, n) → (batch,); the first pixel where there is none."""
    return (mass * index).sum(dim=1) / mass.sum(dim=1).clamp(min=1e-12)


def _snapped(centre: Tensor, size: int) -> Tensor:
    """The middle of the output, so that it takes whole pixels: that of an even size is between two pixels, that of an odd one on one."""
    return centre.round() if size % 2 == 0 else centre.floor() + 0.5


def check_images(framing: str, channels: int, size: int) -> None:
    """Raises InputError for an unknown framing, and for channels or a size that no image has."""
    if framing not in FRAMINGS:
        raise InputError(f"unknown framing {framing!r}; expected one of {', '.join(FRAMINGS)}")
    if channels not in (1, 3) or size < 1:
        raise InputError(f"images have 1 or 3 channels and a size of at least 1, got {channels} and {size}")


class Preprocessing(nn.Module):
    """``image`` uint8 (batch, height, width, channels) → float32 (batch, channels or 1, size, size) in 0 … 1."""

    def __init__(self, kind: str, size: int) -> None:
        super().__init__()
        if kind not in FRAMINGS:
            raise ValueError(f"unknown framing {kind!r}; expected one of {', '.join(FRAMINGS)}")
        self.kind = kind
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.permute(0, 3, 1, 2).to(torch.float32) / 255.0
        return crop_foreground(pixels, self.size) if self.kind == "ink" else center_square(pixels, self.size)
