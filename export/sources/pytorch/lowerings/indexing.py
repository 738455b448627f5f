"""Writing at indices: ``index_fill``, ``put``, ``scatter_reduce``, ``index_reduce``, and bags of embeddings.

The converter has no ``index_fill``, ``put``, ``index_reduce`` and no mean of ``scatter_reduce``; where that leaves the old values out
it starts maxima at the lowest finite number, which infinities lie beyond (pytorch/pytorch issues 111159 and 125835). Its
``embedding_bag`` is a loop with branches, which ONNX Runtime 1.31 crashes on without the optimiser (onnxscript 0.7.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18

# Its annotations know nothing of the constants that it takes in place of tensors.
op: Any = opset18

aten = torch.ops.aten


def _index_fill(x: torch.Tensor, dim: int, index: torch.Tensor, value: Any) -> torch.Tensor:
    if x.dim() == 0:
        return torch.full_like(x, value) if not isinstance(value, torch.Tensor) else value.to(x.dtype) + torch.zeros_like(x)
    dim %= x.dim()
    size = x.shape[dim]
    hit = (torch.arange(size).unsqueeze(1) == torch.remainder(index.reshape(1, -1), size)).any(1)
    hit = hit.reshape([-1 if axis == dim else 1 for axis in range(x.dim())])
    filled = value.to(x.dtype) if isinstance(value, torch.Tensor) else torch.full((), value, dtype=x.dtype)
    return torch.where(hit, filled, x)


def _put(x: torch.Tensor, index: torch.Tensor, source: torch.Tensor, accumulate: bool = False) -> torch.Tensor:
    flat = x.reshape(-1)
    places = torch.remainder(index.reshape(-1), flat.shape[0])
    values = source.reshape(-1).to(x.dtype)
    written = torch.scatter_add(flat, 0, places, values) if accumulate else torch.scatter(flat, 0, places, values)
    return written.reshape(x.shape)


def _start(reduce: str, dtype: torch.dtype) -> Any:
    """What a reduction starts from where the old values do not count."""
    if reduce in ("amax", "amin"):
        low = reduce == "amax"
        if dtype.is_floating_point:
            return -math.inf if low else math.inf
        return torch.iinfo(dtype).min if low else torch.iinfo(dtype).max
    return 1 if reduce == "prod" else 0


def _scatter_reduce(x: torch.Tensor, dim: int, index: torch.Tensor, src: torch.Tensor, reduce: str, *, include_self: bool = True) -> Any:
    if x.dtype is torch.bool or (include_self and reduce != "mean"):
        return NotImplemented
    scalar = x.dim() == 0
    if scalar:
        x, index, src = x.reshape(1), index.reshape(1), src.reshape(1)
    dim %= x.dim()
    src = src[tuple(slice(0, size) for size in index.shape)]
    started = x
    if not include_self:
        touched = torch.scatter(torch.zeros_like(x, dtype=torch.int64), dim, index, 1) > 0
        started = torch.where(touched, torch.full((), _start(reduce, x.dtype), dtype=x.dtype), x)
    if reduce == "mean":
        total = torch.scatter_add(started, dim, index, src)
        ones = torch.ones_like(index)
        base = torch.ones_like(x, dtype=torch.int64) if include_self else torch.zeros_like(x, dtype=torch.int64)
        count = torch.clamp(torch.scatter_add(base, dim, index, ones), min=1).to(x.dtype)
        made = total / count if x.is_floating_point() else torch.div(total, count, rounding_mode="floor")
    else:
        made = torch.scatter_reduce(started, dim, index, src, reduce, include_self=True)
    return made.reshape(()) if scalar else made


def _index_reduce(
    x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, reduce: str, *, include_self: bool = True
) -> torch.Tensor:
    if x.dim() == 0:
        x, source = x.reshape(1), source.reshape(1)
        return torch.scatter_reduce(x, 0, index.reshape(1), source, reduce, include_self=include_self).reshape(())
    dim %= x.dim()
    places = index.reshape([-1 if axis == dim else 1 for axis in range(x.dim())]).expand(source.shape)
    return torch.scatter_reduce(x, dim, places, source, reduce, include_self=include_self)


def _embedding_bag(
    weight: torch.Tensor,
    indices: torch.Tensor,
    offsets: torch.Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: torch.Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> tuple[torch.Tensor, ...]:
    """Each index belongs to the last bag that begins at or before it; mode 0 sums, 1 averages, 2 takes the largest."""
    indices, offsets = indices.to(torch.int64), offsets.to(torch.int64)
    begins = offsets[:-1] if include_last_offset else offsets
    bags = begins.shape[0]
    places = torch.arange(indices.shape[0])
    bag = (begins.unsqueeze(0) <= places.unsqueeze(1)).to(torch.int64).sum(1) - 1
    rows = torch.index_select(weight, 0, indices)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(1)
    keeps = None
    padded = padding_idx is not None and padding_idx != -1
    if padded and padding_idx is not None:
        keeps = indices != torch.remainder(torch.full((), padding_idx), weight.shape[0])
    elif include_last_offset and mode != 2:  # what lies behind the last offset belongs to no bag; otherwise PyTorch adds it to the last
        keeps = places < offsets[-1]
    counted = torch.ones_like(indices)
    if keeps is not None:
        # What lies behind the last offset is not added, but a mean is taken over it all the same (torch 2.13, bag_size).
        counted = keeps.to(torch.int64) if padded else counted
        rows = torch.where(keeps.unsqueeze(1), rows, -math.inf if mode == 2 else 0.0)
    count = torch.scatter_add(torch.zeros((bags,), dtype=torch.int64), 0, bag, counted)
    where = bag.unsqueeze(1).expand(rows.shape)
    if mode == 2:
        lowest = torch.full((bags, weight.shape[1]), -math.inf, dtype=weight.dtype)
        made = torch.scatter_reduce(lowest, 0, where, rows, "amax", include_self=True)
        made = torch.where((count > 0).unsqueeze(1), made, torch.zeros((), dtype=weight.dtype))
    else:
        made = torch.scatter_add(torch.zeros((bags, weight.shape[1]), dtype=weight.dtype), 0, where, rows)
        if mode == 1:
            made = made / torch.clamp(count, min=1).to(weight.dtype).unsqueeze(1)
    return made, bag, count, count


def _squeeze(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Nothing where the axis has another size than 1, which ONNX's Squeeze fails on."""
    fixed = x.dim() > 0 and isinstance(x.shape[dim], int)
    return x.clone() if fixed and x.shape[dim] != 1 else torch.squeeze(x, dim)


