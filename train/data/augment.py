"""Random changes to whole batches of pictures that leave what they show as it is.

One affine map a picture (rotation, scaling, shear, shift) and one smooth elastic displacement (Simard, Steinkraus and
Platt 2003, "Best practices for convolutional neural networks applied to visual document analysis") are put together
into one sampling grid, so that a picture is interpolated once. Then blur and sharpen (pictures that were scaled before
they came to us), random erasing (Zhong et al. 2017, arXiv 1708.04896), and, where a set allows it, mirroring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class AugmentConfig:
    """How far each change goes at the most; 0 turns it off."""

    rotation: float = 12.0  # degrees, either way
    scale: float = 0.12  # share of the size, either way, and half of it again for each axis alone
    shear: float = 0.15  # tangent of the angle, either way
    shift: float = 0.07  # share of the side, either way (a random crop of a padded picture)
    elastic: float = 0.06  # standard deviation of the displacement, in half sides of the picture
    blur: float = 0.3  # share of the pictures that are blurred, and half as many sharpened
    erase: float = 0.0  # share of the pictures that lose a random rectangle
    mirror: bool = False  # left and right swapped in half of the pictures (never for figures and letters)
    crop: int = 0  # pixels of padding of a whole-pixel random crop: used instead of the warp where warping is off


def augment(pictures: Tensor, config: AugmentConfig) -> Tensor:
    """``pictures`` float32 (batch, channels, height, width), ground as 0 → the same shape. Uses torch's global generator."""
    if config.mirror:
        flip = torch.rand(pictures.shape[0], device=pictures.device) < 0.5
        pictures = torch.where(flip[:, None, None, None], pictures.flip(3), pictures)
    if config.crop:
        pictures = random_crop(pictures, config.crop)
    if config.rotation or config.scale or config.shear or config.shift or config.elastic:
        pictures = warp(pictures, config)
    if config.blur:
        pictures = blur_or_sharpen(pictures, config.blur)
    if config.erase:
        pictures = erase(pictures, config.erase)
    return pictures


def random_crop(pictures: Tensor, padding: int) -> Tensor:
    """A window of the padded picture, as large as the picture, at a random whole-pixel place; the border is reflected."""
    batch, _, height, width = pictures.shape
    padded = F.pad(pictures, (padding, padding, padding, padding), mode="reflect")
    rows = torch.randint(0, 2 * padding + 1, (batch, 1), device=pictures.device) + torch.arange(height, device=pictures.device)
    columns = torch.randint(0, 2 * padding + 1, (batch, 1), device=pictures.device) + torch.arange(width, device=pictures.device)
    index = torch.arange(batch, device=pictures.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _spread(batch: int, limit: float, like: Tensor) -> Tensor:
    return (torch.rand(batch, device=like.device) * 2 - 1) * limit


def warp(pictures: Tensor, config: AugmentConfig) -> Tensor:
    """Affine and elastic maps in one bilinear sampling; what comes from outside is 0."""
    batch, _, height, width = pictures.shape
    angle = _spread(batch, math.radians(config.rotation), pictures)
    both, each = 1 + _spread(batch, config.scale, pictures), _spread(batch, config.scale / 2, pictures)
    shear = _spread(batch, config.shear, pictures)
    cos, sin = torch.cos(angle), torch.sin(angle)
    scale_x, scale_y = both * (1 + each), both * (1 - each)
    theta = torch.stack(
        [
            torch.stack([cos / scale_x, (shear - sin) / scale_x, _spread(batch, 2 * config.shift, pictures)], dim=1),
            torch.stack([sin / scale_y, cos / scale_y, _spread(batch, 2 * config.shift, pictures)], dim=1),
        ],
        dim=1,
    )  # (batch, 2, 3)
    grid = F.affine_grid(theta, [batch, 1, height, width], align_corners=False)
    if config.elastic:
        # A coarse random field, interpolated smoothly: as Simard's Gaussian-filtered field, at a fraction of its cost.
        field = torch.randn(batch, 2, 5, 5, device=pictures.device) * config.elastic
        smooth = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True)
        grid = grid + smooth.permute(0, 2, 3, 1)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def blur_or_sharpen(pictures: Tensor, share: float) -> Tensor:
    """Mix a random amount of the 3 × 3 binomial blur into ``share`` of the pictures, and take it out of half as many."""
    draw = torch.rand(pictures.shape[0], device=pictures.device)
    amount = torch.rand(pictures.shape[0], device=pictures.device)
    amount = torch.where(draw < share, amount, torch.where(draw < 1.5 * share, -0.7 * amount, torch.zeros_like(amount)))
    kernel = torch.tensor([1.0, 2.0, 1.0], device=pictures.device)
    kernel = (kernel[:, None] * kernel[None, :] / 16).expand(pictures.shape[1], 1, 3, 3)
    blurred = F.conv2d(pictures, kernel, padding=1, groups=pictures.shape[1])
    return (pictures + amount[:, None, None, None] * (blurred - pictures)).clamp(0, 1)


def erase(pictures: Tensor, share: float) -> Tensor:
    """Set a random rectangle, each side 10 % to 40 % of the picture's, to the ground in ``share`` of the pictures."""
    batch, _, height, width = pictures.shape
    keep = torch.rand(batch, device=pictures.device) >= share

    def outside(length: int) -> Tensor:
        side = (0.1 + 0.3 * torch.rand(batch, 1, device=pictures.device)) * length
        start = torch.rand(batch, 1, device=pictures.device) * (length - side)
        index = torch.arange(length, device=pictures.device)[None, :]
        return (index < start) | (index >= start + side)

    kept = outside(height)[:, :, None] | outside(width)[:, None, :] | keep[:, None, None]  # (batch, height, width)
    return pictures * kept[:, None]
