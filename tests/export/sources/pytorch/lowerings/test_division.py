"""Division and remainder of whole numbers and of floats, at negatives, multiples, infinities, and numbers that floats do not hold."""

from __future__ import annotations

import pytest
import torch

from onnxferry.export import ExportError
from onnxferry.export.sources.pytorch.module import TorchSource


class Floors(torch.nn.Module):
    def forward(self, i: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return i // 60, x[: x.shape[0] // 2]


FUNCTIONS = {
    "floor": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "trunc": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "remainder": lambda a, b: torch.remainder(a, b),
    "fmod": lambda a, b: torch.fmod(a, b),
    "true": lambda a, b: a / b,
    "floor_by_60": lambda a, b: torch.div(a, 60, rounding_mode="floor"),
    "trunc_by_60": lambda a, b: torch.div(a, 60, rounding_mode="trunc"),
    "mod_7": lambda a, b: a % -7,
    "floordiv_7": lambda a, b: a // -7,
    "seven_mod": lambda a, b: 7 % b,
}


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_whole_numbers(exported, dtype):
    file = exported(FUNCTIONS, torch.arange(1, 9, dtype=dtype), torch.full((8,), 3, dtype=dtype))
    file.check(torch.tensor([7, -7, 7, -7, 6, -6, 0, 1]).to(dtype), torch.tensor([2, 2, -2, -2, 3, 3, -5, -9]).to(dtype))
    limit = torch.iinfo(dtype).max
    large = [1_700_000_039, -1_700_000_039, limit, -limit, 2**24 + 1, -(2**24) - 1, limit - 1, 2**30 + 1]
    file.check(torch.tensor(large).to(dtype), torch.tensor([60, 60, 1, 1, -3, 3, 2**24 + 1, 7]).to(dtype))
    if dtype is torch.int64:
        huge = [2**40 + 59, -(2**40) - 59, 2**53 + 1, -(2**53) - 1, 2**62 + 3, -(2**62) - 3, 3_000_000_000, -3_000_000_000]
        file.check(torch.tensor(huge), torch.tensor([60, 60, 1, -1, 7, 7, 2**32 - 1, 2**31]))


def test_floats(exported):
    functions = {
        **FUNCTIONS,
        "mod_tenth": lambda a, b: a % 0.1,
        "floordiv_tenth": lambda a, b: a // 0.1,
        "mod_inf": lambda a, b: a % float("inf"),
    }
    file = exported(functions, torch.tensor([1.2, 2.3, -3.4, 4.5]), torch.tensor([0.6, 0.7, 0.8, -0.9]))
    values = [1.0, 0.5, 0.7, 6.0, -1.0, -0.5, 0.0, -0.0, 3.0, 1e-8, 1e8, -7.5]
    for divisor in (0.1, -0.1, 0.7, 3.0, -2.5, 1e-3):
        for start in range(0, len(values), 4):
            file.check(torch.tensor(values[start : start + 4]), torch.full((4,), divisor))
    infinite = torch.tensor([1.0, -1.0, 0.0, -2.5])
    file.check(infinite, torch.full((4,), float("inf")))
    file.check(infinite, torch.full((4,), -float("inf")))
    file.check(torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0]), torch.tensor([1.0, 2.0, 3.0, 0.0]))


def test_small_whole_numbers(exported):
    for dtype in (torch.uint8, torch.int8):
        functions = {name: f for name, f in FUNCTIONS.items() if dtype is torch.int8 or name in ("floor", "trunc", "floordiv", "mod")}
        file = exported(functions, torch.tensor([9, 8, 7, 6], dtype=dtype), torch.tensor([2, 3, 5, 4], dtype=dtype))
        file.check(torch.tensor([100, 0, 7, 127], dtype=dtype), torch.tensor([7, 3, 127, 2], dtype=dtype))


def test_the_older_exporter_is_not_taken_for_whole_divisions():
    source = TorchSource(Floors(), (torch.arange(8), torch.randn(4, 3)), dynamic_shapes={"x": {0: "n"}})
    with pytest.raises(ExportError, match="toward zero"):
        source.strategies(18)[-1].build()


def test_fake_quantization_to_any_levels(exported):
    scales, zeros = torch.tensor([0.1, 0.25, 3.0]), torch.tensor([0, 1, -2], dtype=torch.int32)
    functions = {
        "channels": lambda x: torch.fake_quantize_per_channel_affine(x, scales, zeros, 1, -8, 7),
        "bytes": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 3, 0, 255),
        "four_bits": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.5, 0, -8, 7),
        "learned": lambda x: torch.fake_quantize_per_tensor_affine(x, torch.tensor(0.3), torch.tensor(2, dtype=torch.int32), -4, 3),
    }
    file = exported(functions, torch.randn(4, 3))  # of channels torch 2.13 captures fixed sizes only
    file.check(torch.tensor([[0.05, 0.125, 1.5], [-0.15, 90.0, -90.0], [0.25, 0.375, 4.5], [0.0, -0.0, 1e-8]]))
