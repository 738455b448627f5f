"""Augmentation keeps shapes and range, does what its name says, and is a function of the generator alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from onnxferry.train.data.augment import AugmentConfig, augment, erase, random_crop, warp

OFF = AugmentConfig(rotation=0, scale=0, shear=0, shift=0, elastic=0, blur=0)
ON = {"rotation": 20.0, "scale": 0.2, "shear": 0.2, "shift": 0.1, "elastic": 0.1, "blur": 1.0, "erase": 1.0, "mirror": True, "crop": 2}


@pytest.fixture
def images() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.rand(64, 3, 28, 28)


def test_off_changes_nothing(images: torch.Tensor) -> None:
    assert torch.equal(augment(images, OFF), images)


@pytest.mark.parametrize("name", ON)
def test_each_change_alone_changes_images_and_keeps_shape_and_range(images: torch.Tensor, name: str) -> None:
    out = augment(images, dataclasses.replace(OFF, **{name: ON[name]}))
    assert out.shape == images.shape
    assert not torch.equal(out, images)
    assert out.min() >= 0
    assert out.max() <= 1


def test_same_generator_same_images(images: torch.Tensor) -> None:
    config = AugmentConfig(**ON)
    torch.manual_seed(5)
    one = augment(images, config)
    torch.manual_seed(5)
    assert torch.equal(augment(images, config), one)
    assert not torch.equal(augment(images, config), one)


def test_crop_windows_come_from_the_image() -> None:
    ramp = torch.arange(100.0).reshape(1, 1, 10, 10).expand(32, 1, 10, 10)
    out = random_crop(ramp, 2)
    # The middle of every window is a pixel of the original within two pixels of its own place.
    middle = out[:, 0, 5, 5]
    assert ((middle // 10 - 5).abs() <= 2).all()
    assert ((middle % 10 - 5).abs() <= 2).all()


def test_warp_of_a_centred_disc_stays_centred_within_the_shift() -> None:
    grid = torch.linspace(-1, 1, 29)
    disc = ((grid[:, None] ** 2 + grid[None] ** 2) < 0.2).float().expand(200, 1, 29, 29)
    out = warp(disc, dataclasses.replace(OFF, rotation=30, scale=0.2, shift=0.1))
    mass = out.sum(dim=(1, 2, 3))
    centre_x = (out.sum(dim=(1, 2)) * torch.arange(29.0)).sum(dim=1) / mass
    assert ((centre_x - 14).abs() <= 0.1 * 29 * 1.35 + 0.5).all()
    assert centre_x.std() > 0.5


def test_erase_takes_one_rectangle() -> None:
    out = erase(torch.ones(100, 1, 30, 30), 1.0)
    gone = (out == 0).float().mean(dim=(1, 2, 3))
    assert gone.min() > 0.0
    assert gone.max() <= 0.4 * 0.4 + 0.05