def _squeeze_axes(x: torch.Tensor, dims: Sequence[int]) -> Any:
    """Only the axes of size 1, which may be none."""
    if x.dim() == 0 or not all(isinstance(x.shape[dim], int) for dim in dims):
        return NotImplemented if x.dim() else x.clone()
    ones = {dim % x.dim() for dim in dims if x.shape[dim] == 1}
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in ones]) if ones else x.clone()


def _gather(x: torch.Tensor, dim: int, index: torch.Tensor, *, sparse_grad: bool = False) -> Any:
    """Of no places nothing, whatever their shape."""
    empty = any(isinstance(size, int) and size == 0 for size in index.shape)
    return torch.zeros(index.shape, dtype=x.dtype) if empty else NotImplemented


def _diagonal_scatter(x: torch.Tensor, src: torch.Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> torch.Tensor:
    """The values on a diagonal; torch's own decomposition writes into a view."""
    first, second = dim1 % x.dim(), dim2 % x.dim()
    moved = torch.movedim(x, (first, second), (-2, -1))
    height, width = moved.shape[-2:]
    row, column = torch.arange(height).unsqueeze(1), torch.arange(width)
    count = src.shape[-1]
    place = torch.clamp(row if offset >= 0 else row + offset, 0, max(count - 1, 0)).expand((height, width))
    if count == 0:
        return x.clone()
    values = torch.index_select(src, -1, place.reshape(-1)).reshape(*src.shape[:-1], height, width)
    return torch.movedim(torch.where(column - row == offset, values, moved), (-2, -1), (first, second))


def _pairwise_distances(x: torch.Tensor, p: float = 2.0) -> Any:
    """Of every two rows, in the order of ``torch.pdist``."""
    rows = x.shape[0]
    if not isinstance(rows, int):
        return NotImplemented
    if rows < 2:
        return torch.zeros((0,), dtype=x.dtype)
    apart = [x[i : i + 1] - x[i + 1 :] for i in range(rows - 1)]
    return torch.linalg.vector_norm(torch.cat(apart), p, -1)


def _masked_select(x: Any, mask: Any) -> Any:
    """Any shapes that fit one another, single values too, which the converter's GatherND cannot take."""
    shape = op.Shape(op.Where(mask, x, x))
    flat = op.Constant(value=ir.tensor([-1]))
    return op.Compress(op.Reshape(op.Expand(x, shape), flat), op.Reshape(op.Expand(mask, shape), flat))


TRANSLATIONS: Mapping[Any, Callable[..., Any]] = {aten.masked_select.default: _masked_select}

DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    aten.index_fill.int_Scalar: _index_fill,
    aten.index_fill.int_Tensor: _index_fill,
    aten.put.default: _put,
    aten.gather.default: _gather,
    aten.diagonal_scatter.default: _diagonal_scatter,
    aten.squeeze_copy.default: torch.squeeze,
    aten.squeeze_copy.dim: _squeeze,
    aten.squeeze.dims: _squeeze_axes,
    aten.squeeze_copy.dims: _squeeze_axes,
    aten._pdist_forward.default: _pairwise_distances,
    aten.scatter_reduce.two: _scatter_reduce,
    aten.index_reduce.default: _index_reduce,
    aten.embedding_bag.default: _embedding_bag,
    aten.embedding_bag.padding_idx: _embedding_bag,
    aten._embedding_bag.default: _embedding_bag,
    aten._embedding_bag_forward_only.default: _embedding_bag,
}
