"""Data augmentation: random changes to batches of images that do not change what the images show.

One affine map an image (rotation, scaling, shear, shift) and one smooth elastic displacement (Simard, Steinkraus and
Platt 2003, "Best practices for convolutional neural networks applied to visual document analysis") are combined
into one sampling grid, so that an image is interpolated once. Then blur and sharpen (as in images that were rescaled before),
random erasing (Zhong et al. 2017, arXiv 1708.04896), and, where the data set allows it, mirroring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class AugmentConfig:
    """The largest extent of each change; 0 turns it off."""

    rotation: float = 12.0  # degrees, either way
    scale: float = 0.12  # share of the size, either way, plus half of it for each axis alone
    shear: float = 0.15  # tangent of the angle, either way
    shift: float = 0.07  # share of the side, either way (a random crop of a padded image)
    elastic: float = 0.06  # standard deviation of the displacement, in half sides of the image
    blur: float = 0.3  # share of the images that are blurred, and half as many sharpened
    erase: float = 0.0  # share of the images that lose a random rectangle
    mirror: bool = False  # left and right swapped in half of the images (never for figures and letters)
    padding: str = "zeros"  # what a warp shows from outside the image: zeros (a plain background), or its reflection
    crop: int = 0  # pixels of padding of a whole-pixel random crop: used instead of the warp where warping is off


def augment(images: Tensor, config: AugmentConfig) -> Tensor:
    """``images`` float32 (batch, channels, height, width), background as 0 → the same shape. Uses torch's global generator."""
    if config.mirror:
        flip = torch.rand(images.shape[0], device=images.device) < 0.5
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
    if config.crop:
        images = random_crop(images, config.crop)
    if config.rotation or config.scale or config.shear or config.shift or config.elastic:
        images = warp(images, config)
    if config.blur:
        images = blur_or_sharpen(images, config.blur)
    if config.erase:
        images = erase(images, config.erase)
    return images


def random_crop(images: Tensor, padding: int) -> Tensor:
    """A window of the padded image, as large as the image, at a random whole-pixel place; the border is reflected."""
    batch, _, height, width = images.shape
    padded = F.pad(images, (padding, padding, padding, padding), mode="reflect")
    rows = torch.randint(0, 2 * padding + 1, (batch, 1), device=images.device) + torch.arange(height, device=images.device)
    columns = torch.randint(0, 2 * padding + 1, (batch, 1), device=images.device) + torch.arange(width, device=images.device)
    index = torch.arange(batch, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _spread(batch: int, limit: float, like: Tensor) -> Tensor:
    return (torch.rand(batch, device=like.device) * 2 - 1) * limit


def warp(images: Tensor, config: AugmentConfig) -> Tensor:
    """Affine and elastic maps in one bilinear sampling; ``config.padding`` says what comes from outside the image."""
    batch, _, height, width = images.shape
    angle = _spread(batch, math.radians(config.rotation), images)
    both, each = 1 + _spread(batch, config.scale, images), _spread(batch, config.scale / 2, images)
    shear = _spread(batch, config.shear, images)
    cos, sin = torch.cos(angle), torch.sin(angle)
    scale_x, scale_y = both * (1 + each), both * (1 - each)
    theta = torch.stack(
        [
            torch.stack([cos / scale_x, (shear - sin) / scale_x, _spread(batch, 2 * config.shift, images)], dim=1),
            torch.stack([sin / scale_y, cos / scale_y, _spread(batch, 2 * config.shift, images)], dim=1),
        ],
        dim=1,
    )  # (batch, 2, 3)
    grid = F.affine_grid(theta, [batch, 1, height, width], align_corners=False)
    if config.elastic:
        # A coarse random field, interpolated smoothly: as Simard's Gaussian-filtered field, at a fraction of its cost.
        field = torch.randn(batch, 2, 5, 5, device=images.device) * config.elastic
        smooth = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True)
        grid = grid + smooth.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=config.padding, align_corners=False)


def blur_or_sharpen(images: Tensor, share: float) -> Tensor:
    """Mix a random amount of the 3 × 3 binomial blur into ``share`` of the images, and take it out of half as many."""
    draw = torch.rand(images.shape[0], device=images.device)
    amount = torch.rand(images.shape[0], device=images.device)
    amount = torch.where(draw < share, amount, torch.where(draw < 1.5 * share, -0.7 * amount, torch.zeros_like(amount)))
    kernel = torch.tensor([1.0, 2.0, 1.0], device=images.device)
    kernel = (kernel[:, None] * kernel[None, :] / 16).expand(images.shape[1], 1, 3, 3)
    blurred = F.conv2d(images, kernel, padding=1, groups=images.shape[1])
    return (images + amount[:, None, None, None] * (blurred - images)).clamp(0, 1)


def erase(images: Tensor, share: float) -> Tensor:
    """Set a random rectangle, each side 10 % to 40 % of the image's, to the background (0) in ``share`` of the images."""
    batch, _, height, width = images.shape
    keep = torch.rand(batch, device=images.device) >= share

    def outside(length: int) -> Tensor:
        side = (0.1 + 0.3 * torch.rand(batch, 1, device=images.device)) * length
        start = torch.rand(batch, 1, device=images.device) * (length - side)
        index = torch.arange(length, device=images.device)[None, :]
        return (index < start) | (index >= start + side)

    kept = outside(height)[:, :, None] | outside(width)[:, None, :] | keep[:, None, None]  # (batch, height, width)
    return images * kept[:, None]
