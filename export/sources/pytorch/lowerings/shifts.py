"""Shifts of whole numbers of every width.

ONNX's BitShift takes unsigned numbers, and ONNX Runtime 1.31 has none of 16 bits (pytorch/pytorch issues 191014 and 139455). A shift to
the left is a product with a power of two, one to the right a division that rounds down; shifts out of range give what ATen gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

aten = torch.ops.aten


def _pair(a: Any, b: Any) -> tuple[torch.Tensor, torch.Tensor, torch.dtype]:
    like = a if isinstance(a, torch.Tensor) else b
    dtype = torch.result_type(a, b)
    a, b = (x if isinstance(x, torch.Tensor) else torch.full((), x, dtype=like.dtype) for x in (a, b))
    return a.to(torch.int64), b.to(torch.int64), dtype


def _powers_of_two(shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """2**shift in two factors, as 2**63 is beyond int64."""
    two = torch.full((), 2, dtype=torch.int64)
    first = torch.clamp(shift, max=62)
    return torch.pow(two, first), torch.pow(two, shift - first)


def _left(a: Any, b: Any) -> torch.Tensor:
    number, shift, dtype = _pair(a, b)
    inside = (shift >= 0) & (shift < torch.iinfo(dtype).bits)
    first, second = _powers_of_two(torch.where(inside, shift, 0))
    return torch.where(inside, number * first * second, 0).to(dtype)


def _right(a: Any, b: Any) -> torch.Tensor:
    number, shift, dtype = _pair(a, b)
    # Beyond its width only the sign is left.
    last = torch.iinfo(dtype).bits - 1
    first, second = _powers_of_two(torch.where((shift >= 0) & (shift <= last), shift, last))
    halfway = torch.div(number, first, rounding_mode="floor")
    return torch.div(halfway, second, rounding_mode="floor").to(dtype)


DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    getattr(getattr(aten, f"{name}_shift"), overload): function
    for name, function in (("bitwise_left", _left), ("bitwise_right", _right))
    for overload in ("Tensor", "Tensor_Scalar", "Scalar_Tensor")
} | {
    getattr(getattr(aten, f"__{name}shift__"), overload): function
    for name, function in (("l", _left), ("r", _right))
    for overload in ("Tensor", "Scalar")
}
