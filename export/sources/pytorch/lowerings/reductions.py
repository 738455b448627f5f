"""``any`` and ``all`` over axes of no elements, maxima over all axes, and products of whole numbers.

The converter takes ``any`` for a maximum, which is the lowest number over no elements, and so true (microsoft/onnxscript issue 2779,
pytorch/pytorch issue 173076; onnxscript 0.7.2). ONNX Runtime's ReduceProd of int64 goes through double precision (1.31), wrong beyond
2**53.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

aten = torch.ops.aten


def _some(x: torch.Tensor, dims: int | Sequence[int] | None, keepdim: bool, wanted: bool) -> torch.Tensor:
    hit = x if x.dtype is torch.bool else x != 0
    hit = hit if wanted else torch.logical_not(hit)
    if x.dim() == 0:
        return hit if wanted else torch.logical_not(hit)
    axes = list(range(x.dim())) if dims is None else [dims] if isinstance(dims, int) else list(dims)
    count = torch.sum(hit.to(torch.int64), axes, keepdim=keepdim) if axes else hit.to(torch.int64)
    return count > 0 if wanted else count == 0


def _any(x: torch.Tensor, dim: Any = None, keepdim: bool = False) -> torch.Tensor:
    return _some(x, dim, keepdim, wanted=True)


def _all(x: torch.Tensor, dim: Any = None, keepdim: bool = False) -> torch.Tensor:
    return _some(x, dim, keepdim, wanted=False)


def _product(x: torch.Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    whole = not (dtype or x.dtype).is_floating_point and not (dtype or x.dtype).is_complex
    axis = 0 if dim is None else dim
    flat = x.reshape(-1) if dim is None else x
    if not whole or x.dim() == 0 or not isinstance(flat.shape[axis], int) or flat.shape[axis] == 0:
        return NotImplemented
    made = flat.to(torch.int64 if dtype is None else dtype)
    while (size := made.shape[axis]) > 1:
        half = size // 2
        joined = made.narrow(axis, 0, half) * made.narrow(axis, half, half)
        made = torch.cat([joined, made.narrow(axis, 2 * half, 1)], axis) if size % 2 else joined
    return made if keepdim and dim is not None else made.squeeze(axis)


def _over_all(extreme: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """Of all axes where none is named, which the converter does not know."""

    def reduced(x: torch.Tensor, dim: Any = (), keepdim: bool = False) -> Any:
        named = isinstance(dim, int) or list(dim)
        if x.dim() == 0:
            return x.clone()
        return NotImplemented if named else extreme(x, list(range(x.dim())), keepdim)

    return reduced


def _einsum(equation: str, tensors: Sequence[torch.Tensor], *, path: Any = None) -> Any:
    """Of whole numbers as the products and sums that it stands for: ONNX Runtime's Einsum adds int64 in double precision."""
    if any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors):
        return NotImplemented
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    return aten.einsum.default._op_dk(composite, equation, tensors, path=path)


def _as_dtype(function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """A softmax with the dtype of the answer given: the converter casts only afterwards, which loses digits and takes no whole numbers."""

    def computed(x: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> Any:
        return NotImplemented if dtype is None or dtype is x.dtype else function(x.to(dtype), dim)

    return computed


def _batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor | None,
    variance: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """By the batch's own statistics, where a model asks for them in evaluation too: the converter takes the running ones."""
    if not training:
        return NotImplemented
    axes = [0, *range(2, x.dim())]
    shape = [1, -1] + [1] * (x.dim() - 2)
    center = torch.mean(x, axes, keepdim=True)
    apart = x - center
    spread = torch.rsqrt(torch.mean(apart * apart, axes, keepdim=True) + eps)
    made = apart * spread
    made = made if weight is None else made * weight.reshape(shape)
    made = made if bias is None else made + bias.reshape(shape)
    return made, center.reshape(-1), spread.reshape(-1)


def _functional_batch_norm(
    x: torch.Tensor, weight: Any, bias: Any, mean: torch.Tensor, variance: torch.Tensor, training: bool, momentum: float, eps: float
) -> Any:
    """The same, and the running statistics as they are afterwards."""
    made = _batch_norm(x, weight, bias, mean, variance, training, momentum, eps)
    if made is NotImplemented:
        return made
    of_batch = torch.var(x, [0, *range(2, x.dim())])
    kept = [(1 - momentum) * old + momentum * new for old, new in ((mean, made[1]), (variance, of_batch))]
    return (*made, *kept)


def _vector_norm(x: torch.Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Any:
    """Of one number its size, which a power of it may be beyond."""
    axes = range(x.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    single = x.dim() == 0 or all(x.shape[axis] == 1 for axis in axes if isinstance(x.shape[axis], int))
    fixed = x.dim() == 0 or all(isinstance(x.shape[axis], int) for axis in axes)
    if not single or not fixed or not x.is_floating_point():
        return NotImplemented
    x = x if dtype is None else x.to(dtype)
    size = (x != 0).to(x.dtype) if ord == 0 else torch.abs(x)
    return size if keepdim or x.dim() == 0 else size.reshape([n for i, n in enumerate(x.shape) if i not in {a % x.dim() for a in axes}])


DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    aten.amax.default: _over_all(torch.amax),
    aten.amin.default: _over_all(torch.amin),
    aten.einsum.default: _einsum,
    aten.softmax.int: _as_dtype(torch.softmax),
    aten.log_softmax.int: _as_dtype(torch.log_softmax),
    aten.native_batch_norm.default: _batch_norm,
    aten._native_batch_norm_legit.default: _batch_norm,
    aten._native_batch_norm_legit_functional.default: _functional_batch_norm,
    aten._native_batch_norm_legit.no_stats: lambda x, weight, bias, training, momentum, eps: _batch_norm(
        x, weight, bias, None, None, training, momentum, eps
    ),
    aten.linalg_vector_norm.default: _vector_norm,
    aten.any.default: _any,
    aten.any.dim: _any,
    aten.any.dims: _any,
    aten.all.default: _all,
    aten.all.dim: _all,
    aten.all.dims: _all,
    aten.prod.default: _product,
    aten.prod.dim_int: _product,
}
