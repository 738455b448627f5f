"""Adaptive pooling at open sizes, and with indices; pixel shuffles of empty images.

The converter (onnxscript 0.7.2) has adaptive pooling only where the size is fixed and a multiple of the output's, and has none with
indices (pytorch/vision issue 7541, onnxscript issue 2539). Window i of n over a length of L is from floor(i L / n) to ceil((i + 1) L / n).
Its pixel_unshuffle ends ONNX Runtime's Reshape, or the process, on an empty image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

aten = torch.ops.aten


def _windows(length: Any, count: int) -> torch.Tensor:
    """(count, length): True where the window reaches."""
    place, number = torch.arange(length), torch.arange(count).unsqueeze(1)
    start = torch.div(number * length, count, rounding_mode="floor")
    end = torch.div((number + 1) * length + count - 1, count, rounding_mode="floor")
    return (place >= start) & (place < end)


def _mean_over(x: torch.Tensor, axis: int, count: int) -> torch.Tensor:
    inside = _windows(x.shape[axis], count).to(x.dtype)
    share = inside / inside.sum(1, keepdim=True)
    moved = torch.movedim(x, axis, -1)
    return torch.movedim(torch.matmul(moved, share.T), -1, axis)


def _adaptive_mean(dims: int) -> Callable[..., Any]:
    def pooled(x: torch.Tensor, output_size: Sequence[int]) -> Any:
        sizes = x.shape[-dims:]
        if all(isinstance(n, int) and n % count == 0 for n, count in zip(sizes, output_size, strict=True)) and dims < 3:
            return NotImplemented
        for axis, count in zip(range(-dims, 0), output_size, strict=True):
            x = _mean_over(x, axis, count)
        return x

    return pooled


def _largest_over(x: torch.Tensor, index: torch.Tensor | None, axis: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest of every window along an axis, and where it is: ``index`` of it, or its place."""
    length = x.shape[axis]
    moved = torch.movedim(x, axis, -1).unsqueeze(-2)
    inside = _windows(length, count)
    lowest = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
    masked = torch.where(inside, moved, torch.full((), lowest, dtype=x.dtype))
    place = torch.argmax(masked, -1, keepdim=True)
    # Where all are the lowest there is, the first of the window.
    first = torch.argmax(inside.to(torch.int64), -1, keepdim=True)
    place = torch.maximum(place, first.expand(place.shape))
    place = place.squeeze(-1)
    plain = torch.movedim(x, axis, -1)
    value = torch.gather(plain, -1, place)
    if index is not None:
        place = torch.gather(torch.movedim(index, axis, -1).expand(plain.shape), -1, place)
    return torch.movedim(value, -1, axis), torch.movedim(place, -1, axis)


def _adaptive_largest(dims: int) -> Callable[..., Any]:
    def pooled(x: torch.Tensor, output_size: Sequence[int]) -> Any:
        sizes = x.shape[-dims:]
        index: torch.Tensor | None = None
        # From the last axis on, so that of equal values the first in memory is taken. Places become places in the flat image.
        step: Any = 1
        for axis, count, size in reversed(list(zip(range(-dims, 0), output_size, sizes, strict=True))):
            if index is not None:
                shape = [1] * -axis
                shape[0] = size
                index = index + (torch.arange(size) * step).reshape(shape)
            x, index = _largest_over(x, index, axis, count)
            step = step * size
        return x, index

    return pooled


def _pixel_unshuffle(x: torch.Tensor, downscale_factor: int) -> torch.Tensor:
    *lead, c, h, w = x.shape
    r = downscale_factor
    split = x.reshape(*lead, c, h // r, r, w // r, r)
    n = len(lead)
    moved = split.permute(*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return moved.reshape(*lead, c * r * r, h // r, w // r)


def _max_pool1d(
    x: torch.Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> torch.Tensor:
    def pair(value: Any, other: int) -> tuple[int, int]:
        return other, value if isinstance(value, int) else value[0]

    step = kernel_size if stride is None or stride in ((), []) else stride
    rows = torch.max_pool2d(x.unsqueeze(-2), pair(kernel_size, 1), pair(step, 1), pair(padding, 0), pair(dilation, 1), ceil_mode)
    return rows.squeeze(-2)


@contextmanager
def open_pooling() -> Iterator[None]:
    """Inside, ``torch.max_pool1d`` can be captured at open sizes: torch's own reads them as numbers where no gradient is asked for."""
    with mock.patch.object(torch, "max_pool1d", _max_pool1d):
        yield


DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    aten.adaptive_avg_pool1d.default: _adaptive_mean(1),
    aten.adaptive_avg_pool2d.default: _adaptive_mean(2),
    aten._adaptive_avg_pool2d.default: _adaptive_mean(2),
    aten.adaptive_avg_pool3d.default: _adaptive_mean(3),
    aten._adaptive_avg_pool3d.default: _adaptive_mean(3),
    aten.adaptive_max_pool1d.default: _adaptive_largest(1),
    aten.adaptive_max_pool2d.default: _adaptive_largest(2),
    aten.adaptive_max_pool3d.default: _adaptive_largest(3),
    aten.pixel_unshuffle.default: _pixel_unshuffle,
}
