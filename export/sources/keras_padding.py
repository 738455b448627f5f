"""Keras' ``padding="same"`` at sizes that are open while a graph is captured.

On its PyTorch backend Keras asks in Python whether the padding is the same on both sides, and pads in one of two ways. The answer
depends on the size; inside :func:`same_padding_of_any_size` one graph holds for all sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.nn import functional


@contextmanager
def same_padding_of_any_size() -> Iterator[None]:
    """For captures only."""
    from keras.src.backend.torch import nn

    apply, average_pool = nn._apply_same_padding, nn.average_pool

    def padded(
        inputs: torch.Tensor, kernel_size: Any, strides: Any, data_format: Any, operation_type: str, dilation_rate: Any = 1
    ) -> tuple[torch.Tensor, Any]:
        if not _is_open(inputs.shape[2:]):
            return apply(inputs, kernel_size, strides, data_format, operation_type, dilation_rate)  # type: ignore[no-any-return]
        # Of the largest in a window, the nearest value again changes nothing.
        pooling = operation_type == "pooling"
        dims = inputs.dim() - 2
        dilation = 1 if pooling else dilation_rate
        pads = _pads(inputs.shape[2:], _each(kernel_size, dims), _each(strides, dims), _each(dilation, dims))
        return functional.pad(inputs, _flat(pads), mode="replicate" if pooling else "constant"), 0

    def average(inputs: Any, pool_size: Any, strides: Any = None, padding: str = "valid", data_format: Any = None) -> Any:
        x = nn.convert_to_tensor(inputs)
        last = nn.backend.standardize_data_format(data_format) == "channels_last"
        x = nn._transpose_spatial_inputs(x) if last else x
        if padding != "same" or not _is_open(x.shape[2:]):
            return average_pool(inputs, pool_size, strides, padding, data_format)
        dims = x.dim() - 2
        size = _each(pool_size, dims)
        steps = size if strides is None else _each(strides, dims)
        found = _average_of_same(x, size, steps, (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[dims - 1])
        return nn._transpose_spatial_outputs(found) if last else found

    with mock.patch.multiple(nn, _apply_same_padding=padded, average_pool=average):
        yield


def _average_of_same(x: torch.Tensor, size: Sequence[int], steps: Sequence[int], pool: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Padding does not count where it is the same on both sides of every axis; else the nearest value again does."""
    pads = _pads(x.shape[2:], size, steps, [1] * len(size))
    flat = _flat(pads)
    share = pool(functional.pad(torch.ones_like(x), flat), size, steps)
    even = pool(functional.pad(x, flat), size, steps) / share
    uneven = pool(functional.pad(x, flat, mode="replicate"), size, steps)
    odd: Any = sum(right - left for left, right in pads)
    return torch.where(torch.full((), odd, dtype=torch.int64) > 0, uneven, even)


def _pads(sizes: Sequence[Any], kernel: Sequence[int], steps: Sequence[int], dilation: Sequence[int]) -> list[tuple[Any, Any]]:
    larger: Any = torch.sym_max  # untyped
    found = []
    for length, window, step, gap in zip(sizes, kernel, steps, dilation, strict=True):
        reach = (window - 1) * gap + 1
        total = reach - 1 if step == 1 else larger(0, ((length + step - 1) // step - 1) * step + reach - length)
        found.append((total // 2, total - total // 2))
    return found


def _flat(pads: Sequence[tuple[Any, Any]]) -> list[Any]:
    return [side for pair in reversed(pads) for side in pair]


def _is_open(sizes: Sequence[Any]) -> bool:
    return any(isinstance(size, torch.SymInt) for size in sizes)


def _each(value: Any, dims: int) -> list[int]:
    return [value] * dims if isinstance(value, int) else list(value)
