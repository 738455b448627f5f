"""Pooling at open sizes, with indices and with divisors; empty images."""

from __future__ import annotations

import torch
from torch.nn import functional

POOLS = {
    "mean": lambda x: functional.adaptive_avg_pool2d(x, (3, 2)),
    "largest": lambda x: functional.adaptive_max_pool2d(x, (3, 2)),
    "place": lambda x: functional.adaptive_max_pool2d(x, (3, 2), return_indices=True)[1],
    "mean_1d": lambda x: functional.adaptive_avg_pool1d(x.flatten(1, 2), 4),
    "largest_1d": lambda x: functional.max_pool1d(x.flatten(1, 2), 2, 1),
    "divisor": lambda x: functional.avg_pool2d(x, 2, 1, 1, divisor_override=3),
}


def test_pooling_of_any_size(exported):
    """pytorch/vision issue 7541, onnxscript issue 2539; windows that overlap, and more of them than elements."""
    file = exported(POOLS, torch.randn(2, 3, 6, 7), dynamic_shapes={"inputs_0": {0: "batch", 2: "h", 3: "w"}})
    for h, w in ((2, 2), (9, 11), (6, 4)):
        file.check(torch.randn(3, 3, h, w), rtol=1e-5, atol=1e-6)
        file.check(torch.randint(-1, 2, (1, 3, h, w)).float(), rtol=1e-5, atol=1e-6)  # equal values: the first is taken


def test_adaptive_pooling_of_volumes(exported):
    functions = {"mean": lambda x: functional.adaptive_avg_pool3d(x, 2), "largest": lambda x: functional.adaptive_max_pool3d(x, (2, 3, 2))}
    file = exported(functions, torch.randn(2, 3, 5, 6, 7))
    file.check(torch.randn(2, 3, 5, 6, 7), rtol=1e-5, atol=1e-6)


def test_an_empty_image_does_not_end_the_process(exported):
    functions = {"pixels": lambda x, y: functional.pixel_unshuffle(x, 2), "none": lambda x, y: functional.pixel_unshuffle(y, 1)}
    file = exported(functions, torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 0, 1))
    file.check(torch.randn(1, 1, 4, 2), torch.zeros(1, 1, 0, 1))


def test_windows_of_whole_numbers(exported):
    """Beyond what float32 holds: exact."""
    kernel = torch.tensor([[[[1, -2], [3, 4], [5, 6]]] * 2] * 4)
    functions = {
        "conv": lambda x: functional.conv2d(x, kernel, stride=(2, 1), padding=1, dilation=(1, 2), groups=1),
        "groups": lambda x: functional.conv2d(x, kernel[:, :1], torch.tensor([1, 2, 3, 4]), groups=2),
        "transposed": lambda x: functional.conv_transpose2d(x, kernel[:2], stride=2, padding=1, output_padding=1),
        "largest": lambda x: functional.max_pool2d(x, 3, 2, 1, ceil_mode=True),
        "places": lambda x: functional.max_pool2d(x, 2, 2, return_indices=True)[1],
        "mean": lambda x: functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        "shuffled": lambda x: functional.pixel_shuffle(x.transpose(0, 1)[:, :1].expand(-1, 4, -1, -1), 2),
    }
    numbers = torch.randint(-(2**40), 2**40, (1, 2, 5, 6), generator=torch.Generator().manual_seed(0))
    file = exported(functions, numbers // 2**20)
    file.check(numbers)
    file.check(torch.zeros_like(numbers) - 3)


def test_normalization_by_the_batch_and_divisors(exported):
    functions = {
        "batch": lambda x: functional.batch_norm(x, torch.zeros(2), torch.ones(2), training=True, eps=0.5),
        "divisor": lambda x: functional.avg_pool2d(x, 3, 2, 1, ceil_mode=True, divisor_override=2),
    }
    file = exported(functions, torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(0)))
    file.check(torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(1)) * 30, rtol=1e-5, atol=1e-5)
