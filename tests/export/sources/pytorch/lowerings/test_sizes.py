"""Sizes computed by factors and ratios, and resizes by a factor, at many lengths."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

LENGTHS = (1, 2, 3, 7, 10, 30, 49, 70, 90, 129, 700, 1400)


def test_sizes_are_computed_in_double(exported):
    functions = {
        "quarters_up": lambda x: x[: -(-x.shape[0] // 4)],
        "third_up": lambda x: x[: math.ceil(x.shape[0] * 1.3 / 2)],
        "third_down": lambda x: x[: math.floor(x.shape[0] / 3)],
        "times": lambda x: x[: math.floor(x.shape[0] * 0.7)],
        "number": lambda x: x[:1] * (x.shape[0] * 0.1),
    }
    file = exported(functions, torch.randn(12, 2), dynamic_shapes={"inputs_0": {0: "n"}})
    for length in LENGTHS:
        file.check(torch.randn(length, 2))


def test_resize_of_a_line(exported):
    functions = {
        f"{mode}_x{factor}": lambda x, factor=factor, mode=mode: F.interpolate(x, scale_factor=factor, mode=mode)
        for mode in ("nearest", "nearest-exact", "linear")
        for factor in (0.7, 1.3, 2.3, 2.0)
    }
    file = exported(functions, torch.randn(1, 1, 20), dynamic_shapes={"inputs_0": {2: "t"}})
    for length in LENGTHS[1:]:
        file.check(torch.randn(1, 1, length), atol=1e-5)


def test_resize_of_an_image(exported):
    functions = {
        mode: lambda x, mode=mode: F.interpolate(x, scale_factor=(0.7, 1.3), mode=mode) for mode in ("nearest", "bilinear", "bicubic")
    }
    file = exported(functions, torch.randn(1, 2, 8, 10), dynamic_shapes={"inputs_0": {2: "h", 3: "w"}})
    for height, width in ((70, 90), (9, 30), (20, 21), (3, 2)):
        file.check(torch.randn(1, 2, height, width), atol=1e-5)


def test_rolled_by_half_a_size(exported):
    functions = {
        "shifted": torch.fft.fftshift,
        "back": torch.fft.ifftshift,
        "last": lambda x: torch.fft.fftshift(x, -1),
        "own": lambda x: torch.roll(x, (x.shape[0] // 3, -2), (0, 1)),
    }
    file = exported(functions, torch.randn(6, 5), dynamic_shapes={"inputs_0": {0: "n", 1: "m"}})
    for shape in ((1, 2), (7, 4), (3, 9)):
        file.check(torch.randn(*shape))
