"""Sorted places, counts and order statistics: ``searchsorted``, ``bucketize``, ``isin``, ``histc``, ``mode``, ``kthvalue``, ``median``.

The converter has none of them but ``histc``, which counts what lies on the last edge wrongly (onnxscript 0.7.2; pytorch/pytorch issues
148098, 102948 and 95613); of sorts it lacks the stable one, which every TopK of ONNX is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

aten = torch.ops.aten


def _search_sorted(
    sorted_sequence: torch.Tensor,
    values: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
) -> torch.Tensor:
    values = values if isinstance(values, torch.Tensor) else torch.full((), values, dtype=sorted_sequence.dtype)
    edges = sorted_sequence if sorter is None else torch.gather(sorted_sequence, -1, sorter)
    if any(isinstance(size, int) and size == 0 for size in values.shape):  # ONNX Runtime 1.31 gives sums of nothing another shape
        return torch.zeros(values.shape, dtype=torch.int32 if out_int32 else torch.int64)
    scalar = values.dim() == 0
    v = values.reshape(1) if scalar else values
    e = edges if edges.dim() == 1 else edges.unsqueeze(-2)
    # NaN comes after everything: what is not above it counts.
    above = e > v.unsqueeze(-1) if right or side == "right" else e >= v.unsqueeze(-1)
    found = torch.logical_not(above).to(torch.int64).sum(-1)
    found = found.to(torch.int32) if out_int32 else found
    return found.reshape(()) if scalar else found


def _bucketize(values: Any, boundaries: torch.Tensor, *, out_int32: bool = False, right: bool = False) -> torch.Tensor:
    return _search_sorted(boundaries, values, out_int32=out_int32, right=right)


def _is_in(elements: Any, tests: Any, *, assume_unique: bool = False, invert: bool = False) -> torch.Tensor:
    if isinstance(elements, torch.Tensor) and isinstance(tests, torch.Tensor):
        found = (elements.unsqueeze(-1) == tests.reshape(-1)).any(-1)
    else:
        found = elements == tests
        found = found if isinstance(elements, torch.Tensor) else found.any()
    return torch.logical_not(found) if invert else found


def _histc(x: torch.Tensor, bins: int = 100, min: float = 0, max: float = 0) -> torch.Tensor:
    flat = x.reshape(-1)
    if min == max == 0:
        low, high = torch.min(flat), torch.max(flat)
        alone = (low == high).to(x.dtype)
        low, high = low - alone, high + alone
    else:
        widen = 1.0 if min == max else 0.0
        low, high = (torch.full((), edge, dtype=x.dtype) for edge in (min - widen, max + widen))
    inside = (flat >= low) & (flat <= high)
    place = torch.clamp(((flat - low) / (high - low) * bins).to(torch.int64), max=bins - 1)
    hit = (place.unsqueeze(0) == torch.arange(bins).unsqueeze(1)) & inside.unsqueeze(0)
    return hit.to(x.dtype).sum(1)


def _mode(x: torch.Tensor, dim: int = -1, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest of the most frequent values, and the last place that has it."""
    if x.dim() == 0:
        return x.clone(), torch.zeros((), dtype=torch.int64)
    moved = torch.movedim(x, dim, -1)
    counts = (moved.unsqueeze(-1) == moved.unsqueeze(-2)).to(torch.int64).sum(-1)
    most = counts == torch.amax(counts, -1, keepdim=True)
    # The place of the smallest of them: of a sort of all, the first that is one.
    order = torch.sort(moved, -1)[1]
    first = torch.argmax(torch.gather(most.to(torch.int64), -1, order), -1, keepdim=True)
    value = torch.gather(moved, -1, torch.gather(order, -1, first))
    places = torch.arange(moved.shape[-1]).expand(moved.shape)
    index = torch.amax(torch.where(moved == value, places, torch.zeros_like(places)), -1, keepdim=True)
    return _placed(value, dim, keepdim), _placed(index, dim, keepdim)


def _placed(x: torch.Tensor, dim: int, keepdim: bool) -> torch.Tensor:
    return torch.movedim(x, -1, dim) if keepdim else x.squeeze(-1)


def _kth_value(x: torch.Tensor, k: Any, dim: int = -1, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    if x.dim() == 0:
        return x.clone(), torch.zeros((), dtype=torch.int64)
    values, indices = torch.sort(x, dim)
    found = [torch.narrow(part, dim, k - 1, 1) for part in (values, indices)]
    value, index = found if keepdim else [part.squeeze(dim) for part in found]
    return value, index


def _median_of_axis(x: torch.Tensor, dim: int = -1, keepdim: bool = False) -> Any:
    if x.is_floating_point() and x.dim():
        values, indices = _kth_value(x, (x.shape[dim] + 1) // 2, dim, keepdim)
        missing = torch.isnan(x)
        seen = torch.any(missing, dim, keepdim)
        first = torch.argmax(missing.to(torch.int64), dim, keepdim)
        return torch.where(seen, float("nan"), values), torch.where(seen, first, indices)
    return _kth_value(x, (x.shape[dim] + 1) // 2 if x.dim() else 1, dim, keepdim)


def _median(x: torch.Tensor) -> Any:
    return _median_of_axis(x.reshape(-1), 0)[0]


def _nan_median_of_axis(x: torch.Tensor, dim: int = -1, keepdim: bool = False) -> Any:
    """The median of what is a number; NaN where nothing is."""
    if not x.is_floating_point() or x.dim() == 0:
        return _median_of_axis(x, dim, keepdim)
    missing = torch.isnan(x)
    values, indices = torch.sort(torch.where(missing, float("inf"), x), dim)
    count = torch.logical_not(missing).to(torch.int64).sum(dim, keepdim=True)
    place = torch.clamp((count - 1) // 2, min=0)
    value = torch.where(count == 0, float("nan"), torch.gather(values, dim, place))
    index = torch.gather(indices, dim, place)
    return (value, index) if keepdim else (value.squeeze(dim), index.squeeze(dim))


def _nan_median(x: torch.Tensor) -> Any:
    return _nan_median_of_axis(x.reshape(-1), 0)[0]


def _stable_sort(x: torch.Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    return torch.sort(x, dim, descending)


DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    aten.searchsorted.Tensor: _search_sorted,
    aten.searchsorted.Scalar: _search_sorted,
    aten.bucketize.Tensor: _bucketize,
    aten.bucketize.Scalar: _bucketize,
    aten.isin.Tensor_Tensor: _is_in,
    aten.isin.Tensor_Scalar: _is_in,
    aten.isin.Scalar_Tensor: _is_in,
    aten.histc.default: _histc,
    aten.mode.default: _mode,
    aten.kthvalue.default: _kth_value,
    aten.median.default: _median,
    aten.median.dim: _median_of_axis,
    aten.nanmedian.default: _nan_median,
    aten.nanmedian.dim: _nan_median_of_axis,
    aten.sort.stable: _stable_sort,
}
